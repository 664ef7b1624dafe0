"""Networks of one's own in deployable checkpoints: evaluated, exported and described by the programs."""

import re
import textwrap

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor, nn, ops

from src.export import formats
from src.export.deployed import describe_interface
from src.library import RPG
from src.platform.errors import InputError
from src.weights.checkpoint import load_weights, read_checkpoint, write_checkpoint
from src.weights.own import build_own
from src.weights.trained import load_trained
from tests.in_process import run
from tests.pictures import COLOURS, write_pictures

SOURCE = """
    from mindspore import nn

    class Net(nn.Cell):
        def __init__(self, width):
            super().__init__()
            self.body = nn.SequentialCell(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
            self.hidden = nn.Dense(width, width)
            self.head = nn.Dense(width, 5)

        def construct(self, x):
            return self.head(self.hidden(self.body(x).mean((2, 3))))

    def build():
        return Net(16)

    def broken():
        raise KeyError("width")

    def nothing():
        return 7
"""
SIZE = 12


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(checkpoint, `--network` of it, folder of pictures, the network): pruned to 90 % but for its head."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_nets.py").write_text(textwrap.dedent(SOURCE), encoding="utf-8")
    reference = f"{folder / 'own_nets.py'}:build"
    ms.set_seed(0)
    network = build_own(reference)
    pruning = RPG(network, 4, sparsity=0.9, update_interval=1, prune_window=0.7, update_end=0.7, exclude=["head"])
    step = pruning.train_step(nn.CrossEntropyLoss(), nn.Momentum(network.trainable_params(), 0.05, 0.9))
    random = np.random.default_rng(0)
    for _ in range(4):
        images = random.standard_normal((10, 3, SIZE, SIZE)).astype(np.float32)
        step(Tensor(images), Tensor(np.arange(10, dtype=np.int32) % 5))
    pruning.check()
    ckpt = folder / "net.ckpt"
    pictures = write_pictures(folder / "pictures", 3)
    pruning.save_deployable(
        ckpt, (3, SIZE, SIZE), sorted(COLOURS), mean=[0.5] * 3, std=[0.2] * 3, crop=0.9, data_path=pictures
    )
    return ckpt, reference, pictures, network.set_train(False)


def test_the_checkpoint_says_what_the_network_has_to_know(own):
    ckpt, reference, _, network = own
    trained = load_trained(ckpt, reference)
    assert (trained.image_shape, trained.classes) == ((3, SIZE, SIZE), tuple(sorted(COLOURS)))
    assert (trained.data.mean, trained.data.std, trained.data.crop) == ((0.5,) * 3, (0.2,) * 3, 0.9)
    assert list(trained.weights()) == ["body.0.weight", "hidden.weight"]
    assert "head.weight" in trained.dense_parameters()
    assert formats.unmet_target(trained) is None  # as counted over the layers that were pruned
    for parameter in network.get_parameters():
        assert np.array_equal(trained.network.parameters_dict()[parameter.name].asnumpy(), parameter.asnumpy())
    assert trained.settings()["sparsity"] == 0.9
    assert "lr" not in trained.settings()
    assert set(ms.load_checkpoint(str(ckpt))) == set(network.parameters_dict())


def test_eval_counts_and_scores_it(own, tmp_path):
    ckpt, reference, _, network = own
    answer = run("eval.py", "--ckpt", ckpt, "--network", reference, "--report", tmp_path)
    assert answer.code == 0, answer.stderr
    zeros = sum(np.count_nonzero(w.asnumpy() == 0) for w in (network.body[0].weight, network.hidden.weight))
    assert f"sparsity {100 * zeros / (16 * 27 + 256):.4f} %" in answer.stdout
    assert "15 images" in answer.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Own network: rpg, 90\u00a0% sparsity" in page
    assert "<td>lr</td>" not in page

    answer = run("eval.py", "--ckpt", ckpt)
    assert (answer.code, answer.stdout) == (2, "")
    assert answer.stderr.endswith("a network of one's own; say what builds it: --network FILE.py:FUNCTION\n")


