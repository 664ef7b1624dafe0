"""Whole runs of a few dozen steps on the embedded digits: outputs, repeatability, resuming, and every method."""

import json

import mindspore as ms
import numpy as np
import pytest
from tiny_train import Tiny

from src.models import MODELS
from src.platform.errors import InputError
from src.run.saving import is_better
from src.run.trainer import Trainer
from src.training.evaluation import Scores
from src.weights.checkpoint import read_checkpoint
from src.weights.trained import load_trained


@pytest.fixture
def small_run(small_run, monkeypatch):
    """Runs of a network that compiles in a second."""
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    return small_run


METHODS = ["rpg", "gap", "gmp", "rigl", "set", "magnitude"]


def weights_of(trainer):
    return {parameter.name: parameter.asnumpy() for parameter in trainer.network.get_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_exactly_its_sparsity(method, small_run):
    trainer = Trainer(small_run(method=method, sparsity=0.95))
    result = trainer.run()
    alive = round(0.05 * result["weights"])
    assert trainer.pruner.kept == alive
    counted = sum(layer["nonzeros"] for layer in result["layers"])
    assert counted == result["nonzeros"] <= alive
    assert result["sparsity"] == 1 - counted / result["weights"]
    begins = 1 - alive / result["weights"] if method in ("rigl", "set") else 0.0
    assert result["initial"]["sparsity"] == pytest.approx(begins, abs=1e-4)
    for weight, mask in zip(trainer.pruner.weights, trainer.pruner.masks):
        assert not weight.asnumpy()[~mask].any()


def test_dense_training_prunes_nothing(small_run):
    result = Trainer(small_run(method="dense")).run()
    assert result["sparsity"] < 1e-4


def test_outputs(small_run):
    config = small_run(sparsity=0.9)
    trainer = Trainer(config)
    result = trainer.run()
    folder = trainer.folder
    assert json.loads(folder.result.read_text()) == result
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [11, 22, 33]
    assert lines[-1]["density"] == trainer.pruner.density
    assert {line["evaluated"] for line in lines} == {"test"}
    assert result["last"] == {key: lines[-1][key] for key in ("epoch", "top1", "top5", "loss")}
    assert result["top1"] == result["best"]["top1"] == lines[result["best"]["epoch"] - 1]["top1"]
    assert set(result["layers"][0]) >= {"name", "shape", "weights", "nonzeros", "rank", "tail_rank"}
    names = [layer["name"] for layer in result["layers"]]
    assert [(layer["name"], layer["density"]) for layer in result["initial"]["layers"]] == [(n, 1.0) for n in names]
    # the deployable checkpoints hold the network's own keys, as MindSpore reads them
    own = {parameter.name for parameter in trainer.network.get_parameters()}
    assert set(ms.load_checkpoint(str(folder.best), crc_check=True)) == own
    assert same(read_checkpoint(folder.last)[0], weights_of(trainer))


def test_best_counts_only_at_the_target_sparsity(small_run):
    trainer = Trainer(small_run(prune_window=0.9))  # the last update is at step 28, in the third epoch of eleven
    scores = iter([Scores(99.0, 100.0, 1.0, 360), Scores(98.0, 100.0, 1.0, 360), Scores(10.0, 100.0, 1.0, 360)])
    trainer.evaluate = lambda data: next(scores)
    result = trainer.run()
    assert result["best"]["top1"] == 10.0
    network = load_trained(trainer.folder.best)
    total = sum(weight.size for weight in network.weights().values())
    assert sum(np.count_nonzero(weight) for weight in network.weights().values()) <= round(0.02 * total)


@pytest.mark.parametrize(
    ("scores", "best", "expected"),
    [
        ((90.0, 0.5), None, True),
        ((90.0, 0.5), (89.9, 0.1), True),
        ((90.0, 0.1), (90.1, 0.5), False),
        ((90.0, 0.4), (90.0, 0.5), True),
        ((90.0, 0.6), (90.0, 0.5), False),
        ((90.0, 0.5), (90.0, 0.5), False),  # the first of equals stays
        ((90.0, np.nan), (90.0, 0.5), False),
    ],
)
def test_the_best_is_right_most_often_and_of_equals_has_the_lowest_loss(scores, best, expected):
    scores, best = (pair and dict(zip(("top1", "loss"), pair)) for pair in (scores, best))
    assert is_better(scores, best) is expected


def test_of_epochs_of_equal_accuracy_the_one_with_the_lowest_loss_is_kept(small_run):
    trainer = Trainer(small_run(method="dense", epoch_size=4))
    losses = iter([1.0, 0.7, 0.4, 0.6])
    trainer.evaluate = lambda data: Scores(90.0, 100.0, next(losses), 360)
    result = trainer.run()
    assert (result["best"]["epoch"], result["best"]["loss"]) == (3, 0.4)
    assert trainer.folder.best_epoch() == 3


def test_same_seed_same_weights_other_seed_other_weights(small_run, tmp_path):
    runs = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        trainer = Trainer(small_run(seed=seed, epoch_size=2, output_path=str(tmp_path / name)))
        trainer.run()
        runs.append(weights_of(trainer))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_finished_run_can_be_resumed_to_its_result(small_run):
    trainer = Trainer(small_run(epoch_size=1, update_interval=2))
    result = trainer.run()
    trainer.folder.result.unlink()  # as if the crash had come just before it was written
    again = Trainer(small_run(epoch_size=1, update_interval=2, resume_ckpt="auto")).run()
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_a_run_is_not_overwritten_unasked(small_run):
    trainer = Trainer(small_run(epoch_size=1, update_interval=2))
    trainer.run()
    before = trainer.folder.best.read_bytes()
    with pytest.raises(InputError, match="already holds a run"):
        Trainer(small_run(epoch_size=1, update_interval=2)).run()
    assert trainer.folder.best.read_bytes() == before
    Trainer(small_run(epoch_size=1, update_interval=2, overwrite=True, seed=9)).run()
    assert trainer.folder.best.read_bytes() != before


def test_a_schedule_without_an_update_is_an_input_error(small_run):
    with pytest.raises(InputError, match="no mask update fits"):
        Trainer(small_run(update_interval=1000))


def test_average_is_what_is_deployed(small_run):
    """The checkpoint for deployment holds the averaged weights, at the target sparsity, and was evaluated with them."""
    trainer = Trainer(small_run(ema_decay=0.9, sparsity=0.9))
    result = trainer.run()
    deployed, resumable = read_checkpoint(trainer.folder.last)[0], read_checkpoint(trainer.folder.resume)[0]
    average = {p.name.partition(".")[2]: p.asnumpy() for p in trainer.average.averages}
    assert same(deployed, average)
    assert not same(deployed, weights_of(trainer))
    assert all(np.array_equal(resumable[f"network.{name}"], value) for name, value in weights_of(trainer).items())
    counted = sum(np.count_nonzero(weight) for weight in load_trained(trainer.folder.last).weights().values())
    assert counted == result["nonzeros"] <= round(0.1 * result["weights"])


def test_pretrained_weights_are_where_training_starts(small_run, tmp_path):
    first = Trainer(small_run(method="dense", epoch_size=1, output_path=str(tmp_path / "first")))
    first.run()
    second = Trainer(small_run(pretrained=str(first.folder.last), seed=7))
    assert same(weights_of(second), weights_of(first))
    with pytest.raises(InputError, match="cannot read the weights: No such file"):
        Trainer(small_run(pretrained=str(tmp_path / "none.ckpt")))
