"""Whole mask updates against a slow oracle: the description of the method, one weight at a time, in plain Python.

The oracle shares nothing with the code under test. It follows the update from beginning to end: which steps, how many
weights in all and in every layer, what is dropped, what grows, which values and which momentum stay.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.pruning.allocation import Allocation
from src.pruning.pruner import Pruner
from src.pruning.schedule import PruningSchedule

TOTAL, INTERVAL, WINDOW, END, ALPHA = 100, 5, 0.6, 0.9, 0.3  # 12 updates lower the density, 6 more move weights
SHAPES = [(6, 2, 3, 3), (10, 6, 2, 2), (3, 10), (7, 3, 5), (2, 7)]


class Oracle:
    """The masks of the layers, and how an update changes them; arrays are flattened, positions are numbers."""

    def __init__(self, shapes, density, distribution, least):
        self.shapes = shapes
        self.sizes = [math.prod(shape) for shape in shapes]
        self.density = density
        self.distribution = distribution
        self.floors = [max(1, math.ceil(Fraction(str(least)) * size)) if least else 0 for size in self.sizes]
        self.alive = [set(range(size)) for size in self.sizes]

    def is_update(self, step):
        """Every INTERVAL steps up to the end of updates."""
        return step % INTERVAL == 0 and step <= END * TOTAL

    def update(self, step, weights, gradients, momentum):
        """(weights, momentum) after the update; `alive` is what its masks keep."""
        within = self.threshold(step, weights) if step <= WINDOW * TOTAL else self.alive
        share = ALPHA / 2 * (1 + math.cos(math.pi * step / (END * TOTAL)))
        new_weights, new_momentum = [], []
        for layer, keep in enumerate(within):
            dropped = sorted(keep, key=lambda i: abs(weights[layer][i]))[: math.floor(share * len(keep))]
            stay = keep - set(dropped)
            candidates = [i for i in range(self.sizes[layer]) if i not in stay]
            grown = sorted(candidates, key=lambda i: -abs(gradients[layer][i]))[: len(dropped)]
            alive = stay | set(grown)
            new_weights.append([weights[layer][i] if i in alive and i in keep else 0 for i in range(self.sizes[layer])])
            new_momentum.append([momentum[layer][i] if i in alive else 0 for i in range(self.sizes[layer])])
            self.alive[layer] = alive
        return new_weights, new_momentum

    def threshold(self, step, weights):
        """The living positions of each layer that its budget at `step` leaves."""
        updates = int(WINDOW * TOTAL) // INTERVAL
        total = round(self.density ** ((step // INTERVAL) / updates) * sum(self.sizes))
        if self.distribution == "global":
            return self.one_threshold(total, weights)
        within = []
        for layer, budget in enumerate(self.budgets(total)):
            ranked = sorted(self.alive[layer], key=lambda i: -abs(weights[layer][i]))
            within.append(set(ranked[:budget]))
        return within

    def one_threshold(self, total, weights):
        """From the largest living weight down, unless the places left are needed by layers below their floor."""
        ranked = [(-abs(weights[layer][i]), layer, i) for layer, alive in enumerate(self.alive) for i in alive]
        within = [set() for _ in self.sizes]
        for _, layer, i in sorted(ranked):
            left = total - sum(map(len, within))
            needed = sum(max(floor - len(keep), 0) for floor, keep in zip(self.floors, within))
            if left > needed or (left and len(within[layer]) < self.floors[layer]):
                within[layer].add(i)
        return within

    def budgets(self, total):
        """Whole numbers by largest remainder, of exact fractions."""
        if self.distribution == "uniform":
            rest = Fraction(total - self.sizes[0], sum(self.sizes[1:]))
            exact = [Fraction(self.sizes[0])] + [rest * size for size in self.sizes[1:]]
        else:
            exact = self.erk(total)
        whole = [math.floor(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda layer: (whole[layer] - exact[layer], layer))
        for layer in by_remainder[: total - sum(whole)]:
            whole[layer] += 1
        return whole

    def erk(self, total):
        """Each layer in proportion to the sum of its dimensions; one that would exceed its size is dense."""
        dense = set()
        while True:
            sparse = [layer for layer in range(len(self.sizes)) if layer not in dense]
            left = total - sum(self.sizes[layer] for layer in dense)
            share = Fraction(left, sum(sum(self.shapes[layer]) for layer in sparse)) if sparse else 0
            over = {layer for layer in sparse if share * sum(self.shapes[layer]) > self.sizes[layer]}
            if not over:
                break
            dense |= over
        return [
            Fraction(size) if layer in dense else share * sum(self.shapes[layer])
            for layer, size in enumerate(self.sizes)
        ]


def parameters(arrays, name):
    return [Parameter(Tensor(array), name=f"{name}{index}") for index, array in enumerate(arrays)]


def flat(arrays):
    return [array.ravel().tolist() for array in arrays]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("distribution", "density", "least"),
    [("global", 0.05, 0.0), ("global", 0.1, 0.05), ("uniform", 0.3, 0.0), ("erk", 0.1, 0.0), ("erk", 0.02, 0.0)],
)
def test_every_update_of_a_run_is_the_oracles(distribution, density, least, seed):
    random = np.random.default_rng(seed)
    order = random.permutation(len(SHAPES))
    shapes = [SHAPES[index] for index in order]
    # Layers on different scales: the global threshold has to spare small ones, and empty some without floors.
    scales = 2.0 ** random.integers(-3, 3, len(shapes))

    def draw():
        return [(scale * random.standard_normal(shape)).astype(np.float32) for scale, shape in zip(scales, shapes)]

    weights, momentum = parameters(draw(), "weight"), parameters(draw(), "momentum")
    schedule = PruningSchedule(TOTAL, INTERVAL, density, ALPHA, WINDOW, END)
    pruner = Pruner(weights, schedule, Allocation(distribution, least))
    oracle = Oracle(shapes, density, distribution, least)
    updates = 0
    for step in range(1, TOTAL + 1):
        assert pruner.is_update(step) == oracle.is_update(step)
        if not oracle.is_update(step):
            continue
        for parameter in [*weights, *momentum]:  # training has moved what lives, also what had just grown at zero
            index = int(parameter.name[-1])
            moved = parameter.asnumpy() + draw()[index] * pruner.masks[index]
            parameter.set_data(Tensor(moved.astype(np.float32)))
        gradients = draw()
        before = [mask.copy() for mask in pruner.masks]
        expected = oracle.update(
            step, flat(w.asnumpy() for w in weights), flat(gradients), flat(m.asnumpy() for m in momentum)
        )
        record = pruner.update(step, [Tensor(gradient) for gradient in gradients], [[state] for state in momentum])
        for mask, device_mask, alive in zip(pruner.masks, pruner.device_masks, oracle.alive):
            assert set(np.flatnonzero(mask)) == alive
            assert np.array_equal(device_mask.asnumpy(), mask.astype(np.float32))
        assert flat(weight.asnumpy() for weight in weights) == expected[0]
        assert flat(state.asnumpy() for state in momentum) == expected[1]
        assert record.kept == sum(map(len, oracle.alive))
        assert record.changed == sum((old != new).sum() for old, new in zip(before, pruner.masks))
        updates += 1
    assert updates == 18
    assert pruner.kept == round(density * sum(oracle.sizes))


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_after_the_window_each_layer_keeps_the_number_it_has(distribution, rng):
    """Also where that is not what the distribution would give it: the budgets are not computed again."""
    weights = parameters([rng.standard_normal(shape).astype(np.float32) for shape in SHAPES], "weight")
    pruner = Pruner(weights, PruningSchedule(TOTAL, INTERVAL, 0.3, ALPHA, WINDOW, END), Allocation(distribution))
    pruner.load_masks([rng.random(shape) < share for shape, share in zip(SHAPES, (0.9, 0.2, 0.5, 0.4, 0.6))])
    counts = [np.count_nonzero(mask) for mask in pruner.masks]
    before = [mask.copy() for mask in pruner.masks]
    gradients = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in SHAPES]
    pruner.update(65, gradients, [[]] * len(SHAPES))
    assert [np.count_nonzero(mask) for mask in pruner.masks] == counts
    assert any((old != new).any() for old, new in zip(before, pruner.masks))


def test_alternating_phases_free_all_weights_and_prune_them_again_by_magnitude(rng):
    values = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in SHAPES]
    weights = [Parameter(value, name=f"w{index}") for index, value in enumerate(values)]
    total = sum(weight.size for weight in weights)
    schedule = PruningSchedule(80, 5, 0.1, 0.0, 0.8, 0.8, curve="alternating")  # 12 updates; a phase has one or two
    pruner, gradients, sparse = Pruner(weights, schedule), [Tensor(np.ones(shape)) for shape in SHAPES], []
    for step in range(5, 65, 5):
        before = np.concatenate([weight.asnumpy().ravel() for weight in weights])
        pruner.update(step, gradients, [[]] * len(weights))
        mask, after = (np.concatenate([x.ravel() for x in xs]) for xs in (pruner.masks, [w.asnumpy() for w in weights]))
        assert np.array_equal(after, before * mask)
        sparse.append(not mask.all())
        if sparse[-1]:
            assert mask.sum() == round(0.1 * total)
            assert abs(before[mask]).min() >= abs(before[~mask]).max()
        for weight, alive in zip(weights, pruner.masks):  # as training would
            moved = weight.asnumpy() + alive * rng.normal(0, 0.1, weight.shape)
            weight.set_data(Tensor(moved.astype(np.float32)))
    assert sparse == [digit == "1" for digit in "011011011011"]
    pruner.check()
