"""docs/own_images.md: its commands run, one after the other, on a folder of five classes with a corrupt file."""

import json
import re
import shlex

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

from src.config.keys import Config
from src.models import build_model
from src.weights.naming import to_torch
from src.weights.trained import load_trained
from tests.in_process import ROOT, run
from tests.pictures import COLOURS, spoil, write_pictures

PAGE = (ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
FLOWERS = dict(zip(("daisy", "iris", "lily", "rose", "tulip"), COLOURS.values()))
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
MODEL, PRETRAINED = "mindcv/mobilenet_v2_100", "mobilenet_v2_100.ckpt"
# resnet20 for pictures of 32 pixels, in seconds; the others, among them what the page says, in minutes
REPLACED = {
    MODEL: {},
    "resnet18": {MODEL: "resnet18", PRETRAINED: "resnet18.ckpt"},
    "resnet20": {MODEL: "resnet20", "64": "32", PRETRAINED: "resnet20.ckpt"},
}


def write_pretrained(model, path):
    """Random weights of a network of 1,000 classes; of our own networks as PyTorch's file, converted by the program."""
    network = build_model(model, 1000, 3)
    if model == MODEL:
        ms.save_checkpoint(network, str(path))
        return
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    save_file(to_torch(weights), path.with_suffix(".safetensors"))
    dataset = ("--dataset", "imagenet")
    answer = run("src.tools.convert_torch", path.with_suffix(".safetensors"), path, *dataset)
    assert answer.code == 0, answer.stderr


def test_every_option_of_the_page_is_one():
    assert [words[:2] for words in COMMANDS] == [
        ["python", program] for program in ("train.py", "eval.py", "export.py", "export.py", "export.py", "infer.py")
    ]
    options = set(re.findall(r"`--([a-z_]+)", PAGE)) | {word[2:] for word in COMMANDS[0] if word.startswith("--")}
    assert options - set(Config.model_fields) == {"json", "top_k"}  # of infer.py


@pytest.mark.slow
@pytest.mark.parametrize(("model", "count"), [(MODEL, 60), ("resnet18", 60), ("resnet20", 16)])
def test_the_page_runs(model, count, tmp_path):
    replaced = REPLACED[model]
    write_pictures(tmp_path / "flowers", count, tuple(FLOWERS), colours=FLOWERS)
    spoil(tmp_path / "flowers" / "rose" / "1.jpg")
    write_pretrained(model, tmp_path / replaced.get(PRETRAINED, PRETRAINED))
    answers = []
    for _, *words in COMMANDS:
        answers.append(run(*(replaced.get(word, word) for word in words), cwd=tmp_path))
        assert answers[-1].code == 0, answers[-1].stderr
    assert "left out: 1 files cannot be read: rose/1.jpg" in answers[0].stderr
    assert re.search(r"layers kept; 1 new, (classifier|fc|dense|head|linear)", answers[0].stderr)
    trained = load_trained(tmp_path / "output" / "flowers" / "best.ckpt")
    weights = trained.weights().values()
    target = round(0.1 * sum(weight.size for weight in weights))
    # What the last mask update let grow has hardly moved in so few steps; some of it may still be zero.
    assert 0.99 * target < sum(map(np.count_nonzero, weights)) <= target
    result = json.loads((tmp_path / "output" / "flowers" / "result.json").read_text())
    assert f"top-1 {result['best']['top1']:.2f} %" in answers[1].stdout
    lines = answers[-1].stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["flowers/daisy/0.png", "flowers/tulip/1.jpg"]
    assert all(re.fullmatch(rf".*: ({'|'.join(FLOWERS)}) \(\d+\.\d %\)", line) for line in lines)
    assert (tmp_path / "output" / "flowers" / "best.packed").exists()
