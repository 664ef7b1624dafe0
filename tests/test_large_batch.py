"""Mixed precision, gradient accumulation and averaged weights: exact zeros, skipped steps, and nothing recompiled."""

from contextlib import suppress

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.common.api import ms_compile_cache
from tiny_train import Tiny

from src.models import MODELS
from src.platform.parallel import SINGLE, Single
from src.pruning.pruner import Pruner, convolution_weights, prunable_weights
from src.pruning.schedule import PruningSchedule
from src.rpg_cell import RPGWithLossCell, build_rank_term
from src.run.build import build_parts
from src.training.accumulation import GradientAccumulator
from src.training.amp import INITIAL_SCALE, LossScale, mixed_precision
from src.training.ema import WeightAverage
from src.training.optimizer import build_optimizer, learning_rates
from src.training.train_step import Extras, Pruning, TaskLoss, TrainStep, optimizer_state
from tests.streams import random_batches

STEPS, INTERVAL, DECAY = 12, 4, 1e-2


class Net(nn.Cell):
    """Two convolutions and a dense layer, with BatchNorm or without."""

    def __init__(self, normalised=True):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, pad_mode="pad", padding=1)
        self.bn1 = nn.BatchNorm2d(8) if normalised else nn.Identity()
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, pad_mode="pad", padding=1)
        self.dense = nn.Dense(16, 4)

    def construct(self, x):
        x = ops.relu(self.bn1(self.conv1(x)))
        return self.dense(ops.relu(self.conv2(x)).mean((2, 3)))


class Run:
    """A small network with everything that trains it."""

    def __init__(
        self,
        level="O0",
        parts=1,
        decay=0.0,
        rank_interval=0,
        rank_weight=0.5,
        normalised=True,
        optimizer="momentum",
        clip=0.0,
        workers=SINGLE,
    ):
        ms.set_seed(1)
        self.network = network = Net(normalised).set_train()
        self.scale = self.average = None
        if level != "O0":
            self.scale = LossScale()
            network = mixed_precision(self.network, level)
        if decay:
            self.average = WeightAverage(self.network, decay)
        self.trained = network
        self.rates = learning_rates(0.1, STEPS, 2)
        self.optimizer = build_optimizer(self.network, self.rates, 0.9, False, DECAY, optimizer)
        schedule = PruningSchedule(STEPS, INTERVAL, 0.2, 0.3, 0.8, 0.85)
        self.pruner = Pruner(prunable_weights(self.network), schedule)
        task = TaskLoss(network, nn.CrossEntropyLoss())
        objective = RPGWithLossCell(
            task, build_rank_term("gram", 0.2), parts * rank_weight, convolution_weights(self.network)
        )
        accumulator = GradientAccumulator(self.optimizer.parameters, parts) if parts > 1 else None
        pruning = Pruning(self.pruner, objective, rank_interval)
        extras = Extras(self.scale, accumulator, self.average, clip)
        self.step = TrainStep(task, self.optimizer, pruning, extras, workers)
        self.batches = random_batches(STEPS)

    def train(self):
        for batch in self.batches:
            yield float(self.step(*batch))

    def values(self):
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "O2", "decay": 0.9, "parts": 2, "rank_interval": 3, "optimizer": "adamw", "clip": 0.1},
        {"level": "O3", "optimizer": "lion"},
    ],
    ids=str,
)
def test_zeros_are_exact_and_nothing_recompiles(settings):
    run = Run(**settings)
    compiled = []
    for loss in run.train():
        assert np.isfinite(loss)
        compiled.append(len(ms_compile_cache))
        for weight, mask in zip(run.pruner.weights, run.pruner.masks):
            states = optimizer_state(run.optimizer, weight) + (run.average.state_of(weight) if run.average else [])
            assert all(not state.asnumpy()[~mask].any() for state in (weight, *states))
    assert len(set(compiled[INTERVAL - 1 :])) == 1
    assert run.pruner.density == pytest.approx(0.2, abs=1e-3)
    assert {str(parameter.dtype) for parameter in run.network.get_parameters()} == {"Float32"}


