"""Whole files with something wrong in their structure: readers take or refuse them, in seconds and a gigabyte."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_files import Find, fuzz, judge

from src.models import MODELS
from src.platform.errors import InputError
from tests.hostile_files import KINDS
from tests.tiny_train import Tiny

COUNT = 2000


@pytest.mark.filterwarnings("ignore")  # Pillow's and numpy's, of odd numbers
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_dozen(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    count = {"mindir": 8, "onnx": 12}.get(kind, 25)
    assert fuzz(kind, tmp_path, count).total() >= count


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands(kind, tmp_path):
    """In a process of its own, which a find may end by a signal; both outcomes are there, or nothing much was tried."""
    program = Path(__file__).with_name("fuzz_files.py")
    words = [sys.executable, program, kind, str(COUNT), tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{done.stderr[-5000:]}; the file: {tmp_path}/hostile*"
    line = done.stdout.splitlines()[-1]
    print(line)
    files, taken, refused = (int(word) for word in line.split() if word.isdigit())
    assert files >= COUNT
    assert min(taken, refused) > COUNT / 50


def refuse_for_want_of_memory(_):
    try:
        bytearray(1 << 40)
    except MemoryError:
        raise InputError("damaged") from None


def wait(_):
    while True:
        pass


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (refuse_for_want_of_memory, "too much memory: damaged"),
        (lambda _: bytearray(2 << 30), "^$"),
        (wait, "more than 20 seconds"),
        (lambda _: {}[0], "0"),
    ],
    ids=["memory, hidden", "memory", "time", "another exception"],
)
def test_what_a_find_is(reader, says, monkeypatch):
    monkeypatch.setattr("fuzz_files.GRACE", 1 - 20)
    with pytest.raises((Find, KeyError, MemoryError), match=says):
        judge(reader, None)
