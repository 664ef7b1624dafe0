"""The output folder of a run: what it holds, and the rule that no run is overwritten unasked."""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

from ..config.files import save_yaml
from ..platform.errors import InputError
from ..platform.files import append_line, remove_temporaries, replace_file
from ..weights.checkpoint import read_checkpoint, write_checkpoint, write_network
from .resume import previous_of


class RunFolder:
    """Paths and small files of one run; see the README for the list of files. Failing to write is an InputError."""

    def __init__(self, path):
        self.path = Path(path)
        self.best = self.path / "best.ckpt"
        self.last = self.path / "last.ckpt"
        self.resume = self.path / "resume.ckpt"
        self.previous = previous_of(self.resume)
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.config = self.path / "config.yaml"
        self.drawn = [self.path / name for name in ("curves.png", "layers.png", "report.html")]

    def open(self, config):
        """Make the folder and save the resolved configuration; refuse to touch another run in it, unless told to.

        Raises InputError.
        """
        self.check(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (*self._files(), self.config):
                remove_temporaries(file)
            if not self._goes_on_here(config):
                for file in self._held():
                    file.unlink()
            save_yaml(config, self.config)
        except OSError as error:
            raise InputError(f"output_path: cannot write to {self.path}: {error.strerror}") from None

    def check(self, config):
        """Raise InputError if the folder holds another run and nothing says what to do with it."""
        if self._held() and not self._goes_on_here(config) and not config.overwrite:
            raise InputError(
                f"output_path: {self.path} already holds a run; continue it with --resume_ckpt auto, "
                "replace it with --overwrite, or choose another --output_path"
            )

    def take_over(self, folder):
        """Copy what a run in another folder, which goes on here, has brought forth so far."""
        for file in (self.best, self.last, self.metrics):
            if (folder / file.name).exists():
                with self._writing(file):
                    replace_file(file, [(folder / file.name).read_bytes()])

    def best_epoch(self):
        """The epoch of best.ckpt; infinity if the file is damaged, 0 if there is none."""
        if not self.best.exists():
            return 0
        try:
            return read_checkpoint(self.best)[1].get("epoch", math.inf)
        except InputError:
            return math.inf

    def _goes_on_here(self, config):
        """Whether the run that this folder holds is the one to continue."""
        if not config.resume_ckpt:
            return False
        return self.resume_path(config.resume_ckpt).resolve().parent == self.path.resolve()

    def _files(self):
        return (self.metrics, self.result, self.best, self.last, self.resume, self.previous, *self.drawn)

    def _held(self):
        return [file for file in self._files() if file.exists()]

    def resume_path(self, resume_ckpt):
        """The file that `--resume_ckpt` means: itself, or this folder's own for `auto`."""
        return self.resume if resume_ckpt == "auto" else Path(resume_ckpt)

    def write_state(self, arrays, progress):
        """resume.ckpt; the one before it becomes resume.previous.ckpt."""
        with self._writing(self.resume):
            write_checkpoint(self.resume, arrays, progress, keep=self.previous)

    def go_back(self):
        """Put the previous state in the place of the newest, which is damaged: it must not become the previous one."""
        with self._writing(self.resume):
            os.replace(self.previous, self.resume)

    def write_network(self, path, network, description):
        """best.ckpt or last.ckpt."""
        with self._writing(path):
            write_network(path, network, description)

    def append_metrics(self, metrics):
        """One line per epoch."""
        with self._writing(self.metrics):
            append_line(self.metrics, json.dumps(metrics))

    def keep_metrics(self, epoch):
        """Drop the lines of epochs after `epoch`, which a resumed run trains again, and a line that a crash cut off."""
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []
        kept = [line for line in lines if _epoch_of(line) <= epoch]
        if kept != lines:
            with self._writing(self.metrics):
                replace_file(self.metrics, kept)

    def write_result(self, result):
        """result.json, written once, at the end."""
        with self._writing(self.result):
            replace_file(self.result, [json.dumps(result, indent=1).encode() + b"\n"])

    @contextmanager
    def _writing(self, path):
        try:
            yield
        except OSError as error:
            raise InputError(
                f"output_path: cannot write {path}: {error.strerror}; what was saved before is whole: "
                "mend it and continue with --resume_ckpt auto"
            ) from None


def _epoch_of(line):
    """The epoch of a line of metrics.jsonl; infinity if the line is not whole."""
    try:
        return json.loads(line)["epoch"] if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