@pytest.mark.parametrize("level", ["O2", "O3", "auto"])
def test_mixed_precision_is_close_to_float32_and_not_the_same(level):
    exact, mixed = Run(), Run(level)
    expected, actual = next(exact.train()), next(mixed.train())
    assert actual == pytest.approx(expected, rel=1e-2)
    assert actual != expected
    for name, value in exact.values().items():
        change = np.abs(mixed.values()[name] - value).max()
        assert change < 2e-3, name
    # BatchNorm's statistics move in the one set of parameters there is
    assert np.abs(mixed.network.bn1.moving_mean.asnumpy()).max() > 0


def test_evaluation_stays_in_float32():
    run = Run("O2")
    images = run.batches[0][0]
    run.network.set_train(False)
    before = Net()
    ms.load_param_into_net(before, {n: ms.Parameter(Tensor(v), name=n) for n, v in run.values().items()})
    before.set_train(False)
    assert np.array_equal(run.network(images).asnumpy(), before(images).asnumpy())


def test_a_step_that_overflows_is_skipped():
    run = Run("O2")
    steps = run.train()
    next(steps)
    ops.assign(run.scale.scale_value, Tensor(2.0**120, ms.float32))
    before = {parameter.name: parameter.asnumpy().copy() for parameter in run.network.trainable_params()}
    momentum = [m.asnumpy().copy() for w in run.pruner.weights for m in optimizer_state(run.optimizer, w)]
    next(steps)
    assert all(np.array_equal(p.asnumpy(), before[p.name]) for p in run.network.trainable_params())
    after = [m.asnumpy() for w in run.pruner.weights for m in optimizer_state(run.optimizer, w)]
    assert all(np.array_equal(one, other) for one, other in zip(momentum, after))
    assert float(run.scale.scale_value) == 2.0**119
    assert int(run.optimizer.global_step.asnumpy()[0]) == run.step.step == 2  # the learning rate moves on


def test_a_mask_update_scales_down_until_the_gradients_are_finite():
    run, usual = Run("O2"), Run("O2")
    for number, _ in enumerate(zip(run.train(), usual.train()), start=1):
        if number == INTERVAL - 1:
            ops.assign(run.scale.scale_value, Tensor(2.0**40, ms.float32))
        if number == INTERVAL:
            break
    assert float(run.scale.scale_value) < 2.0**40
    assert float(usual.scale.scale_value) == INITIAL_SCALE
    assert all(np.array_equal(a, b) for a, b in zip(run.pruner.masks, usual.pruner.masks))


def test_scale_does_not_weaken_the_rank_term():
    plain, scaled = Run(rank_weight=50.0, rank_interval=1), Run("O2", rank_weight=50.0, rank_interval=1)
    next(plain.train()), next(scaled.train())
    one, other = plain.values()["conv2.weight"], scaled.values()["conv2.weight"]
    without = Run()
    next(without.train())
    effect = np.abs(one - without.values()["conv2.weight"]).max()
    assert np.abs(one - other).max() < 0.01 * effect


@pytest.mark.parametrize(("parts", "rank_interval"), [(2, 0), (4, 1)])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts, rank_interval):
    """Without BatchNorm, whose statistics are of the parts, the run is the same one up to rounding."""
    whole = Run(rank_interval=rank_interval, rank_weight=5.0, normalised=False)
    split = Run(parts=parts, rank_interval=rank_interval, rank_weight=5.0, normalised=False)
    for step, (one, other) in enumerate(zip(whole.train(), split.train()), start=1):
        assert one == pytest.approx(other, rel=1e-4)
        assert all(np.array_equal(a, b) for a, b in zip(whole.pruner.masks, split.pruner.masks))
        for name, value in whole.values().items():
            assert np.allclose(value, split.values()[name], atol=1e-5), name
        if step == INTERVAL + 2:
            break
    assert float(whole.step.loss_sum) == pytest.approx(float(split.step.loss_sum), rel=1e-4)
    assert not any(total.asnumpy().any() for total in split.step.accumulator.sums)


