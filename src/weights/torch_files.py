"""Reading PyTorch's checkpoint files without PyTorch, and without running anything that a file may ask for.

A PyTorch file is a Python pickle that refers to raw arrays. Unpickling normally calls whatever the file names; here
(`pickles`) nothing is called, and of all that a file holds only the tensors of its state dict are looked at: training
state around them (an optimiser, an argument namespace) is passed over. Both layouts are read: the zip archive (PyTorch
1.6 and later) and the older sequence of pickles.
"""

import io
import math
import operator
import zipfile

import numpy as np

from ..platform.errors import InputError
from ..platform.files import GIB, MIB, reading
from .bfloat16 import widen
from .pickles import Call, Name, Reference, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
_LARGEST_FILE = 4 * GIB
_LARGEST_PICKLE = 8 * MIB  # ResNet-50's has 50 kB; PyTorch's names and calls take some hundred times its bytes
_MOST_DIMENSIONS = 8
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}


def read_torch(path):
    """The tensors (name -> array) of the state dict that a PyTorch file is, or holds under one of WRAPPERS.

    bfloat16 becomes float32. Raises InputError if the file is damaged, of another kind, or has none.
    """
    with reading(path, f"{path}: cannot read the file", _LARGEST_FILE) as (file, size):
        try:
            read = _read_zip if is_archive(file) else _read_pickles
            file.seek(0)
            tensors = read(file, size)
        except OSError:
            raise
        except Exception as error:  # damaged pickles and archives may raise anything
            raise InputError(
                f"{path}: not a PyTorch checkpoint, or a damaged one ({str(error) or type(error).__name__})"
            ) from None
    if not tensors:
        raise InputError(f"{path}: no state dict in the file; it must be one, or hold one under {', '.join(WRAPPERS)}")
    return tensors


def is_archive(file):
    """Whether an open file is a zip archive, be it one that cannot be read."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # of parts on several disks
        return True


def _read_zip(file, size):
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickled = next((name for name in members if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("no data.pkl inside")
        folder = pickled[: -len("data.pkl")]

        def read(name, most):
            member = members[folder + name]
            stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
            if not stored or member.file_size > most:
                raise ValueError(f"{name} is compressed, or too large for the file")
            return archive.read(member)

        if f"{folder}byteorder" in members and read("byteorder", 10) != b"little":
            raise ValueError("big-endian")
        tensors = _find_tensors(read_pickle(io.BytesIO(read("data.pkl", _LARGEST_PICKLE)), _LARGEST_PICKLE))
        values, left = {}, size
        for reference, *_ in tensors.values():
            kind, key = _storage(reference)
            if key not in values:
                data = read(f"data/{key}", left)  # members may lie on top of each other
                left -= len(data)
                values[key] = np.frombuffer(data, _DTYPES[kind])
    return _arrays(tensors, values, size)


def _read_pickles(file, size):
    content = file.read(size)
    file = io.BytesIO(content)
    if read_pickle(file, _LARGEST_PICKLE) != MAGIC:
        raise ValueError("no PyTorch header")
    for _ in range(2):  # version of the protocol, and sizes of C types
        read_pickle(file, _LARGEST_PICKLE)
    references, values = [], {}
    tensors = _find_tensors(read_pickle(file, _LARGEST_PICKLE, references))
    kinds = {key: kind for kind, key in map(_storage, references)}
    keys = read_pickle(file, _LARGEST_PICKLE)
    offset = file.tell()
    for key in keys:
        dtype, count = np.dtype(_DTYPES[kinds[str(key)]]), int.from_bytes(content[offset : offset + 8], "little")
        values[str(key)] = np.frombuffer(content, dtype, count, offset + 8) if count else np.zeros(0, dtype)
        offset += 8 + count * dtype.itemsize
    return _arrays(tensors, values, size)


def _find_tensors(content):
    """The arguments (storage, offset, size, stride) of every tensor of the state dict in a pickle, by name."""
    for _ in WRAPPERS:  # a wrapper may be wrapped, but not without end
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        content = content if inner is None else inner
    tensors = {}
    for name, value in content.items():
        while isinstance(value, Call) and value.function == Name("torch._utils", "_rebuild_parameter"):
            value = value.arguments[0]
        if isinstance(value, Call) and value.function in _REBUILD:
            if not isinstance(name, str):
                raise ValueError("the name of a tensor is no text")
            tensors[name] = value.arguments[:4]
    return tensors


_REBUILD = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor"))


def _storage(reference):
    """Type and key of the raw array that a Reference means."""
    _, kind, key = reference.identifier[:3]
    if not isinstance(reference, Reference) or kind.module != "torch" or not isinstance(key, (str, int)):
        raise ValueError("a tensor has no storage")
    return kind.name, str(key)


def _arrays(tensors, values, size):
    """The tensors as arrays; values: the raw arrays by key; size: of the file, in bytes."""
    arrays, left = {}, 4 * size  # tensors may share a storage, or be wider here than in the file
    for name, (reference, *view) in tensors.items():
        kind, key = _storage(reference)
        array = _array(values[key], *view)
        if kind == "BFloat16Storage":
            array = widen(array)
        arrays[name] = array
        left -= array.nbytes
        if left < 0:
            raise ValueError("its tensors are too large for the file")
    return arrays


def _array(values, offset, size, stride):
    """A view as a contiguous array, which is not to be written to; a view that leaves its storage is refused."""
    offset, size, stride = operator.index(offset), tuple(map(operator.index, size)), tuple(map(operator.index, stride))
    if len(size) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0 or (0 not in size and last >= values.size):
        raise ValueError("a tensor leaves its storage")
    if math.prod(size) > values.size:
        raise ValueError("a tensor is larger than its storage")
    if 0 in size:
        return np.zeros(size, values.dtype)
    steps = tuple(step * values.itemsize for step in stride)
    array = np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
    return array if array.flags.c_contiguous else array.copy()  # a copy of all takes half as long as reading
