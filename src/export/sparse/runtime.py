"""The library of runtime/ in Python: built on first use, called through ctypes."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from ...platform.errors import InputError

_ROOT = Path(__file__).resolve().parents[3]
LIBRARY = _ROOT / "runtime" / "build" / "librpg_sparse.so"
_ERROR_SIZE = 256


class _Options(ctypes.Structure):
    _fields_ = (
        ("threads", ctypes.c_int),
        ("isa", ctypes.c_char_p),
        ("max_bytes", ctypes.c_size_t),
        ("max_work", ctypes.c_uint64),
    )


class SparseModel:
    """A .sparse file, loaded: a call takes float32 images (n, channels, height, width) and returns (n, outputs).

    isa: "sse2", "avx2", "avx512" or "neon", None for the fastest here. Raises InputError where the file or the
    library cannot be had. Close it, or use it as a context, to free its memory and threads.
    """

    def __init__(self, path, threads=1, isa=None):
        self._library = load_library()
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        options = _Options(threads, isa.encode() if isa else None, 0, 0)
        self._model = self._library.rpg_load(str(path).encode(), ctypes.byref(options), error)
        if not self._model:
            raise InputError(f"{path}: {error.value.decode(errors='replace')}")
        shape = (ctypes.c_int * 3)()
        self._library.rpg_input_shape(self._model, shape)
        self.input_shape = tuple(shape)
        self.output_size = self._library.rpg_output_size(self._model)
        self.isa = self._library.rpg_isa(self._model).decode()
        self.work = self._library.rpg_work(self._model, 0)
        self.dense_work = self._library.rpg_work(self._model, 1)

    def __call__(self, images, probabilities=False):
        images = np.ascontiguousarray(images, np.float32)
        if images.shape[1:] != self.input_shape:
            raise ValueError(f"images of shape {images.shape[1:]}, not {self.input_shape}")
        outputs = np.empty((len(images), self.output_size), np.float32)
        self._library.rpg_run(self._model, images.ctypes.data, len(images), outputs.ctypes.data, int(probabilities))
        return outputs

    def close(self):
        """Free the model; it cannot be called afterwards."""
        if getattr(self, "_model", None):
            self._library.rpg_free(self._model)
            self._model = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


def load_library():
    """The library, built first where it is missing or older than its sources. Raises InputError."""
    sources = [*LIBRARY.parents[1].glob("*.[ch]")]
    if not sources:
        raise InputError(f"the sparse runtime's sources are not in {LIBRARY.parents[1]}; use a copy of the repository")
    if not LIBRARY.exists() or max(path.stat().st_mtime for path in sources) > LIBRARY.stat().st_mtime:
        script = _ROOT / "scripts" / "build_runtime.sh"
        built = subprocess.run(["bash", str(script)], capture_output=True, text=True)
        if built.returncode:
            lines = built.stderr.strip().splitlines()
            raise InputError(f"cannot build the sparse runtime: {(lines or ['bash failed'])[-1]}")
    library = ctypes.CDLL(str(LIBRARY))
    model, size = ctypes.c_void_p, ctypes.c_size_t
    library.rpg_load.restype, library.rpg_load.argtypes = model, (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char_p)
    library.rpg_run.argtypes = (model, ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_int)
    library.rpg_free.restype, library.rpg_free.argtypes = None, (model,)
    library.rpg_input_shape.restype, library.rpg_input_shape.argtypes = None, (model, ctypes.c_void_p)
    library.rpg_output_size.restype, library.rpg_output_size.argtypes = size, (model,)
    library.rpg_isa.restype, library.rpg_isa.argtypes = ctypes.c_char_p, (model,)
    library.rpg_work.restype, library.rpg_work.argtypes = ctypes.c_uint64, (model, ctypes.c_int)
    return library
