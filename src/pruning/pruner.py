"""The pruner: masks of a network's layers, and their application to MindSpore parameters.

It decides nothing about training: the training step asks whether a mask update is due and hands over the dense
gradients; the pruner answers with new masks, weights and momentum.
"""

from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ..threads import each
from .allocation import global_masks, layer_budgets, layer_floors, total_budget
from .masks import drop_and_grow, magnitude
from .selection import largest


class UpdateRecord(NamedTuple):
    """What one mask update did, over all layers: counts of weights, and the settings it ran with."""

    step: int
    density: float
    drop_fraction: float
    kept: int
    changed: int  # positions whose mask flipped
    collapsed: tuple = ()  # names of the weights that lost their last living position


def prunable_layers(network):
    """(name, cell) of every convolution and dense layer, first and last included, in order of definition."""
    return [(name, cell) for name, cell in network.cells_and_names() if isinstance(cell, (nn.Conv2d, nn.Dense))]


def prunable_weights(network):
    """The weight Parameters that pruning acts on; never biases or BatchNorm."""
    return [cell.weight for _, cell in prunable_layers(network)]


def convolution_weights(network):
    """The weight Parameters that the rank term is taken of."""
    return [cell.weight for _, cell in prunable_layers(network) if isinstance(cell, nn.Conv2d)]


class Pruner:
    """Gradual pruning with drop and grow over a list of weights.

    weights: Parameters to prune; schedule: PruningSchedule; distribution: global, uniform or erk;
    growth: `gradient` (largest |dense gradient|) or `random` (as in SET); seed: of random masks and random growth,
    which are functions of (seed, step) alone and therefore equal on all workers and after a resume; min_layer_density:
    share of its weights that each layer keeps at least, 0 for none.

    masks: boolean arrays, one per weight; device_masks: the same as float Parameters, for the compiled step.
    Raises ValueError if the distribution cannot meet the density, or cannot be used from random masks.
    """

    def __init__(self, weights, schedule, distribution="global", growth="gradient", seed=0, min_layer_density=0.0):
        self.weights = list(weights)
        self.schedule = schedule
        self.distribution = distribution
        self.growth = growth
        self.seed = seed
        self.min_layer_density = min_layer_density
        self.masks = self._initial_masks()
        self.device_masks = [
            Parameter(Tensor(mask.astype(np.float32)), name=f"mask.{weight.name}", requires_grad=False)
            for mask, weight in zip(self.masks, self.weights)
        ]
        if schedule.initial_density < 1:
            for weight, mask in zip(self.weights, self.device_masks):
                ops.assign(weight, weight * mask + 0.0)  # adding zero turns -0 into 0

    def is_update(self, step):
        """Whether a mask update takes the place of optimiser step `step` (counted from 1)."""
        return self.schedule.is_update(step)

    def update(self, step, gradients, momentum):
        """One mask update: new budgets, drop, grow; weights and momentum are zeroed outside the new masks.

        gradients: dense gradients of the weights, averaged over workers; momentum: one list of optimiser state
        Parameters per weight. Returns an UpdateRecord. The host sees each weight and gradient once.
        """
        values = [weight.asnumpy() for weight in self.weights]
        kept = self._kept_masks(step, values)
        fraction = self.schedule.drop_fraction_at(step)
        random = np.random.default_rng((self.seed, step)) if self.growth == "random" else None

        def renew(layer):
            value, mask, gradient = layer
            scores = np.abs(gradient.asnumpy()) if random is None else gradient
            return drop_and_grow(value, mask, scores, int(fraction * np.count_nonzero(mask)))

        if random is not None:
            gradients = [random.random(value.shape, np.float32) for value in values]
        updates = each(renew, list(zip(values, kept, gradients)), cost=lambda layer: layer[0].size)
        changed = sum(np.count_nonzero(new.mask != mask) for new, mask in zip(updates, self.masks))
        lost = [mask.any() and not new.mask.any() for new, mask in zip(updates, self.masks)]
        collapsed = tuple(weight.name for weight, gone in zip(self.weights, lost) if gone)
        for index, new in enumerate(updates):
            self._apply(index, new, momentum[index])
        return UpdateRecord(step, self.schedule.density_at(step), fraction, self.kept, changed, collapsed)

    @property
    def kept(self):
        """Number of weights alive, counted from the masks."""
        return sum(np.count_nonzero(mask) for mask in self.masks)

    @property
    def density(self):
        """Share of prunable weights alive, counted from the masks."""
        return self.kept / sum(mask.size for mask in self.masks)

    def load_masks(self, masks):
        """Take over boolean masks, as saved by an earlier run."""
        for index, mask in enumerate(masks):
            self.masks[index] = mask
            ops.assign(self.device_masks[index], Tensor(mask.astype(np.float32)))

    def _apply(self, index, new, momentum):
        self.masks[index] = new.mask
        mask = self.device_masks[index]
        ops.assign(mask, Tensor(new.mask.astype(np.float32)))
        ops.assign(self.weights[index], Tensor(new.weight))
        for state in momentum:
            ops.assign(state, state * mask)

    def _kept_masks(self, step, values):
        """Masks within the layer budgets n_l of this step, by magnitude; after the window, the masks as they are."""
        if not self.schedule.lowers_density(step):
            return self.masks
        total = total_budget([value.size for value in values], self.schedule.density_at(step))
        if self.distribution == "global":
            floors = layer_floors([value.size for value in values], self.min_layer_density, total)
            return global_masks(values, self.masks, total, floors)
        budgets = self._budgets(total)
        return [largest(magnitude(v, mask), budget) for v, mask, budget in zip(values, self.masks, budgets)]

    def _budgets(self, total):
        """Budgets of a distribution that does not ask for the weights."""
        return layer_budgets(self.distribution, [w.shape for w in self.weights], total, self.min_layer_density)

    def least_counts(self):
        """How many weights each layer keeps at the target density: exactly, or for `global`, at least.

        Raises ValueError if the distribution or the floors cannot meet it.
        """
        sizes = [weight.size for weight in self.weights]
        total = total_budget(sizes, self.schedule.density)
        if self.distribution == "global":
            return layer_floors(sizes, self.min_layer_density, total)
        return self._budgets(total)

    def _initial_masks(self):
        self.least_counts()  # an impossible target fails before training
        shapes = [weight.shape for weight in self.weights]
        if self.schedule.initial_density == 1:
            return [np.ones(shape, dtype=bool) for shape in shapes]
        if self.distribution == "global":
            raise ValueError("random initial masks need the distribution uniform or erk, not global")
        total = total_budget([weight.size for weight in self.weights], self.schedule.initial_density)
        random = np.random.default_rng((self.seed, 0))
        return [largest(random.random(shape, np.float32), n) for shape, n in zip(shapes, self._budgets(total))]
