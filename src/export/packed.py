"""PACKED: a checkpoint in about as many bytes as there is information in it, for sending over the air.

docs/packed_format.md describes every byte. In short: all weights of two and more dimensions form one long vector; the
gaps between its non-zeros, the bytes of their values sorted by significance, and everything else go through LZMA, an
adaptive range coder that every platform has.
"""

import hashlib
import json
import lzma
import struct

import numpy as np

from ..platform.errors import InputError
from ..platform.files import MIB, read_regular

MAGIC = b"RPGPACK\x01"  # the last byte is the version of the format
VALUES = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "int8": np.dtype("i1")}

_DIGEST = 32  # bytes of the SHA-256 at the end, of everything before it
_DTYPES = ("float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_FRAME = struct.Struct("<II")  # length of a section after and before decoding; equal: stored as it is
# Plain order-0 coding of bytes: no literal context, no position bits, a window that any device can hold.
_LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0, "nice_len": 273}]
_LARGEST_HEADER = 1 << 24
_PIECE = 1 << 20  # bytes of gaps decoded at a time
_LARGEST_CHECKPOINT = 1 << 31  # a checkpoint is one protobuf message, which cannot be larger
_LARGEST_EXPANSION = 1000  # times, three times what a network of which 0.1 % is left gains ...
_ALWAYS_ALLOWED = 64 * MIB  # ... and as much for small ones, even if they are all zeros


