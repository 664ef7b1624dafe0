"""The training step: compiled once, exact zeros at every step, and a mask update in place of an optimiser step."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.common.api import ms_compile_cache

from src.pruning.allocation import Allocation
from src.pruning.pruner import Pruner, convolution_weights, prunable_weights
from src.pruning.schedule import PruningSchedule
from src.rpg_cell import RPGWithLossCell, build_rank_term
from src.training.optimizer import build_optimizer, learning_rates
from src.training.train_step import Extras, Pruning, TaskLoss, TrainStep, optimizer_state
from tests.streams import random_batches

STEPS, INTERVAL = 24, 4


class Net(nn.Cell):
    """Two convolutions, BatchNorm and a dense layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, pad_mode="pad", padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, pad_mode="pad", padding=1, has_bias=True)
        self.dense = nn.Dense(16, 4)

    def construct(self, x):
        x = ops.relu(self.bn1(self.conv1(x)))
        return self.dense(ops.relu(self.conv2(x)).mean((2, 3)))


class Run:
    """A small network with everything that trains it."""

    def __init__(
        self,
        rank_weight=0.5,
        rank_interval=0,
        drop=0.3,
        nesterov=False,
        density=0.1,
        optimizer="momentum",
        hyperbolic=0.0,
        **pruner,
    ):
        ms.set_seed(1)
        self.network = Net().set_train()
        self.rates = learning_rates(0.1, STEPS, 4)
        self.optimizer = build_optimizer(self.network, self.rates, 0.9, nesterov, 1e-2, optimizer)
        initial, allocation = pruner.pop("initial", 1.0), Allocation(pruner.pop("distribution", "global"))
        self.schedule = PruningSchedule(STEPS, INTERVAL, density, drop, 0.8, 0.85, initial)
        self.pruner = Pruner(prunable_weights(self.network), self.schedule, allocation, **pruner)
        task = TaskLoss(self.network, nn.CrossEntropyLoss())
        objective = None
        if rank_weight:
            objective = RPGWithLossCell(
                task, build_rank_term("gram", 0.2), rank_weight, convolution_weights(self.network)
            )
        pruning = Pruning(self.pruner, objective, rank_interval)
        self.step = TrainStep(task, self.optimizer, pruning, Extras(hyperbolic=hyperbolic))
        self.batches = random_batches(STEPS)

    def train(self):
        for batch in self.batches:
            yield float(self.step(*batch))

    def weights(self):
        return [weight.asnumpy() for weight in self.pruner.weights]

    def momentum(self):
        """All states that the optimiser keeps of each weight, on top of each other."""
        states = [optimizer_state(self.optimizer, weight) for weight in self.pruner.weights]
        return [np.stack([state.asnumpy() for state in of_one]) for of_one in states]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rank_interval": 1},
        {"rank_interval": 3, "optimizer": "adamw"},
        {"rank_weight": 0},
        {"nesterov": True},
        {"hyperbolic": 20.0},
        {"drop": 0.0, "rank_weight": 0},
        {"distribution": "erk", "optimizer": "lion"},
        {"distribution": "erk", "initial": 0.1, "rank_weight": 0, "optimizer": "sgd"},
        {"distribution": "erk", "initial": 0.1, "rank_weight": 0, "growth": "random"},
    ],
    ids=str,
)
def test_weights_and_momentum_are_exactly_zero_outside_the_masks_at_every_step(settings):
    run = Run(**settings)
    states = 2 if settings.get("optimizer") == "adamw" else 1
    sizes = sum(mask.size for mask in run.pruner.masks)
    for step, loss in enumerate(run.train(), start=1):
        assert np.isfinite(loss)
        for weight, momentum, mask in zip(run.weights(), run.momentum(), run.pruner.masks):
            assert not weight[~mask].any()
            assert momentum.shape == (states, *mask.shape)
            assert not momentum[:, ~mask].any()
        assert run.pruner.kept == round(run.schedule.density_at(step) * sizes)
    assert run.pruner.kept == round(0.1 * sizes)
    # A weight that grew where no gradient flows is alive, and zero.
    assert 0.9 * run.pruner.kept < sum(np.count_nonzero(weight) for weight in run.weights()) <= run.pruner.kept


def test_a_hyperbolic_step_follows_that_of_the_optimiser():
    """By w exp(-rate alpha sign(w) g) in float64, with the gradient that plain SGD has shown; biases are left alone."""
    plain, bent = (Run(rank_weight=0, optimizer="sgd", hyperbolic=alpha) for alpha in (0.0, 20.0))
    before = [parameter.asnumpy().astype(np.float64) for parameter in plain.optimizer.parameters]
    for run in (plain, bent):
        run.step(*run.batches[0])
    rate = 0.1 / 4  # of the first of four steps of warm-up
    for old, moved, new in zip(before, plain.optimizer.parameters, bent.optimizer.parameters):
        moved = moved.asnumpy().astype(np.float64)
        gradient = (old - moved) / rate - 1e-2 * old  # what weight decay adds does not count
        expected = moved * np.exp(-rate * 20 * np.sign(moved) * gradient) if old.ndim > 1 else moved
        assert np.allclose(new.asnumpy(), expected, rtol=1e-4, atol=1e-7)
        assert np.array_equal(new.asnumpy(), moved) == (old.ndim == 1)


