"""The .sparse file of the runtime: a graph of operations, weights as gaps and values (docs/sparse_runtime.md)."""

import json
import struct
import zlib
from typing import NamedTuple, Optional

import numpy as np

MAGIC = b"RPGSPRS\x01"
KINDS = ("convolution", "max_pool", "average_pool", "add", "multiply", "concatenate", "activation", "softmax")
ACTIVATIONS = ("none", "relu", "clip", "hard_sigmoid", "hard_swish", "sigmoid", "swish")
_NORMALIZED, _PROBABILITIES, _DESCRIBED = 1, 2, 4
_WITH_BIAS, _ALL_WEIGHTS, _PAD_COUNTS = 1, 2, 1
_ALL_FROM = 0.8  # density from which naming every gap costs more than storing the zeros


class Axis(NamedTuple):
    """A sliding window along one axis: size, step, padding before and behind, distance of its places."""

    kernel: int
    stride: int = 1
    before: int = 0
    behind: int = 0
    dilation: int = 1


class Operation(NamedTuple):
    """One operation; `inputs` are tensors: 0 the image, i what operation i - 1 gives.

    kind: of KINDS; activation: of ACTIVATIONS, taken of the result, with the bounds of a clip or the slope and offset
    of a hard sigmoid as `low` and `high`. A convolution has weight (out, in / groups, kh, kw), bias (out,) or None, and
    may have a second input, added before the activation. Fully connected layers are convolutions as large as their
    input. The second input of add and multiply may be one pixel per channel. pad_counts: the padding of a pool counts
    as zeros. selects: a convolution that picks channels, whose ones are no weights of the network (not in the file).
    """

    kind: str
    inputs: tuple
    activation: str = "none"
    low: float = 0.0
    high: float = 0.0
    window: tuple = ()
    groups: int = 1
    weight: Optional[np.ndarray] = None
    bias: Optional[np.ndarray] = None
    pad_counts: bool = False
    selects: bool = False


class Graph(NamedTuple):
    """input_shape: (channels, height, width); the last operation gives the output; interface: an Interface or None."""

    input_shape: tuple
    operations: list
    interface: Optional[tuple] = None


