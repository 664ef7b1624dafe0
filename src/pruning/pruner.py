"""The pruner: masks of a network's layers, and their application to MindSpore parameters.

It decides nothing about training: the training step asks whether a mask update is due and hands over the dense
gradients; the pruner answers with new masks, weights and momentum.
"""

from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ..platform.threads import each
from .allocation import Allocation, split_by_pattern, split_schedule
from .masks import drop_and_grow
from .selection import largest


class UpdateRecord(NamedTuple):
    """What one mask update did, over all layers: counts of weights, and the settings it ran with."""

    step: int
    density: float
    drop_fraction: float
    kept: int
    changed: int  # positions whose mask flipped
    collapsed: tuple = ()  # names of the weights that lost their last living position


# Grouped and depthwise ones are of the same classes. Weights are (out, in / groups, *kernel), or transposed.
TRANSPOSED = (nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose)  # (in, out / groups, *kernel)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def prunable_layers(network):
    """(name, cell) of every convolution and dense layer, first and last included, in order of definition.

    Of layers that share one weight, the first stands for all.
    """
    layers = [(n, cell) for n, cell in network.cells_and_names() if isinstance(cell, (*CONVOLUTIONS, nn.Dense))]
    first = {id(cell.weight): name for name, cell in reversed(layers)}
    return [(name, cell) for name, cell in layers if first[id(cell.weight)] == name]


def prunable_weights(network):
    """The weight Parameters that pruning acts on; never biases or BatchNorm."""
    return [cell.weight for _, cell in prunable_layers(network)]


def convolution_weights(network):
    """The weight Parameters that the rank term is taken of."""
    return [cell.weight for _, cell in prunable_layers(network) if isinstance(cell, CONVOLUTIONS)]


def transposed_groups(network):
    """{weight name: groups} of the transposed convolutions, for `rank_term.output_first`."""
    return {cell.weight.name: cell.group for _, cell in prunable_layers(network) if isinstance(cell, TRANSPOSED)}


GLOBAL = Allocation()