def pack(tensors, description, values="fp32"):
    """The bytes of a PACKED file for what `read_checkpoint` returned.

    values: fp32 keeps every bit; fp16 and int8 round the weights of two and more dimensions, never biases and
    BatchNorm; int8 has one scale per output channel, the first dimension.
    Raises InputError for a tensor the format cannot hold.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _DTYPES:
            raise InputError(f"{name}: PACKED holds no tensors of type {tensor.dtype.name}; use {', '.join(_DTYPES)}")
    weights, words, others = _sort(tensors)
    bits = _concatenate(weights, np.uint32)
    positions = np.flatnonzero(bits)  # of bits: a negative zero is a value
    gaps = encode_gaps(positions)
    header = {
        "values": values,
        "nonzeros": int(positions.size),
        "gaps": len(gaps),
        "tensors": [[name, tensor.dtype.name, list(tensor.shape)] for name, tensor in tensors.items()],
        "description": description,
    }
    scales = channel_scales(weights) if values == "int8" else np.zeros(0, np.float32)
    rounded = _quantize(bits, scales, weights) if values == "int8" else _round(bits[positions], values)
    sections = [
        json.dumps(header).encode(),
        gaps,
        *_planes(rounded),
        *(_planes(_little(scales)) if values == "int8" else ()),
        *_planes(_concatenate(words, np.uint32)),
        b"".join(_little(tensor).tobytes() for tensor in others),
    ]
    content = MAGIC + b"".join(_encode_section(section) for section in sections)
    return content + hashlib.sha256(content).digest()


def unpack(path):
    """Tensors and description of a PACKED file, to be written by `write_checkpoint`.

    With values fp32 they equal the packed ones bit for bit. Raises InputError for anything but an intact file.
    """
    content = read_regular(path, f"{path}: cannot read the packed file", _LARGEST_CHECKPOINT)
    if content[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise InputError(f"{path}: not a packed file")
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise InputError(f"{path}: the file is damaged or truncated (its checksum does not match); use another copy")
    if content[len(MAGIC) - 1] != MAGIC[-1]:
        raise InputError(f"{path}: format version {content[len(MAGIC) - 1]}, not {MAGIC[-1]}; use the program it is of")
    try:
        return _decode(content[len(MAGIC) : -_DIGEST], limit=_LARGEST_EXPANSION * len(content) + _ALWAYS_ALLOWED)
    except (ValueError, KeyError, TypeError, struct.error, lzma.LZMAError, RecursionError) as error:
        raise InputError(f"{path}: not a valid packed file: {error or type(error).__name__}") from None


def encode_gaps(positions):
    """Increasing positions as bytes: per position, 255 for every 255 zeros before it, then how many more (0..254)."""
    gaps = np.diff(positions, prepend=-1) - 1
    whole = gaps // 255
    encoded = np.full(int(whole.sum()) + gaps.size, 255, np.uint8)
    encoded[np.cumsum(whole + 1) - 1] = gaps % 255
    return encoded.tobytes()


def decode_gaps(gaps, count, size):
    """The inverse: `count` increasing positions below `size`. Raises ValueError if the bytes do not say so.

    It works in pieces, so that it takes little memory beside the positions.
    """
    steps = np.frombuffer(gaps, np.uint8)
    if np.count_nonzero(steps != 255) != count or (steps.size and steps[-1] == 255):
        raise ValueError("the masks do not hold the declared number of weights")
    positions = np.empty(count, np.int64)
    done, place = 0, -1
    for start in range(0, steps.size, _PIECE):
        piece = steps[start : start + _PIECE]
        last = piece != 255
        places = np.cumsum(piece + last, dtype=np.int64) + place
        place = int(places[-1])
        if place >= size:
            raise ValueError("a mask is larger than its weights")
        found = places[last]
        positions[done : done + found.size] = found
        done += found.size
    return positions


def channel_scales(weights):
    """What one step of an 8-bit integer stands for, float32, for every output channel of all weights in turn.

    The largest absolute value of a channel is 127 steps. Raises InputError where a weight is not finite.
    """
    scales = [np.abs(_rows(weight)).max(1, initial=0) / np.float32(127) for weight in weights]
    scales = np.concatenate([np.zeros(0, np.float32), *scales])
    if not np.isfinite(scales).all():
        raise InputError("values: a weight is not finite; use --values fp32")
    return scales


def size_bound(tensors, values="fp32"):
    """Bytes needed if each layer's mask is random at its density, values are incompressible and the rest is stored.

    The sum over weights of n H(density) + nonzeros * 32 (or 16, or 8) bits, plus int8's scales and all other tensors.
    Returns (bytes of the masks, bytes of all).
    """
    weights, words, others = _sort(tensors)
    mask_bits = 0.0
    nonzeros = 0
    for weight in weights:
        kept = np.count_nonzero(weight.view(np.uint32))
        nonzeros += kept
        density = kept / max(weight.size, 1)
        if 0 < density < 1:
            mask_bits -= weight.size * (density * np.log2(density) + (1 - density) * np.log2(1 - density))
    rest = sum(tensor.nbytes for tensor in (*words, *others))
    rest += 4 * sum(len(weight) for weight in weights) if values == "int8" else 0
    return mask_bits / 8, mask_bits / 8 + nonzeros * VALUES[values].itemsize + rest


def mask_bytes(tensors):
    """Bytes that the masks take in a PACKED file."""
    weights, _, _ = _sort(tensors)
    return len(_encode_section(encode_gaps(np.flatnonzero(_concatenate(weights, np.uint32)))))


def _decode(body, limit):
    sections = _Sections(body)
    header = json.loads(sections.read(most=_LARGEST_HEADER))
    tensors = [(name, np.dtype(_known(dtype)), _checked_shape(shape)) for name, dtype, shape in header["tensors"]]
    if len({name for name, _, _ in tensors}) != len(tensors) or not all(
        isinstance(name, str) for name, _, _ in tensors
    ):
        raise ValueError("the tensors' names are not distinct")
    if sum(_bytes(dtype, shape) for _, dtype, shape in tensors) > min(limit, _LARGEST_CHECKPOINT):
        raise ValueError("the declared tensors are too large for this file")
    arrays = {name: np.zeros(shape, dtype) for name, dtype, shape in tensors}
    if not isinstance(header["description"], dict):
        raise TypeError("the description is not an object")

    weights, words, others = _sort(arrays)
    size = sum(weight.size for weight in weights)
    count = _number(header["nonzeros"], size)
    gaps = _number(header["gaps"], count + size // 255)
    positions = decode_gaps(sections.read(gaps), count, size)
    bits = np.zeros(size, np.uint32)
    if header["values"] == "int8":
        integers = np.frombuffer(sections.read(count), np.int8)
        scales = sections.read_planes(4, sum(len(weight) for weight in weights)).view(np.float32)
        numbers = np.repeat(scales, _row_sizes(weights))[positions]
        numbers *= integers
        bits[positions] = numbers.view(np.uint32)
    else:
        bits[positions] = _widen(sections.read_planes(VALUES[header["values"]].itemsize, count))
    _scatter(bits, weights)
    _scatter(sections.read_planes(4, sum(word.size for word in words)), words)
    rest = np.frombuffer(sections.read(sum(tensor.nbytes for tensor in others)), np.uint8)
    _scatter(rest, others)
    sections.end()
    return arrays, header["description"]


class _Sections:
    """Reads one section after the other; raises ValueError where a section is not as long as it has to be."""

    def __init__(self, body):
        self.body = memoryview(body)

    def read(self, expected=None, most=None):
        """The next section, of exactly `expected` or at most `most` bytes."""
        coded, length = _FRAME.unpack_from(self.body)
        data, rest = self.body[_FRAME.size : _FRAME.size + coded], self.body[_FRAME.size + coded :]
        if len(data) != coded or coded > length or (length != expected if most is None else length > most):
            raise ValueError("a section does not have its length")
        self.body = rest
        return bytes(data) if coded == length else _decompress(data, length)

    def read_planes(self, width, count):
        """`count` numbers of `width` bytes whose bytes were sorted by significance, as uint16 or uint32."""
        planes = np.empty((count, width), np.uint8)
        for index in range(width):
            planes[:, index] = np.frombuffer(self.read(count), np.uint8)
        return planes.reshape(-1).view(np.dtype(f"<u{width}"))

    def end(self):
        """Nothing may follow the last section."""
        if len(self.body):
            raise ValueError("bytes after the last section")


def _encode_section(section):
    coded = lzma.compress(section, lzma.FORMAT_RAW, filters=_LZMA)
    data = coded if len(coded) < len(section) else section
    return _FRAME.pack(len(data), len(section)) + data


def _decompress(data, length):
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    decoded = decoder.decompress(data, max_length=length)
    if not decoder.eof:  # the end marker is still to be read
        decoded += decoder.decompress(b"", max_length=1)
    if len(decoded) != length or not decoder.eof or decoder.unused_data:
        raise ValueError("a section does not have its length")
    return decoded


def _sort(tensors):
    """Three lists: float32 weights of two and more dimensions, other float32 tensors, all the rest."""
    floats = [tensor for tensor in tensors.values() if tensor.dtype == np.float32]
    weights = [tensor for tensor in floats if tensor.ndim > 1]
    words = [tensor for tensor in floats if tensor.ndim < 2]
    return weights, words, [tensor for tensor in tensors.values() if tensor.dtype != np.float32]


def _little(tensor):
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)


def _concatenate(tensors, dtype):
    return np.concatenate([np.zeros(0, dtype), *(_little(tensor).reshape(-1).view(dtype) for tensor in tensors)])


def _scatter(source, tensors):
    """Fill the (contiguous) tensors with the bytes of `source`, one after the other."""
    source = source.view(np.uint8)
    for tensor in tensors:
        tensor.reshape(-1).view(np.uint8)[:] = source[: tensor.nbytes]
        source = source[tensor.nbytes :]


def _planes(numbers):
    """One byte string per significance, lowest first: signs and exponents repeat, the lowest bits do not."""
    table = numbers.view(np.uint8).reshape(numbers.size, numbers.itemsize)
    return [table[:, index].tobytes() for index in range(numbers.itemsize)]


def _round(bits, values):
    if values == "fp32":
        return bits
    with np.errstate(over="ignore"):
        rounded = bits.view(np.float32).astype(np.float16)
    if np.isinf(rounded).any():
        raise InputError("values: a weight is beyond the range of fp16 (65504); use --values fp32")
    return rounded.view(np.uint16)


def _quantize(bits, scales, weights):
    """The non-zeros among the bits of all weights as multiples of their channel's scale, int8."""
    positions = np.flatnonzero(bits)
    steps = np.repeat(scales, _row_sizes(weights))[positions]
    return np.rint(bits[positions].view(np.float32) / np.where(steps > 0, steps, 1)).astype(np.int8)


def _rows(weight):
    """A weight as a matrix with a row per output channel."""
    return weight.reshape(len(weight), -1) if weight.size else np.zeros((len(weight), 0), weight.dtype)


def _row_sizes(weights):
    """How many values every output channel of all weights has."""
    return np.concatenate([np.zeros(0, np.int64), *(np.full(len(w), w.size // max(len(w), 1)) for w in weights)])


def _widen(numbers):
    return numbers if numbers.itemsize == 4 else numbers.view(np.float16).astype(np.float32).view(np.uint32)


def _known(dtype):
    if dtype not in _DTYPES:
        raise ValueError(f"unknown type {dtype!r:.40}")
    return dtype


def _checked_shape(shape):
    if not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("a shape is not a list of at most 8 numbers")
    return tuple(_number(length, _LARGEST_CHECKPOINT) for length in shape)


def _number(value, most):
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a number is not between 0 and {most}")
    return value


def _bytes(dtype, shape):
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size
