"""The pictures of a run: valid, of sensible size, the same every time, for short and long, pruned and dense runs."""

import io
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from src.report.pictures import CURVES as PANELS
from src.report.pictures import DPI, NARROW, WIDE, curves_of, draw_curves, draw_layers, focused_limits


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
    "180 layers": {"A": layers_of([f"block{index}.weight" for index in range(180)], 1)},
    "one layer, empty": {"after": layers_of(RESNET20[:1], 1, empty=RESNET20[:1])},
}


def opened(draw, data, width=WIDE):
    """A picture, drawn without a warning: matplotlib warns where panels find no room."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw(data, width)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert set(image.info) <= {"dpi"}  # neither date nor version, so that equal runs have equal pictures
    return image.convert("RGB")


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("run", CURVES)
def test_curves(run, width):
    image = opened(draw_curves, CURVES[run], width)
    panels = {"dense": 2, "one dense epoch": 2, "gap": 4}.get(run, 5)
    assert image.width == width * DPI[width]
    assert 1.25 < image.height / panels / DPI[width] < 2.05
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # both curves of a panel are there


@pytest.mark.parametrize(
    ("epochs", "low", "high"),
    [
        ([10, 50, 95, 96, 97, 98, 99, 99], (94, 95), (99, 100)),
        ([10, 50, 95, 96, 97, 98, 100, 100], (94, 95), (100, 100.2)),
        ([10, 10, 20, 80, 60, 70, 75, 75], (10, 20), (80, 90)),  # what pruning has cost in between is seen
        ([10, 20, 0, 0, 0, 0, 0, 0], (-0.2, 0), (0, 1)),
        ([71.5], (71, 71.5), (71.5, 72)),
        ([10, math.nan, 95, math.nan, 99, math.nan, math.inf, 99], (94, 95), (99, 100)),
        ([math.nan], (-1.7, 0), (100, 101.7)),
    ],
)
def test_accuracy_has_limits_around_what_was_reached(epochs, low, high):
    found = focused_limits([epochs, epochs[-1:] * len(epochs)])
    assert low[0] <= found[0] <= low[1]
    assert high[0] <= found[1] <= high[1]


def test_the_picture_shows_95_and_99_apart():
    metrics = metrics_of(20, **NOT_PRUNED)
    for epoch, line in enumerate(metrics):
        line.update(top1=10.0 if epoch < 2 else (95.0, 99.0)[epoch % 2], top5=100.0)
    accuracy = np.asarray(opened(draw_curves, metrics), int)[280:490, 450:600]  # the panel below that of the loss
    rows = np.flatnonzero((accuracy == (0, 0x72, 0xB2)).all(2).any(1))
    assert 90 < rows[-1] - rows[0] < 200


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("network", LAYERS)
def test_layers(network, width):
    image = opened(draw_layers, LAYERS[network], width)
    names = {layer["name"] for layers in LAYERS[network].values() for layer in layers}
    assert image.width == width * DPI[width]
    height = image.height / DPI[width]
    assert 0.12 * min(len(names), 160) < height < 0.2 * min(len(names), 160) + 1  # room for a legible name each
    top, left = int(0.45 * DPI[width]), int(1.3 * DPI[width])
    panels = np.asarray(image)[top:, left:].reshape(-1, 3)
    ink = np.mean((panels < 128).any(1))
    assert ink < 0.3  # a long network does not blacken the panels
    assert (panels == (0, 0x72, 0xB2)).all(1).any()


def test_the_same_run_has_the_same_pictures():
    assert draw_curves(CURVES["rpg"]) == draw_curves(metrics_of(6))
    assert draw_layers(LAYERS["one checkpoint"]) == draw_layers({"after": layers_of(RESNET20, 1)})


def test_layers_stand_at_their_density():
    """All layers but the outermost have one density: their line in the first panel, on the logarithmic axis."""
    columns = []
    for density in (0.1, 10**-1.5, 0.01):
        layers = layers_of(RESNET20, 1)
        for layer in layers:
            layer["density"] = density
        layers[0]["density"], layers[-1]["density"] = 1.0, 0.001
        middle = np.asarray(opened(draw_layers, {"after": layers}), int)[200:400, 150:370]
        blue = (middle[:, :, 2] - middle[:, :, 0]).sum(0)
        columns.append(blue @ np.arange(220) / blue.sum())
    assert 25 < columns[0] - columns[1] < 50  # half of one of three decades
    assert columns[1] == pytest.approx((columns[0] + columns[2]) / 2, abs=1)


def test_curves_name_the_images_they_were_measured_on():
    assert curves_of(metrics_of(1)) == curves_of(metrics_of(1, evaluated="test")) == PANELS
    held_out = curves_of(metrics_of(1, evaluated="val"))
    assert held_out[0].labels["loss"] == "held out"
    assert not any("test" in text for panel in held_out for text in (panel.title, *panel.labels.values()))
    assert [list(panel.labels) for panel in held_out] == [list(panel.labels) for panel in PANELS]
