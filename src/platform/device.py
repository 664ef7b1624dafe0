"""Everything that differs between Ascend, GPU and CPU."""

import os

import mindspore as ms

from .errors import InputError

TARGETS = ("Ascend", "GPU", "CPU")


def select_device(target):
    """Run on `target` (auto, Ascend, GPU or CPU; auto takes the first that is present) and return its name.

    Raises InputError if the device is not present.
    """
    if target == "auto":
        target = next(name for name in TARGETS if _present(name))
    elif not _present(target):
        found = ", ".join(name for name in TARGETS if _present(name))
        raise InputError(f"device_target: no {target} device found here; use one of: auto, {found}")
    if target == "CPU":
        # One thread hands out the operators. The default three spin while they wait and starve the computation
        # on machines of few cores: a compiled ResNet-20 step takes a third of the time this way.
        os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    ms.set_device(target)
    return target


def current_target():
    """The device that MindSpore computes on: Ascend, GPU or CPU."""
    return ms.get_context("device_target")


def _present(target):
    return target == "CPU" or ms.hal.is_available(target)
