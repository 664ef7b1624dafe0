"""Shared by all tests: the environment before mindspore loads, the device, and a small run."""

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
import pytest
from hypothesis import settings

from src.config import resolve
from src.device import select_device


settings.register_profile("default", deadline=None)  # times say nothing on a shared machine
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _device():
    select_device("CPU")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
