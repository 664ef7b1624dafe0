"""int8 ONNX files: every zero stays zero, ranges come from training images, and the accuracy is that of the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from src.config.files import read_yaml
from src.config.keys import resolve
from src.data import digits
from src.data.batches import Source, draw_training_images
from src.export import formats, int8
from src.export.deployed import describe_interface
from src.export.inference import Classifier
from src.export.int8 import count_kept_zeros
from src.export.onnx_file import open_onnx
from src.platform.errors import InputError
from src.run.trainer import Trainer
from src.weights.trained import load_trained
from tests.in_process import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def quantised(trained_resnet20, tmp_path_factory):
    """An int8 file of the small network that takes any number of normalised images; its Exported, its Accuracy."""
    ckpt, _ = trained_resnet20
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    interface = describe_interface(load_trained(ckpt), None)
    return path, *formats.export_int8(ckpt, path, interface, 100, evaluate=True)


def stored_weights(path):
    """Integers and scales of the quantised weights, found by the graph's DequantizeLinear nodes."""
    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {
        node.input[0].removesuffix("_quantized"): tuple(arrays[name] for name in node.input)
        for node in graph.node
        if node.op_type == "DequantizeLinear" and arrays.get(node.input[0], np.zeros(1)).dtype == np.int8
        if arrays[node.input[0]].ndim > 1
    }


def check_zeros(path, exported, ckpt):
    """Every zero of a checkpoint is the integer zero of its int8 file, layer by layer, and the report counts them."""
    stored = stored_weights(path)
    weights = load_trained(ckpt).weights()
    assert set(stored) == set(weights)
    zeros = 0
    for name, weight in weights.items():
        integers, scales, offsets = stored[name]
        assert integers.dtype == np.int8
        assert not offsets.any()  # symmetric
        assert len(scales) == len(weight), name  # one scale per output channel
        integers = integers if integers.shape == weight.shape else integers.T
        assert not integers[weight == 0].any(), name
        assert np.count_nonzero(integers) > 0.8 * np.count_nonzero(weight), name
        zeros += np.count_nonzero(integers == 0)
    assert (exported.zeros, exported.weights) == (zeros, sum(weight.size for weight in weights.values()))
    assert exported.zeros / exported.weights >= 0.98
    assert exported.bytes == path.stat().st_size < 0.35 * ckpt.stat().st_size


def test_zeros_of_every_layer_are_zeros_of_the_file(quantised, trained_resnet20):
    path, exported, _ = quantised
    check_zeros(path, exported, trained_resnet20[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "characters"])
def test_at_98_percent_eight_bits_cost_at_most_half_a_point(name, tmp_path, monkeypatch):
    """Of the networks of both recipes, over all test images."""
    monkeypatch.syspath_prepend(ROOT / "benchmark")
    import make_characters

    if name == "characters":
        make_characters.write(tmp_path)
    recipe = read_yaml(ROOT / "config" / f"resnet20_{name}.yaml")
    data_path = str(tmp_path) if name == "characters" else ""
    config = resolve(recipe, {"output_path": str(tmp_path / "run"), "data_path": data_path})
    assert Trainer(config).run()["sparsity"] > 0.9799
    ckpt, path = tmp_path / "run" / "best.ckpt", tmp_path / "net.onnx"
    exported, accuracy = formats.export_int8(ckpt, path, describe_interface(load_trained(ckpt), None), 256, True)
    check_zeros(path, exported, ckpt)
    assert accuracy.images == {"digits": 360, "characters": 1800}[name]
    assert accuracy.float32 > {"digits": 97, "characters": 80}[name]
    assert accuracy.int8 >= accuracy.float32 - 0.5


def test_the_accuracy_is_that_of_the_files_over_all_test_images(quantised, trained_resnet20):
    path, _, accuracy = quantised
    pixels, labels = digits.arrays("test")
    images = (pixels.transpose(0, 3, 1, 2) / 255 - digits.MEAN[0]) / digits.STD[0]
    session = open_onnx(path)
    logits = session.run(None, {"images": images.astype(np.float32)})[0]
    assert accuracy.int8 == pytest.approx(100 * np.mean(logits.argmax(1) == labels), abs=1e-9)
    assert accuracy.float32 == pytest.approx(trained_resnet20[1], abs=0.3)
    assert accuracy.images == len(labels) == 360
    assert accuracy.int8 > accuracy.float32 - 2


