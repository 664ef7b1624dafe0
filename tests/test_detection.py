"""examples/detection: shapes, COCO's json, samples against slow oracles; and whole runs (slow), which need mindyolo."""

import json
import os
import shutil
import subprocess
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from examples.detection import geometry, make_shapes
from examples.detection.coco import read_coco
from examples.detection.settings import FOLDER, Settings, load_settings
from src.platform.errors import InputError
from tests.in_process import ROOT, run


def inside(polygon, size):
    """Which pixels' middles lie inside a polygon, by counting the edges to their right."""
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    odd = np.zeros((size, size), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0)):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return odd


def box_of(mask):
    """The box of the pixels that are true: left, top, right, bottom."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def eroded(mask):
    """Where a pixel and all its eight neighbours are true."""
    padded = np.pad(mask, 1)
    moved = [padded[1 + dy : 1 + dy + len(mask), 1 + dx : 1 + dx + len(mask)] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.logical_and.reduce(moved)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A small data set."""
    folder = tmp_path_factory.mktemp("shapes")
    answer = run("examples/detection/make_shapes.py", "--output_path", folder, "--train", 24, "--val", 6)
    assert (answer.code, answer.stderr) == (0, "")
    return folder


def test_the_pixels_boxes_and_areas_of_shapes_are_those_of_their_polygons():
    random, kinds = np.random.default_rng(3), set()
    for size in (64, 96):
        for _ in range(6):
            pixels, objects = make_shapes.picture(size, random)
            masks = [inside(polygon, size) for _, polygon in objects]
            assert 1 <= len(objects) <= make_shapes.MOST_SHAPES
            assert not any((one & other).any() for one, other in combinations(masks, 2))
            for (kind, polygon), mask in zip(objects, masks):
                kinds.add(kind)
                entry = make_shapes.annotation(kind, polygon)
                left, top, width, height = entry["bbox"]
                fine = inside(4 * polygon, 4 * size)
                assert np.abs(box_of(fine) / 4 - [left, top, left + width, top + height]).max() <= 0.6  # tips are thin
                assert fine.sum() / 16 == pytest.approx(entry["area"], rel=0.03)
                colours = np.unique(pixels[eroded(mask)].reshape(-1, 3), axis=0)
                assert len(colours) == 1
                other = pixels[~np.logical_or.reduce(masks)].reshape(-1, 3).astype(int).mean(0)
                assert np.abs(colours[0] - other).sum() > make_shapes.CONTRAST / 2
    assert kinds == set(range(4))


