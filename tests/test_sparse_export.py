"""SPARSE through export.py and infer.py: outputs, zeros, accuracy, the line on the gain, the example program."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from src.data import digits
from src.data.batches import Batches, Batching, Source
from src.export import formats
from src.export.deployed import describe_interface, prepare
from src.export.inference import Classifier, read_image
from src.export.sparse.export import describe_gain, export_sparse
from src.export.sparse.file import from_bytes
from src.export.sparse.runtime import LIBRARY, SparseModel
from src.platform.errors import InputError
from src.weights.trained import load_trained
from tests.in_process import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def exported(trained_resnet20, tmp_path_factory):
    """The .sparse file of a trained network, and its row of the report."""
    path = tmp_path_factory.mktemp("sparse") / "net.sparse"
    ckpt = trained_resnet20[0]
    return path, formats.export_graph(ckpt, "SPARSE", path, describe_interface(load_trained(ckpt), 1))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A test digit as an image file."""
    path = tmp_path_factory.mktemp("pictures") / "digit.png"
    Image.fromarray(digits.arrays("test")[0][0, :, :, 0]).save(path)
    return path


def test_a_file_gives_the_networks_logits_and_keeps_its_zeros(exported, trained_resnet20):
    path, row = exported
    trained = load_trained(trained_resnet20[0])
    images = np.random.default_rng(1).standard_normal((5, *trained.image_shape)).astype(np.float32)
    logits = trained.network(Tensor(images)).asnumpy()
    with SparseModel(path, 2) as model:
        assert abs(model(images) - logits).max() < 1e-4 * abs(logits).max()
    zeros = sum(int((weight == 0).sum()) for weight in trained.weights().values())
    assert (row.zeros, row.weights) == (zeros, sum(weight.size for weight in trained.weights().values()))
    assert row.bytes == path.stat().st_size < 0.04 * trained_resnet20[0].stat().st_size
    assert [file.name for file in path.parent.iterdir()] == ["net.sparse"]


def test_the_accuracy_is_that_of_eval(exported, trained_resnet20):
    trained = load_trained(trained_resnet20[0])
    config = trained.config
    data = Batches(Source(config.dataset, classes=trained.classes), "test", Batching(128)).epoch()
    correct = total = 0
    with SparseModel(exported[0]) as model:
        for images, labels in data.create_tuple_iterator(output_numpy=True, num_epochs=1):
            correct += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    scores = json.loads(run("eval.py", "--ckpt", trained_resnet20[0], "--json").stdout)
    assert total == scores["images"]
    assert 100 * correct / total == pytest.approx(scores["top1"], abs=1e-9)


@pytest.mark.parametrize("inside", [False, True])
def test_images_are_classified_as_by_other_formats(trained_resnet20, picture, tmp_path, inside):
    answers = []
    for file_format in ("SPARSE", "ONNX"):
        path = tmp_path / f"net{formats.SUFFIXES[file_format]}"
        network = load_trained(trained_resnet20[0])
        formats.export_graph(trained_resnet20[0], file_format, path, describe_interface(network, 1, inside, inside))
        classifier = Classifier(path)
        answers.append(classifier(read_image(picture, classifier.interface)[None]))
        assert classifier.interface.classes == tuple("0123456789")
    assert np.allclose(*answers, atol=1e-5)
    assert abs(answers[0].sum() - 1) < 1e-5


def test_the_example_program_says_the_same(exported, picture, tmp_path):
    classifier = Classifier(exported[0])
    image = Image.open(picture)
    image.save(tmp_path / "digit.pgm")
    (probabilities,) = classifier(read_image(picture, classifier.interface)[None])
    done = subprocess.run(
        [LIBRARY.with_name("classify"), exported[0], tmp_path / "digit.pgm"], capture_output=True, text=True, check=True
    )
    best = int(probabilities.argmax())
    assert done.stdout == f"{classifier.interface.classes[best]} ({100 * probabilities[best]:.1f} %)\n"
    image.resize((9, 9)).save(tmp_path / "large.pgm")
    failed = subprocess.run(
        [LIBRARY.with_name("classify"), exported[0], tmp_path / "large.pgm"], capture_output=True, text=True
    )
    assert (failed.returncode, failed.stderr) == (2, "error: a PPM or PGM of 8 x 8 is needed\n")


def test_a_wrong_file_is_noticed_and_not_kept(trained_resnet20, tmp_path):
    trained = load_trained(trained_resnet20[0])
    deployment = prepare(trained, describe_interface(trained, 1))
    with pytest.raises(RuntimeError, match="outputs differ"):
        export_sparse(deployment._replace(outputs=deployment.outputs + 1), tmp_path / "net.sparse")
    trained = load_trained(trained_resnet20[0])
    deployment = prepare(trained, describe_interface(trained, 1))
    fewer = {name: np.zeros_like(weight) for name, weight in deployment.weights.items()}
    with pytest.raises(RuntimeError, match="zeros in the written file"):
        export_sparse(deployment._replace(weights=fewer), tmp_path / "net.sparse")
    assert not list(tmp_path.iterdir())


def test_the_gain_is_said(exported):
    assert "ms, dense by onnxruntime" in exported[1].note
    assert describe_gain(3.0, 1.5).endswith("3.00 ms: 2.00 times as fast")
    assert describe_gain(1.0, 2.0).endswith("0.50 times as fast; no gain, ONNX is the better file for this network")


def test_options_that_a_sparse_file_has_not(trained_resnet20):
    for option in (["--batch_size", "2"], ["--dynamic_batch"], ["--fold_bn"], ["--converter_config"]):
        answer = run("export.py", "--ckpt", trained_resnet20[0], "--file_format", "SPARSE", *option)
        assert answer.code == 2
        assert f"{option[0][2:]}: a SPARSE file" in answer.stderr


def test_damaged_files_are_refused(exported, tmp_path):
    content = exported[0].read_bytes()
    (tmp_path / "cut.sparse").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"cut\.sparse: damaged"):
        Classifier(tmp_path / "cut.sparse")
    assert from_bytes(content).interface["classes"] == tuple("0123456789")