def output_shape(operation, shapes):
    """(channels, height, width) of an operation's result; shapes: of its inputs. Raises ValueError."""
    channels, *size = shapes[0]
    if operation.kind == "concatenate":
        return (sum(shape[0] for shape in shapes), *size)
    if not operation.window:
        return tuple(shapes[0])
    places = []
    for axis, length in zip(operation.window, size):
        span = (axis.kernel - 1) * axis.dilation + 1
        room = length + axis.before + axis.behind - span
        if room < 0:
            raise ValueError(f"a kernel of {axis.kernel} does not fit a map of {length}")
        places.append(room // axis.stride + 1)
    return (channels if operation.weight is None else len(operation.weight), *places)


def weights_of(graph):
    """The weights of all layers, in order; what picks channels has none."""
    return [op.weight for op in graph.operations if op.weight is not None and not op.selects]


def shapes_of(graph):
    """The shapes of all tensors, the image first."""
    shapes = [tuple(graph.input_shape)]
    for operation in graph.operations:
        shapes.append(output_shape(operation, [shapes[index] for index in operation.inputs]))
    return shapes


def to_bytes(graph):
    """The file of a Graph."""
    interface = graph.interface
    flags, description, classes = 0, b"", ()
    if interface:
        flags = _DESCRIBED | _NORMALIZED * interface.normalized | _PROBABILITIES * interface.softmax
        description = np.float32([interface.crop, *interface.mean, *interface.std]).astype("<f4").tobytes()
        classes = interface.classes
    names = b"".join(name.replace("\0", " ").encode() + b"\0" for name in classes)
    body = struct.pack("<3I2H", *graph.input_shape, len(graph.operations), flags) + description
    body += struct.pack("<2I", len(classes), len(names)) + names
    body += b"".join(map(_operation_bytes, graph.operations))
    body = struct.pack("<I", len(MAGIC) + 8 + len(body)) + body
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def _operation_bytes(operation):
    flags = _PAD_COUNTS * operation.pad_counts
    convolution = operation.kind == "convolution"
    if convolution:
        weight = np.asarray(operation.weight, np.float32).reshape(-1)
        places = np.flatnonzero(weight)
        if len(places) >= _ALL_FROM * weight.size:
            places = np.arange(weight.size)
            flags |= _ALL_WEIGHTS
        if operation.bias is not None and np.any(operation.bias):
            flags |= _WITH_BIAS
    parts = [
        struct.pack(
            "<4B",
            KINDS.index(operation.kind) + 1,
            ACTIVATIONS.index(operation.activation),
            flags,
            len(operation.inputs),
        ),
        struct.pack(f"<{len(operation.inputs)}H", *operation.inputs),
    ]
    if operation.activation in ("clip", "hard_sigmoid"):
        parts.append(struct.pack("<2f", operation.low, operation.high))
    if convolution:
        gaps = b"" if flags & _ALL_WEIGHTS else encode_gaps(places)
        parts.append(struct.pack("<4I", len(operation.weight), operation.groups, len(places), len(gaps)))
    for axis in operation.window:
        parts.append(struct.pack("<4B", *axis[:4]) + (bytes([axis.dilation]) if convolution else b""))
    if convolution:
        if flags & _WITH_BIAS:
            parts.append(np.asarray(operation.bias, "<f4").tobytes())
        parts += [weight[places].astype("<f4").tobytes(), gaps]
    return b"".join(parts)


def encode_gaps(places):
    """The zeros before every place (rising integers), each as 7 bits a byte, the lowest first, the top bit for more."""
    gaps = np.diff(places, prepend=-1) - 1
    encoded = bytearray()
    for gap in gaps.tolist():
        while gap > 127:
            encoded.append(gap & 127 | 128)
            gap >>= 7
        encoded.append(gap)
    return bytes(encoded)


def decode_gaps(encoded):
    """The inverse of `encode_gaps`."""
    places, place, gap, shift = [], 0, 0, 0
    for byte in encoded:
        gap |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            place += gap
            places.append(place)
            place, gap, shift = place + 1, 0, 0
    return np.array(places, np.int64)


def from_bytes(content):
    """The Graph of a whole file that `to_bytes` has made, and that the runtime has checked. Raises ValueError.

    The Interface comes back as a dict of its fields; the batch is free.
    """
    if content[: len(MAGIC)] != MAGIC or struct.unpack_from("<I", content, 8)[0] != zlib.crc32(content[12:]):
        raise ValueError("not a .sparse file, or a damaged one")
    reader = _Reader(content, 16)
    *input_shape, count, flags = reader.take("3I2H")
    channels = input_shape[0]
    numbers = reader.take(f"{1 + 2 * channels}f") if flags & _DESCRIBED else None
    _, length = reader.take("2I")
    names = reader.bytes(length).decode().split("\0")[:-1]
    interface = None
    if numbers:
        interface = {
            "image_shape": tuple(input_shape),
            "batch_size": None,
            "mean": numbers[1 : 1 + channels],
            "std": numbers[1 + channels :],
            "normalized": bool(flags & _NORMALIZED),
            "softmax": bool(flags & _PROBABILITIES),
            "crop": float(np.float32(numbers[0])),
            "classes": tuple(names),
        }
    operations, shapes = [], [tuple(input_shape)]
    for _ in range(count):
        operation = _read_operation(reader, shapes)
        operations.append(operation)
        shapes.append(output_shape(operation, [shapes[index] for index in operation.inputs]))
    return Graph(tuple(input_shape), operations, interface)


def _read_operation(reader, shapes):
    kind, activation, flags, count = reader.take("4B")
    inputs = reader.take(f"{count}H")
    kind, activation = KINDS[kind - 1], ACTIVATIONS[activation]
    low, high = reader.take("2f") if activation in ("clip", "hard_sigmoid") else (0.0, 0.0)
    fields = {"kind": kind, "inputs": inputs, "activation": activation, "low": low, "high": high}
    if kind == "convolution":
        outputs, groups, nonzeros, gap_bytes = reader.take("4I")
        window = tuple(Axis(*reader.take("5B")) for _ in range(2))
        shape = (outputs, shapes[inputs[0]][0] // groups, window[0].kernel, window[1].kernel)
        bias = np.float32(reader.take(f"{outputs}f")) if flags & _WITH_BIAS else None
        values = np.frombuffer(reader.bytes(4 * nonzeros), "<f4")
        places = decode_gaps(reader.bytes(gap_bytes))
        weight = np.zeros(np.prod(shape), np.float32)
        weight[slice(None) if flags & _ALL_WEIGHTS else places] = values
        fields.update(window=window, groups=groups, weight=weight.reshape(shape), bias=bias)
    elif kind in ("max_pool", "average_pool"):
        fields.update(window=tuple(Axis(*reader.take("4B")) for _ in range(2)), pad_counts=bool(flags & _PAD_COUNTS))
    return Operation(**fields)


class _Reader:
    def __init__(self, content, at):
        self.content, self.at = content, at

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.content, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def bytes(self, length):
        self.at += length
        return self.content[self.at - length : self.at]


def interface_metadata(interface):
    """The text by key that `Interface.from_metadata` takes; none where the file has no Interface."""
    return {f"rpg.{key}": json.dumps(value) for key, value in (interface or {}).items()}
