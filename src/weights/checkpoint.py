"""Checkpoint files: MindSpore's own format, replaced in one step, with a checksum and the run's description inside.

The description (configuration, model name, progress) is a JSON text in a protobuf field that MindSpore's reader does
not know and therefore skips: `mindspore.load_checkpoint` sees the tensors and nothing else.
"""

import binascii
import json
import math
from itertools import chain

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from mindspore import Tensor, ops
from mindspore.train.checkpoint_pb2 import Checkpoint

from ..platform.errors import InputError
from ..platform.files import GIB, MIB, read_regular, replace_file
from ..pruning.pruner import prunable_weights
from .bfloat16 import widen

_DESCRIPTION_FIELD = 1000  # protobuf field number; MindSpore's own message uses number 1
_CHECKSUM_MARK = b"crc_num"  # MindSpore's trailer: this mark, then the CRC-32 of all bytes before it in ten bytes
_TRAILER = len(_CHECKSUM_MARK) + 10
_LARGEST_FILE = 2 * GIB  # protobuf's limit
LARGEST_DESCRIPTION = 4 * MIB  # in bytes of JSON, which takes up to thirty times as much memory once it is read
_DTYPES = {  # by MindSpore's name
    **{name: np.dtype(name.lower()) for name in ("Bool", "Int8", "Int16", "Int32", "Int64")},
    **{name: np.dtype(name.lower()) for name in ("UInt8", "UInt16", "UInt32", "UInt64")},
    **{name: np.dtype(name.lower()) for name in ("Float16", "Float32", "Float64")},
    "BFloat16": np.dtype(np.uint16),  # the upper half of a float32
}


def write_checkpoint(path, tensors, description, keep=None):
    """Write tensors (name -> Tensor or array) and a JSON-able description; an existing file is replaced in one step.

    keep: where the existing file moves to. Raises OSError, and leaves the existing file as it is.
    """
    replace_file(path, _content(tensors, description), keep)


def read_checkpoint(path):
    """Tensors (name -> numpy array) and description of a file that `write_checkpoint` made.

    Raises InputError if the file cannot be read, is damaged, or comes from elsewhere.
    """
    tensors, description = read_any_checkpoint(path)
    if description is None:
        raise InputError(f"{path}: no description inside; only checkpoints written by train.py know their model")
    return tensors, description


def read_any_checkpoint(path):
    """Tensors of any MindSpore checkpoint, and its description, or None if it comes from elsewhere.

    Raises InputError if the file cannot be read or is damaged.
    """
    content = memoryview(read_regular(path, f"{path}: cannot read the checkpoint", _LARGEST_FILE))
    checked = content[-_TRAILER:-10] == _CHECKSUM_MARK
    if checked:
        body, checksum = content[:-_TRAILER], int.from_bytes(content[-10:], "big")
        if binascii.crc32(body) != checksum:
            raise InputError(f"{path}: the file is damaged (its checksum does not match); use another copy")
    else:
        body = content
    message = Checkpoint()
    try:
        message.ParseFromString(body)
    except (DecodeError, UnicodeDecodeError):
        raise InputError(f"{path}: not a MindSpore checkpoint, or a truncated one") from None
    tensors = {}
    for entry in message.value:
        if entry.tag in tensors:
            raise InputError(f"{path}: holds tensor {entry.tag} twice")
        tensors[entry.tag] = _array(path, entry)
    for field in UnknownFieldSet(message):
        if field.field_number == _DESCRIPTION_FIELD:
            if not checked:  # `write_checkpoint` never leaves it out
                raise InputError(f"{path}: the file is cut off (its checksum is missing); use another copy")
            return tensors, _description(path, field.data)
    return tensors, None


def write_network(path, network, description):
    """Write a deployable checkpoint: the network's own parameters under their own names, zeros in place.

    The description gets a key more: `nonzeros`, counted in the weights that it names as `pruned`, or in all prunable
    ones, by which an export knows that no zero has come back.
    """
    tensors = {parameter.name: parameter for parameter in network.get_parameters()}
    names = description.get("pruned") or [weight.name for weight in prunable_weights(network)]
    counts = count_nonzeros({name: tensors[name].asnumpy() for name in names})
    write_checkpoint(path, tensors, {**description, "nonzeros": counts})


def count_nonzeros(weights):
    """Non-zero values of each array, by name."""
    return {name: int(np.count_nonzero(weight)) for name, weight in weights.items()}


def load_weights(network, tensors, path):
    """Set every parameter of a network from `tensors`; raises InputError if names or shapes do not match exactly."""
    parameters = network.parameters_dict()
    problems = [f"missing {name}" for name in parameters if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in parameters]
    problems += [
        f"{name} is {tensors[name].shape}, not {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in tensors and tensors[name].shape != tuple(parameter.shape)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{path}: does not fit the network: {', '.join(problems[:3])}{more}")
    arrays = {name: _sound(path, name, tensors[name], parameter) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        # Not load_param_into_net, which gives a parameter new memory: graphs compiled before would keep the old one.
        ops.assign(parameter, Tensor(arrays[name], parameter.dtype))


def _sound(path, name, array, parameter):
    """An array in the type of its parameter. Raises InputError if its values are none that training leaves."""
    if parameter.dtype.is_floating_point:
        with np.errstate(over="ignore"):
            array = np.asarray(array, np.float32)
        # Of a NaN among them, the least and the largest are NaN: no array as large as the tensor is needed.
        if array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
            raise InputError(f"{path}: {name} has values that are not finite, or beyond float32; use another copy")
        if name.endswith("moving_variance") and array.min(initial=0) < 0:
            raise InputError(f"{path}: {name} has negative variances; use another copy")
    return array


def _description(path, data):
    try:
        if len(data) > LARGEST_DESCRIPTION:
            raise ValueError
        description = json.loads(data.decode("utf-8"))
        if not isinstance(description, dict):
            raise TypeError
    except (AttributeError, TypeError, ValueError, RecursionError):  # a number, no text, no JSON, no object
        raise InputError(f"{path}: its description is damaged; use another copy") from None
    return description


def _array(path, entry):
    tensor = entry.tensor
    shape = () if list(tensor.dims) == [0] else tuple(tensor.dims)
    try:
        array = np.frombuffer(tensor.tensor_content, _DTYPES[tensor.tensor_type])
        if min(shape, default=0) < 0:
            raise ValueError
        array = array.reshape(shape).copy()
    except (KeyError, OverflowError, ValueError):
        raise InputError(f"{path}: tensor {entry.tag} does not match its declared type and shape") from None
    return widen(array) if tensor.tensor_type == "BFloat16" else array


def _content(tensors, description):
    """The bytes of a checkpoint in pieces: each tensor as a message of MindSpore's, the description, the checksum."""
    checksum = 0
    for piece in chain((_message(name, Tensor(t)) for name, t in tensors.items()), [_description_field(description)]):
        checksum = binascii.crc32(piece, checksum)
        yield piece
    yield _CHECKSUM_MARK + checksum.to_bytes(10, "big")


def _message(name, tensor):
    """What `mindspore.save_checkpoint` writes for one tensor."""
    message = Checkpoint()
    entry = message.value.add()
    entry.tag = name
    entry.tensor.dims.extend(tensor.shape)
    entry.tensor.tensor_type = str(tensor.dtype)
    entry.tensor.tensor_content = tensor.asnumpy().tobytes()
    return message.SerializeToString()


def _description_field(description):
    """The description as one length-delimited protobuf field."""
    data = json.dumps(description).encode("utf-8")
    return _varint(_DESCRIPTION_FIELD << 3 | 2) + _varint(len(data)) + data


def _varint(number):
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
