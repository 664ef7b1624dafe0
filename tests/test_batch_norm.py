"""BatchNorm over all workers, with one process in the place of several; several are in test_parallel.py."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from tiny_train import Tiny

from src.models import MODELS, build_model
from src.platform import parallel
from src.run.build import build_parts
from src.run.trainer import Trainer
from src.training.batch_norm import SyncBatchNorm2d, synchronise
from src.training.evaluation import Scores


class Alike(parallel.Single):
    """Workers of whom each has the same images, so that this one can speak for all."""

    def __init__(self, size):
        self.size = size

    def all_reduce(self, x):
        """The sum over workers."""
        return self.size * x


def normed(workers, momentum=0.9):
    """A BatchNorm of three channels that is not the identity, synchronised over some workers."""
    cell = nn.BatchNorm2d(3, momentum=momentum, gamma_init=1.5, beta_init=0.5).set_train()
    container = nn.SequentialCell(cell)
    synchronise(container, workers)
    return cell


def one_step(cell, images):
    """Output, gradients with respect to images, gamma and beta, and both moving averages."""
    weights = Tensor(np.random.default_rng(1).standard_normal(images.shape).astype(np.float32))

    @ms.jit
    def loss(x):
        return (ops.tanh(cell(x)) * weights).sum()

    gradient, others = ms.grad(loss, 0, [cell.gamma, cell.beta])(Tensor(images))
    moved = [cell.moving_mean.asnumpy().copy(), cell.moving_variance.asnumpy().copy()]
    return [cell(Tensor(images)).asnumpy(), gradient.asnumpy(), *(g.asnumpy() for g in others), *moved]


@pytest.mark.parametrize("momentum", [0.9, 0.5])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_of_images_that_all_have_it_is_the_usual_one(offset, momentum, rng):
    images = (offset + rng.standard_normal((4, 3, 5, 6))).astype(np.float32)
    expected = one_step(normed(parallel.SINGLE, momentum), images)
    synchronised = normed(Alike(2), momentum)
    assert type(synchronised) is SyncBatchNorm2d
    found = one_step(synchronised, images)
    # Of 240 values the variance is estimated with 240 / 239, of 120 with 120 / 119.
    start = momentum
    found[-1] = start + (found[-1] - start) * (239 / 240) / (119 / 120)
    for one, other in zip(found, expected):
        assert np.allclose(one, other, atol=2e-5 * max(1, np.abs(other).max()))


def test_a_mean_far_above_the_deviation(rng):
    """Once the moving mean has found the mean, the variance is exact; before, it is at least not negative."""
    images = (4096 + rng.standard_normal((8, 3, 5, 5))).astype(np.float32)
    cell = normed(Alike(2))
    for _ in range(200):
        assert np.isfinite(cell(Tensor(images)).asnumpy()).all()
    exact = images.astype(np.float64)
    exact = 1.5 * (exact - exact.mean((0, 2, 3), keepdims=True)) / exact.std((0, 2, 3), keepdims=True) + 0.5
    assert np.allclose(cell(Tensor(images)).asnumpy(), exact, atol=2e-3)


def test_evaluation_uses_the_moving_averages(rng):
    images = Tensor(rng.standard_normal((4, 3, 5, 5)).astype(np.float32))
    one, other = normed(parallel.SINGLE), normed(Alike(2))
    for cell in (one, other):
        cell.moving_mean.set_data(Tensor([1.0, 0.0, -1.0]))
        cell.moving_variance.set_data(Tensor([4.0, 1.0, 0.25]))
        cell.set_train(False)
    assert np.array_equal(one(images).asnumpy(), other(images).asnumpy())
    assert other.moving_mean.asnumpy().tolist() == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("size", [1, 2])
def test_a_network_keeps_parameters_and_names(size):
    network = build_model("resnet20", 10, 3, 1)
    before = [(p.name, id(p)) for p in network.get_parameters()]
    names = [name for name, _ in network.cells_and_names()]
    workers = parallel.SINGLE if size == 1 else Alike(size)
    synchronise(network, workers)
    kinds = [type(cell) for _, cell in network.cells_and_names()]
    assert kinds.count(SyncBatchNorm2d) == (21 if size > 1 else 0)
    assert [(p.name, id(p)) for p in network.get_parameters()] == before
    assert [name for name, _ in network.cells_and_names()] == names


@pytest.mark.parametrize("amp_level", ["O0", "O2"])
@pytest.mark.parametrize(("wanted", "kind"), [(True, SyncBatchNorm2d), (False, nn.BatchNorm2d)])
def test_the_network_that_a_job_trains_is_synchronised_where_wanted(wanted, kind, amp_level, small_run, monkeypatch):
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    parts = build_parts(small_run(sync_batch_norm=wanted, amp_level=amp_level), Alike(2))
    trained = [cell for _, cell in parts.step.task.network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    assert [type(cell) for cell in trained] == [kind]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_averages_of_all_workers_are_evaluated(decay, small_run, monkeypatch):
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    trainer = Trainer(small_run(ema_decay=decay))
    before = {parameter.name: parameter.asnumpy().copy() for parameter in trainer.network.get_parameters()}
    trainer.workers = Alike(2)
    trainer.workers.mean = lambda arrays: [array + 1 for array in arrays]
    evaluated = {}

    def evaluate(data):
        evaluated.update({parameter.name: parameter.asnumpy().copy() for parameter in trainer.network.get_parameters()})
        return Scores(0.0, 0.0, 0.0, 1)

    trainer.evaluate = evaluate
    trainer._evaluate_epoch()
    moved = {name for name, value in before.items() if np.array_equal(evaluated[name], value + 1)}
    kept = {name for name, value in before.items() if np.array_equal(evaluated[name], value)}
    assert moved == {"norm.moving_mean", "norm.moving_variance"}
    assert kept == before.keys() - moved
    assert np.array_equal(trainer.network.norm.moving_mean.asnumpy(), before["norm.moving_mean"] + 1)
