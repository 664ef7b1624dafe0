"""The output folder of a run: what it holds, and the rule that no run is overwritten unasked."""

import json
from pathlib import Path

from .config import save_yaml
from .errors import InputError


class RunFolder:
    """Paths and small files of one run; see the README for the list of files."""

    def __init__(self, path):
        self.path = Path(path)
        self.best = self.path / "best.ckpt"
        self.last = self.path / "last.ckpt"
        self.resume = self.path / "resume.ckpt"
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"

    def open(self, config):
        """Make the folder and save the resolved configuration; refuse to touch another run in it, unless told to.

        Raises InputError.
        """
        self.check(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not config.resume_ckpt:
                for file in self._held():
                    file.unlink()
            save_yaml(config, self.path / "config.yaml")
        except OSError as error:
            raise InputError(f"output_path: cannot write to {self.path}: {error.strerror}") from None

    def check(self, config):
        """Raise InputError if the folder holds another run and nothing says what to do with it."""
        if self._held() and not config.resume_ckpt and not config.overwrite:
            raise InputError(
                f"output_path: {self.path} already holds a run; continue it with --resume_ckpt auto, "
                "replace it with --overwrite, or choose another --output_path"
            )

    def _held(self):
        return [f for f in (self.metrics, self.result, self.best, self.last, self.resume) if f.exists()]

    def resume_path(self, resume_ckpt):
        """The file that `--resume_ckpt` means: itself, or this folder's own for `auto`."""
        return self.resume if resume_ckpt == "auto" else Path(resume_ckpt)

    def append_metrics(self, metrics):
        """One line per epoch."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def keep_metrics(self, epoch):
        """Drop the lines of epochs after `epoch`, which a resumed run will train again."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        kept = [line for line in lines if json.loads(line)["epoch"] <= epoch]
        self.metrics.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write_result(self, result):
        """result.json, written once, at the end."""
        self.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
