"""Reading PyTorch's checkpoint files without PyTorch, and without running anything that a file may ask for.

A PyTorch file is a Python pickle that refers to raw arrays. Unpickling normally calls whatever the file names; here
every name but the few that describe a tensor becomes an inert object, so that training state around the weights (an
optimiser, an argument namespace) is passed over. Both layouts are read: the zip archive (PyTorch 1.6 and later) and
the older sequence of pickles.
"""

import io
import math
import operator
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from ..platform.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
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


class _Inert:
    """Stands for anything that is not a tensor: takes every argument and state, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass

    def __hash__(self):
        return id(self)


class _Storage:
    """A raw array in the file: its key there, its type, and, once it is read, its values."""

    def __init__(self, kind, key):
        self.kind = kind
        self.key = key
        self.values = None


class _Tensor:
    """A view of a storage, not yet checked."""

    def __init__(self, storage, offset, size, stride):
        self.view = (storage, offset, size, stride)


def _rebuild_tensor(storage, offset, size, stride, *rest):
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data, *rest):
    return data


class _Unpickler(pickle.Unpickler):
    """Knows tensors and containers; everything else is inert."""

    _NAMES = {  # noqa: RUF012  read only
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    }

    def __init__(self, file, storages):
        super().__init__(file, encoding="latin-1")
        self.storages = storages

    def find_class(self, module, name):
        if module == "torch" and name in _DTYPES:
            return type(name, (_Inert,), {"kind": name})
        return self._NAMES.get((module, name), _Inert)

    def persistent_load(self, identifier):
        _, kind, key = identifier[:3]
        return self.storages.setdefault(str(key), _Storage(getattr(kind, "kind", None), str(key)))


def read_torch(path):
    """The pickled object of a PyTorch file: arrays for tensors, None for all that is neither data nor container.

    bfloat16 becomes float32. Raises InputError if the file is damaged or of another kind.
    """
    storages = {}
    try:
        read = _read_zip if zipfile.is_zipfile(path) else _read_pickles
        return _resolve(read(path, storages))
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
    except InputError:
        raise
    except Exception as error:  # pickle documents that damaged data may raise anything
        raise InputError(f"{path}: not a PyTorch checkpoint, or a damaged one ({error})") from None


def _read_zip(path, storages):
    with zipfile.ZipFile(path) as archive:
        member = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if member is None:
            raise ValueError("no data.pkl inside")
        folder = member[: -len("data.pkl")]
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("big-endian")
        content = _Unpickler(io.BytesIO(archive.read(member)), storages).load()
        for storage in storages.values():
            _fill(storage, archive.read(f"{folder}data/{storage.key}"))
    return content


def _read_pickles(path, storages):
    with Path(path).open("rb") as file:
        if _Unpickler(file, {}).load() != MAGIC:
            raise ValueError("no PyTorch header")
        for _ in range(2):  # version of the protocol, and sizes of C types
            _Unpickler(file, {}).load()
        content = _Unpickler(file, storages).load()
        for key in _Unpickler(file, {}).load():
            storage = storages[str(key)]
            count = int.from_bytes(file.read(8), "little")
            _fill(storage, file.read(count * np.dtype(_DTYPES[storage.kind]).itemsize))
    return content


def _fill(storage, data):
    storage.values = np.frombuffer(data, _DTYPES[storage.kind])
    if storage.kind == "BFloat16Storage":
        storage.values = (storage.values.astype(np.uint32) << 16).view(np.float32)


def _resolve(item):
    """Replace tensors by arrays, and drop what is inert, all through the containers."""
    if isinstance(item, _Tensor):
        return _array(*item.view)
    if isinstance(item, dict):
        return {key: _resolve(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_resolve(value) for value in item]
    return item if isinstance(item, (str, int, float, bool, bytes)) else None


def _array(storage, offset, size, stride):
    """A contiguous copy of a view; a view that leaves its storage is refused."""
    offset, size, stride = operator.index(offset), tuple(map(operator.index, size)), tuple(map(operator.index, stride))
    values = storage.values
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0 or (0 not in size and last >= values.size):
        raise ValueError("a tensor leaves its storage")
    if math.prod(size) > values.size:
        raise ValueError("a tensor is larger than its storage")
    if 0 in size:
        return np.zeros(size, values.dtype)
    steps = tuple(step * values.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps).copy()
