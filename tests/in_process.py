"""The programs run from their files, but in this process: much sooner than in one that has to load MindSpore."""

import contextlib
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    """What a program printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


def run(program, *words, cwd="."):
    """Run a file of the project (`eval.py`), or one of its modules as `python -m` would, in the folder `cwd`."""
    home = os.getcwd()
    with _captured() as read, mock.patch.object(sys, "argv", [str(program), *map(str, words)]):
        os.chdir(cwd)
        try:
            if str(program).endswith(".py"):
                runpy.run_path(str(ROOT / program), run_name="__main__")
            else:
                sys.modules.pop(program, None)  # as `python -m` would, without a warning
                runpy.run_module(program, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.chdir(home)
        return Answer(*read(), code)


@contextlib.contextmanager
def _captured():
    """Inside, all that this process prints is caught, C++ included; gives a function reading (stdout, stderr)."""
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  closed below
    kept = [os.dup(number) for number in (1, 2)]

    def read():
        texts = []
        for file in files:
            file.flush()
            file.seek(0)
            texts.append(file.read())
        return texts

    try:
        for number, file in zip((1, 2), files):
            os.dup2(file.fileno(), number)
        with contextlib.redirect_stdout(files[0]), contextlib.redirect_stderr(files[1]):
            yield read
    finally:
        for number, copy in zip((1, 2), kept):
            os.dup2(copy, number)
            os.close(copy)
        for file in files:
            file.close()