@pytest.mark.parametrize("file_format", ["ONNX", "PACKED", pytest.param("MINDIR", marks=pytest.mark.slow), "SPARSE"])
def test_it_is_exported_and_gives_the_same_outputs(own, file_format, tmp_path):
    ckpt, reference, _, network = own
    path = tmp_path / f"net{formats.SUFFIXES[file_format]}"
    words = ["--fold_bn"] if file_format in ("ONNX", "MINDIR") else []
    answer = run(
        "export.py", "--ckpt", ckpt, "--network", reference, "--file_format", file_format, "--file_name", path, *words
    )
    assert answer.code == 0, answer.stderr
    assert "warning" not in answer.stderr
    if file_format == "ONNX":
        images = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: images})[0]
        assert np.allclose(outputs, network(Tensor(images)).asnumpy(), atol=1e-5)
        answer = run("infer.py", "--model", path, own[2] / "cat" / "0.png")
        assert re.match(rf".*: ({'|'.join(COLOURS)}) \(", answer.stdout)
    if file_format == "PACKED":
        assert run("export.py", "--unpack", path, "--file_name", tmp_path / "back.ckpt").code == 0
        restored, expected = (read_checkpoint(file) for file in (tmp_path / "back.ckpt", ckpt))
        assert restored[1] == expected[1]
        assert all(np.array_equal(restored[0][name], array) for name, array in expected[0].items())


def test_zeros_that_came_back_are_found(own, tmp_path):
    ckpt, reference, _, _ = own
    tensors, description = read_checkpoint(ckpt)
    tensors["hidden.weight"][:] = 1
    write_checkpoint(tmp_path / "x.ckpt", tensors, description)
    with pytest.raises(InputError, match=r"hidden\.weight has 256 non-zero weights, not the"):
        formats.load_for_export(tmp_path / "x.ckpt", reference)
    write_checkpoint(tmp_path / "x.ckpt", tensors, {**description, "pruned": ["body.9.weight"]})
    with pytest.raises(InputError, match=r"damaged: it has no weight body\.9\.weight"):
        load_trained(tmp_path / "x.ckpt", reference)


def test_nameless_classes_are_numbered(own):
    ckpt, reference, _, _ = own
    trained = load_trained(ckpt, reference)
    trained = trained._replace(data=trained.data._replace(classes=()))
    assert describe_interface(trained).classes == tuple("01234")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{file}", "is not FILE.py:NAME or MODULE:NAME"),
        ("{file}:1x", "is not FILE.py:NAME"),
        ("{file}x.py:build", "there is no file"),
        ("{file}:bild", "has no function or class bild"),
        ("{file}:broken", "broken fails: KeyError: 'width'; name a function without arguments"),
        ("{file}:Net", "missing 1 required positional argument"),
        ("{file}:nothing", "gives a int, not a Cell"),
        ("no_such_module:build", "cannot import no_such_module: ModuleNotFoundError"),
    ],
)
def test_what_builds_no_network_is_named(own, reference, message):
    with pytest.raises(InputError, match=f"network: .*{re.escape(message)}"):
        build_own(reference.format(file=own[1].rpartition(":")[0]))


def test_a_file_that_cannot_be_imported_and_one_that_builds_another_network(own, tmp_path):
    (tmp_path / "bad_nets.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot import .*bad_nets\.py: ModuleNotFoundError"):
        build_own(f"{tmp_path / 'bad_nets.py'}:build")
    (tmp_path / "other_nets.py").write_text(textwrap.dedent(SOURCE).replace("Net(16)", "Net(8)"), encoding="utf-8")
    with pytest.raises(InputError, match="does not fit the network"):
        load_trained(own[0], f"{tmp_path / 'other_nets.py'}:build")


def test_a_network_that_is_known_needs_nothing_to_build_it(own, tmp_path):
    tensors, description = read_checkpoint(own[0])
    model = {**description["model"], "name": "resnet20"}
    write_checkpoint(tmp_path / "x.ckpt", tensors, {**description, "model": model})
    with pytest.raises(InputError, match=r"is of resnet20, which is known here; leave it out"):
        load_trained(tmp_path / "x.ckpt", own[1])