def test_the_data_set_is_as_in_coco_and_follows_from_its_seed(shapes, tmp_path):
    for part, count in (("train", 24), ("val", 6)):
        document = json.loads((shapes / f"{part}.json").read_text())
        assert [entry["name"] for entry in document["categories"]] == ["circle", "triangle", "square", "star"]
        assert len(list((shapes / part).iterdir())) == len(document["images"]) == count
        assert {entry["image_id"] for entry in document["annotations"]} == {entry["id"] for entry in document["images"]}
        assert [entry["id"] for entry in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    answers = [
        run(
            "examples/detection/make_shapes.py",
            "--output_path",
            tmp_path / str(i),
            "--train",
            2,
            "--val",
            1,
            "--seed",
            i,
        )
        for i in (0, 1)
    ]
    assert [answer.code for answer in answers] == [0, 0]
    picture = "train/000001.png"
    assert (tmp_path / "0" / picture).read_bytes() == (shapes / picture).read_bytes()
    assert (tmp_path / "1" / picture).read_bytes() != (shapes / picture).read_bytes()
    again = run("examples/detection/make_shapes.py", "--output_path", shapes)
    assert again.code == 2
    assert again.stderr == f"error: output_path: {shapes} holds shapes already; replace them with --overwrite\n"
    small = run("examples/detection/make_shapes.py", "--output_path", tmp_path / "s", "--image_size", 8)
    assert small.code == 2
    assert small.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_coco_is_read_as_written(shapes):
    coco, document = read_coco(shapes / "val.json", shapes / "val", True), json.loads((shapes / "val.json").read_text())
    assert coco.classes == ("circle", "triangle", "square", "star")
    assert coco.categories == (1, 2, 3, 4)
    for picture in coco.pictures:
        entries = [entry for entry in document["annotations"] if entry["image_id"] == picture.id]
        assert picture.labels.tolist() == [entry["category_id"] - 1 for entry in entries]
        for entry, box, polygons in zip(entries, picture.boxes, picture.polygons):
            left, top, width, height = entry["bbox"]
            assert box.tolist() == [left, top, left + width, top + height]
            assert [polygon.ravel().tolist() for polygon in polygons] == entry["segmentation"]


def test_crowds_and_empty_boxes_are_left_out_and_what_is_not_coco_is_refused(shapes, tmp_path):
    document = json.loads((shapes / "val.json").read_text())
    count = len(document["annotations"])

    def read(**changes):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps({**document, **changes}))
        return read_coco(path, shapes / "val", True)

    first = document["annotations"][0]
    runs = {"counts": [5, 3], "size": [64, 64]}
    extra = [{**first, "iscrowd": 1, "segmentation": runs}, {**first, "bbox": [3, 3, 0, 2]}]
    assert sum(len(picture.labels) for picture in read(annotations=document["annotations"] + extra).pictures) == count
    for changes, what in (
        ({"categories": []}, "lists no picture, or no category"),
        ({"images": [{"id": 1}]}, "annotations["),
        ({"images": [{"id": 1, "width": 5, "height": 5}], "annotations": []}, "'file_name'"),
        ({"annotations": [{**first, "category_id": 9}]}, "annotations[0]: KeyError: 9"),
        ({"annotations": [{**first, "bbox": [1, 2]}]}, "annotations[0]: ValueError"),
        ({"annotations": [{**first, "segmentation": [[1, 2, 3]]}]}, "annotations[0]: ValueError"),
        ({"annotations": [3]}, "annotations[0]: AttributeError"),
        ({"images": [{**document["images"][0], "file_name": "no.png"}], "annotations": []}, "is not there"),
    ):
        with pytest.raises(InputError, match=r"changed\.json") as caught:
            read(**changes)
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "broken.json").write_text("[1")
    with pytest.raises(InputError, match="not a JSON file"):
        read_coco(tmp_path / "broken.json", tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_coco(tmp_path / "none.json", tmp_path)


def test_placements():
    letterbox = geometry.letterbox(200, 100, 64)
    box = np.array([[0.0, 0.0, 200.0, 100.0]])
    assert letterbox.boxes(box).tolist() == [[0, 16, 64, 48]]
    assert letterbox.back(letterbox.boxes(box)).tolist() == box.tolist()
    assert letterbox.points(np.array([[100.0, 50.0]])).tolist() == [[32, 32]]
    single = geometry.single(200, 100, 64, 0.5, (40, 20))
    assert single.boxes(box).tolist() == [[24, 12, 56, 28]]
    tiles = geometry.mosaic([(64, 64)] * 4, 64, 1.0, (64, 64), (32, 32))
    square = np.array([[0.0, 0.0, 64.0, 64.0]])
    corners = [tile.boxes(square)[0].tolist() for tile in tiles]
    assert corners == [[-32, -32, 32, 32], [32, -32, 96, 32], [-32, 32, 32, 96], [32, 32, 96, 96]]
    half = geometry.mosaic([(64, 64)] * 4, 64, 0.5, (64, 64), (32, 32))
    assert [tile.boxes(square)[0].tolist() for tile in half] == [
        *([0, 0, 32, 32], [32, 0, 64, 32], [0, 32, 32, 64], [32, 32, 64, 64])
    ]
    placed = np.array([[-8.0, 0, 2, 10], [-90, 0, 10, 10], [5, 5, 6, 30], [60, 60, 90, 90]])
    assert geometry.seen(placed, geometry.clip(placed, 64, 64)).tolist() == [True, True, False, False]
    assert geometry.flip(np.array([[1.0, 2, 11, 12]]), 64).tolist() == [[53, 2, 63, 12]]
    rows = geometry.targets(np.array([[16.0, 32, 48, 64]]), np.array([3]), 64, 2)
    assert rows.tolist() == [[0, 3, 0.5, 0.75, 0.5, 0.5], [-1] * 6]


def painted(path, size, box):
    """A grey picture file with one white rectangle, as a Picture of one object."""
    cv2 = pytest.importorskip("cv2")
    from examples.detection.coco import Picture

    width, height = size
    left, top, right, bottom = box
    pixels = np.full((height, width, 3), geometry.GREY, np.uint8)
    pixels[top:bottom, left:right] = 255
    assert cv2.imwrite(str(path), pixels)
    outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    return Picture(1, path, width, height, np.array([2]), np.array([box], float), [[outline]])


def small_settings(**changes):
    values = {"task": "segment", "image_size": 64, "max_objects": 8, "batch_size": 2, "epochs": 3, "close_mosaic": 1}
    return Settings(**{**values, "hue": 0, "saturation": 0, "brightness": 0, "zoom": 0.3, **changes})


@pytest.mark.parametrize("pictures", [1, 4])
def test_the_pixels_of_an_object_are_where_its_box_and_its_mask_are(pictures, tmp_path):
    one = painted(tmp_path / "one.png", (90, 60), (30, 20, 62, 44))
    others = [painted(tmp_path / f"{i}.png", (50, 70), (5, 10, 25, 60)) for i in range(pictures - 1)]
    from examples.detection.samples import make_sample

    random, seen = np.random.default_rng(0), 0
    for _ in range(30):
        image, targets, masks = make_sample([one, *others], small_settings(mosaic=1), random)
        white = (image > 0.72).all(0)
        expected = np.zeros((64, 64), bool)
        rows = targets[targets[:, 1] >= 0]
        for label, x, y, width, height in rows[:, 1:]:
            assert label == 2
            left, top, right, bottom = np.round(
                64 * np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            )
            expected[int(top) : int(bottom), int(left) : int(right)] = True
        seen += len(rows)
        if len(rows) == pictures:  # else what is hardly seen is not listed
            assert (white & ~expected).sum() + (expected & ~white).sum() <= 12 * pictures + 0.1 * expected.sum()
            for number, row in enumerate(rows, start=1):
                covered = box_of(masks == number) * 4 / 64
                box = np.array([row[2] - row[4] / 2, row[3] - row[5] / 2, row[2] + row[4] / 2, row[3] + row[5] / 2])
                assert np.abs(covered - box).max() <= 5 / 64
            assert (np.diff(rows[:, 4] * rows[:, 5]) <= 1e-6).all()  # the largest first, as the masks want it
    assert seen >= 15 * pictures


def test_samples_come_once_an_epoch_whoever_prepares_them(tmp_path):
    pytest.importorskip("cv2")
    from examples.detection.samples import Samples

    pictures = [painted(tmp_path / f"{i}.png", (64, 64), (4, 4, 20 + 4 * i, 40)) for i in range(5)]
    settings = small_settings(mosaic=0.5, loaders=2)
    samples = Samples(pictures, settings)
    assert (samples.steps_per_epoch, samples.total_steps) == (2, 6)
    assert all(sorted(samples._order(epoch)) == list(range(5)) for epoch in range(3))
    assert samples._order(0).tolist() != samples._order(1).tolist()
    whole = list(samples.batches())
    assert [part.shape for part in whole[0]] == [(2, 3, 64, 64), (2, 8, 6), (2, 16, 16)]
    assert len(whole) == 6
    later = list(Samples(pictures, settings, start=4).batches())
    shares = [list(Samples(pictures, settings, 0, SimpleNamespace(rank=rank, size=2)).batches()) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for part, *parts in zip(batch, shares[0][step], shares[1][step]):
            assert np.array_equal(part, np.concatenate(parts))
    assert len(later) == 2
    assert all(np.array_equal(*pair) for batches in zip(whole[4:], later) for pair in zip(*batches))
    other = list(Samples(pictures, small_settings(mosaic=0.5, seed=1)).batches())
    assert not np.array_equal(other[0][0], whole[0][0])
    with pytest.raises(InputError, match="batch_size: 6, but there are 5 training pictures"):
        Samples(pictures, small_settings(batch_size=6))
    with pytest.raises(InputError, match="is 64 x 64 pixels, not 32 x 64"):
        list(Samples([pictures[0]._replace(width=32)] * 2, settings).batches())
    with pytest.raises(InputError, match="cannot read the picture"):
        list(Samples([pictures[0]._replace(path=tmp_path / "no.png")] * 2, settings).batches())


def test_settings_of_files_and_command_lines():
    for path in (FOLDER / "config").glob("*.yaml"):
        settings = load_settings(["--config_path", str(path)])
        assert settings.task == ("segment" if "seg" in path.name else "detect")
    ninety = load_settings(["--config_path", str(FOLDER / "config" / "coco_90.yaml")])
    assert (ninety.sparsity, ninety.rank_weight, ninety.image_size, ninety.epochs) == (0.9, 0.5, 640, 500)
    assert load_settings(["--method", "dense"]).pruning()["sparsity"] == 0
    assert load_settings(["--method", "gmp", "--resume"]).resume
    for words, what in (
        (["--image_size", "65"], "command line: image_size: Input should be a multiple of 32"),
        (["--method", "gmp", "--rank_weight", "1"], "command line: rank_weight: method gmp fixes it to 0"),
        (["--zooom", "1"], "command line: unrecognized arguments: --zooom 1"),
        (["--resume", "--overwrite"], "command line: resume and overwrite contradict each other"),
        (["--config_path", "no.yaml"], "config_path: cannot read no.yaml"),
        (["--config_path", str(ROOT / "config" / "cifar10.yaml")], "unknown key"),
    ):
        with pytest.raises(InputError) as caught:
            load_settings(words)
        assert what in str(caught.value)


# --- with mindyolo ---


@pytest.fixture(scope="module")
def tiny(shapes):
    """Options of a run of 6 steps on pictures of 32 pixels."""
    pytest.importorskip("mindyolo")
    words = {"data_path": shapes, "image_size": 32, "batch_size": 8, "epochs": 2, "update_interval": 2}
    return [word for key, value in words.items() for word in (f"--{key}", str(value))]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_network(tiny, tmp_path):
    from mindspore import Tensor

    from examples.detection.networks import read_detector
    from examples.detection.train import Run, open_folder
    from src.platform.parallel import SINGLE

    def start(name, *words):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Run(load_settings([*tiny, "--output_path", str(folder), *words]), folder, SINGLE)

    whole = start("whole").train()
    assert whole["sparsity"] == pytest.approx(0.9, abs=1e-6)
    assert not whole["emptied"]
    first = start("parts")
    for batch in list(first.samples.batches())[:4]:
        first.step(*map(Tensor, batch))
    first._save(1.0)
    with pytest.raises(InputError, match=r"comes from a run with lr 0\.002, not 0\.02"):
        start("parts", "--resume", "--lr", "0.02").train()
    parts = start("parts", "--resume").train()
    assert parts["score"] == whole["score"]
    networks = [read_detector(tmp_path / name / "network.ckpt")[0] for name in ("whole", "parts")]
    for one, other in zip(*(network.get_parameters() for network in networks)):
        assert np.array_equal(one.asnumpy(), other.asnumpy()), one.name
    with pytest.raises(InputError, match="already holds a run"):
        open_folder(tmp_path / "whole", load_settings(tiny))


@pytest.mark.slow
def test_masks_are_trained_scored_and_exported(tiny, tmp_path):
    words = ["--config_path", FOLDER / "config" / "shapes_nano_seg.yaml", *tiny, "--output_path", tmp_path / "run"]
    trained = run("examples/detection/train.py", *words)
    assert trained.code == 0, trained.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["score"]) == {"box", "mask"}
    ckpt = tmp_path / "run" / "network.ckpt"
    for name in ("MINDIR", "ONNX"):
        answer = run("examples/detection/export.py", "--ckpt", ckpt, "--file_format", name)
        assert answer.code == 0, answer.stderr
        assert answer.stdout.split()[-1] == "90.0000"
    scored = run("examples/detection/eval.py", "--ckpt", ckpt, "--draw", tmp_path / "d.png", "--json")
    assert scored.code == 0, scored.stderr
    assert json.loads(scored.stdout)["score"] == result["score"]
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_perfect_detections_score_a_hundred_and_none_score_nothing(shapes, monkeypatch):
    pytest.importorskip("mindyolo")
    from examples.detection import scoring

    coco = read_coco(shapes / "val.json", shapes / "val", True)

    def perfect(network, pictures, settings):
        for picture in pictures:
            masks = np.stack([inside(outlines[0], picture.width) for outlines in picture.polygons]).astype(np.uint8)
            yield picture.boxes, np.ones(len(picture.labels)), picture.labels, masks

    def nothing(network, pictures, settings):
        for _ in pictures:
            yield np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), []

    settings = SimpleNamespace(task="segment")
    monkeypatch.setattr(scoring, "detect", perfect)
    found = scoring.score(None, coco, shapes / "val.json", settings)
    assert found["box"] == {"mAP": pytest.approx(100), "mAP50": pytest.approx(100)}
    assert found["mask"]["mAP"] > 85  # the rounding of small masks
    monkeypatch.setattr(scoring, "detect", nothing)
    assert scoring.score(None, coco, shapes / "val.json", settings)["box"] == {"mAP": 0, "mAP50": 0}


@pytest.mark.slow
def test_run_sh_goes_from_nothing_to_pictures_of_detections(tmp_path):
    pytest.importorskip("mindyolo")
    for name in ("config", "examples", "scripts", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
        shutil.copy(path, tmp_path)
    (tmp_path / ".venv").symlink_to((ROOT / ".venv").resolve())
    command = ["bash", "examples/detection/run.sh", "--epochs", "1", "--image_size", "32", "--batch_size", "64"]
    done = subprocess.run(
        [*command, "--update_interval", "5"], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "output" / "detection"
    result = json.loads((output / "pruned" / "result.json").read_text())
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-6)
    assert json.loads((output / "dense" / "result.json").read_text())["sparsity"] < 1e-4
    assert done.stdout.count("mAP50") == 4
    assert all((output / "pruned" / name).exists() for name in ("network.mindir", "network.onnx", "detections.png"))
