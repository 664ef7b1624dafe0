"""The recipes in config/: every one plans its run, and every network learns from every data set it has a recipe for."""

import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file
from tiny_train import Tiny

from benchmark.random_data import noise, write_cifar10, write_cifar100, write_imagenet
from src.config.command_line import load_config
from src.config.files import read_yaml
from src.config.keys import resolve
from src.data import DATASETS
from src.data.batches import Batches, Batching, Source
from src.export.deployed import describe_interface, prepare
from src.export.mindir import export_mindir
from src.export.report import TOLERANCE
from src.models import MODELS
from src.models.mindcv_networks import parse_arguments
from src.platform.errors import InputError
from src.run.build import build_parts
from src.run.plan import format_plan
from src.run.resume import recipe_hash
from src.run.trainer import Trainer
from src.training.evaluation import Evaluator
from src.weights.trained import load_trained
from tests.in_process import ROOT, run
from tests.test_convert import random_weights, shapes

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
TRANSFORMERS = ("deit_small", "vit_small")  # all of them mindcv/vit
LARGE = ("deit_small_imagenet", "deit_small_imagenet_80", "deit_small_imagenet_95")  # seconds to build; 90 is quick
PLANNED = [pytest.param(path, marks=pytest.mark.slow if path.stem in LARGE else ()) for path in CONFIGS]


class Small(Tiny):
    """Still large enough for a hundred classes."""

    def __init__(self, num_classes, in_channels, width_factor=1):
        super().__init__(num_classes, in_channels, width_factor)
        self.conv2 = nn.Conv2d(8, 64, 3, stride=2, pad_mode="pad", padding=1)
        self.classifier = nn.Dense(64, num_classes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "cifar10": write_cifar10(root / "cifar10", 40, 10),
        "cifar100": write_cifar100(root / "cifar100", 40, 10),
        "imagenet": write_imagenet(root / "imagenet", 8, 3, noise(120, 160)),
    }


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_every_recipe_plans_its_run_without_the_data(path):
    config = load_config(["--config_path", str(path), "--dry_run"])
    plan = format_plan(build_parts(config))
    assert f"{config.epoch_size} epochs of " in plan
    assert "kept at start" in plan
    assert f"recipe {recipe_hash(config)}" in plan
    if config.method != "dense":
        assert f"{1 - config.sparsity:.5f}" in plan  # the density of the last tenth
    if config.model == "mindcv/vit":
        assert "dense, and not counted: patch_embed.proj.weight, head.weight" in plan
        layers = 4 * parse_arguments(config.model_args)["depth"]
        assert config.method == "dense" or f"rank term: the mean over {layers} of these {layers} layers" in plan


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_files_are_named_for_what_they_set(path):
    config = resolve(read_yaml(path))
    if path.stem in DATASETS:  # the bases
        assert (config.dataset, config.method) == (path.stem, "dense")
        return
    transformer = next((name for name in TRANSFORMERS if path.stem.startswith(name)), "")
    network, dataset, *rest = path.stem.replace(transformer, "vit").split("_") if transformer else path.stem.split("_")
    model, _, width = ("mindcv/vit", "", "") if transformer else network.partition("x")
    assert (config.model, config.dataset) == (model, dataset)
    assert config.width_factor == int(width or 1)
    assert config.output_path == f"output/{path.stem}"
    target = config.pattern.split(":") if config.pattern else [f"{100 * config.sparsity:g}"]
    assert not rest or rest[: len(target)] == target
    assert bool(config.pretrained) == (dataset == "imagenet" and config.method != "dense" and "scratch" not in rest)


@pytest.mark.parametrize(
    ("name", "steps", "updates"),
    [
        ("resnet50_imagenet_95", 125_100, 1127),  # T_end at step 112,715 of 100 epochs of 1,251
        ("resnet32x2_cifar10_98", 117_000, 936),  # T_end at step 93,600 of 300 epochs of 390
    ],
)
def test_schedules_of_the_paper(name, steps, updates):
    parts = build_parts(load_config(["--config_path", str(ROOT / "config" / f"{name}.yaml"), "--dry_run"]))
    assert parts.total_steps == steps
    assert f"{steps:,} steps" in format_plan(parts)
    assert f"{updates:,} mask updates" in format_plan(parts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50_imagenet_80", {"rank_weight": 0.5, "tail_energy": 0.2, "lr": 0.4, "batch_size": 1024}),
        ("resnet50_imagenet_90", {"rank_weight": 0.5, "tail_energy": 0.1, "label_smoothing": 0.1, "warmup_epochs": 5}),
        ("resnet50_imagenet_95", {"rank_weight": 3, "tail_energy": 0.2, "weight_decay": 1e-4, "epoch_size": 100}),
        ("resnet50_imagenet_98", {"rank_weight": 4, "tail_energy": 0.2, "prune_window": 0.9, "update_end": 0.901}),
        ("vgg19_cifar100_99", {"model": "vgg19", "width_factor": 1, "dataset": "cifar100", "weight_decay": 5e-4}),
        ("resnet32x2_cifar10_90", {"model": "resnet32", "width_factor": 2, "lr": 0.1, "update_end": 0.8}),
        # of DeiT's paper, not of RPG's
        ("deit_small_imagenet_95", {"optimizer": "adamw", "lr": 1e-3, "batch_size": 1024, "weight_decay": 0.05}),
        ("deit_small_imagenet_80", {"mixup": 0.8, "cutmix": 1.0, "rand_augment": 9, "label_smoothing": 0.1}),
        ("deit_small_imagenet_90", {"epoch_size": 300, "warmup_epochs": 5, "ema_decay": 0.99996}),
    ],
)
def test_hyper_parameters_of_the_paper(name, expected):
    config = resolve(read_yaml(ROOT / "config" / f"{name}.yaml"))
    assert {key: config[key] for key in expected} == expected