def test_a_network_that_tells_no_classes_apart_is_exported_but_not_scored(own, tmp_path):
    """As one for segmentation, with a transposed convolution."""
    source = """
        from mindspore import nn

        def build():
            return nn.SequentialCell(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2dTranspose(8, 2, 3, 2))
    """
    (tmp_path / "mask_nets.py").write_text(textwrap.dedent(source), encoding="utf-8")
    reference = f"{tmp_path / 'mask_nets.py'}:build"
    RPG(build_own(reference), 12, update_interval=2).save_deployable(tmp_path / "x.ckpt", (1, 8, 8), 2)
    trained = load_trained(tmp_path / "x.ckpt", reference)
    with pytest.raises(InputError, match="gives 2x8x8 numbers for an image, not one for each of 2 classes"):
        trained.source()
    interface = describe_interface(trained)
    exported = formats.export_graph(tmp_path / "x.ckpt", "ONNX", tmp_path / "x.onnx", interface, network=reference)
    assert exported.weights == 72 + 144
    images = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images})[0]
    assert np.allclose(
        outputs, load_trained(tmp_path / "x.ckpt", reference).network(Tensor(images)).asnumpy(), atol=1e-5
    )


def test_a_pruned_parameter_that_is_no_layer_counts_too(tmp_path):
    source = """
        import mindspore as ms
        import numpy as np
        from mindspore import nn, ops

        class Mix(nn.Cell):
            def __init__(self):
                super().__init__()
                self.head = nn.Dense(16, 2)
                self.mix = ms.Parameter(ms.Tensor(np.ones((16, 16), np.float32)), name="mix")

            def construct(self, x):
                return self.head(ops.matmul(x.reshape(x.shape[0], -1), self.mix))
    """
    (tmp_path / "mix_nets.py").write_text(textwrap.dedent(source), encoding="utf-8")
    reference = f"{tmp_path / 'mix_nets.py'}:Mix"
    pruning = RPG(build_own(reference), 12, update_interval=2, include=["mix"], method="rigl", sparsity=0.75)
    pruning.save_deployable(tmp_path / "x.ckpt", (1, 4, 4), 2)
    trained = formats.load_for_export(tmp_path / "x.ckpt", reference)
    assert {name: np.count_nonzero(array) for name, array in trained.weights().items()} == {"mix": 64}


class Pair(nn.Cell):
    """Two outputs; never run but to be refused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)

    def construct(self, x):
        return self.conv(x), x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": (3, 12)}, r"image_shape: (channels, height, width), not (3, 12)"),
        ({"image_shape": (2, 12, 12)}, "does not take images of (2, 12, 12)"),
        ({"classes": ["a", "a"]}, "classes: names that differ, or how many there are"),
        ({"classes": "ab"}, "classes: names that differ"),
        ({"classes": 0}, "classes: names that differ"),
        ({"mean": [0.5]}, "mean: 3 numbers from 0 to 1, not [0.5]"),
        ({"std": [0.0] * 3}, "std: 3 numbers from 1e-05 to 1"),
        ({"crop": 2}, "crop: 3 numbers from 0.1 to 1"),
    ],
)
def test_what_makes_no_sense_is_not_saved(own, change, message, tmp_path):
    network = build_own(own[1])
    load_weights(network, read_checkpoint(own[0])[0], own[0])
    values = {"image_shape": (3, 12, 12), "classes": 5, **change}
    with pytest.raises(InputError, match=re.escape(message)):
        RPG(network, 12, update_interval=2).save_deployable(tmp_path / "x.ckpt", **values)
    assert not (tmp_path / "x.ckpt").exists()


def test_a_network_with_two_outputs_or_values_that_are_not_finite_is_not_saved(tmp_path):
    network = Pair()
    pruning = RPG(network, 12, update_interval=2)
    with pytest.raises(InputError, match="does not return one Tensor"):
        pruning.save_deployable(tmp_path / "x.ckpt", (1, 6, 6), 2)
    ops.assign(network.conv.weight, Tensor(np.full((8, 1, 3, 3), np.nan, np.float32)))
    with pytest.raises(InputError, match=r"conv\.weight is not finite"):
        pruning.save_deployable(tmp_path / "x.ckpt", (1, 6, 6), 2)
    assert network.training is False
    assert not (tmp_path / "x.ckpt").exists()
