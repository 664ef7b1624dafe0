"""Weights from and to PyTorch: names, logits, zeros, and files that would run code."""

import importlib.util
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from src.models import build_model
from src.platform.errors import InputError
from src.tools.convert_torch import _torch_file, main, mindspore_to_torch, torch_to_mindspore
from src.weights.checkpoint import read_checkpoint, write_network
from src.weights.naming import from_torch, identify, to_torch
from src.weights.pretrained import load_pretrained, read_weights
from src.weights.torch_files import _array, read_torch
from src.weights.trained import load_trained
from tests.numpy_network import forward

DATA = Path(__file__).parent / "data"
# Names and shapes of torchvision's own networks, recorded from torchvision 0.28.
TORCHVISION = json.loads((DATA / "torchvision_names.json").read_text())


def shapes(name):
    """Names and shapes of a PyTorch network: torchvision's, or its VGG-19 with one linear layer for CIFAR-10."""
    if name == "vgg19":
        return {**TORCHVISION["vgg19_bn"], "classifier.weight": [10, 512], "classifier.bias": [10]}
    if name == "resnet20":
        return {k: v.shape for k, v in to_torch(network_weights("resnet20", 10)).items()}
    return TORCHVISION[name]


def network_weights(name, classes, **options):
    return {p.name: p.asnumpy() for p in build_model(name, classes, 3, **options).get_parameters()}


def random_weights(names, rng, density=0.2):
    """A state dict with BatchNorm far from its initial values and pruned convolutions."""
    weights = {}
    for name, shape in names.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = np.array(5, np.int64)
        elif name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            weights[name] = rng.normal(1 if name.endswith("weight") else 0, 0.1, shape).astype(np.float32)
        else:
            scale = np.sqrt(2 / (density * np.prod(shape[1:])))
            weights[name] = (scale * rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)
    return weights


def largest_deviation(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("name", "size"), [("resnet50", 64), ("vgg19", 32), ("resnet20", 32)])
def test_there_and_back_same_logits_and_every_zero(name, size, rng, tmp_path):
    weights = random_weights(shapes(name), rng)
    save_file(weights, tmp_path / "in.safetensors")
    said = torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    assert f"{name} for {'imagenet' if size == 64 else 'cifar10'}" in said
    images = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    trained = load_trained(tmp_path / "out.ckpt")
    assert largest_deviation(trained.network(Tensor(images)).asnumpy(), forward(weights, images)) < 1e-4

    mindspore_to_torch(tmp_path / "out.ckpt", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    if name == "vgg19":  # the biases of its convolutions have gone into the means of BatchNorm
        assert all(
            n.endswith("bias") and n.replace("bias", "running_mean") not in weights for n in set(weights) - set(back)
        )
        assert largest_deviation(forward(back, images), forward(weights, images)) < 1e-4
    else:
        assert set(back) == set(weights)
    for key, value in back.items():
        assert value.shape == weights[key].shape
        assert value.dtype == weights[key].dtype
        if value.ndim > 1 or (name != "vgg19" and value.ndim):
            assert np.array_equal(value, weights[key])
    zeros = sum(np.count_nonzero(v == 0) for v in weights.values() if v.ndim > 1)
    assert f"{zeros:,} of " in said
    assert zeros == sum(np.count_nonzero(w == 0) for w in trained.weights().values())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_are_torchvisions(name):
    classes = TORCHVISION[name]["fc.weight"][0]
    ours = to_torch(network_weights(name, classes))
    assert {key: list(value.shape) for key, value in ours.items()} == TORCHVISION[name]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet34", {}),
        ("resnet50", {}),
        ("resnet101", {}),
        ("resnet20", {}),
        ("resnet32", {"width_factor": 2}),
        ("resnet56", {}),
        ("vgg19", {}),
    ],
)
def test_the_network_is_known_from_its_weights(name, options):
    weights = network_weights(name, 7, **options)
    expected = {"name": name, "num_classes": 7, "in_channels": 3, "width_factor": options.get("width_factor", 1)}
    assert identify(from_torch(to_torch(weights))) == expected


