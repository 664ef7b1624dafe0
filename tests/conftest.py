"""Shared by all tests: the environment before mindspore loads, the device, and a small run."""

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import pytest

from benchmark.random_checkpoint import write_random_checkpoint
from src.config.keys import resolve
from src.platform.device import select_device
from src.platform.environment import release_networks
from src.run.trainer import Trainer
from tests.plain import rng  # noqa: F401  a fixture

# The files that take longest, by processor time. They come first, so that two processes end at about the same time.
LONG = ("launcher", "parallel", "interruption", "library", "programs", "convert", "recipes", "large_batch", "names")


def pytest_collection_modifyitems(items):
    """Files of LONG first, the others as they are."""
    place = {f"test_{name}.py": index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True, scope="session")
def _device():
    select_device("CPU")


@pytest.fixture(autouse=True, scope="module")
def _release():
    """Give back the memory of a file's networks, gigabytes over all files, which MindSpore would keep."""
    yield
    release_networks()


@pytest.fixture
def small_run(tmp_path):
    """A function making the configuration of a short run: 3 epochs of 11 steps, updates every 4."""

    def make(**settings):
        ms.set_seed(0)
        values = {
            "epoch_size": 3,
            "batch_size": 128,
            "update_interval": 4,
            "lr": 0.05,
            "warmup_epochs": 1,
            "output_path": str(tmp_path / "run"),
        }
        return resolve({**values, **settings})

    return make


@pytest.fixture(scope="session")
def trained_resnet20(tmp_path_factory):
    """Checkpoint of a short training that reaches 98 %, and its accuracy."""
    folder = tmp_path_factory.mktemp("resnet20")
    recipe = {"sparsity": 0.98, "epoch_size": 6, "update_interval": 5, "prune_window": 0.6, "update_end": 0.6}
    result = Trainer(resolve({**recipe, "output_path": str(folder)})).run()
    return folder / "last.ckpt", result["last"]["top1"]


@pytest.fixture(scope="session")
def pruned_resnet50(tmp_path_factory):
    """Checkpoint of ResNet-50 with 98 % of random weights masked."""
    path = tmp_path_factory.mktemp("resnet50") / "resnet50.ckpt"
    write_random_checkpoint(path, "resnet50", 0.98)
    return path
