"""Weights to start from, whoever wrote them: MindSpore, PyTorch, or safetensors."""

import zipfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..platform.errors import InputError
from ..platform.files import GIB, MIB, reading
from .checkpoint import load_weights, read_any_checkpoint
from .naming import from_torch, is_torch_named
from .torch_files import read_torch

# What MindSpore's own training loop writes beside a network's parameters.
_TRAINING_STATE = ("learning_rate", "momentum", "global_step", "epoch_num", "step_num", "scale_value", "counter")
_LARGEST_FILE = 4 * GIB
_LARGEST_HEADER = 4 * MIB  # of safetensors, in JSON
_OPTIMIZER_PREFIXES = ("moments.", "accum.", "velocity.")


def load_pretrained(network, path):
    """Set all parameters of a network from a file. Raises InputError, listing what is missing, extra or misshapen."""
    load_weights(network, read_weights(path), path)


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
        torch = zipfile.is_zipfile(file) or start == b"\x80\x02"  # an archive, a pickle: MindSpore's files are neither
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