@pytest.mark.parametrize(
    "variant",
    [
        lambda name: f"module.{name}",
        lambda name: name.replace("downsample", "shortcut").replace("fc.", "linear."),
        lambda name: name.replace("fc.", "classifier."),
    ],
)
def test_variants_of_the_names(variant, rng):
    weights = random_weights(shapes("resnet18"), rng)
    plain, other = from_torch(weights), from_torch({variant(name): value for name, value in weights.items()})
    assert plain.keys() == other.keys() == network_weights("resnet18", 1000).keys()
    assert all(np.array_equal(plain[name], other[name]) for name in plain)


def test_missing_extra_and_misshapen_are_listed(rng, tmp_path):
    weights = random_weights(shapes("resnet18"), rng)
    del weights["layer1.0.bn1.bias"]
    weights["layer1.0.bn1.mask"] = np.ones(3, np.float32)
    weights["layer4.1.conv2.weight"] = np.ones((512, 512, 1, 1), np.float32)
    save_file(weights, tmp_path / "in.safetensors")
    with pytest.raises(InputError) as error:
        torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    assert "missing layer1.0.bn1.beta" in str(error.value)
    assert "unknown layer1.0.bn1.mask" in str(error.value)
    assert "layer4.1.conv2.weight is (512, 512, 1, 1), not (512, 512, 3, 3)" in str(error.value)
    assert not (tmp_path / "out.ckpt").exists()


def test_a_network_that_is_none_of_ours(rng, tmp_path):
    weights = random_weights({n: s for n, s in shapes("resnet18").items() if not n.startswith("layer4.1")}, rng)
    save_file(weights, tmp_path / "in.safetensors")
    with pytest.raises(InputError, match=r"no network here has 7x7 stem, 2 convolutions per block and \[2, 2, 2, 1\]"):
        torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")


