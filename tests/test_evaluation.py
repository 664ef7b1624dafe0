"""Evaluation: each image once, ties and NaN against the network."""

import numpy as np
import pytest
from mindspore import Tensor, dataset, nn

from src.evaluation import Evaluator


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
