"""What must hold before mindspore loads."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from src.platform import environment
from src.platform.environment import VARIABLES, unsupported

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("python", "mindspore", "numpy", "problem"),
    [
        ((3, 9, 1), "2.7.1", "1.26.4", None),
        ((3, 12, 0), "2.10.0", "1.26.4", None),
        ((3, 8, 9), "2.10.0", "1.26.4", "use 3.9 to 3.12"),
        ((3, 13, 0), "2.10.0", "1.26.4", "use 3.9 to 3.12"),
        ((3, 11, 2), "2.10.0rc1", "1.26.4", None),
        ((3, 11, 2), "2.7.0", "1.26.4", "mindspore 2.7.0 is not supported"),
        ((3, 11, 2), "2.11.0", "1.26.4", "mindspore 2.11.0 is not supported"),
        ((3, 11, 2), None, "1.26.4", "bash scripts/setup.sh"),
        ((3, 11, 2), "2.10.0", "2.1.0", "numpy<2"),
    ],
)
def test_versions(python, mindspore, numpy, problem):
    found = unsupported(python, mindspore, numpy)
    assert found is None if problem is None else problem in found


def test_variables_are_set_before_mindspore_and_the_users_win():
    code = "import sys, os, src; assert 'mindspore' not in sys.modules; print(os.environ['ONEDNN_MAX_CPU_ISA'])"
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    for extra, expected in (({}, "AVX2"), ({"ONEDNN_MAX_CPU_ISA": "ALL"}, "ALL")):
        done = subprocess.run([sys.executable, "-c", code], env={**clean, **extra}, cwd=ROOT, capture_output=True)
        assert done.stdout.decode().strip() == expected, done.stderr


def test_no_network_outlives_the_program(monkeypatch):
    """Those that MindSpore still holds at its end print a traceback each."""
    import mindspore as ms
    from mindspore import Tensor, nn

    def compile_and_forget():
        network = nn.Dense(3, 2)

        def step(x):
            return network(x).sum()

        ms.jit(step)(Tensor([[1.0, 2.0, 3.0]]))
        return weakref.ref(network)

    forgotten = compile_and_forget()
    at_exit = []
    monkeypatch.setattr(environment.atexit, "register", at_exit.append)
    environment.prepare()
    for function in at_exit:
        function()
    assert forgotten() is None


@pytest.mark.slow
@pytest.mark.skipif("avx512f" not in Path("/proc/cpuinfo").read_text(), reason="no AVX-512, no slow kernels")
@pytest.mark.parametrize(("first", "warns"), [("", False), ("net(images); ", True)], ids=["imported", "computed"])
def test_mindspore_that_has_computed_before_is_warned_of_and_only_that(first, warns):
    code = (
        "import mindspore as ms, numpy as np; net = ms.nn.Conv2d(8, 8, 3); "
        f"images = ms.Tensor(np.ones((1, 8, 8, 8), np.float32)); {first}import src; net(images).asnumpy(); del net"
    )
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], env=clean, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("ONEDNN_MAX_CPU_ISA" in done.stderr) == warns, done.stderr


@pytest.mark.parametrize(
    ("level", "code", "says"),
    [
        ("0", 0, "warning: GLOG_v=0 logs every move of MindSpore"),
        ("1", 0, None),
        ("5", 2, "error: GLOG_v: '5' is no log level"),
        ("", 2, "error: GLOG_v: '' is no log level"),
    ],
)
def test_log_levels(level, code, says):
    done = subprocess.run(
        [sys.executable, "-c", "import src"],
        env={**os.environ, "GLOG_v": level},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert done.stderr.startswith(says) if says else done.stderr == ""
    assert done.stderr.count("\n") == bool(says)