def test_files_for_grey_values_give_probabilities_and_say_so(trained_resnet20, quantised, tmp_path):
    ckpt, _ = trained_resnet20
    interface = describe_interface(load_trained(ckpt), 3, normalize=True, softmax=True)
    formats.export_int8(ckpt, tmp_path / "net.onnx", interface, 50)
    classifier = Classifier(tmp_path / "net.onnx")
    assert classifier.interface == interface
    pixels = digits.arrays("test")[0][:50].transpose(0, 3, 1, 2).astype(np.float32)
    probabilities = classifier(pixels)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    normalised = (pixels / 255 - digits.MEAN[0]) / digits.STD[0]
    assert np.mean(probabilities.argmax(1) == Classifier(quantised[0])(normalised).argmax(1)) > 0.9


def test_calibration_images_are_training_images_as_evaluation_sees_them():
    images = draw_training_images(Source("digits", seed=1), 30)
    assert images.shape == (30, 1, 8, 8)
    train = (digits.arrays("train")[0].transpose(0, 3, 1, 2) / 255 - digits.MEAN[0]) / digits.STD[0]
    for image in images:
        assert np.abs(train - image).max((1, 2, 3)).min() < 1e-5
    assert len(np.unique(images.reshape(30, -1), axis=0)) > 25
    assert np.array_equal(images, draw_training_images(Source("digits", seed=1), 30))
    assert not np.array_equal(images, draw_training_images(Source("digits", seed=2), 30))
    with pytest.raises(InputError, match=r"calibration_images: 9999 .* 1437 training images"):
        draw_training_images(Source("digits", seed=1), 9999)


def test_a_lost_zero_is_an_error():
    weight = np.float32([[0, 2], [1, 0]])
    integers = np.int8([[0, 5], [3, 0]])
    assert count_kept_zeros("x", {"w": integers}, {"w": weight}) == (2, 4)
    assert count_kept_zeros("x", {"w": np.int8([[0, 5], [0, 0]])}, {"w": weight}) == (3, 4)
    with pytest.raises(RuntimeError, match="w has lost zeros"):
        count_kept_zeros("x", {"w": np.int8([[1, 5], [3, 0]])}, {"w": weight})
    with pytest.raises(RuntimeError, match="w is not in"):
        count_kept_zeros("x", {}, {"w": weight})


def test_the_program_prints_both_accuracies_and_warns_of_a_loss(trained_resnet20, tmp_path, monkeypatch):
    ckpt, _ = trained_resnet20
    words = ["--ckpt", ckpt, "--file_format", "ONNX", "--quantize", "int8", "--file_name", tmp_path / "a.onnx"]
    answer = run("export.py", *words, "--calibration_images", 64, "--evaluate")
    assert answer.code == 0
    assert "top-1 over 360 test images: int8 " in answer.stdout
    assert (tmp_path / "a.onnx").is_file()
    assert onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(int8, "compare_accuracy", lambda *files: int8.Accuracy(99.0, 98.4, 360))
    answer = run("export.py", *words, "--calibration_images", 8, "--evaluate", "--overwrite")
    assert (answer.stderr.startswith("warning: "), answer.code) == (True, 0)
    assert "int8 costs more than 0.5 points" in answer.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--quantize int8", "quantize: only for --file_format ONNX"),
        ("--file_format ONNX --evaluate", "evaluate: only with --quantize int8"),
        ("--file_format ONNX --calibration_images 4", "calibration_images: only with --quantize int8"),
        ("--file_format ONNX --quantize int8 --calibration_images 0", "calibration_images: 0 is not at least 1"),
        ("--file_format ONNX --quantize int8 --calibration_images 99999", "calibration_images: 99999"),
    ],
)
def test_options_that_do_not_fit_end_in_one_line(trained_resnet20, tmp_path, words, message):
    answer = run("export.py", "--ckpt", trained_resnet20[0], "--file_name", tmp_path / "x", *words.split())
    assert answer.code == 2
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
