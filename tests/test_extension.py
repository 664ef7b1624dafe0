"""A finished run with more epochs: frozen masks, appended metrics, the right best, the learning rate that is said."""

import json
import shutil

import numpy as np
import pytest
from tiny_train import Tiny

from src.config.keys import resolve
from src.models import MODELS
from src.platform.errors import InputError
from src.platform.stopping import Stopped
from src.run.build import build_parts
from src.run.saving import RunSaver, is_better
from src.run.trainer import Trainer
from src.training.optimizer import learning_rates
from src.weights.checkpoint import read_checkpoint
from tests.runs import differences, outcome
from tests.test_tensorboard import read_scalars, scalars_of

STEPS = 11  # of an epoch
RECIPE = {
    "batch_size": 128,
    "update_interval": 4,
    "epoch_size": 2,
    "lr": 0.05,
    "warmup_epochs": 1,
    "sparsity": 0.8,
    "rank_interval": 5,
    "momentum": 0.8,
    "tensorboard": True,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet20", Tiny)
        folder = tmp_path_factory.mktemp("finished") / "run"
        Trainer(resolve({**RECIPE, "output_path": str(folder)})).run()
        yield folder


@pytest.fixture
def longer(finished, tmp_path):
    """A function of settings -> the configuration that extends a copy of the run to four epochs."""

    def make(name="copy", **settings):
        if not (tmp_path / name).exists():
            shutil.copytree(finished, tmp_path / name)
        values = {**RECIPE, "epoch_size": 4, "output_path": str(tmp_path / name), "resume_ckpt": "auto"}
        return resolve({**values, **settings})

    return make


def masks_of(folder):
    arrays, _ = read_checkpoint(folder / "resume.ckpt")
    return {name: array for name, array in arrays.items() if name.startswith("mask.")}


def test_more_epochs_with_the_masks_as_they_were(finished, longer, capsys):
    config = longer()
    trainer = Trainer(config)
    result = trainer.run()
    folder = trainer.folder.path
    rates = learning_rates(0.05, 4 * STEPS, STEPS)
    assert (
        f"extending the run from 2 to 4 epochs: masks stay as they are; the learning rate is that of a run of 4 epochs "
        f"from there on, {rates[2 * STEPS]:.5f} down to {rates[-1]:.5f} (lr 0.05)"
    ) in capsys.readouterr().err

    before, after = masks_of(finished), masks_of(folder)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    old, new = (read_checkpoint(path / "last.ckpt")[0]["conv2.weight"] for path in (finished, folder))
    assert not np.array_equal(old, new)  # it has trained
    assert np.array_equal(old == 0, new == 0)
    assert result["sparsity"] == json.loads((finished / "result.json").read_text())["sparsity"]

    was, text = (finished / "metrics.jsonl").read_text(), (folder / "metrics.jsonl").read_text()
    assert text.startswith(was)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert read_scalars(folder / "tensorboard") == scalars_of(lines)
    assert [line["lr"] for line in lines[2:]] == [rates[3 * STEPS - 1], rates[-1]]
    best = None
    for line in lines:
        if trainer.schedule.reached_target(line["step"]) and is_better(line, best):
            best = line
    assert result["best"]["epoch"] == best["epoch"] == read_checkpoint(folder / "best.ckpt")[1]["epoch"]
    assert result["last"]["epoch"] == 4
    assert (trainer.config.pruning_epochs, trainer.schedule.total_steps) == (2, 2 * STEPS)


def test_another_learning_rate_and_what_else_may_not_differ(longer):
    parts = build_parts(longer(lr=0.2))
    assert parts.rates == learning_rates(0.2, 4 * STEPS, STEPS)
    assert parts.schedule == build_parts(longer(epoch_size=2)).schedule
    for settings, message in (
        ({"momentum": 0.5}, "momentum was 0.8, is 0.5$"),
        ({"pruning_epochs": 3}, "pruning_epochs was 2, is 3$"),
        ({"epoch_size": 1}, "epoch_size was 2, is 1$"),
    ):
        trainer = Trainer(longer(**settings))
        with pytest.raises(InputError, match=message):
            trainer.saver.resume()


def test_pruning_epochs_fit_into_the_run():
    with pytest.raises(InputError, match="pruning_epochs 5 is above epoch_size 4"):
        resolve({"epoch_size": 4, "pruning_epochs": 5})


@pytest.mark.slow
def test_an_extension_that_was_stopped_goes_on_with_the_same_command(longer, monkeypatch):
    whole, broken = longer("whole"), longer("broken")
    Trainer(whole).run()

    def stop(saver):
        if saver.progress.epoch == 3:
            saver.stop(15)

    with monkeypatch.context() as patch:
        patch.setattr(RunSaver, "stop_if_told", stop)
        with pytest.raises(Stopped):
            Trainer(broken).run()
    with pytest.raises(InputError, match="epoch_size was 4, is 5; let it come to its end first"):
        Trainer(longer("broken", epoch_size=5)).run()
    Trainer(broken).run()
    found = [outcome(Trainer(config).folder.path) for config in (whole, broken)]
    assert differences(*found) == []


@pytest.mark.slow
def test_an_extended_run_is_extended_again_and_in_another_folder(finished, longer, tmp_path):
    Trainer(longer()).run()
    elsewhere = tmp_path / "elsewhere"
    again = longer(epoch_size=5, resume_ckpt=str(tmp_path / "copy" / "resume.ckpt"), output_path=str(elsewhere))
    trainer = Trainer(again)
    trainer.run()
    assert trainer.config.pruning_epochs == 2
    assert [json.loads(line)["epoch"] for line in (elsewhere / "metrics.jsonl").open()] == [1, 2, 3, 4, 5]
    before, after = masks_of(finished), masks_of(elsewhere)
    assert all(np.array_equal(before[name], after[name]) for name in before)
