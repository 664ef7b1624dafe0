"""The commands of README.md, and of the documents that build on what they leave, run in order, in one clone.

They run as they stand there, but that training is shortened, or in the quick test a run of this session takes its
place. What needs data from elsewhere (DIR, FILE) is planned by test_recipes.py.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.command_line import load_config
from src.run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "docs/packed_format.md", "docs/edge.md"]
PLACEHOLDER = re.compile(r"\[|\.\.\.|\b(CKPT|CONFIG|DATA|DIR|FILE|IN|OUT)\b")
CHOSEN = {"METHOD": "dense", "SEED": "0"}
SHORT = "--epoch_size 1 --warmup_epochs 0 --batch_size 478 --update_interval 1"
TRAINING = re.compile(r"train\.py|run_\w+_train\.sh")
PRINT_ARGUMENTS = """#!/bin/sh
# in the place of the environment's Python: says what a script runs
case $1 in *train.py | *eval.py | *export.py) printf '%s\\n' "$@" ;; esac
"""


def commands_of(text):
    """Commands for a shell in a document, in their order, without placeholders for what a reader has to fill in."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        indented = line.startswith("    ")
        for words in [line.strip().partition("  #")[0].strip()] if indented else re.findall("`([^`]+)`", line):
            for name, value in CHOSEN.items():
                words = words.replace(name, value)
            prose = not indented and "--output_path" not in words  # such as a program's name alone
            if re.match(r"(python|bash) \S+ ?", words) and not prose and not PLACEHOLDER.search(words):
                found.append(" ".join(words.split()))
    return found


def all_commands():
    """Those of all documents, but for the tests, which are these, and for MindSpore Lite, whose are in test_lite.py."""
    found = [command for name in DOCUMENTS for command in commands_of((ROOT / name).read_text(encoding="utf-8"))]
    found = [command for command in found if "run_tests" not in command and "convert_lite" not in command]
    return [f"{command} {SHORT}" if TRAINING.search(command) else command for command in found]


def clone(folder):
    """The project in an empty folder, without an environment and what a run leaves."""
    for name in ("config", "docs", "scripts", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.py"), *ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
        shutil.copy(path, folder)
    return folder


def arguments_of(command, folder):
    """Program and arguments of a command; of a script's, as the script passes them on."""
    program, *words = shlex.split(command)
    if program == "bash":
        done = subprocess.run([program, *words], cwd=folder, check=True, capture_output=True, text=True)
        words = done.stdout.splitlines()
    return words


def test_commands_are_found():
    text = (
        "    python a.py --x  # words\n    bash b.sh \\\n        c\n    python d.py DIR\n    source f\n"
        "`python train.py` and `python e.py --output_path METHOD_SEED`\n"
    )
    assert commands_of(text) == ["python a.py --x", "bash b.sh c", "python e.py --output_path dense_0"]
    found = all_commands()
    assert len(found) >= 15
    assert sum(SHORT in command for command in found) == 4
    assert {re.search(r"\w+\.(?:py|sh)", command).group() for command in found} == {
        *("run_standalone_train.sh", "run_distribute_train.sh", "run_export.sh"),
        *("train.py", "eval.py", "export.py", "infer.py"),
    }


def train_here(words, run):
    """Open the output folder of a command of train.py as it would, and put the files of a finished run there."""
    folder = RunFolder(load_config(words).output_path)
    folder.open(load_config(words))
    folder.release()
    for file in ("best.ckpt", "last.ckpt"):
        shutil.copy(run / "last.ckpt", folder.path / file)


def test_every_command_runs_after_those_before_it(trained_resnet20, tmp_path, monkeypatch, capfd):
    folder = clone(tmp_path)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PRINT_ARGUMENTS)
    python.chmod(0o755)
    for name in ("requirements.txt", "requirements-test.txt", "constraints.txt"):
        shutil.copy(ROOT / name, folder / ".venv")  # by which setup.sh knows that nothing is missing
    monkeypatch.chdir(folder)
    for command in all_commands():
        if "run_distribute_train.sh" in command:
            words = ["train.py", *shlex.split(command)[2:]]  # the script starts processes: see the slow test
        else:
            words = arguments_of(command, folder)
        monkeypatch.setattr(sys, "argv", words)
        program = Path(words[0]).name
        try:
            if program == "train.py":
                train_here(words[1:], trained_resnet20[0].parent)
            else:
                runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as end:
            pytest.fail(f"{command}: exit code {end.code}: {capfd.readouterr().err[-2000:]}")
    assert re.search(r"^docs/digit\.png: \d \(\d+\.\d %\)$", capfd.readouterr().out, flags=re.M)
    assert {"resnet20_digits", "best", "seed1", "compared", "workers", "dense_0", "edge.onnx", "restored.ckpt"} <= {
        path.name for path in (folder / "output").iterdir()
    }


@pytest.mark.slow
def test_the_commands_run_in_a_shell(tmp_path):
    folder = clone(tmp_path)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    script = "\n".join(["set -euo pipefail", "source .venv/bin/activate", *all_commands()])
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