class Pruner:
    """Gradual pruning with drop and grow over a list of weights.

    weights: Parameters to prune; schedule: PruningSchedule; allocation: how many of them each layer keeps;
    growth: `gradient` (largest |dense gradient|) or `random` (as in SET); seed: of random masks and random growth,
    which are functions of (seed, step) alone and therefore equal on all workers and after a resume; patterned: which
    layers take an N:M pattern, whose density is the schedule's, or None; the allocation is then that of the others.

    masks: boolean arrays, one per weight; device_masks: the same as float Parameters, for the compiled step.
    Raises ValueError if the allocation cannot meet the density, or cannot be used from random masks.
    """

    def __init__(self, weights, schedule, allocation=GLOBAL, growth="gradient", seed=0, patterned=None):
        self.weights = list(weights)
        self.schedule = schedule
        self.allocation = allocation
        self.growth = growth
        self.seed = seed
        self.patterned = patterned
        sizes = [weight.size for weight in self.weights]
        if patterned is None:
            self.groups = split_schedule(sizes, schedule, allocation.densities)
        else:
            self.groups = split_by_pattern(sizes, schedule, patterned)
        self.masks = self._initial_masks()
        self.device_masks = [
            Parameter(Tensor(mask.astype(np.float32)), name=f"mask.{weight.name}", requires_grad=False)
            for mask, weight in zip(self.masks, self.weights)
        ]
        if schedule.initial_density < 1:
            for weight, mask in zip(self.weights, self.device_masks):
                ops.assign(weight, weight * mask + 0.0)  # adding zero turns -0 into 0

    def is_update(self, step):
        """Whether masks are updated at `step` (counted from 1)."""
        return self.schedule.is_update(step)

    def update(self, step, gradients, momentum):
        """One mask update: new budgets, drop, grow; weights and momentum are zeroed outside the new masks.

        gradients: dense gradients of the weights, averaged over workers; momentum: one list of optimiser state
        Parameters per weight. Returns an UpdateRecord. The host sees each weight and gradient once.
        """
        values = [weight.asnumpy() for weight in self.weights]
        kept = self._kept_masks(step, values)
        random = np.random.default_rng((self.seed, step)) if self.growth == "random" else None

        def renew(layer):
            value, mask, gradient, count, axis = layer
            scores = np.abs(gradient.asnumpy()) if random is None else gradient
            if axis is None:
                return drop_and_grow(value, mask, scores, count)
            return self.patterned.pattern.drop_and_grow(value, mask, scores, axis, count)

        if random is not None:
            gradients = [random.random(value.shape, np.float32) for value in values]
        layers = zip(values, kept, gradients, self._drop_counts(step, kept), self._axes())
        updates = each(renew, list(layers), cost=lambda layer: layer[0].size)
        changed = sum(np.count_nonzero(new.mask != mask) for new, mask in zip(updates, self.masks))
        lost = [mask.any() and not new.mask.any() for new, mask in zip(updates, self.masks)]
        collapsed = tuple(weight.name for weight, gone in zip(self.weights, lost) if gone)
        for index, new in enumerate(updates):
            self._apply(index, new, momentum[index])
        fraction = self.schedule.drop_fraction_at(step)
        return UpdateRecord(step, self.density, fraction, self.kept, changed, collapsed)

    @property
    def kept(self):
        """Number of weights alive, counted from the masks."""
        return sum(np.count_nonzero(mask) for mask in self.masks)

    def budget_at(self, step):
        """Number of weights alive after `step`."""
        return sum(group.budget_at(step) for group in self.groups)

    @property
    def target(self):
        """Number of weights that are alive at the target density."""
        return self.budget_at(self.schedule.total_steps)

    @property
    def density(self):
        """Share of prunable weights alive, counted from the masks."""
        return self.kept / sum(mask.size for mask in self.masks)

    def check(self):
        """Raise RuntimeError unless the masks have the target density, and their pattern if there is one, and all
        weights outside them are zero.
        """
        broken = self.broken_pattern(self.masks)
        if broken:
            raise RuntimeError(f"the mask of {broken} has not the pattern {self.patterned.pattern}")
        if self.kept != self.target:
            raise RuntimeError(f"the masks keep {self.kept} weights instead of {self.target}")
        for weight, mask in zip(self.weights, self.masks):
            if weight.asnumpy()[~mask].any():
                raise RuntimeError(f"{weight.name} has non-zero weights outside its mask")

    def broken_pattern(self, masks):
        """The name of the first weight among whose masks a group keeps more or fewer than N weights, or None."""
        broken = {} if self.patterned is None else self.patterned.broken(masks, exact=True)
        return self.weights[min(broken)].name if broken else None

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
        kept = list(self.masks)
        for group in self.groups:
            weights, masks = ([arrays[index] for index in group.indices] for arrays in (values, self.masks))
            total = group.budget_at(step)
            if group.patterned:
                chosen = self.patterned.masks(weights, masks, group.indices, total)
            else:
                chosen = self.allocation.masks(weights, masks, total)
            for index, mask in zip(group.indices, chosen):
                kept[index] = mask
        return kept

    def _axes(self):
        """The axis of the input channels of each layer that takes the pattern, None for the others."""
        axes = {} if self.patterned is None else self.patterned.axes
        return [axes.get(index) for index in range(len(self.weights))]

    def _drop_counts(self, step, kept):
        """How many weights each layer drops and regrows, of those that its mask within the budget keeps."""
        fraction = self.schedule.drop_fraction_at(step)
        return [int(fraction * np.count_nonzero(mask)) for mask in kept]

    def least_counts(self):
        """How many weights each layer keeps at the target density: exactly, or for `global`, at least.

        Raises ValueError if the distribution or the floors cannot meet it.
        """
        return self._least_at(self.schedule.total_steps)

    def _least_at(self, step):
        counts = [0] * len(self.weights)
        for group in self.groups:
            shapes = [self.weights[index].shape for index in group.indices]
            if group.patterned:
                least = [self.patterned.least(self.weights[index].size) for index in group.indices]
            else:
                least = self.allocation.least(shapes, group.budget_at(step))
            for index, count in zip(group.indices, least):
                counts[index] = count
        return counts

    def _initial_masks(self):
        self.least_counts()  # an impossible target fails before training
        shapes = [weight.shape for weight in self.weights]
        if self.schedule.initial_density == 1:
            return [np.ones(shape, dtype=bool) for shape in shapes]
        if self.allocation.distribution == "global":
            raise ValueError("random initial masks need the distribution uniform or erk, not global")
        random = np.random.default_rng((self.seed, 0))
        drawn = [random.random(shape, np.float32) for shape in shapes]
        return [
            largest(scores, count) if axis is None else self.patterned.pattern.largest(scores, axis)
            for scores, count, axis in zip(drawn, self._least_at(0), self._axes())
        ]
