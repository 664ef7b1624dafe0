"""Classes of image files: real digits written as PNG, by MINDIR and ONNX, and files that are none."""

import json
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from src.data import digits
from src.export import formats
from src.export.deployed import Interface, describe_interface
from src.export.inference import Classifier, inverted, read_image, softmax, unlike_training
from src.platform.errors import InputError
from src.programs import infer
from src.weights.trained import load_trained

COUNT = 60
INTERFACE = Interface((3, 4, 4), 1, (10.0, 20.0, 30.0), (1.0, 2.0, 4.0), False, False, 0.5, ("a", "b"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths and labels of test digits as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    images, labels = digits.arrays("test")
    paths = []
    for index in range(COUNT):
        paths.append(folder / f"{index}.png")
        Image.fromarray(images[index, :, :, 0]).save(paths[-1])
    return paths, labels[:COUNT]


@pytest.mark.parametrize(
    ("file_format", "batch_size", "inside"), [("MINDIR", 7, False), ("MINDIR", None, True), ("ONNX", None, False)]
)
def test_digits_from_png_files(trained_resnet20, pictures, tmp_path, file_format, batch_size, inside):
    ckpt, top1 = trained_resnet20
    path = tmp_path / f"net{formats.SUFFIXES[file_format]}"
    network = load_trained(ckpt)
    formats.export_graph(ckpt, file_format, path, describe_interface(network, batch_size, inside, inside))
    classifier = Classifier(path)
    paths, labels = pictures
    probabilities = classifier(np.stack([read_image(path, classifier.interface) for path in paths]))
    assert probabilities.shape == (COUNT, 10)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    found = [classifier.interface.classes[index] for index in probabilities.argmax(1)]
    accuracy = 100 * np.mean([int(name) == label for name, label in zip(found, labels)])
    assert accuracy > 50
    assert abs(accuracy - top1) < 15  # the whole test split has 360 digits

    pixels = digits.arrays("test")[0][:COUNT].transpose(0, 3, 1, 2) / 255
    images = (pixels - digits.MEAN[0]) / digits.STD[0]
    expected = softmax(network.network(Tensor(images.astype(np.float32))).asnumpy())
    assert np.allclose(probabilities, expected, atol=1e-5)


def test_an_image_is_scaled_cropped_and_normalised(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[2:6, 6:10] = (50, 60, 70)  # the centre that a crop of half the shorter side sees
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", INTERFACE)
    assert image.shape == (3, 4, 4)
    assert np.array_equal(image[:, 1, 1], [40, 20, 10])
    assert np.array_equal(image, np.broadcast_to(image[:, :1, :1], image.shape))
    assert np.array_equal(
        read_image(tmp_path / "a.png", INTERFACE._replace(normalized=True))[:, 0, 0], np.float32([50, 60, 70])
    )
    Image.fromarray(pixels).resize((32, 16), Image.Resampling.NEAREST).save(tmp_path / "b.png")
    assert np.allclose(read_image(tmp_path / "b.png", INTERFACE)[:, 1:3, 1:3], image[:, 1:3, 1:3])
    grey = read_image(tmp_path / "a.png", INTERFACE._replace(image_shape=(1, 4, 4), mean=(0.0,), std=(1.0,)))
    assert grey.shape == (1, 4, 4)


GREY = INTERFACE._replace(image_shape=(1, 8, 8), mean=(255 * digits.MEAN[0],), std=(255 * digits.STD[0],))
COLOUR = INTERFACE._replace(image_shape=(3, 8, 8), mean=(124.0, 116.0, 104.0), std=(58.0, 57.0, 57.0))  # ImageNet's


def as_input(pixels, interface):
    """Grey values (n, channels, height, width) as the network takes them."""
    if interface.normalized:
        return np.float32(pixels)
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (interface.mean, interface.std))
    return (np.float32(pixels) - mean) / std


@pytest.mark.parametrize("normalized", [False, True])
def test_a_negative_is_told_from_every_image_of_the_data_set(normalized):
    interface = GREY._replace(normalized=normalized)
    pixels = np.concatenate([digits.arrays(split)[0] for split in ("train", "test")]).transpose(0, 3, 1, 2)
    images, negatives = as_input(pixels, interface), as_input(255 - pixels, interface)
    assert np.allclose(inverted(images, interface), negatives, atol=1e-4)
    assert not any(unlike_training(image, interface) for image in images)
    assert all("--invert" in unlike_training(image, interface) for image in negatives)


@pytest.mark.parametrize(
    ("interface", "level", "said"),
    [
        (GREY, 255, "--invert"),  # a thin pen on white paper
        (GREY, 0, None),
        (GREY._replace(mean=(230.0,), std=(60.0,)), 20, "--invert"),
        (GREY._replace(mean=(230.0,), std=(60.0,)), 255, None),
        (COLOUR, 180, None),
        (COLOUR, 40, None),
        (COLOUR, 250, "much brighter"),
        (COLOUR._replace(normalized=True), 250, "much brighter"),
        (COLOUR._replace(std=(40.0,) * 3), 5, "much darker"),
    ],
)
def test_brightness_far_from_that_of_training_is_told(interface, level, said):
    image = as_input(np.full(interface.image_shape, level), interface)
    remark = unlike_training(image, interface)
    assert remark is None if said is None else said in remark


def test_one_bad_image_does_not_hold_up_the_others(trained_resnet20, pictures, tmp_path, monkeypatch, capsys):
    ckpt, _ = trained_resnet20
    model, broken, negative = tmp_path / "net.mindir", tmp_path / "broken.png", tmp_path / "negative.png"
    formats.export_graph(ckpt, "MINDIR", model, describe_interface(load_trained(ckpt), 2))
    broken.write_bytes(b"no image")
    first, second = pictures[0][:2]
    Image.fromarray(255 - np.asarray(Image.open(first))).save(negative)

    def classes(*words):
        monkeypatch.setattr(sys, "argv", ["infer.py", "--model", str(model), *map(str, words)])
        try:
            infer.main()
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines(), code

    alone, said, code = classes("--batch_size", 3, first, second, first, second)
    assert (len(alone), said, code) == (4, [], 0)
    lines, said, code = classes("--batch_size", 3, first, broken, second, tmp_path / "none.png", first, second)
    assert lines == alone
    assert [line.split()[0] for line in said] == ["error:", "error:"]
    assert "broken.png: not an image" in said[0]
    assert "none.png: No such file" in said[1]
    assert code == 2
    lines, said, code = classes(broken)
    assert (lines, len(said), code) == ([], 1, 2)

    lines, said, code = classes("--invert", negative)
    assert [line.partition(": ")[2] for line in lines] == [alone[0].partition(": ")[2]]
    assert (said, code) == ([], 0)
    lines, said, code = classes(negative)
    assert said[0].startswith(f"warning: {negative}: ")
    assert code == 0


@pytest.fixture
def colours(tmp_path):
    """A stand-in for an exported file, whose three classes are the shares of red, green and blue in a picture, and a
    function running infer.py on it in a folder of pictures: the words after --model -> (lines, errors, code).
    """
    for name, pixel in {"a/red.png": (9, 1, 0), "a/b/green.png": (1, 6, 3), "a/b/.x/no.png": (9, 9, 9)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), pixel).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "[1].png").write_bytes((tmp_path / "a" / "red.png").read_bytes())
    (tmp_path / "empty").mkdir()
    interface = INTERFACE._replace(classes=("red", "green", "blue"), normalized=True, mean=(5.0,) * 3, std=(9.0,) * 3)

    class Shares:
        batches = ()

        def __init__(self, path):
            self.interface = interface

        def __call__(self, images):
            Shares.batches += (len(images),)
            sums = images.sum((2, 3))
            return sums / sums.sum(1, keepdims=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(infer, "Classifier", Shares)

        def answer(*words):
            patch.setattr(sys, "argv", ["infer.py", "--model", "x.onnx", *words])
            Shares.batches = ()
            try:
                infer.main()
            except SystemExit as end:
                return Shares.batches, end.code
            return Shares.batches, 0

        yield answer


def test_folders_and_patterns_stand_for_the_pictures_in_them(colours, capsys):
    lines = ["a/[1].png: red (90.0 %)", "a/red.png: red (90.0 %)", "a/b/green.png: green (60.0 %)"]
    assert colours("a") == ((3,), 0)
    assert capsys.readouterr().out.splitlines() == lines
    assert colours("a/**/*.png") == ((3,), 0)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(lines)
    assert colours("*", "--batch_size", "2") == ((2, 1), 0)  # a pattern that names a folder
    assert capsys.readouterr().out.splitlines() == lines
    assert colours("a/[1].png") == ((1,), 0)  # a file of that name goes before the pattern
    assert capsys.readouterr().out.splitlines() == lines[:1]

    assert colours("empty", "a/*.jpg", "a/red.png") == ((1,), 2)
    out, err = capsys.readouterr()
    assert out.splitlines() == [lines[1]]
    assert err.splitlines() == [
        "error: images: empty: no image files in this folder",
        "error: images: a/*.jpg: no file has such a name",
    ]


def test_the_likeliest_classes_as_text_and_as_json(colours, capsys):
    assert colours("a/b/green.png", "--top_k", "2") == ((1,), 0)
    assert capsys.readouterr().out == "a/b/green.png: green (60.0 %), blue (30.0 %)\n"
    assert colours("a/b", "a/notes.txt", "none.png", "--json", "--top_k", "5") == ((1,), 2)
    out, err = capsys.readouterr()
    answers = list(map(json.loads, out.splitlines()))
    by_image = {answer["image"]: answer for answer in answers}
    assert [entry["class"] for entry in by_image["a/b/green.png"]["top"]] == ["green", "blue", "red"]
    assert [entry["probability"] for entry in by_image["a/b/green.png"]["top"]] == pytest.approx([0.6, 0.3, 0.1])
    assert (by_image["a/b/green.png"]["class"], by_image["a/b/green.png"]["probability"]) == (
        "green",
        pytest.approx(0.6),
    )
    assert "not an image" in by_image["a/notes.txt"]["error"]
    assert "No such file" in by_image["none.png"]["error"]
    assert len(err.splitlines()) == 2


def test_a_bar_is_shown_where_only_the_results_go_to_a_file(colours, capsys, monkeypatch):
    colours("a")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    colours("a")
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    colours("a")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"no image", "not an image"),
        ("none.png", None, "No such file"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", "cannot read"),
    ],
)
def test_files_that_are_no_images(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"images: .*{name}.*{message}|images: {message}.*{name}"):
        read_image(tmp_path / name, INTERFACE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mindir", None, "No such file"),
        ("a.ckpt", b"x", "in none of .mindir, .onnx and .sparse"),
        ("a.mindir", b"not a protobuf", "not a MINDIR file"),
        ("a.onnx", b"not a protobuf", "not an ONNX file"),
        ("empty.onnx", b"", "not an ONNX file"),
        ("empty.mindir", b"", "MINDIR|does not say"),
    ],
)
def test_files_that_are_no_models(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Classifier(tmp_path / name)


def test_models_of_others_do_not_say_what_they_take(tmp_path):
    image = Tensor(np.zeros((1, 2), np.float32))
    ms.export(nn.Dense(2, 2), image, file_name=str(tmp_path / "a"), file_format="MINDIR")
    ms.onnx.export(nn.Dense(2, 2), image, file_name=str(tmp_path / "a.onnx"))
    for suffix in ("mindir", "onnx"):
        with pytest.raises(InputError, match="does not say what it takes"):
            Classifier(tmp_path / f"a.{suffix}")
