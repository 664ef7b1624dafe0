"""What must hold before MindSpore is imported: supported versions, and environment variables it reads once.

A value that the user has set is left alone. And what must be gone before Python tears MindSpore down: networks.
"""

import atexit
import ctypes
import gc
import os
import re
import sys
import tempfile
import warnings
from functools import _lru_cache_wrapper
from importlib import metadata
from pathlib import Path

SUPPORTED_PYTHON = ((3, 9), (3, 12))
SUPPORTED_MINDSPORE = ((2, 7, 1), (2, 11))  # from the first on, below the second; as in requirements.txt

VARIABLES = {
    # On CPUs with AVX-512, MindSpore's oneDNN picks its reference convolution, 60 times slower than the AVX2 one.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # Warnings of the C++ runtime (one per compiled graph and more) hide the program's own output; errors still show.
    "GLOG_v": "3",
    # An error of the data pipeline reaches the program as an exception; the log would only say it again, in many lines.
    "MS_SUBMODULE_LOG_v": "{MD:4}",
}
LOG_LEVELS = ("0", "1", "2", "3", "4")

_AVX512 = 0x20  # the bit that all of oneDNN's names for AVX-512 share (dnnl_cpu_isa_avx512_core)


def prepare():
    """Check the versions, set the variables, and see to a quiet end.

    An unsupported version, or a log level that MindSpore does not know, ends the program with exit code 2.
    """
    problem = unsupported(sys.version_info[:3], _version("mindspore"), _version("numpy"))
    level = os.environ.get("GLOG_v", "3")  # noqa: SIM112  MindSpore's name
    if level not in LOG_LEVELS:
        problem = problem or f"GLOG_v: {level!r} is no log level; set one of {', '.join(LOG_LEVELS)}, or leave it out"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    slow_kernels_possible = "mindspore" in sys.modules and "ONEDNN_MAX_CPU_ISA" not in os.environ
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    _divert_dumps()
    if level == "0":
        print("warning: GLOG_v=0 logs every move of MindSpore, which makes it take minutes to begin", file=sys.stderr)
    if slow_kernels_possible and _uses_avx512():
        warnings.warn(
            "MindSpore has computed before this package was imported, so its convolutions on this CPU stay many times "
            "slower: import this package first, or set ONEDNN_MAX_CPU_ISA=AVX2",
            stacklevel=3,
        )
    atexit.register(release_networks)


def release_networks():
    """Let go of the networks that nothing of the program's own holds any more.

    MindSpore 2.10 caches the functions that it has compiled, and with them the networks in their closures, for good.
    Cells that die after the modules of MindSpore, at the end of the process, print a traceback each.
    """
    sys.last_value = sys.last_traceback = sys.last_exc = None  # an uncaught error holds its frames
    for cache in [each for each in gc.get_objects() if type(each) is _lru_cache_wrapper]:
        if (cache.__module__ or "").startswith("mindspore."):
            cache.cache_clear()
    gc.collect()


def unsupported(python, mindspore, numpy):
    """What is wrong with these versions, as one sentence, or None. python: three numbers; others: text or None."""
    low, high = SUPPORTED_PYTHON
    if not low <= python[:2] <= high:
        return f"Python {'.'.join(map(str, python))} is not supported by MindSpore; use 3.9 to 3.12"
    if mindspore is None or numpy is None:
        return "mindspore is not installed in this Python; run: bash scripts/setup.sh, then use .venv/bin/python"
    low, high = SUPPORTED_MINDSPORE
    if not low <= tuple(map(int, re.findall(r"\d+", mindspore)[:3])) < high:
        return f"mindspore {mindspore} is not supported; run: pip install 'mindspore>=2.7.1,<2.11'"
    if int(numpy.split(".")[0]) >= 2:
        return f"numpy {numpy} breaks MindSpore; run: pip install 'numpy<2'"
    return None


def _divert_dumps():
    """Say where a failed compilation leaves its dumps; the default is a folder rank_0/ wherever the program started.

    On a machine without any folder for temporary files, that is this folder: what MindSpore imports asks for its name.
    """
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        folder = tempfile.tempdir = os.curdir
    os.environ.setdefault("MS_OM_PATH", os.path.join(folder, "mindspore_dumps"))


def _uses_avx512():
    """Whether the oneDNN in this process has settled on AVX-512: it reads its variable once, at its first operator."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        library = next(line.split()[-1] for line in maps if "libdnnl.so.3" in line)  # version 2 has no such trap
        return bool(ctypes.CDLL(library).dnnl_get_effective_cpu_isa() & _AVX512)
    except (OSError, AttributeError, StopIteration):
        return False


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
