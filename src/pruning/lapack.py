"""The symmetric eigendecomposition of LAPACK (divide and conquer), called so that threads run side by side.

scipy.linalg.eigh holds Python's global lock while it computes, and numpy.linalg.eigh is slower; so the routine that
SciPy publishes for compiled code (`scipy.linalg.cython_lapack`) is called through ctypes, which releases the lock.
"""

import ctypes

import numpy as np
from scipy.linalg import cython_lapack


def eigh(matrix):
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), one per column, of a symmetric matrix.

    matrix: (n, n), float32 or float64, not changed. Raises numpy.linalg.LinAlgError if it does not converge.
    """
    n = len(matrix)
    # LAPACK works on columns and returns the eigenvectors as columns, over its input: as rows of this C-ordered copy.
    rows = np.array(matrix, order="C")
    values = np.empty(n, rows.dtype)
    work = np.empty(1 + 6 * n + 2 * n * n, rows.dtype)
    integers = np.empty(3 + 5 * n, np.int32)
    status = ctypes.c_int(0)
    _ROUTINES[rows.dtype](
        b"V",
        b"L",
        _integer(n),
        _data(rows),
        _integer(max(n, 1)),
        _data(values),
        _data(work),
        _integer(work.size),
        _data(integers),
        _integer(integers.size),
        ctypes.byref(status),
    )
    if status.value:
        raise np.linalg.LinAlgError(f"syevd did not converge (info {status.value})")
    return values, rows.T


def _routine(name):
    """The function behind a capsule of cython_lapack, all of whose arguments are pointers."""
    capsule = cython_lapack.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    pointer = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 11)(pointer)


def _integer(number):
    return ctypes.byref(ctypes.c_int(number))


def _data(array):
    return ctypes.c_void_p(array.ctypes.data)


_ROUTINES = {np.dtype(np.float32): _routine("ssyevd"), np.dtype(np.float64): _routine("dsyevd")}