def test_no_step_recompiles_after_the_first_of_its_kind():
    run = Run(rank_interval=2)
    compiled = []
    for _ in run.train():
        compiled.append(len(ms_compile_cache))
    seen = INTERVAL  # steps 1 to 4: plain, ranked, plain, update
    assert compiled[0] < compiled[seen - 1]
    assert len(set(compiled[seen - 1 :])) == 1


def test_an_update_takes_the_place_of_an_optimiser_step():
    run = Run(drop=0.3, density=0.5)
    batches = iter(run.train())
    for _ in range(INTERVAL - 1):
        next(batches)
    before, bias = run.weights(), run.network.dense.bias.asnumpy().copy()
    next(batches)
    for old, new, mask in zip(before, run.weights(), run.pruner.masks):
        assert np.array_equal(new, old * mask)  # pruned, but not trained
    assert np.array_equal(bias, run.network.dense.bias.asnumpy())
    assert int(run.optimizer.global_step.asnumpy()[0]) == run.step.step == INTERVAL


@pytest.mark.parametrize("objective", [{"rank_weight": 0}, {"rank_weight": 0.5}], ids=str)
def test_without_drop_and_grow_an_update_trains_too_by_the_gradients_of_before(objective):
    """As released for alpha 0: masks first, then momentum 0.9, decay and learning rate on what they leave."""
    run = Run(drop=0.0, density=0.5, **objective)
    for batch in run.batches[: INTERVAL - 1]:
        run.step(*batch)
    weights, momentum = [array.copy() for array in run.weights()], [states[0] for states in run.momentum()]
    loss_sum = float(run.step.loss_sum)
    images, labels = run.batches[INTERVAL - 1]
    loss_fn = nn.CrossEntropyLoss()

    def objective_of(images, labels):
        task = loss_fn(run.network(images), labels)
        if not run.step._objective_gradients:
            return task
        return task + 0.5 * build_rank_term("gram", 0.2)(*convolution_weights(run.network))

    statistics = [p.asnumpy().copy() for p in run.network.untrainable_params()]
    gradients = ms.value_and_grad(objective_of, None, run.pruner.weights)(images, labels)[1]
    for parameter, value in zip(run.network.untrainable_params(), statistics):  # that forward pass moved BatchNorm's
        ops.assign(parameter, ms.Tensor(value))

    loss = float(run.step(images, labels))
    for old, new, velocity, gradient, mask in zip(weights, run.weights(), momentum, gradients, run.pruner.masks):
        velocity = 0.9 * velocity * mask + (gradient.asnumpy() + 1e-2 * old) * mask
        expected = old * mask - run.rates[INTERVAL - 1] * velocity
        np.testing.assert_allclose(new, expected, atol=1e-6)
        assert not np.allclose(new, old * mask, atol=1e-6)
    assert run.pruner.kept < sum(weight.size for weight in weights)
    assert float(run.step.loss_sum) == pytest.approx(loss_sum + loss)
    assert int(run.optimizer.global_step.asnumpy()[0]) == run.step.step == INTERVAL


def test_learning_rate_follows_the_step_across_updates():
    run = Run()
    for step, _ in enumerate(run.train(), start=1):
        rate = float(run.optimizer.learning_rate(run.optimizer.global_step).asnumpy().item()) if step < STEPS else None
        if rate is not None:
            assert rate == pytest.approx(run.rates[step])


def test_masks_are_frozen_after_the_end():
    run = Run()
    masks = None
    for step, _ in enumerate(run.train(), start=1):
        if step == run.schedule.end_step:
            masks = [mask.copy() for mask in run.pruner.masks]
    assert masks is not None
    assert all(np.array_equal(a, b) for a, b in zip(masks, run.pruner.masks))


def test_rank_term_changes_what_grows():
    with_term, without = Run(rank_weight=50.0), Run(rank_weight=0)
    for _ in with_term.train():
        pass
    for _ in without.train():
        pass
    assert any((a != b).any() for a, b in zip(with_term.pruner.masks, without.pruner.masks))


def test_every_step_rank_term_moves_the_weights():
    every, updates = Run(rank_weight=0.5, rank_interval=1), Run(rank_weight=0.5)
    next(every.train())
    next(updates.train())
    assert (every.weights()[0] != updates.weights()[0]).any()


def test_random_growth_depends_on_seed_and_step_alone():
    one, same, other = (
        Run(distribution="erk", initial=0.1, rank_weight=0, growth="random", seed=seed) for seed in (3, 3, 4)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one.pruner.masks, same.pruner.masks))
    assert any((a != b).any() for a, b in zip(one.pruner.masks, other.pruner.masks))


def test_decay_leaves_batchnorm_and_biases_alone():
    optimizer = Run().optimizer
    decays = {parameter.name: float(decay) for parameter, decay in zip(optimizer.parameters, optimizer.weight_decay)}
    decayed = {name for name, decay in decays.items() if decay > 0}
    assert decayed == {"conv1.weight", "conv2.weight", "dense.weight"}


def test_sparse_start_needs_a_distribution():
    with pytest.raises(ValueError, match="distribution uniform or erk"):
        Run(initial=0.1)
