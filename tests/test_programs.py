"""The programs as a user calls them: train, evaluate, export, and bad input that ends with one line and code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data import digits

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--epoch_size", "2", "--batch_size", "128", "--update_interval", "3", "--sparsity", "0.9"]


def run(*words, cwd=None):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output folder and stdout of a short run, started from another directory."""
    folder = tmp_path_factory.mktemp("programs")
    done = run(ROOT / "train.py", *SHORT, "--output_path", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


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
    done = run(ROOT / "eval.py", "--ckpt", folder / f"{name}.ckpt", "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert {key: scores[key] for key in ("top1", "top5", "loss")} == {
        key: result[name][key] for key in ("top1", "top5", "loss")
    }
    if name == "last":
        assert {key: scores[key] for key in ("sparsity", "layers")} == {k: result[k] for k in ("sparsity", "layers")}


def test_eval_prints_tables_and_compares(trained, tmp_path):
    best, last = trained[0] / "best.ckpt", trained[0] / "last.ckpt"
    done = run(ROOT / "eval.py", "--ckpt", best, "--compare", last, "--report", "new/folder", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(text) for text in ("layer3.2.conv2.weight", "360 images")] == [2, 2]
    assert done.stdout.splitlines()[-1] == "pictures and report: new/folder/layers.png, new/folder/report.html"
    page = (tmp_path / "new" / "folder" / "report.html").read_text(encoding="utf-8")
    assert all(str(file) in page for file in (best, last))


@pytest.mark.parametrize("options", [[], ["--batch_size", "3"], ["--dynamic_batch"]], ids=str)
def test_export_reloads_to_the_same_logits(trained, tmp_path, options):
    import mindspore as ms
    from mindspore import Tensor, nn

    from src.trained import load_trained

    before = (trained[0] / "best.ckpt").read_bytes()
    file = tmp_path / "net.mindir"
    done = run(ROOT / "export.py", "--ckpt", trained[0] / "best.ckpt", "--file_name", file, *options)
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    network = load_trained(trained[0] / "best.ckpt").network
    reloaded = nn.GraphCell(ms.load(str(file)))
    for count in [1, 5] if "--dynamic_batch" in options else [3 if options else 1]:
        images = Tensor(np.random.default_rng(1).standard_normal((count, 1, 8, 8)).astype(np.float32))
        assert np.allclose(network(images).asnumpy(), reloaded(images).asnumpy(), atol=1e-5)
    assert (trained[0] / "best.ckpt").read_bytes() == before


def test_pack_and_unpack(trained, tmp_path):
    ckpt = trained[0] / "best.ckpt"
    done = run(ROOT / "export.py", "--ckpt", ckpt, "--file_format", "PACKED", "--file_name", tmp_path / "net")
    assert done.returncode == 0, done.stderr
    assert f"{(tmp_path / 'net.packed').stat().st_size:,}" in done.stdout
    done = run(ROOT / "export.py", "--unpack", tmp_path / "net.packed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "net.ckpt").read_bytes() == ckpt.read_bytes()


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_an_exported_file_classifies_pictures(trained, tmp_path, file_format):
    options = ["--fold_bn", "--softmax", "--normalize", "--dynamic_batch", "--converter_config"]
    done = run(
        ROOT / "export.py", "--ckpt", trained[0] / "best.ckpt", "--file_format", file_format,
        "--file_name", tmp_path / "net", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = tmp_path / f"net.{file_format.lower()}"
    config = tmp_path / f"{model.name}.converter.cfg"
    assert f"converter_lite --fmk={file_format} --modelFile={model}" in done.stdout
    assert f"--configFile={config}" in done.stdout
    assert "ge.enableCompressWeight=true" in config.read_text()
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture, image in zip(pictures, digits.arrays("test")[0]):
        Image.fromarray(image[:, :, 0]).save(picture)
    done = run(ROOT / "infer.py", "--model", model, *pictures)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(picture) for picture in pictures]
    assert all(re.fullmatch(r"[0-9] \(\d+\.\d %\)", line.rpartition(": ")[2]) for line in lines)


def test_dry_run_plans_and_touches_nothing(tmp_path):
    done = run(ROOT / "train.py", "--dry_run", "--output_path", tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none").exists()
    assert "steps: " in done.stdout
    assert "kept at start" in done.stdout
    assert "0.02000" in done.stdout  # the target density in the last tenth


BAD_INPUT = [
    (["train.py", "--sparsity", "1.5"], "command line: sparsity: "),
    (["train.py", "--sparcity", "0.5"], "did you mean --sparsity?"),
    (["train.py", "--config_path", "{tmp}/none.yaml"], "cannot read {tmp}/none.yaml: No such file"),
    (["train.py", "--update_interval", "100000"], "no mask update fits"),
    (["train.py", "--batch_size", "5000"], "batch_size 5000 is larger than"),
    (["train.py", "--method", "rigl", "--distribution", "global"], "does not fit method rigl"),
    (["train.py", "--distribution", "uniform", "--sparsity", "0.9999"], "first layer"),
    (["train.py", "--device_target", "GPU"], "device_target: no GPU device found"),
    (["train.py", "--output_path", "{run}"], "already holds a run"),
    (["train.py", "--output_path", "{run}/config.yaml/x"], "output_path: cannot write"),
    (["train.py", "--output_path", "{tmp}/a", "--resume_ckpt", "auto"], "{tmp}/a/resume.ckpt: cannot read"),
    (["train.py", "--output_path", "{tmp}/b", "--resume_ckpt", "{run}/best.ckpt"], "give a resume.ckpt"),
    (["eval.py"], "the following arguments are required: --ckpt"),
    (["eval.py", "--ckpt", "{tmp}/none.ckpt"], "cannot read the checkpoint: No such file"),
    (["eval.py", "--ckpt", "{run}/resume.ckpt"], "not a deployable checkpoint"),
    (["eval.py", "--ckpt", "{run}/config.yaml"], "not a MindSpore checkpoint"),
    (["eval.py", "--ckpt", "{run}/best.ckpt", "--batch_size", "0"], "batch_size"),
    (["eval.py", "--ckpt", "{run}/best.ckpt", "--report", "{run}"], "report: {run} already holds a report"),
    (["export.py", "--ckpt", "{run}"], "cannot read the checkpoint: Is a directory"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--file_name", "{tmp}/no/x"], "the folder {tmp}/no does not exist"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--file_format", "TFLITE"], "invalid choice: 'TFLITE'"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--file_format", "AIR"], "AIR needs MindSpore's Ascend backend"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--file_format", "PACKED", "--fold_bn"], "fold_bn: a PACKED file"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--values", "fp16"], "values: only for --file_format PACKED"),
    (["export.py", "--ckpt", "{run}/best.ckpt", "--batch_size", "2", "--dynamic_batch"], "contradicts dynamic_batch"),
    (["export.py"], "one of the arguments --ckpt --unpack is required"),
    (["export.py", "--unpack", "{run}/best.ckpt", "--file_name", "{tmp}/x.ckpt"], "not a packed file"),
    (["export.py", "--unpack", "{run}/best.ckpt"], "is the input file"),
    (["export.py", "--unpack", "{run}/x.packed", "--file_name", "{run}/best.ckpt"], "best.ckpt exists"),
    (["infer.py", "--model", "{tmp}/none.mindir", "x.png"], "model: cannot read {tmp}/none.mindir"),
    (["infer.py", "--model", "{run}/best.ckpt", "x.png"], "neither in .mindir nor in .onnx"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUT, ids=[" ".join(words) for words, _ in BAD_INPUT])
def test_bad_input_ends_with_one_line_and_code_2(trained, tmp_path, words, message):
    names = {"tmp": tmp_path, "run": trained[0]}
    before = {file: file.read_bytes() for file in trained[0].iterdir()}
    done = run(ROOT / words[0], *(word.format(**names) for word in words[1:]), cwd=tmp_path)
    assert done.returncode == 2
    assert message.format(**names) in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert {file: file.read_bytes() for file in trained[0].iterdir()} == before
