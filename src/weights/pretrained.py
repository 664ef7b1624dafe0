"""Weights to start from, whoever wrote them: MindSpore, PyTorch, or safetensors."""

from pathlib import Path

import numpy as np
from mindspore import nn
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..platform.errors import InputError
from ..platform.files import GIB, MIB, reading
from ..pruning.pruner import prunable_layers
from .checkpoint import load_weights, read_any_checkpoint
from .naming import from_torch, is_torch_named
from .torch_files import is_archive, read_torch

# What MindSpore's own training loop writes beside a network's parameters.
_TRAINING_STATE = ("learning_rate", "momentum", "global_step", "epoch_num", "step_num", "scale_value", "counter")
_LARGEST_FILE = 4 * GIB
_LARGEST_HEADER = 4 * MIB  # of safetensors, in JSON
_OPTIMIZER_PREFIXES = ("moments.", "accum.", "velocity.")


def load_pretrained(network, path):
    """Set the parameters of a network from a file, all but those of a last layer for another number of classes.

    That one keeps its initial weights, and the line that is returned says so; otherwise None is. Raises InputError,
    listing what is missing, extra or misshapen.
    """
    tensors = read_weights(path)
    layers = prunable_layers(network)
    name, head = layers[-1]
    classes, there = head.weight.shape[0], tensors.get(head.weight.name, head.weight).shape
    if not isinstance(head, nn.Dense) or there == head.weight.shape or there[1:] != head.weight.shape[1:]:
        load_weights(network, tensors, path)
        return None
    own = {parameter.name: parameter.asnumpy() for parameter in head.get_parameters()}
    unlike = [name for name, array in own.items() if np.shape(tensors.get(name)) != (there[0], *array.shape[1:])]
    load_weights(network, tensors if unlike else {**tensors, **own}, path)
    return f"{path}: {len(layers) - 1} layers kept; 1 new, {name}: {classes} classes, where the file has {there[0]}"


def read_weights(path):
    """Weights under our names (name -> float32 array) of a MindSpore checkpoint, a PyTorch file, or safetensors.

    Networks of mindcv have the names that ours have. Raises InputError.
    """
    tensors = _read(path)
    if is_torch_named(tensors):
        return from_torch(tensors)
    return {
        name: value
        for name, value in tensors.items()
        if name not in _TRAINING_STATE and not name.startswith(_OPTIMIZER_PREFIXES)
    }


def _read(path):
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with reading(path, f"{path}: cannot read the weights", _LARGEST_FILE) as (file, _):
        start = file.read(2)
        torch = is_archive(file) or start == b"\x80\x02"  # an archive, a pickle: MindSpore's files are neither
    return read_torch(path) if torch else read_any_checkpoint(path)[0]


def _read_safetensors(path):
    with reading(path, f"{path}: cannot read the weights", _LARGEST_FILE) as (file, _):
        header = int.from_bytes(file.read(8), "little")
    try:
        if header > _LARGEST_HEADER:
            raise ValueError(f"a header of {header:,} bytes")
        return load_file(path)
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
