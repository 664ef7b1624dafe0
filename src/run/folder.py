"""The output folder of a run: what it holds, and the rule that no run is overwritten unasked."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from ..config.files import save_yaml
from ..platform.errors import InputError
from ..platform.files import append_line, remove_temporaries, replace_file, sync_folder
from ..platform.lock import FolderLock
from ..report.tensorboard import PATTERN, EventFile
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
        self.tensorboard = self.path / "tensorboard"
        self.drawn = [self.path / name for name in ("curves.png", "layers.png", "report.html")]
        self._coming = self.path / ".coming"  # files of a run that begins here, as long as it has no state
        self._begins = None
        self._events = None
        self._lock = None

    def claim(self):
        """Keep all others from writing here until `release()`, if the folder is there; done before it is read.

        Raises InputError if another process writes here.
        """
        if self._lock is None and self.path.is_dir():
            with self._making():
                self._lock = FolderLock(self.path, "output_path")

    def release(self):
        """Let others write here."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def open(self, config, source=None):
        """Make the folder, claim it, and go on with the run that it holds; or prepare for one that begins here.

        source: the folder that such a run comes from, and brings its files of, if any. What the folder holds of another
        run stays until the first state is written. Raises InputError, also if nothing says that it may go.
        """
        self.check(config)
        with self._making():
            self.path.mkdir(parents=True, exist_ok=True)
            self.claim()
            self.check(config)  # another run may have been quicker
            for file in (*self._files(), self.config):
                remove_temporaries(file)
            shutil.rmtree(self._coming, ignore_errors=True)
            if self._goes_on_here(config):
                save_yaml(config, self.config)
            else:
                self._begins = config, source

    def check(self, config):
        """Raise InputError if the folder holds another run and nothing says what to do with it."""
        if self._held() and not self._goes_on_here(config) and not config.overwrite:
            raise InputError(
                f"output_path: {self.path} already holds a run; continue it with --resume_ckpt auto, "
                "replace it with --overwrite, or choose another --output_path"
            )

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
        """resume.ckpt; the one before it becomes resume.previous.ckpt. The first takes the place of another run."""
        with self._writing(self.resume):
            if self._begins is None:
                write_checkpoint(self.resume, arrays, progress, keep=self.previous)
            else:
                self._begin(*self._begins, arrays, progress)

    def _begin(self, config, source, arrays, progress):
        """The first state and all that comes with it; the files of another run go when all is on the disk."""
        coming = RunFolder(self._coming)
        try:
            coming.path.mkdir()
            save_yaml(config, coming.config)
            write_checkpoint(coming.resume, arrays, progress)
            if source is not None:
                coming.take_over(source, progress["epoch"])
            for file in (*self._held(), *self.tensorboard.glob(PATTERN)):
                file.unlink()
            for file in sorted(coming.path.iterdir(), key=lambda file: file.name == self.resume.name):
                os.replace(file, self.path / file.name)
            sync_folder(self.path)
        finally:
            shutil.rmtree(coming.path, ignore_errors=True)
        self._begins = None

    def take_over(self, folder, epoch):
        """Copy what a run in another folder, which goes on here, has brought forth up to an epoch. Raises OSError."""
        for file in (self.best, self.last, self.metrics):
            if (folder / file.name).exists():
                replace_file(file, [(folder / file.name).read_bytes()])
        self.keep_metrics(epoch)

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
        if self._events is not None:
            with self._writing(self.tensorboard):
                self._events.add(metrics)

    def open_events(self, step):
        """Write what `append_metrics` gets for TensorBoard, too; step: that the run has reached."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        with self._writing(self.tensorboard):
            self._events = EventFile(self.tensorboard, map(json.loads, lines), step)

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
    def _making(self):
        try:
            yield
        except OSError as error:
            raise InputError(f"output_path: cannot write to {self.path}: {error.strerror}") from None

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