@pytest.mark.parametrize("parts", [1, 4])
def test_lambda_of_a_run_does_not_depend_on_the_parts(parts, small_run, monkeypatch):
    """What the rank term adds to the gradient of an update is lambda times its own gradient, taken by itself."""
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((16, 1, 8, 8)).astype(np.float32))
    labels = Tensor(random.integers(0, 10, 16).astype(np.int32))

    def gradients(**settings):
        built = build_parts(small_run(batch_size=16, accumulation_steps=parts, **settings))
        found = built.step.whole_gradients(images, labels)[1]
        return built, {p.name: g.asnumpy() for p, g in zip(built.optimizer.parameters, found)}

    built, whole = gradients(rank_weight=3.0, tail_energy=0.2)
    _, task = gradients(method="gap")
    weights = convolution_weights(built.network)
    _, terms = ms.value_and_grad(build_rank_term("gram", 0.2), tuple(range(len(weights))))(*weights)
    expected = {weight.name: 3 * term.asnumpy() for weight, term in zip(weights, terms)}
    assert len(expected) == 2
    for name, gradient in whole.items():
        np.testing.assert_allclose(gradient - task[name], expected.get(name, 0 * gradient), atol=2e-5, err_msg=name)
        assert name not in expected or np.abs(expected[name]).max() > 1e-3


def test_average_follows_its_formula():
    run = Run(decay=0.8)
    expected = run.values()
    for step, _ in enumerate(run.train(), start=1):
        if run.pruner.is_update(step):  # no optimiser step: the average is masked and nothing else
            for weight, mask in zip(run.pruner.weights, run.pruner.masks):
                expected[weight.name] = expected[weight.name] * mask
        else:
            rate = 1 - min(0.8, (1 + step) / (10 + step))
            for name, value in run.values().items():
                expected[name] = expected[name] + rate * (value - expected[name])
    for average, value in zip(run.average.averages, run.average.values):
        assert np.allclose(average.asnumpy(), expected[value.name], atol=1e-5), value.name


def test_averaged_weights_are_lent_and_given_back():
    run = Run(decay=0.8)
    for _ in run.train():
        pass
    before = run.values()
    with suppress(KeyError), run.average.applied():  # given back after an error, too
        inside = run.values()
        raise KeyError
    assert all(np.array_equal(value, before[name]) for name, value in run.values().items())
    assert any((inside[name] != before[name]).any() for name in before)
    for average, value in zip(run.average.averages, run.average.values):
        assert np.array_equal(average.asnumpy(), inside[value.name])


class Doubling(Single):
    """Workers whose mean gradient is twice this one's."""

    def gradient_reducer(self, parameters):
        return lambda gradients: ops.HyperMap()(ops.partial(ops.mul, Tensor(2.0)), gradients)


def test_what_is_clipped_is_the_unscaled_mean_over_parts_and_workers():
    """The first step, where momentum is zero: the gradient that it took, recovered from how far it went."""

    def gradient(clip):
        run = Run("O2", parts=2, normalised=False, clip=clip, workers=Doubling())
        before = run.values()
        next(run.train())
        after, rate = run.values(), run.rates[0]
        steps = [(before[p.name] - after[p.name]) / rate for p in run.optimizer.parameters]
        return [step - DECAY * before[p.name] * (p.ndim > 1) for step, p in zip(steps, run.optimizer.parameters)]

    def norm(arrays):
        return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays)))

    whole = gradient(0.0)
    half = norm(whole) / 2
    clipped = gradient(half)
    assert norm(clipped) == pytest.approx(half, rel=1e-3)
    for one, other in zip(clipped, whole):
        np.testing.assert_allclose(one, other / 2, atol=1e-4)