PAIRS = [
    pytest.param("resnet32x2_cifar10_98", marks=pytest.mark.slow),
    pytest.param("vgg19_cifar100_90", marks=pytest.mark.slow),
    pytest.param("resnet50_imagenet_95_scratch", marks=pytest.mark.slow),
    # the same networks with another number of classes
    pytest.param("resnet32x2_cifar100_95", marks=pytest.mark.slow),
    pytest.param("vgg19_cifar10_99", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", ["vgg19_cifar10_95", "vgg19_cifar100_90"])
def test_every_format_trains_evaluates_and_exports_with_a_small_network(name, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "vgg19", Small)
    check_recipe_from_data_to_mindir(name, folders, tmp_path)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_of_network_and_data_trains_evaluates_and_exports(name, folders, tmp_path):
    check_recipe_from_data_to_mindir(name, folders, tmp_path)


def check_recipe_from_data_to_mindir(name, folders, tmp_path):
    dataset = name.split("_")[1]
    config = resolve(
        read_yaml(ROOT / "config" / f"{name}.yaml"),
        {
            "data_path": str(folders[dataset]),
            "output_path": str(tmp_path / "run"),
            "epoch_size": 2,
            "warmup_epochs": 0,
            "lr": 0.01,
            "batch_size": 2 if dataset == "imagenet" else 8,
            "update_interval": 3,
            "num_workers": 2,
        },
    )
    result = Trainer(config).run()
    kept = round((1 - config.sparsity) * result["weights"])
    assert 0.9 * kept < result["nonzeros"] <= kept  # a weight that grew where no gradient flows is zero, and alive
    trained = load_trained(tmp_path / "run" / "last.ckpt")
    source = Source(dataset, config.data_path, classes=trained.classes)
    data = Batches(source, "test", Batching(config.batch_size))
    scores = Evaluator(trained.network, config.batch_size)(data.epoch())
    assert scores.images == (3 if dataset == "imagenet" else 10)
    assert (scores.top1, scores.loss) == (result["last"]["top1"], pytest.approx(result["last"]["loss"], rel=1e-4))
    exported = export_mindir(prepare(trained, describe_interface(trained)), tmp_path / "net.mindir")
    assert exported.deviation <= TOLERANCE


def test_the_data_is_needed_to_train(tmp_path):
    config = resolve(read_yaml(ROOT / "config" / "cifar10.yaml"), {"output_path": str(tmp_path / "run")})
    with pytest.raises(InputError, match="data_path: give the folder that holds cifar-10-batches-bin/"):
        Trainer(config)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_ends_the_run_with_its_name_in_one_line(tmp_path):
    folder = write_imagenet(tmp_path / "imagenet", 8, 1, noise(60, 60))
    bad = sorted(folder.glob("train/*/*.JPEG"))[5]
    bad.write_bytes(b"no image")
    options = ["--dataset", "imagenet", "--model", "resnet18", "--batch_size", "8", "--method", "dense"]
    done = run("train.py", *options, "--data_path", folder, "--output_path", tmp_path / "run")
    assert done.code == 2
    assert done.stderr.startswith("error: data_path: ")
    assert done.stderr.count("\n") == 1
    assert str(bad) in done.stderr


def test_a_converted_checkpoint_needs_nothing_but_the_data(folders, tmp_path, rng):
    """Convert a torchvision-named network and evaluate it with --ckpt and --data_path alone."""
    weights = random_weights(shapes("resnet18"), rng)
    save_file(weights, tmp_path / "in.safetensors")
    done = run("src.tools.convert_torch", tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    assert done.code == 0, done.stderr
    done = run("eval.py", "--ckpt", tmp_path / "out.ckpt", "--data_path", folders["imagenet"])
    assert done.code == 0, done.stderr
    left = sum(np.count_nonzero(weight) for weight in weights.values() if weight.ndim > 1)
    assert f"({left:,} of 11,678,912 weights left)" in done.stdout
    assert "3 images" in done.stdout
