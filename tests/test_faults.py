"""Writing the files of a run while system calls fail and disks fill up: nothing saved before is lost."""

import builtins
import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reliability
from mindspore import nn

from src.config.keys import resolve
from src.platform import files
from src.platform.errors import run_program
from src.run.folder import RunFolder
from src.run.resume import read_run


class Calls:
    """Stands for `os` and `open` in src/platform/files.py; the call number `failing` (from 0) raises OSError."""

    def __init__(self, failing=None, code=errno.EIO):
        self.failing = failing
        self.code = code
        self.names = []

    def call(self, name, function, *arguments):
        self.names.append(name)
        if len(self.names) - 1 == self.failing:
            raise OSError(self.code, os.strerror(self.code))
        return function(*arguments)

    def __getattr__(self, name):
        if name in ("open", "close", "fsync"):
            kind = "folder" if name != "fsync" else "folder" if "open folder" in self.names else "new file"
            return lambda *arguments: self.call(f"{name} {kind}", getattr(os, name), *arguments)
        if name == "replace":
            return lambda one, other: self.call(f"rename to {Path(other).name}", os.replace, one, other)
        return getattr(os, name)

    def open_file(self, path, mode, **options):
        if mode == "rb":  # what is read is none of the calls of a save
            return builtins.open(path, mode, **options)
        return File(self, self.call("open new file", lambda: builtins.open(path, mode, **options)))


class File:
    """A file whose calls are counted."""

    def __init__(self, calls, file):
        self.calls, self.file = calls, file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.calls.call("close new file", lambda: None)

    def write(self, content):
        return self.calls.call("write", self.file.write, content)

    def flush(self):
        return self.calls.call("flush", self.file.flush)

    def fileno(self):
        return self.file.fileno()


def state(number):
    """The state of a run after step `number`: 40 kB."""
    return {"network.weight": np.full(10_000, number, np.float32)}, {"step": number}


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that has saved its steps 1 and 2."""
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        folder.write_state(*state(number))
    return folder


def steps(folder):
    """What a resumed run finds: the step in the newest good state, which must be whole, and the name of its file."""
    arrays, progress, path = read_run(folder.resume)
    expected, _ = state(progress["step"])
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    return progress["step"], path.name


def program(capsys, work):
    """How a program ends that does `work`."""
    with pytest.raises(SystemExit) as ended:
        run_program(work)
    message = capsys.readouterr().err
    assert message.startswith("error: output_path: cannot write ")
    assert message.count("\n") == 1
    assert "continue with --resume_ckpt auto" in message
    return f"one line, exit code {ended.value.code}"


def inject(monkeypatch, calls):
    monkeypatch.setattr(files, "os", calls)
    monkeypatch.setattr(files, "open", calls.open_file, raising=False)


def calls_of_a_save(folder, monkeypatch):
    """The names of the system calls of one save, in order."""
    calls = Calls()
    with monkeypatch.context() as patch:
        inject(patch, calls)
        folder.write_state(*state(2))
    return calls.names


def test_every_call_of_a_save_fails_once(folder, capsys, monkeypatch):
    afterwards = {
        (2, "resume.ckpt"): "the state before is whole",
        (2, "resume.previous.ckpt"): "`resume.previous.ckpt` is whole, and resumed from",
        (3, "resume.ckpt"): "the new state is whole",
    }
    names = calls_of_a_save(folder, monkeypatch)
    assert len(names) > 10
    for number, name in enumerate(names):
        for saved in (1, 2):  # also a save after one that failed
            folder.write_state(*state(saved))
            assert steps(folder) == (saved, "resume.ckpt")
        with monkeypatch.context() as patch:
            calls = Calls(number, errno.ENOSPC if name == "write" else errno.EIO)
            inject(patch, calls)
            end = program(capsys, lambda: folder.write_state(*state(3)))
        assert calls.names[number] == name
        assert not list(folder.path.glob(".*")), f"{name} left a temporary file"
        reliability.check(f"saving: {name} fails", end, afterwards[steps(folder)])


OTHERS = ("best.ckpt", "metrics.jsonl", "result.json")


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_that_cannot_be_written(name, folder, capsys, monkeypatch):
    write = {
        "best.ckpt": lambda: folder.write_network(folder.best, nn.Dense(2, 2), {}),
        "metrics.jsonl": lambda: folder.append_metrics({"epoch": 1}),
        "result.json": lambda: folder.write_result({"top1": 1.0}),
    }[name]
    calls = Calls(1, errno.ENOSPC)
    inject(monkeypatch, calls)
    end = program(capsys, write)
    assert calls.names[1] == "write"
    assert steps(folder) == (2, "resume.ckpt")
    assert not list(folder.path.glob(".*"))
    reliability.check(f"no space for `{name}`", end, "the state before is whole")


def test_a_full_disk(tmp_path, capsys):
    """On a real file system of 140 KiB: two states of 40 kB and other things leave no space for a third."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=140k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder = RunFolder(tmp_path)
        for number in (1, 2):
            folder.write_state(*state(number))
        (tmp_path / "filler").write_bytes(b"x" * 40_000)
        end = program(capsys, lambda: folder.write_state(*state(3)))
        assert steps(folder) == (2, "resume.ckpt")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["filler", "resume.ckpt", "resume.previous.ckpt"]
        (tmp_path / "filler").unlink()
        folder.write_state(*state(3))
        assert steps(folder) == (3, "resume.ckpt")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    reliability.check("disk full (a real one)", end, "the state before is whole; goes on once there is space")


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "to', b'{"epoch": 3, "top1": 90.0}', b"\0" * 40 + b"\n", b"3\n"])
def test_metrics_end_where_the_state_is(torn, folder):
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch})
    with open(folder.metrics, "ab") as file:
        file.write(torn)
    folder.keep_metrics(2)
    assert folder.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    reliability.check("`metrics.jsonl` ahead of the state, or its last line torn", "goes on", "those lines are dropped")


def test_what_a_killed_process_left_half_written_is_removed(folder):
    left = folder.path / ".resume.ckpt.123.tmp"
    left.write_bytes(b"half")
    folder.open(resolve({"output_path": str(folder.path), "resume_ckpt": "auto"}))
    assert not left.exists()
    assert steps(folder) == (2, "resume.ckpt")


def test_no_row_of_the_table_is_without_a_test(folder, monkeypatch):
    calls = {f"saving: {name} fails" for name in calls_of_a_save(folder, monkeypatch)}
    made = calls | {f"no space for `{name}`" for name in OTHERS}
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    faults = [row.split(" | ")[0].removeprefix("| ") for row in reliability.rows()]
    assert len(faults) == len(set(faults)) > 20
    assert [fault for fault in faults if fault not in made and f'"{fault}"' not in sources] == []
