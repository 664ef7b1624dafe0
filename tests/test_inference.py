"""Classes of image files: real digits written as PNG, by MINDIR and ONNX, and files that are none."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from src.data import digits
from src.errors import InputError
from src.export import formats
from src.export.deployed import Interface, describe_interface
from src.inference import Classifier, read_image, softmax
from src.trained import load_trained

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
        ("none.mindir", None, "no such file"),
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
