"""The programs as a user calls them: train, evaluate, export. Bad input has a table of its own, test_bad_input.py.

Each program runs once in a process of its own; beyond that, in this one.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data import digits
from tests import in_process

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--epoch_size", "2", "--batch_size", "128", "--update_interval", "3", "--sparsity", "0.9"]


def run(program, *words, cwd="."):
    """Run a program in a process of its own; returns what it printed."""
    command = [sys.executable, ROOT / program, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(program, *words, cwd="."):
    """The same in this process."""
    done = in_process.run(program, *words, cwd=cwd)
    assert done.code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output folder and stdout of a short run, started from another directory."""
    folder = tmp_path_factory.mktemp("programs")
    stdout = run("train.py", *SHORT, "--output_path", "run", cwd=folder)
    return folder / "run", stdout


def test_train_says_what_it_did(trained):
    folder, stdout = trained
    result = json.loads((folder / "result.json").read_text())
    assert "epoch   2/2" in stdout
    assert f"best top-1 {result['top1']:.2f} %" in stdout
    assert f"{result['nonzeros']:,} of {result['weights']:,} weights left" in stdout
    assert {file.name for file in folder.iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "resume.ckpt",
        "resume.previous.ckpt",
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "curves.png",
        "layers.png",
        "report.html",
    }
    assert stdout.splitlines()[-1] == "pictures and report: run/curves.png, run/layers.png, run/report.html"


@pytest.mark.parametrize("name", ["best", "last"])
def test_eval_agrees_with_training(trained, name):
    folder, _ = trained
    result = json.loads((folder / "result.json").read_text())
    stdout = (run if name == "last" else run_here)("eval.py", "--ckpt", folder / f"{name}.ckpt", "--json")
    scores = json.loads(stdout)
    assert {key: scores[key] for key in ("top1", "top5", "loss")} == {
        key: result[name][key] for key in ("top1", "top5", "loss")
    }
    if name == "last":
        assert {key: scores[key] for key in ("sparsity", "layers")} == {k: result[k] for k in ("sparsity", "layers")}


def test_eval_prints_tables_and_compares(trained, tmp_path):
    best, last = trained[0] / "best.ckpt", trained[0] / "last.ckpt"
    stdout = run_here("eval.py", "--ckpt", best, "--compare", last, "--report", "new/folder", cwd=tmp_path)
    assert [stdout.count(text) for text in ("layer3.2.conv2.weight", "360 images")] == [2, 2]
    assert stdout.splitlines()[-1] == "pictures and report: new/folder/layers.png, new/folder/report.html"
    page = (tmp_path / "new" / "folder" / "report.html").read_text(encoding="utf-8")
    assert all(str(file) in page for file in (best, last))


@pytest.mark.parametrize("options", [[], ["--batch_size", "3"], ["--dynamic_batch"]], ids=str)
def test_export_reloads_to_the_same_logits(trained, tmp_path, options):
    import mindspore as ms
    from mindspore import Tensor, nn

    from src.weights.trained import load_trained

    before = (trained[0] / "best.ckpt").read_bytes()
    file = tmp_path / "net.mindir"
    start = run_here if options else run
    stdout = start("export.py", "--ckpt", trained[0] / "best.ckpt", "--file_name", file, *options)
    assert str(file) in stdout
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    network = load_trained(trained[0] / "best.ckpt").network
    reloaded = nn.GraphCell(ms.load(str(file)))
    for count in [1, 5] if "--dynamic_batch" in options else [3 if options else 1]:
        images = Tensor(np.random.default_rng(1).standard_normal((count, 1, 8, 8)).astype(np.float32))
        assert np.allclose(network(images).asnumpy(), reloaded(images).asnumpy(), atol=1e-5)
    assert (trained[0] / "best.ckpt").read_bytes() == before


def test_pack_and_unpack(trained, tmp_path):
    ckpt = trained[0] / "best.ckpt"
    stdout = run_here("export.py", "--ckpt", ckpt, "--file_format", "PACKED", "--file_name", tmp_path / "net")
    assert f"{(tmp_path / 'net.packed').stat().st_size:,}" in stdout
    run_here("export.py", "--unpack", tmp_path / "net.packed", cwd=tmp_path)
    assert (tmp_path / "net.ckpt").read_bytes() == ckpt.read_bytes()


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_an_exported_file_classifies_pictures(trained, tmp_path, file_format):
    options = ["--fold_bn", "--softmax", "--normalize", "--dynamic_batch", "--converter_config"]
    stdout = run_here(
        "export.py", "--ckpt", trained[0] / "best.ckpt", "--file_format", file_format,
        "--file_name", tmp_path / "net", *options,
    )  # fmt: skip
    model = tmp_path / f"net.{file_format.lower()}"
    config = tmp_path / f"{model.name}.converter.cfg"
    assert f"converter_lite --fmk={file_format} --modelFile={model}" in stdout
    assert f"--configFile={config}" in stdout
    assert "input_format=NCHW" in config.read_text()
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture, image in zip(pictures, digits.arrays("test")[0]):
        Image.fromarray(image[:, :, 0]).save(picture)
    stdout = (run if file_format == "MINDIR" else run_here)("infer.py", "--model", model, *pictures)
    lines = stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(picture) for picture in pictures]
    assert all(re.fullmatch(r"[0-9] \(\d+\.\d %\)", line.rpartition(": ")[2]) for line in lines)


def test_dry_run_plans_and_touches_nothing(tmp_path):
    stdout = run_here("train.py", "--dry_run", "--output_path", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "steps: " in stdout
    assert "kept at start" in stdout
    assert "0.02000" in stdout  # the target density in the last tenth
