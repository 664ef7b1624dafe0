"""Networks of one's own in deployable checkpoints.

Such a checkpoint holds the parameters and what has to be known of them, never code, nor a name of code to run: who
reads it says what builds the network (`--network nets.py:build`).
"""

import importlib
import importlib.util
import sys
from numbers import Integral
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from ..platform.errors import InputError

OWN = "own"  # in place of a model's name
EVAL_BATCH = 64  # images at a time, where nothing else is known


def describe_own(network, image_shape, classes, mean, std, crop, data_path):
    """What a deployable checkpoint says of a network in evaluation mode; see `RPG.save_deployable`.

    The network is run once. Raises InputError.
    """
    image_shape = tuple(image_shape)
    if len(image_shape) != 3 or not all(isinstance(side, Integral) and side > 0 for side in image_shape):
        raise InputError(f"save_deployable: image_shape: (channels, height, width), not {image_shape!r}")
    names = [] if isinstance(classes, Integral) else list(classes)
    count = classes if isinstance(classes, Integral) else len(names)
    if isinstance(classes, str) or count < 1 or len(set(names)) < len(names):
        raise InputError(f"save_deployable: classes: names that differ, or how many there are, not {classes!r}")
    channels = image_shape[0]
    mean, std = (
        default if given is None else list(given)
        for given, default in ((mean, [0.0] * channels), (std, [1.0] * channels))
    )
    for key, values, low, high in (("mean", mean, 0, 1), ("std", std, 1e-5, 1), ("crop", [crop] * channels, 0.1, 1)):
        if len(values) != channels or not all(low <= value <= high for value in values):
            raise InputError(f"save_deployable: {key}: {channels} numbers from {low:g} to {high:g}, not {values!r}")
    _check_output(network, image_shape)
    return {
        "model": {"name": OWN, "num_classes": int(count), "in_channels": int(channels)},
        "image_shape": [int(side) for side in image_shape],
        "classes": [str(name) for name in names],
        "data": {"mean": [float(v) for v in mean], "std": [float(v) for v in std], "crop": float(crop)},
        "config": {"dataset": "folder", "data_path": str(data_path)},
        "eval_batch_size": EVAL_BATCH,
    }


def _check_output(network, image_shape):
    """Raise InputError unless the network makes of images one finite Tensor with a row for each of them."""
    images = np.random.default_rng(0).standard_normal((2, *image_shape)).astype(np.float32)
    try:
        outputs = network(Tensor(images))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"save_deployable: image_shape: the network does not take images of {image_shape}: {_told(error):.200}"
        ) from None
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != (2,):
        raise InputError("save_deployable: the network does not return one Tensor with a row for each image")
    if not np.isfinite(outputs.asnumpy()).all():
        raise InputError("save_deployable: the network's outputs are not finite; train it again")


def build_own(reference):
    """The network that a function or class without arguments makes.

    reference: `FILE.py:NAME`, or `MODULE:NAME` of an installed module. Raises InputError, also for what goes wrong
    inside.
    """
    where, _, name = reference.rpartition(":")
    if not (where and name.isidentifier()):
        raise InputError(f"network: {reference} is not FILE.py:NAME or MODULE:NAME, as in nets.py:build")
    build = getattr(_module(where), name, None)
    if not callable(build):
        raise InputError(f"network: {where} has no function or class {name}; give the one that builds the network")
    try:
        network = build()
    except Exception as error:
        raise InputError(
            f"network: {reference} fails: {_told(error)}; name a function without arguments that builds the network"
        ) from None
    if not isinstance(network, nn.Cell):
        raise InputError(f"network: {reference} gives a {type(network).__name__}, not a Cell of mindspore.nn")
    return network


def _module(where):
    path = Path(where)
    if path.suffix != ".py":
        return _run(where, lambda: importlib.import_module(where))
    if not path.is_file():
        raise InputError(f"network: there is no file {path}; give the one whose function builds the network")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # MindSpore's compiler looks for the source there
    sys.path.insert(0, str(path.resolve().parent))  # its neighbours, as if the file had been started
    try:
        return _run(where, lambda: spec.loader.exec_module(module) or module)
    finally:
        sys.path.pop(0)


def _run(where, load):
    try:
        return load()
    except Exception as error:
        raise InputError(f"network: cannot import {where}: {_told(error)}") from None


def _told(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
