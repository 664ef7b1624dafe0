"""Vision transformers: the layers that are pruned, weights from timm and back, a small one from training to export."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from easydict import EasyDict
from mindspore import Tensor
from safetensors.numpy import load_file, save_file
from scipy.special import erf

from src.config.files import read_yaml
from src.config.keys import resolve
from src.export.deployed import describe_interface
from src.export.inference import read_image, softmax
from src.export.multiply_adds import count_multiply_adds
from src.models import build_model
from src.models.mindcv_networks import with_image_size
from src.platform.errors import InputError
from src.run.build import build_parts, rank_weights
from src.run.plan import format_plan
from src.run.trainer import Trainer
from src.tools.convert_torch import mindspore_to_torch, torch_to_mindspore
from src.weights import naming
from src.weights.checkpoint import read_checkpoint, write_checkpoint, write_network
from src.weights.naming import from_torch, identify
from src.weights.pretrained import load_pretrained
from src.weights.trained import load_trained
from tests.in_process import ROOT, run
from tests.runs import differences, outcome

pytest.importorskip("mindcv")
TINY = "patch_size=2,embed_dim=16,depth=2,num_heads=2"  # for the digits: 16 patches
SETTINGS = {
    "model": "mindcv/vit",
    "model_args": TINY,
    "exclude": "patch_embed*,head",
    "rank_layers": "blocks.*",
    "optimizer": "adamw",
    "lr": 0.01,
    "batch_size": 128,
    "epoch_size": 3,
    "update_interval": 4,
    "sparsity": 0.9,
    "num_workers": 1,
}


# --- names and outputs of timm


def timm_shapes(width, depth, patch, size, classes=1000, colours=3):
    """Names and shapes of timm's VisionTransformer with a class token."""
    found = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (size // patch) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, colours, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for block in range(depth):
        for norm in ("norm1", "norm2"):
            found |= {f"blocks.{block}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for layer, shape in layers.items():
            found |= {f"blocks.{block}.{layer}.weight": shape, f"blocks.{block}.{layer}.bias": shape[:1]}
    found |= {"norm.weight": (width,), "norm.bias": (width,)}
    return found | {"head.weight": (classes, width), "head.bias": (classes,)}


def random_weights(shapes, rng):
    """Weights with everything far from its initial value."""
    return {
        name: (
            rng.normal(1 if "norm" in name and name.endswith("weight") else 0, 0.2, shape)
            if len(shape) < 2
            else rng.normal(0, 1.5 / math.sqrt(np.prod(shape[1:])), shape)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def forward(weights, images, heads):
    """Logits of timm's VisionTransformer in float64, one token and one head at a time."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    patch, width = weights["patch_embed.proj.weight"].shape[2], weights["cls_token"].shape[2]

    def dense(x, layer):
        return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    def norm(x, layer):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights[f"{layer}.weight"] + weights[f"{layer}.bias"]

    def attention(x, layer):
        query, key, value = np.split(dense(x, f"{layer}.qkv"), 3, axis=-1)
        mixed = []
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            scores = np.exp(query[:, own] @ key[:, own].T / math.sqrt(width // heads))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ value[:, own])
        return dense(np.concatenate(mixed, -1), f"{layer}.proj")

    def logits(image):
        kernel = weights["patch_embed.proj.weight"].reshape(width, -1)
        tokens = [weights["cls_token"][0, 0]]
        for row in range(0, image.shape[1], patch):
            for column in range(0, image.shape[2], patch):
                pixels = image[:, row : row + patch, column : column + patch]
                tokens.append(kernel @ pixels.ravel() + weights["patch_embed.proj.bias"])
        x = np.stack(tokens) + weights["pos_embed"][0]
        for block in range(sum(name.endswith("norm1.weight") for name in weights)):
            x = x + attention(norm(x, f"blocks.{block}.norm1"), f"blocks.{block}.attn")
            hidden = dense(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
            x = x + dense(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, f"blocks.{block}.mlp.fc2")
        return dense(norm(x, "norm")[0], "head")

    return np.stack([logits(image) for image in images.astype(np.float64)])


def vit(size, classes=1000, colours=3, **arguments):
    network = build_model("mindcv/vit", classes, colours, arguments={"image_size": size, **arguments})
    return network.set_train(False)


def test_weights_of_timm_give_the_outputs_of_timm(rng, tmp_path):
    weights = random_weights(timm_shapes(32, 2, 4, 16, classes=7), rng)
    save_file({f"module.{name}": value for name, value in weights.items()}, tmp_path / "in.safetensors")
    network = vit(16, 7, patch_size=4, embed_dim=32, depth=2, num_heads=4)
    assert load_pretrained(network, tmp_path / "in.safetensors") is None
    images = rng.standard_normal((3, 3, 16, 16)).astype(np.float32)
    expected = forward(weights, images, heads=4)
    assert expected.std(0).min() > 0.01  # images make a difference
    np.testing.assert_allclose(network(Tensor(images)).asnumpy(), expected, atol=1e-5)


def test_a_transformer_there_and_back_with_every_zero(rng, tmp_path, monkeypatch):
    """Of a width and depth that say how many heads it has; of CIFAR's size and classes."""
    monkeypatch.setitem(naming._HEADS, (48, 2), 3)
    weights = random_weights(timm_shapes(48, 2, 8, 32, classes=100), rng)
    for name, value in weights.items():
        if "mlp" in name and value.ndim > 1:
            value[rng.random(value.shape) < 0.9] = 0
    save_file(weights, tmp_path / "in.safetensors")
    said = torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    zeros = sum(np.count_nonzero(value == 0) for value in weights.values() if value.ndim > 1)
    assert f"mindcv/vit for cifar100, {zeros:,} of " in said
    trained = load_trained(tmp_path / "out.ckpt")
    assert trained.config.model_args == "image_size=32,patch_size=8,embed_dim=48,depth=2,num_heads=3"
    images = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    outputs, expected = trained.network(Tensor(images)).asnumpy(), forward(weights, images, heads=3)
    assert np.abs(outputs - expected).max() < 1e-4 * np.abs(expected).max()
    mindspore_to_torch(tmp_path / "out.ckpt", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == weights.keys()
    assert all(back[name].tobytes() == weights[name].tobytes() for name in weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 256}, "of width 256, 12 blocks and 196 patches: how many heads .* --pretrained FILE"),
        ({"depth": 11}, "of width 384, 11 blocks"),
        ({"classes": 5}, "mindcv/vit for 5 classes and 3 colours, of 224 pixels fits none of cifar10.*imagenet"),
        ({"size": 208}, "1000 classes and 3 colours, of 208 pixels fits none"),
    ],
)
def test_transformers_that_are_not_known(change, message, rng, tmp_path):
    shapes = timm_shapes(**{"width": 384, "depth": 12, "patch": 16, "size": 224, **change})
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "in.safetensors")
    with pytest.raises(InputError, match=message):
        torch_to_mindspore(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()


def test_a_distilled_or_headless_transformer_is_named():
    weights = {name: np.zeros(shape, np.float32) for name, shape in timm_shapes(192, 1, 4, 8).items()}
    with pytest.raises(InputError, match=r"a distilled DeiT.*take the plain one"):
        identify(from_torch({**weights, "dist_token": weights["cls_token"]}))
    del weights["head.weight"]
    with pytest.raises(InputError, match="not a vision transformer for classes: no head"):
        identify(from_torch(weights))


@pytest.mark.slow
def test_with_timm_itself(rng, tmp_path):
    """timm's own DeiT-S, of random weights: the same names, and its outputs from PyTorch's files."""
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    torch = pytest.importorskip("torch")
    network = timm.create_model("deit_small_patch16_224").eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == timm_shapes(384, 12, 16, 224)
    weights = random_weights(shapes, rng)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    images = rng.standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    torch.save({"model": network.state_dict()}, tmp_path / "deit.pth")  # as the authors' files are
    torch_to_mindspore(tmp_path / "deit.pth", tmp_path / "deit.ckpt")
    outputs = load_trained(tmp_path / "deit.ckpt").network(Tensor(images)).asnumpy()
    assert expected.std(0).max() > 0.1
    assert np.abs(outputs - expected).max() < 1e-4 * np.abs(expected).max()

    recipe = read_yaml(ROOT / "config" / "deit_small_imagenet_90.yaml")
    recipe = resolve({**recipe, "pretrained": str(tmp_path / "deit.pth"), "dry_run": True})
    started = build_parts(recipe).network.set_train(False)
    assert np.array_equal(started(Tensor(images)).asnumpy(), outputs)
    mindspore_to_torch(tmp_path / "deit.ckpt", tmp_path / "back.pth")
    network.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True), strict=True)
    with torch.no_grad():
        assert np.array_equal(network(torch.from_numpy(images)).numpy(), expected)