def test_the_digits_network_there_and_back(trained_resnet20, tmp_path, monkeypatch, capsys):
    def convert(*words):
        monkeypatch.setattr(sys, "argv", ["convert_torch", *map(str, words)])
        main()
        return capsys.readouterr().out

    ckpt, _ = trained_resnet20
    there, back = tmp_path / "net.safetensors", tmp_path / "net.ckpt"
    convert(ckpt, there)
    assert "resnet20 for digits" in convert(there, back)
    assert load_trained(back).image_shape == (1, 8, 8)
    one, other = read_checkpoint(ckpt)[0], read_checkpoint(back)[0]
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)

    before = {file: file.read_bytes() for file in (there, back)}
    for words, message in (
        ((ckpt, there), "OUT: .*net.safetensors exists; replace it with --overwrite"),
        ((there, back), "OUT: .*net.ckpt exists"),
        ((back, back, "--overwrite"), "is the input file"),
        ((ckpt, tmp_path / "new.ckpt"), "has MindSpore's names already; to PyTorch"),
        ((there, tmp_path / "new.safetensors"), "has PyTorch's names already; from PyTorch"),
        ((there, "/proc/new.ckpt"), "OUT: cannot write /proc/new.ckpt"),
        ((ckpt, "/proc/new.safetensors"), "OUT: cannot write /proc/new.safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            convert(*words)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    there.write_text("old")
    convert(ckpt, there, "--overwrite")
    assert there.read_bytes() == before[there]


def test_number_of_classes_must_fit_a_data_set(rng, tmp_path):
    weights = {**random_weights(shapes("vgg19"), rng), "classifier.weight": np.ones((7, 512), np.float32)}
    save_file(weights, tmp_path / "in.safetensors")
    with pytest.raises(InputError, match="a vgg19 for 7 classes and 3 colours fits none of cifar10"):
        torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    with pytest.raises(InputError, match="for 7 classes and 3 colours does not fit cifar100"):
        torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt", "cifar100")


# --- PyTorch's files, read without PyTorch


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_recorded_pytorch_files(layout):
    """Files written by PyTorch 2.13: a wrapper with an argument namespace, views, and most types."""
    tensors = read_torch(DATA / f"torch_{layout}.pth")
    base = np.arange(24, dtype=np.float32)
    expected = {
        "a": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).T,
        "slice": base[3:9:2],
        "half": base[:5].astype(np.float16),
        "bf16": base[:5],
        "count": np.int64(9),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
        "param": np.ones(2, np.float32),
        "double": np.array([0.1]),
    }
    assert tensors.keys() == {f"module.{name}" for name in expected}
    for name, value in expected.items():
        assert np.array_equal(tensors[f"module.{name}"], value)
        assert tensors[f"module.{name}"].dtype == value.dtype
        assert tensors[f"module.{name}"].flags.c_contiguous


class Command:
    """Unpickles to a call, as an attacker's file would."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("layout", ["zip", "pickle"])
def test_nothing_in_a_file_is_run(layout, tmp_path):
    marker = tmp_path / "ran"
    content = {
        "state_dict": {"a": 1},
        "system": Command(os.system, f"touch {marker}"),
        "eval": Command(eval, f"open({str(marker)!r}, 'w')"),
        "mkdir": Command(os.mkdir, str(marker)),
    }
    if layout == "zip":
        path = write_zip(tmp_path / "evil.pth", content)
        with pytest.raises(InputError, match="no state dict"):
            read_torch(path)
    else:
        path = tmp_path / "evil.pth"
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(InputError, match="not a PyTorch checkpoint"):
            read_torch(path)
    with pytest.raises(InputError):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (3, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2**40,), (0,)), (0, (2, 2), (1,))],
)
def test_a_tensor_cannot_reach_outside_its_storage(offset, size, stride):
    with pytest.raises(ValueError, match="storage"):
        _array(np.arange(6, dtype=np.float32), offset, size, stride)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_truncated_pytorch_file(layout, tmp_path):
    content = (DATA / f"torch_{layout}.pth").read_bytes()
    for share in (0.3, 0.9):
        file = tmp_path / "cut.pth"
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"cut\.pth"):
            read_weights(file)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: pip install torch")
def test_with_pytorch_itself(rng, tmp_path):
    """PyTorch writes the file, computes the logits, and reads what comes back."""
    import torch
    from torch.nn import functional

    weights = {k: torch.from_numpy(np.array(v)) for k, v in random_weights(shapes("resnet50"), rng).items()}

    def normalised(x, layer):
        get = lambda kind: weights[f"{layer}.{kind}"]  # noqa: E731
        return functional.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"))

    def convolved(x, layer, stride=1):
        weight = weights[f"{layer}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def logits(x):
        x = functional.max_pool2d(torch.relu(normalised(convolved(x, "conv1", 2), "bn1")), 3, 2, 1)
        for stage, count in enumerate((3, 4, 6, 3), start=1):
            for index in range(count):
                block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
                out = torch.relu(normalised(convolved(x, f"{block}.conv1"), f"{block}.bn1"))
                out = torch.relu(normalised(convolved(out, f"{block}.conv2", stride), f"{block}.bn2"))
                out = normalised(convolved(out, f"{block}.conv3"), f"{block}.bn3")
                if index == 0:
                    x = normalised(convolved(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
                x = torch.relu(out + x)
        return functional.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])

    images = rng.standard_normal((2, 3, 224, 224)).astype(np.float32)
    expected = logits(torch.from_numpy(images)).numpy()
    for number, zipped in enumerate((True, False)):
        file, out = tmp_path / f"{number}.pth", tmp_path / f"{number}.ckpt"
        content = {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in weights.items()}}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        torch_to_mindspore(file, out)
        network = load_trained(out).network
        assert largest_deviation(network(Tensor(images)).asnumpy(), expected) < 1e-4
    mindspore_to_torch(out, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == weights.keys()
    counters = {name for name in back if name.endswith("num_batches_tracked")}
    assert all(torch.equal(back[name], weights[name]) for name in back if name not in counters)


def test_writing_pth_without_pytorch_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs PyTorch.*safetensors"):
        _torch_file({})


# --- weights to start from


@pytest.mark.parametrize("kind", ["ours", "mindspore", "mindspore_training", "safetensors", "torch_names"])
def test_pretrained_from_every_kind_of_file(kind, tmp_path):
    ms.set_seed(1)
    source = build_model("resnet20", 10, 3)
    weights = {p.name: p.asnumpy() for p in source.get_parameters()}
    path = tmp_path / ("w.safetensors" if kind in ("safetensors", "torch_names") else "w.ckpt")
    if kind == "ours":
        write_network(path, source, {})
    elif kind.startswith("mindspore"):
        entries = [{"name": p.name, "data": p} for p in source.get_parameters()]
        if kind == "mindspore_training":
            entries += [
                {"name": "learning_rate", "data": Tensor(0.1)},
                {"name": "moments.conv1.weight", "data": Tensor(weights["conv1.weight"])},
            ]
        ms.save_checkpoint(entries, str(path))
    else:
        save_file(to_torch(weights) if kind == "torch_names" else weights, path)
    target = build_model("resnet20", 10, 3)
    assert load_pretrained(target, path) is None
    assert all(np.array_equal(p.asnumpy(), weights[p.name]) for p in target.get_parameters())


@pytest.mark.parametrize("torch_names", [False, True])
def test_pretrained_for_another_number_of_classes_keeps_all_but_the_head(torch_names, tmp_path):
    weights = network_weights("resnet20", 1000)
    path = tmp_path / "w.safetensors"
    save_file(to_torch(weights) if torch_names else weights, path)
    target = build_model("resnet20", 3, 3)
    head = {p.name: p.asnumpy().copy() for p in target.classifier.get_parameters()}
    line = f"{path}: 21 layers kept; 1 new, classifier: 3 classes, where the file has 1000"
    assert load_pretrained(target, path) == line
    for parameter in target.get_parameters():
        expected = {**weights, **head}[parameter.name]
        assert np.array_equal(parameter.asnumpy(), expected), parameter.name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"classifier.weight": (7, 65)}, r"classifier.weight is \(7, 65\), not \(3, 64\)"),
        ({"classifier.bias": (4,)}, r"classifier.bias is \(4,\), not \(3,\)"),
        ({"classifier.bias": None}, "missing classifier.bias"),
        ({"conv1.weight": (16, 1, 3, 3)}, r"conv1.weight is \(16, 1, 3, 3\), not \(16, 3, 3, 3\)"),
        ({"extra": (2,)}, "unknown extra"),
    ],
)
def test_pretrained_that_differs_in_more_than_the_classes(damage, message, tmp_path):
    weights = {**network_weights("resnet20", 7), **{k: v and np.zeros(v, np.float32) for k, v in damage.items()}}
    save_file({name: value for name, value in weights.items() if value is not None}, tmp_path / "w.safetensors")
    target = build_model("resnet20", 3, 3)
    before = [p.asnumpy().copy() for p in target.get_parameters()]
    with pytest.raises(InputError, match=message):
        load_pretrained(target, tmp_path / "w.safetensors")
    assert all(np.array_equal(p.asnumpy(), was) for p, was in zip(target.get_parameters(), before))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.ckpt", None, "cannot read the weights: No such file"),
        ("a.safetensors", b"junk" * 10, "not a safetensors file"),
        ("a.pth", b"junk" * 10, "not a MindSpore checkpoint"),
        ("a.pth", b"\x80\x02junk", "not a PyTorch checkpoint"),
        ("a.pth", b"", "does not fit the network"),
    ],
)
def test_unreadable_weights(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pretrained(build_model("resnet20", 10, 3), tmp_path / name)


def test_converted_checkpoint_knows_what_it_needs(rng, tmp_path):
    save_file(random_weights(shapes("resnet18"), rng), tmp_path / "in.safetensors")
    torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    _, description = read_checkpoint(tmp_path / "out.ckpt")
    assert description["image_shape"] == [3, 224, 224]
    assert description["config"]["dataset"] == "imagenet"
