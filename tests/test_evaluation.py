"""Evaluation: each image once, ties and NaN against the network, as many at a time as training computes."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor, dataset, nn
from tiny_train import Tiny

from src.config.keys import evaluation_batch, resolve
from src.models import MODELS
from src.platform import parallel
from src.run.trainer import Trainer
from src.training.evaluation import Evaluator
from src.weights.checkpoint import read_checkpoint, write_checkpoint
from src.weights.trained import load_trained


class Lookup(nn.Cell):
    """Gives the images back as logits."""

    def construct(self, x):
        return x * 1.0


def data(logits, labels, batch_size):
    source = dataset.NumpySlicesDataset((np.float32(logits), np.int32(labels)), ["image", "label"], shuffle=False)
    return source.batch(batch_size)


def evaluate(logits, labels, batch_size=4):
    return Evaluator(Lookup(), batch_size)(data(logits, labels, batch_size))


@pytest.mark.parametrize("images", [1, 4, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_agrees_with_numpy_for_any_batch_size(images, batch_size, rng):
    logits, labels = rng.standard_normal((images, 10)), rng.integers(0, 10, images)
    scores = evaluate(logits, labels, batch_size)
    order = np.argsort(-logits, axis=1)
    assert scores.images == images
    assert scores.top1 == pytest.approx(100 * np.mean(order[:, 0] == labels))
    assert scores.top5 == pytest.approx(100 * np.mean((order[:, :5] == labels[:, None]).any(1)))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(images), labels]
    assert scores.loss == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_network_that_says_nothing_scores_nothing(value):
    scores = evaluate(np.full((6, 10), value), np.arange(6))
    assert (scores.top1, scores.top5) == (0, 0)


def test_network_is_in_evaluation_mode_and_back():
    modes = []

    class Mode(nn.Cell):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(10)

        def construct(self, x):
            return self.bn(x)

    network = Mode().set_train()
    evaluator = Evaluator(network, 4)
    before = network.bn.moving_mean.asnumpy().copy()
    evaluator(data(np.random.default_rng(0).standard_normal((8, 10)) + 5, np.arange(8), 4))
    modes.append(network.training)
    assert np.array_equal(before, network.bn.moving_mean.asnumpy())
    assert network.training
    network(Tensor(np.ones((4, 10), np.float32)))
    assert not np.array_equal(before, network.bn.moving_mean.asnumpy())


@pytest.mark.parametrize(
    ("batch_size", "workers", "parts", "wanted", "expected"),
    [(1024, 1, 8, 0, 128), (1024, 8, 1, 0, 128), (1024, 4, 2, 0, 128), (64, 1, 1, 0, 64), (1024, 4, 2, 500, 500)],
)
def test_images_at_a_time(batch_size, workers, parts, wanted, expected):
    settings = {"batch_size": batch_size, "accumulation_steps": parts, "eval_batch_size": wanted}
    assert evaluation_batch(resolve(settings), workers) == expected


class OneOfTwo(parallel.Single):
    """Stands for a worker where nothing is communicated."""

    size = 2


def watched(evaluator):
    """The numbers of images that an evaluator gives to its network, as a list that grows."""
    count, seen = evaluator.count, []

    def look(images, labels):
        seen.append(len(images))
        return count(images, labels)

    evaluator.count = look
    return seen


@pytest.fixture
def tiny_trainer(small_run, monkeypatch):
    """A function of settings that makes an untrained run of the tiny network."""
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    return lambda workers=parallel.SINGLE, **settings: Trainer(small_run(**settings), workers)


def test_a_run_evaluates_as_many_images_at_a_time_as_it_trains_and_scores_the_same(tiny_trainer):
    scores = []
    for settings, size in (({}, 128), ({"accumulation_steps": 8}, 16), ({"eval_batch_size": 100}, 100)):
        trainer = tiny_trainer(**settings)
        seen = watched(trainer.evaluate)
        scores.append(trainer.evaluate(trainer.parts.data.test))
        assert seen == [size] * -(-360 // size)
    for other in scores[1:]:
        assert other[:2] == scores[0][:2]
        assert other.images == 360
        assert other.loss == pytest.approx(scores[0].loss, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "recorded", "option", "size"),
    [
        ({"workers": OneOfTwo(), "sync_batch_norm": False}, True, None, 64),
        ({"accumulation_steps": 8}, True, None, 16),
        ({"eval_batch_size": 90}, True, None, 90),
        ({"eval_batch_size": 90}, True, 60, 60),
        ({"batch_size": 512}, False, None, 128),  # a file from before the number was recorded
        ({"batch_size": 512, "accumulation_steps": 16}, False, None, 32),
    ],
)
def test_a_checkpoint_knows_how_many_images_fit_its_device(
    settings, recorded, option, size, tiny_trainer, tmp_path, monkeypatch
):
    trainer = tiny_trainer(**settings)
    path = tmp_path / "net.ckpt"
    (tmp_path / "run").mkdir()
    trainer._write_network(path, {"epoch": 1, "top1": 0.0, "evaluated": "test"})
    if not recorded:
        arrays, description = read_checkpoint(path)
        assert description.pop("eval_batch_size")
        write_checkpoint(path, arrays, description)
    program, seen = importlib.import_module("eval"), []

    def make(network, batch_size):
        evaluator = Evaluator(network, batch_size)
        seen.append(watched(evaluator))
        return evaluator

    monkeypatch.setattr(program, "Evaluator", make)
    found = program.evaluate("x", load_trained(path), SimpleNamespace(batch_size=option, data_path=None))
    assert found["images"] == 360
    assert seen == [[size] * -(-360 // size)]
