"""Folders and files of any name, on consoles of any letters: all programs read and write them."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_train import Tiny

from src.config.keys import resolve
from src.data import published_info
from src.export import files, formats
from src.export.files import new_file
from src.export.inference import Classifier
from src.models import MODELS, build_model
from src.platform.errors import InputError, run_program
from src.run.build import describe_model
from src.weights.checkpoint import read_checkpoint, write_network
from tests.in_process import run

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("ä (1), + 100% [x] 日本 &;'$", os.fsdecode(b"no \xff UTF-8"))


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """A checkpoint of an untrained network."""
    path = tmp_path_factory.mktemp("untrained") / "net.ckpt"
    config = resolve({"method": "dense"})
    model = describe_model(config, published_info("digits"))
    description = {"model": model, "image_shape": [1, 8, 8], "config": dict(config)}
    write_network(path, build_model(**model), description)
    return path


def answer(*words):
    """What a program prints that ends well and says nothing else."""
    done = run(*words)
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_program_reads_and_writes_there(name, ckpt, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    here = folder / f"{name}.ckpt"
    shutil.copy(ckpt, here)
    image = folder / f"{name}.png"
    shutil.copy(ROOT / "docs" / "digit.png", image)
    answer("eval.py", "--ckpt", here, "--report", folder / "report")
    for file_format in ("MINDIR", "ONNX"):
        model = here.with_suffix(f".{file_format.lower()}")
        words = ["export.py", "--ckpt", here, "--file_format", file_format, "--converter_config"]
        answer(*words)
        assert answer("infer.py", "--model", model, image).count("%)") == 1
    answer("export.py", "--ckpt", here, "--file_format", "PACKED")
    answer("export.py", "--unpack", here.with_suffix(".packed"), "--file_name", folder / "same.ckpt")
    assert (folder / "same.ckpt").read_bytes() == ckpt.read_bytes()
    answer("src.tools.convert_torch", here, folder / "x.safetensors")
    answer("src.tools.convert_torch", folder / "x.safetensors", folder / "x.ckpt")
    weight = "layer1.0.conv1.weight"
    assert (read_checkpoint(folder / "x.ckpt")[0][weight] == read_checkpoint(ckpt)[0][weight]).all()
    assert not list(folder.glob(".*"))


def test_a_run_goes_there_and_on(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    folder = tmp_path / NAMES[0]
    words = ["--batch_size", 128, "--update_interval", 4, "--sparsity", 0.5, "--output_path", folder]
    assert run("train.py", *words, "--epoch_size", 2).code == 0
    assert "recipe" in run("train.py", "--config_path", folder / "config.yaml", "--dry_run").stdout
    done = run("train.py", *words, "--epoch_size", 2, "--resume_ckpt", "auto")
    assert (done.code, done.stderr.count("\n")) == (0, 1), done.stderr
    assert {"report.html", "curves.png", "best.ckpt"} <= {path.name for path in folder.iterdir()}


def test_a_run_whose_configuration_could_not_be_written_down_gets_one_line(tmp_path):
    done = run("train.py", "--output_path", tmp_path / NAMES[1])
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: command line: output_path: ")
    assert not list(tmp_path.iterdir())


def test_a_console_of_few_letters_without_a_folder_for_temporary_files(ckpt, tmp_path):
    """In a process of its own: letters and folders are settled when Python begins; and PYTHONSAFEPATH hides `src`."""
    (tmp_path / "sitecustomize.py").write_text("import tempfile\ntempfile._candidate_tempdir_list = lambda: []\n")
    here = tmp_path / f"{NAMES[0]}.ckpt"
    shutil.copy(ckpt, here)
    poor = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
    poor.pop("MS_OM_PATH", None)
    done = subprocess.run(
        [sys.executable, ROOT / "eval.py", "--ckpt", here], env=poor, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe4 (1), + 100% [x] \\u65e5\\u672c" in done.stdout


def written_by(write, path):
    """How a program ends that writes to `path`, on stderr and as a code; nothing may be left of it."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(SystemExit) as ended:
        run_program(write)
    assert sorted(path.parent.iterdir()) == before
    return ended.value.code


@pytest.mark.parametrize("failing", ["mkdir", "chmod", "fsync", "replace"])
def test_a_disk_that_fails_while_a_file_is_exported(failing, tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.packed"
    path.write_bytes(b"the old one")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write():
        with new_file(path) as written:
            written.write_bytes(b"new")

    monkeypatch.setattr(files.os, failing, fail)
    assert written_by(write, path) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err == f"error: file_name: cannot write {path}: No space left on device\n"
    assert path.read_bytes() == b"the old one"
    write()
    assert path.read_bytes() == b"new"


FORMATS = {"MINDIR": 1_100_000, "ONNX": 1_100_000, "PACKED": 900_000}


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_disk_while_a_file_is_exported(file_format, ckpt, tmp_path):
    """On real file systems of several sizes, so that different parts find no room."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        for size in (16_384, FORMATS[file_format] // 2):
            subprocess.run(["mount", "-o", f"remount,size={size}", tmp_path], check=True)
            path = tmp_path / f"x{formats.SUFFIXES[file_format]}"
            done = run("export.py", "--ckpt", ckpt, "--file_format", file_format, "--file_name", path)
            assert done.stderr == f"error: file_name: cannot write {path}: No space left on device\n"
            assert done.code == 2
            assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_output_that_cannot_be_printed(ckpt):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, ROOT / "eval.py", "--ckpt", ckpt], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == "error: a file or the standard output: No space left on device\n"
    assert done.returncode == 2


def test_a_damaged_file_whose_name_mindspore_does_not_take(tmp_path):
    bad = tmp_path / f"{NAMES[1]}.mindir"
    bad.write_bytes(b"noise")
    with pytest.raises(InputError, match="not a MINDIR"):
        Classifier(bad)


@pytest.mark.parametrize("key", ["output_path", "data_path", "pretrained", "resume_ckpt"])
def test_a_run_says_that_its_folders_are_named_in_utf8(key):
    """They are written to its configuration; a link may have another name."""
    with pytest.raises(InputError, match=f"{key}: Input should be a name in UTF-8"):
        resolve({key: os.fsdecode(b"no \xff UTF-8")})
    assert resolve({key: "ü"})[key] == "ü"
