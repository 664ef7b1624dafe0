"""The pictures of a run: valid, of sensible size, the same every time, for short and long, pruned and dense runs."""

import io
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from src.pictures import CURVES as PANELS
from src.pictures import curves_of, draw_curves, draw_layers


def metrics_of(epochs, **changes):
    """The lines of metrics.jsonl of a made-up run; the last tenth is past the mask updates."""
    lines = []
    for epoch in range(1, epochs + 1):
        updates = epoch == 1 or epoch <= 0.9 * epochs
        line = {
            "epoch": epoch,
            "step": 391 * epoch,
            "train_loss": 2.3 / epoch,
            "loss": 2.5 / epoch,
            "top1": 70.0 - 60 / epoch,
            "top5": 90.0 - 40 / epoch,
            "density": max(0.02, 0.02 ** (epoch / (0.9 * epochs))),
            "drop_fraction": 0.3 * (1 - epoch / epochs) if updates else None,
            "rank_loss": -0.1 - 0.001 * epoch if updates else None,
        }
        lines.append({**line, **changes})
    return lines


def layers_of(names, seed, empty=()):
    """The layer reports of a made-up network."""
    random = np.random.default_rng(seed)
    density = {name: 0.0 if name in empty else float(random.uniform(0.001, 0.4)) for name in names}
    return [
        {
            "name": name,
            "shape": [64, 32, 3, 3],
            "weights": 18432,
            "nonzeros": round(18432 * density[name]),
            "density": density[name],
            "rank": 0 if name in empty else int(random.integers(20, 65)),
            "tail_rank": 0 if name in empty else int(random.integers(5, 20)),
            "max_rank": 64,
        }
        for name in names
    ]


RESNET20 = [f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3) for block in range(7)]
RESNET101 = [f"layer3.{block}.conv{index}.weight" for block in range(35) for index in (1, 2, 3)]
NOT_PRUNED = {"density": 1.0, "drop_fraction": None, "rank_loss": None}
CURVES = {
    "rpg": metrics_of(6),
    "gap": metrics_of(6, rank_loss=None),
    "dense": metrics_of(6, **NOT_PRUNED),
    "one epoch": metrics_of(1),
    "one dense epoch": metrics_of(1, **NOT_PRUNED),
    "300 epochs": metrics_of(300),
    "held-out images": metrics_of(6, evaluated="val"),
    "diverged": [*metrics_of(2), *metrics_of(1, train_loss=math.nan, loss=math.inf, step=1200)],
}
LAYERS = {
    "before and after": {"before": layers_of(RESNET20, 1), "after": layers_of(RESNET20, 2, empty=RESNET20[7:9])},
    "one checkpoint": {"after": layers_of(RESNET20, 1)},
    "two networks": {"A": layers_of(RESNET20, 1), "B": layers_of([*RESNET20[:9], "other_$name"], 2)},
    "105 layers": {"before": layers_of(RESNET101, 1), "after": layers_of(RESNET101, 2)},
    "one layer, empty": {"after": layers_of(RESNET20[:1], 1, empty=RESNET20[:1])},
}


def opened(draw, data):
    """A picture, drawn without a warning: matplotlib warns where panels find no room."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw(data)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert set(image.info) <= {"dpi"}  # neither date nor version, so that equal runs have equal pictures
    return image.convert("RGB")


@pytest.mark.parametrize("run", CURVES)
def test_curves(run):
    image = opened(draw_curves, CURVES[run])
    panels = {"dense": 2, "one dense epoch": 2, "gap": 4}.get(run, 5)
    assert image.width == 896
    assert 200 < image.height / panels < 330
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # both curves of a panel are there


@pytest.mark.parametrize("network", LAYERS)
def test_layers(network):
    image = opened(draw_layers, LAYERS[network])
    assert image.size == (896, 1072)
    panels = np.asarray(image)[60:700, 150:].reshape(-1, 3)
    ink = np.mean((panels < 128).any(1))
    assert ink < 0.3  # a long network does not blacken the panels
    assert (panels == (0, 0x72, 0xB2)).all(1).any()


def test_the_same_run_has_the_same_pictures():
    assert draw_curves(CURVES["rpg"]) == draw_curves(metrics_of(6))
    assert draw_layers(LAYERS["one checkpoint"]) == draw_layers({"after": layers_of(RESNET20, 1)})


def test_layers_stand_at_the_height_of_their_density():
    """All layers but the outermost have one density: their line in the topmost panel, on the logarithmic axis."""
    heights = []
    for density in (0.1, 10**-1.5, 0.01):
        layers = layers_of(RESNET20, 1)
        for layer in layers:
            layer["density"] = density
        layers[0]["density"], layers[-1]["density"] = 1.0, 0.001
        middle = np.asarray(opened(draw_layers, {"after": layers}), int)[40:340, 400:600]
        blue = (middle[:, :, 2] - middle[:, :, 0]).sum(1)
        heights.append(blue @ np.arange(300) / blue.sum())
    assert 30 < heights[1] - heights[0] < 60  # half of one of three decades
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=1)


def test_curves_name_the_images_they_were_measured_on():
    assert curves_of(metrics_of(1)) == curves_of(metrics_of(1, evaluated="test")) == PANELS
    held_out = curves_of(metrics_of(1, evaluated="val"))
    assert held_out[0].labels["loss"] == "held out"
    assert not any("test" in text for panel in held_out for text in (panel.title, *panel.labels.values()))
    assert [list(panel.labels) for panel in held_out] == [list(panel.labels) for panel in PANELS]
