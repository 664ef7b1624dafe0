"""Runs of the real program that are interrupted, and what they leave: tools of test_interruption.py."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from src.platform.parallel import digest_of
from src.run.trainer import Trainer
from src.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent


def start(program, config, *options):
    """A process of train.py, or of another program with the same options, on a configuration."""
    words = [word for key, value in config.items() if value != "" for word in (f"--{key}", str(value))]
    return subprocess.Popen(
        [sys.executable, ROOT / program, *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLOG_v": "4"},
    )


def wait_for_saves(folder, count, process):
    """Return when `resume.ckpt` has been replaced `count` times, or the process has ended."""
    resume, seen, last = folder / "resume.ckpt", 0, _identity(folder / "resume.ckpt")
    deadline = time.monotonic() + 300
    while seen < count and process.poll() is None:
        assert time.monotonic() < deadline
        now = _identity(resume)
        seen += now not in (last, None)
        last = now or last
        time.sleep(0.001)


def _identity(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def reference_run(config):
    """Train without interruption, in this process; returns the digests of the states by step, and the outcome."""
    trainer = Trainer(config)
    states = {}

    def write_and_note(arrays, progress):
        write(arrays, progress)
        states[progress["step"]] = digest_of_state(trainer.folder.resume)

    write, trainer.folder.write_state = trainer.folder.write_state, write_and_note
    trainer.run()
    return states, outcome(trainer.folder.path)


def digest_of_state(path):
    """One digest of all arrays of a checkpoint."""
    arrays, _ = read_checkpoint(path)
    return digest_of(arrays[name] for name in sorted(arrays)).hex()


def outcome(folder):
    """Everything that a run's end is judged by, comparable with ==: weights, masks, metrics, results, but no times."""
    files = {name: read_checkpoint(folder / f"{name}.ckpt") for name in ("resume", "last", "best")}
    found = {
        f"{name}: {tensor}": (array.dtype.name, array.shape, array.tobytes())
        for name, (arrays, _) in files.items()
        for tensor, array in arrays.items()
    }
    untimed = ("seconds", "images_per_second")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{key: value for key, value in line.items() if key not in untimed} for line in lines]
    found["result"] = {**json.loads((folder / "result.json").read_text()), "seconds": 0}
    found["best epoch"] = files["best"][1]["epoch"]
    found["left over"] = sorted(path.name for path in folder.glob(".*"))
    return found


def differences(one, other):
    """The names under which two outcomes differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def flip_a_byte(path, position=0.5):
    """Damage a file in its middle."""
    content = np.fromfile(path, np.uint8)
    content[int(position * len(content))] ^= 0x10
    content.tofile(path)