# --- which layers


def test_the_layers_of_a_recipe_are_those_that_are_pruned_and_decayed():
    config = resolve({**SETTINGS, "dry_run": True, "weight_decay": 0.05})
    parts = build_parts(config)
    layers = [f"blocks.{n}.{layer}.weight" for n in (0, 1) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert [weight.name for weight in parts.pruner.weights] == layers
    assert [weight.name for weight in rank_weights(config, parts.network)] == layers
    some = resolve({**SETTINGS, "rank_layers": "blocks.1.mlp.*, blocks.0.attn.proj"})
    assert [weight.name for weight in rank_weights(some, parts.network)] == [layers[1], *layers[6:]]
    plain = resolve({**SETTINGS, "rank_layers": "", "exclude": ""})
    assert [weight.name for weight in rank_weights(plain, parts.network)] == ["patch_embed.proj.weight"]
    plan = format_plan(parts)
    assert "dense, and not counted: patch_embed.proj.weight, head.weight" in plan
    assert "rank term: the mean over 8 of these 8 layers" in plan
    decayed = {p.name for p, decay in zip(parts.optimizer.parameters, parts.optimizer.decays) if decay}
    assert decayed == {*layers, "patch_embed.proj.weight", "head.weight"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exclude": "heads"}, "exclude: no weight is named 'heads'; did you mean 'head'"),
        ({"exclude": "*"}, "no weight to prune"),
        ({"rank_layers": "head"}, "rank_layers: no weight is named 'head'"),
        ({"model_args": "patch_size=3"}, "patches of 3 pixels do not divide an image of 8"),
        (
            {"model_args": "patch_size=2,embed_dim=30,num_heads=4"},
            "does not take .*'num_heads': 4.*divisible by",
        ),
        ({"model_args": "image_size=16,patch_size=2"}, "image_size 16 is not that of the data, 8; leave it out"),
        ({"model_args": "patch_size=0"}, "does not take .*'patch_size': 0"),
        ({"model": "mindcv/vitt"}, "has no network vitt; did you mean mindcv/vit"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_parts(resolve({**SETTINGS, "dry_run": True, **settings}))


@pytest.mark.parametrize(
    "change", [{"embed_dim": 1 << 20}, {"depth": 1 << 30}, {"mlp_ratio": 1e9}, {"patch_size": 1}, {"depth": 10**400}]
)
def test_a_file_that_declares_a_network_too_large_for_it_is_refused_before_memory_is_taken(change, tmp_path):
    arguments = {"image_size": 64, "patch_size": 32, "embed_dim": 8, "depth": 1, "num_heads": 1}
    network = build_model("mindcv/vit", 3, 3, arguments=arguments)
    model = {"name": "mindcv/vit", "num_classes": 3, "in_channels": 3}
    description = {"image_shape": [3, 64, 64], "config": {"model": "mindcv/vit", "method": "dense"}}
    description["data"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop": 1.0}
    write_network(tmp_path / "x.ckpt", network, {**description, "model": {**model, "arguments": arguments}})
    assert load_trained(tmp_path / "x.ckpt").network is not None
    tensors, whole = read_checkpoint(tmp_path / "x.ckpt")
    write_checkpoint(tmp_path / "x.ckpt", tensors, {**whole, "model": {**model, "arguments": {**arguments, **change}}})
    with pytest.raises(InputError, match="does not fit the network: too small for arguments"):
        load_trained(tmp_path / "x.ckpt")


def test_other_networks_need_no_image_size():
    assert with_image_size("mindcv/mobilenet_v2_100", {"alpha": 1}, (3, 64, 64)) == {"alpha": 1}
    assert with_image_size("mindcv/vit", {"depth": 1}, (3, 64, 64)) == {"image_size": 64, "depth": 1}


# --- from training to inference


def check_pruned(path, result):
    """Exactly a tenth of the blocks' dense weights is left, some in each layer; the others are dense."""
    weights, description = read_checkpoint(path)
    pruned = {name: array for name, array in weights.items() if name in description["nonzeros"]}
    assert pruned.keys() == {name for name in weights if name.startswith("blocks") and weights[name].ndim == 2}
    left = {name: np.count_nonzero(array) for name, array in pruned.items()}
    assert left == description["nonzeros"]
    assert min(left.values()) > 0
    alive = round(0.1 * sum(array.size for array in pruned.values()))
    assert sum(left.values()) <= alive == result["kept"]  # a weight that has just grown may be zero
    assert all(np.count_nonzero(weights[name]) == weights[name].size for name in ("head.weight", "pos_embed"))


def test_a_small_one_is_pruned_evaluated_and_exported(tmp_path):
    small = {"model_args": "patch_size=4,embed_dim=16,depth=1,num_heads=2", "method": "gmp", "epoch_size": 2}
    trainer = Trainer(resolve({**SETTINGS, **small, "output_path": str(tmp_path / "run")}))
    result = trainer.run()
    check_pruned(tmp_path / "run" / "last.ckpt", {"kept": trainer.pruner.kept})
    evaluated = run("eval.py", "--ckpt", tmp_path / "run" / "last.ckpt", "--json")
    assert json.loads(evaluated.stdout)["top1"] == result["last"]["top1"]
    assert json.loads(evaluated.stdout)["nonzeros"] == result["nonzeros"]
    done = run("export.py", "--ckpt", tmp_path / "run" / "last.ckpt", "--file_format", "ONNX")
    assert done.code == 0, done.stderr
    model = onnx.load(str(tmp_path / "run" / "last.onnx"))
    assert [node.op_type for node in model.graph.node].count("Erf") == 1  # GELU, exactly
    assert run("infer.py", "--model", tmp_path / "run" / "last.onnx", ROOT / "docs" / "digit.png").code == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted: its configuration and its Trainer."""
    longer = {"epoch_size": 12, "batch_size": 64, "save_steps": 7}
    config = resolve({**SETTINGS, **longer, "output_path": str(tmp_path_factory.mktemp("vit") / "whole")})
    trainer = Trainer(config)
    trainer.run()
    return config, trainer


@pytest.mark.slow
def test_a_whole_run_prunes_exactly_with_the_rank_term(whole):
    _, trainer = whole
    for name in ("last", "best"):
        check_pruned(trainer.folder.path / f"{name}.ckpt", {"kept": trainer.pruner.kept})
    lines = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    assert lines[0]["rank_loss"] < 0
    assert lines[-1]["top1"] > 20  # of ten classes, after 264 steps


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_from_the_middle_of_an_epoch(whole, tmp_path, monkeypatch):
    config, trainer = whole

    def stop_at_18(self, loss, bar):
        after_step(self, loss, bar)
        if self.step.step == 18:
            raise InterruptedError

    after_step = Trainer._after_step
    changed = EasyDict({**config, "output_path": str(tmp_path / "run")})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", stop_at_18)
        with pytest.raises(InterruptedError):
            Trainer(changed).run()
    assert read_checkpoint(tmp_path / "run" / "resume.ckpt")[1]["step"] == 18 - 18 % 7
    Trainer(EasyDict({**changed, "resume_ckpt": "auto"})).run()
    assert differences(outcome(trainer.folder.path), outcome(tmp_path / "run")) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [["MINDIR"], ["MINDIR", "--dynamic_batch"], ["ONNX", "--normalize", "--softmax"]])
def test_exported_it_answers_as_the_network(options, whole, tmp_path):
    ckpt = Path(shutil.copy(whole[1].folder.best, tmp_path))
    trained = load_trained(ckpt)
    image = read_image(ROOT / "docs" / "digit.png", describe_interface(trained))
    probabilities = softmax(trained.network(Tensor(image[None])).asnumpy())[0]
    done = run("export.py", "--ckpt", ckpt, "--file_format", *options)
    assert done.code == 0, done.stderr
    model = tmp_path / f"best.{options[0].lower()}"
    said = json.loads(run("infer.py", "--model", model, ROOT / "docs" / "digit.png", "--json").stdout)
    assert said["class"] == str(probabilities.argmax())
    assert said["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


@pytest.mark.slow
def test_packed_it_is_the_same_and_what_is_not_possible_is_said(whole, tmp_path):
    ckpt = Path(shutil.copy(whole[1].folder.best, tmp_path))
    done = run("export.py", "--ckpt", ckpt, "--file_format", "PACKED")
    assert done.code == 0, done.stderr
    unpacked = run("export.py", "--unpack", tmp_path / "best.packed", "--file_name", tmp_path / "same.ckpt")
    assert (unpacked.code, (tmp_path / "same.ckpt").read_bytes()) == (0, ckpt.read_bytes())
    for options, message in (
        (["SPARSE"], "file_format: SPARSE cannot hold this network: operator Concat "),
        (["ONNX", "--dynamic_batch"], "file_format: MindSpore's ONNX exporter does not know this network for a free"),
    ):
        done = run("export.py", "--ckpt", ckpt, "--file_format", *options)
        assert (done.code, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"error: {message}")
        assert not list(tmp_path.glob("*.sparse")) + list(tmp_path.glob("*.onnx"))


@pytest.mark.slow
def test_multiply_adds_count_every_token(whole):
    network = load_trained(whole[1].folder.last).network
    costs = {cost.name: cost for cost in count_multiply_adds(network, Tensor(np.zeros((1, 1, 8, 8), np.float32)))}
    tokens = 17
    for name, cost in costs.items():
        weight = dict(network.cells_and_names())[name].weight.asnumpy()
        uses = {"patch_embed.proj": tokens - 1, "head": 1}.get(name, tokens)
        assert (cost.dense, cost.left) == (uses * weight.size, uses * np.count_nonzero(weight)), name
