"""Every key of the recipe reaches the part of the run that it is about."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.data import DATASETS, published_info
from src.data.batches import Source
from src.pruning.pruner import prunable_weights
from src.rpg_cell import GramRankTerm, SVDRankTerm
from src.run import build
from src.run.build import build_parts
from src.training.batch_norm import SyncBatchNorm2d
from src.training.optimizer import AdamW, Lion

CLASSES = 10


class Two:
    """One of two workers, in name."""

    rank, size = 1, 2

    @staticmethod
    def all_reduce(tensor):
        return tensor

    def gradient_reducer(self, parameters):
        return None

    def agreement(self):
        return lambda flag: flag


@pytest.fixture
def parts_of(small_run):
    """A function of settings -> the parts of a short run on the digits, eleven steps an epoch."""

    def make(workers=build.SINGLE, **settings):
        return build_parts(small_run(**settings), workers)

    return make


@pytest.fixture
def taken(monkeypatch):
    """What `build` hands to the training step and to the objective: a dict of the cells by name."""
    cells = {}
    step, objective = build.TrainStep, build.build_objective

    def keep_task(task, *rest):
        cells["task"] = task
        return step(task, *rest)

    def keep_objective(*arguments):
        cells["objective"] = objective(*arguments)
        return cells["objective"]

    monkeypatch.setattr(build, "TrainStep", keep_task)
    monkeypatch.setattr(build, "build_objective", keep_objective)
    return cells


def first_convolution(network):
    return next(cell for _, cell in network.cells_and_names() if isinstance(cell, nn.Conv2d))


def test_learning_rate_and_warm_up(parts_of):
    rates = parts_of(lr=0.3, warmup_epochs=2, epoch_size=4).rates
    assert len(rates) == 44
    assert rates[:22] == pytest.approx([0.3 * (step + 1) / 22 for step in range(22)])
    assert rates[22] == 0.3 > rates[23]
    assert parts_of(lr=0.3, warmup_epochs=0.5).rates[:6] == pytest.approx([0.06, 0.12, 0.18, 0.24, 0.3, 0.3])
    assert parts_of(lr=0.2, warmup_epochs=0).rates[0] == 0.2


def test_the_optimiser_follows_the_rates(parts_of):
    parts = parts_of(lr=0.3)
    assert np.array_equal(parts.optimizer.learning_rate.learning_rate.asnumpy(), np.float32(parts.rates))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_nesterov(nesterov, parts_of):
    optimizer = parts_of(momentum=0.7, nesterov=nesterov).optimizer
    assert float(optimizer.momentum) == pytest.approx(0.7)
    assert optimizer.use_nesterov is nesterov


@pytest.mark.parametrize(("name", "kind"), [("sgd", nn.Momentum), ("adamw", AdamW), ("lion", Lion)])
def test_the_other_optimisers_and_clipping(name, kind, parts_of):
    parts = parts_of(optimizer=name, weight_decay=0.03, grad_clip=0.7, hyperbolic_step=2.0)
    assert type(parts.optimizer) is kind
    assert (parts.step.clip, parts.step.hyperbolic) == (0.7, 2.0)
    if name == "sgd":
        assert float(parts.optimizer.momentum) == 0
    else:
        assert set(parts.optimizer.decays) == {0.03, 0.0}


def test_weight_decay_is_that_of_weights_alone(parts_of):
    parts = parts_of(weight_decay=0.03)
    optimizer = parts.optimizer
    assert list(optimizer.parameters) == parts.network.trainable_params()
    for parameter, decay in zip(optimizer.parameters, optimizer.weight_decay):
        assert float(decay) == pytest.approx(0.03 if parameter.ndim > 1 else 0), parameter.name


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing(smoothing, parts_of, taken, rng):
    network = parts_of(label_smoothing=smoothing, method="dense").network
    images = Tensor(rng.standard_normal((4, 1, 8, 8)).astype(np.float32))
    labels = np.arange(4)
    logits = network(images).asnumpy().astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    loss = float(taken["task"](images, Tensor(labels.astype(np.int32))))
    assert loss == pytest.approx(-(target * logs).sum(1).mean(), rel=1e-4)


def test_the_schedule(parts_of):
    settings = {"sparsity": 0.9, "update_interval": 5, "drop_fraction": 0.2, "prune_window": 0.6, "update_end": 0.8}
    schedule = parts_of(**settings, epoch_size=4).schedule
    assert (schedule.total_steps, schedule.interval, schedule.drop_fraction) == (44, 5, 0.2)
    assert schedule.density == pytest.approx(0.1)
    assert (schedule.window, schedule.end, schedule.initial_density) == (0.6, 0.8, 1.0)
    assert (schedule.start, schedule.curve) == (0.0, "exponential")
    schedule = parts_of(**settings, epoch_size=4, prune_start=0.25, density_schedule="alternating").schedule
    assert (schedule.start, schedule.curve) == (0.25, "alternating")


@pytest.mark.parametrize(
    ("method", "distribution", "growth", "initial"),
    [("rpg", "global", "gradient", 1.0), ("rigl", "erk", "gradient", 0.1), ("set", "uniform", "random", 0.1)],
)
def test_the_pruner(method, distribution, growth, initial, parts_of):
    parts = parts_of(method=method, distribution=distribution, sparsity=0.9, seed=3)
    pruner = parts.pruner
    assert (pruner.allocation.distribution, pruner.growth, pruner.seed) == (distribution, growth, 3)
    assert parts.schedule.initial_density == pytest.approx(initial)
    assert pruner.density == pytest.approx(initial, abs=1e-4)


def test_every_layer_keeps_its_least_share(parts_of):
    counts = parts_of(min_layer_density=0.01).pruner.least_counts()
    sizes = [weight.size for weight in prunable_weights(parts_of().network)]
    assert counts == [math.ceil(0.01 * size) for size in sizes] != parts_of().pruner.least_counts()


@pytest.mark.parametrize(("solver", "term"), [("gram", GramRankTerm), ("svd", SVDRankTerm)])
def test_the_rank_term(solver, term, parts_of, taken):
    parts_of(rank_weight=0.7, tail_energy=0.3, rank_solver=solver)
    objective = taken["objective"]
    assert isinstance(objective.rank_term, term)
    assert (objective.rank_weight, objective.rank_term.tail_energy) == (0.7, 0.3)


def test_the_rank_term_by_default_is_not_the_decomposition(parts_of, taken):
    parts_of()
    assert isinstance(taken["objective"].rank_term, GramRankTerm)


@pytest.mark.parametrize("settings", [{"rank_weight": 0}, {"method": "gap"}, {"method": "dense"}], ids=str)
def test_without_a_rank_weight_there_is_no_rank_term(settings, parts_of, taken):
    assert parts_of(**settings).step.rank_interval == 0
    assert taken["objective"] is None


@pytest.mark.parametrize("interval", [0, 3])
def test_rank_interval(interval, parts_of):
    assert parts_of(rank_interval=interval).step.rank_interval == interval


def test_accumulation_divides_the_batch_and_weighs_the_rank_term_once(parts_of, taken):
    parts = parts_of(accumulation_steps=4, rank_weight=0.5)
    assert parts.step.accumulator.parts == 4
    assert taken["objective"].rank_weight == 4 * 0.5  # it is in one part of four, whose gradients are averaged
    assert parts.data.train.batching.size == 128
    assert parts_of().step.accumulator is None


def test_average_of_the_weights(parts_of):
    assert parts_of(ema_decay=0.97).average.decay == 0.97
    assert parts_of().average is None


@pytest.mark.parametrize("level", ["O0", "O2", "O3"])
def test_mixed_precision(level, parts_of, taken, rng, monkeypatch):
    convert, levels = build.mixed_precision, []
    monkeypatch.setattr(build, "mixed_precision", lambda *cells: levels.append(cells[-1]) or convert(*cells))
    parts = parts_of(amp_level=level, method="dense")
    assert levels == [level] * (level != "O0")
    assert (parts.scale is None) is (level == "O0")
    assert all(parameter.dtype == ms.float32 for parameter in parts.optimizer.parameters)
    images = Tensor(rng.standard_normal((4, 1, 8, 8)).astype(np.float32))
    half, exact = (network(images).asnumpy() for network in (taken["task"].network, parts.network))
    assert np.array_equal(half, exact) is (level == "O0")
    assert np.abs(half - exact).max() < 0.1


@pytest.mark.parametrize("together", [False, True])
def test_batch_norm_of_several_workers(together, parts_of):
    network = parts_of(Two(), sync_batch_norm=together).network
    norms = {type(cell) for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)}
    assert norms == {SyncBatchNorm2d if together else nn.BatchNorm2d}


def test_workers_share_the_batch(parts_of):
    train = parts_of(Two()).data.train
    assert (train.batching.size, tuple(train.shard)) == (64, (2, 1))
    assert train.steps == parts_of().data.train.steps == 11


def test_the_network(parts_of):
    one, two = (parts_of(width_factor=factor).network for factor in (1, 2))
    assert [first_convolution(network).weight.shape[0] for network in (one, two)] == [16, 32]
    assert first_convolution(parts_of(model="resnet18").network).weight.shape[0] == 64


def test_the_data(parts_of):
    train = parts_of(mixup=0.4, seed=5, num_workers=2, batch_size=100).data.train
    assert train.source == Source(
        "digits", "", 5, 0.0, (), published_info("digits")._replace(classes=tuple("0123456789"))
    )
    assert train.batching == (100, 2, 0.4, 0.0, 0)
    assert train.steps == 14
    assert parts_of().data.train.batching.mixup == 0
    assert parts_of(num_workers=1).data.train.batching.num_workers == 1


def test_held_out_images(parts_of):
    data = parts_of(val_fraction=0.25).data
    count = sum(len(batch[1]) for batch in data.val.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert count == pytest.approx(0.25 * DATASETS["digits"].NUM_SAMPLES["train"], abs=CLASSES)
    assert data.steps_per_epoch == data.train.steps == (1437 - count) // 128
    assert parts_of().data.val is None


def test_a_plan_without_data_counts_without_the_held_out_images(parts_of):
    settings = {"dry_run": True, "dataset": "cifar10", "model": "resnet20", "batch_size": 100}
    assert parts_of(**settings).data.steps_per_epoch == 500
    assert parts_of(**settings, val_fraction=0.1).data.steps_per_epoch == 450


def test_the_seed_sets_the_first_weights(parts_of):
    first, same, other = (first_convolution(parts_of(seed=seed).network).weight.asnumpy() for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
