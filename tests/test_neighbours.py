"""Runs beside each other: one writer a folder, and the run that is replaced stays until the new one can be resumed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_train import Tiny

from src.config.keys import resolve
from src.models import MODELS
from src.platform import files, lock
from src.platform.errors import InputError
from src.platform.lock import FolderLock
from src.run.folder import RunFolder
from src.run.resume import read_run
from src.run.trainer import Trainer
from tests.in_process import run

ROOT = Path(__file__).resolve().parent.parent


def contents(folder):
    """Every file of a folder with its bytes, but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != lock.NAME}


def test_one_holder_a_folder(tmp_path):
    held = FolderLock(tmp_path, "output_path")
    with pytest.raises(InputError, match=f"^output_path: another run writes to {tmp_path}; "):
        FolderLock(tmp_path, "output_path")
    held.release()
    assert not list(tmp_path.iterdir())
    FolderLock(tmp_path, "output_path").release()


def test_never_two_holders_while_many_come_and_go(tmp_path):
    """The file of the lock is removed under those who have just opened it."""
    holders, most, taken = [0], [0], [0]

    def come_and_go():
        for _ in range(300):
            try:
                held = FolderLock(tmp_path, "x")
            except InputError:
                continue
            holders[0] += 1
            most[0] = max(most[0], holders[0])
            taken[0] += 1
            os.sched_yield()
            holders[0] -= 1
            held.release()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert most[0] == 1
    assert taken[0] > 100


def test_the_dead_hold_no_lock(tmp_path):
    code = "import sys, time; from pathlib import Path; from src.platform.lock import FolderLock\n"
    code += "held = FolderLock(Path(sys.argv[1]), 'x'); print('held', flush=True); time.sleep(100)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError):
        FolderLock(tmp_path, "x")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / lock.NAME).exists()
    FolderLock(tmp_path, "x").release()


def test_a_file_system_without_locks_is_warned_of(tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    FolderLock(tmp_path, "x").release()
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path} knows no locks")


@pytest.fixture
def tiny(monkeypatch, small_run):
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    return lambda **settings: small_run(epoch_size=1, **settings)


def test_a_second_run_gets_one_line_and_touches_nothing(tiny):
    config = tiny()
    Trainer(config).run()
    folder = Path(config.output_path)
    before = contents(folder)
    held = FolderLock(folder, "output_path")
    words = ["--output_path", folder, "--epoch_size", 1, "--batch_size", 128, "--update_interval", 4]
    for program in (["train.py"], ["scripts/job.py", 1]):
        for more in ([], ["--overwrite"], ["--resume_ckpt", "auto"]):
            answer = run(*program, *words, *more)
            assert (answer.code, answer.stdout) == (2, "")
            assert answer.stderr.count("\n") == 1
            assert f"error: output_path: {'another run writes to' if more else ''}" in answer.stderr
    assert contents(folder) == before
    held.release()
    Trainer(resolve({**config, "overwrite": True})).run()  # which lets go at its end
    assert contents(folder).keys() == before.keys()


@pytest.fixture
def old_run(tmp_path):
    """The folder of a finished run: its files, whose first state is of step 9."""
    folder = RunFolder(tmp_path)
    for step in (8, 9):
        folder.write_state(*state(step))
    for file in (folder.best, folder.last, folder.result, folder.config, *folder.drawn):
        file.write_text("old")
    folder.append_metrics({"epoch": 1})
    return folder


def state(step):
    return {"network.weight": np.full(1000, step, np.float32)}, {"step": step, "epoch": 0}


@pytest.mark.parametrize("failing", ["mkdir", "open", "fsync"])
def test_the_old_run_stays_until_the_new_one_has_a_state(failing, old_run, monkeypatch):
    before = contents(old_run.path)
    config = resolve({"output_path": str(old_run.path), "overwrite": True})
    folder = RunFolder(old_run.path)
    folder.open(config)
    assert contents(old_run.path) == before
    with monkeypatch.context() as patch:

        def fail(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        where, name = (os, failing) if failing == "mkdir" else (files, failing)
        patch.setattr(files.os if failing == "fsync" else where, name, fail, raising=False)
        with pytest.raises(InputError, match="No space left on device"):
            folder.write_state(*state(0))
    assert contents(old_run.path) == before
    folder.write_state(*state(0))
    assert contents(old_run.path).keys() == {"config.yaml", "resume.ckpt"}
    assert b"overwrite: true" in folder.config.read_bytes()
    assert read_run(folder.resume)[1]["step"] == 0
    folder.write_state(*state(1))
    assert read_run(folder.previous)[1]["step"] == 0
    folder.release()


def test_a_run_that_moves_brings_its_files_up_to_its_state_and_the_old_run_goes(old_run, tmp_path):
    source = RunFolder(tmp_path / "source")
    source.path.mkdir()
    for file in (source.best, source.last):
        file.write_text("moved")
    for epoch in (1, 2, 3):
        source.append_metrics({"epoch": epoch})
    config = {"output_path": str(old_run.path), "overwrite": True, "resume_ckpt": str(source.resume)}
    folder = RunFolder(old_run.path)
    folder.open(resolve(config), source.path)
    folder.write_state(state(20)[0], {"step": 20, "epoch": 2})
    found = contents(old_run.path) if not source.path.is_relative_to(old_run.path) else None
    names = {"config.yaml", "resume.ckpt", "best.ckpt", "last.ckpt", "metrics.jsonl"}
    assert {path.name for path in old_run.path.iterdir() if path.is_file()} == {*names, lock.NAME}
    assert found is None
    assert folder.best.read_text() == folder.last.read_text() == "moved"
    assert folder.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert read_run(folder.resume)[1]["step"] == 20
    folder.release()
