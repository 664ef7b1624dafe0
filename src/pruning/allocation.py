"""Layer budgets: how many weights each layer keeps at a given global density.

A distribution is a function of the layers' shapes and a total; its integer budgets always sum to that total exactly.
`global` needs the weights themselves and is computed by one threshold over all layers (`global_masks`).

Floors, where they are asked for, keep a layer from collapsing: no budget is below them, and the total stays the same.
`SAFE` asks for those that a network needs to stay connected.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, Union

import numpy as np

from ..platform.threads import each
from .masks import magnitude
from .schedule import PruningSchedule
from .selection import largest, largest_of

SAFE = "auto"  # in place of a least density
SAFE_SHARE = 0.25  # of the total, for floors


class Allocation(NamedTuple):
    """How a network's weights are shared out among its layers.

    distribution: global, uniform or erk; min_layer_density: share of its weights that each layer keeps at least, 0 for
    none, or SAFE; densities: target densities in (0, 1] of single layers, by their index; the others share what is
    left.
    """

    distribution: str = "global"
    min_layer_density: Union[float, str] = 0.0
    densities: Mapping = MappingProxyType({})

    def least(self, shapes, total):
        """How many weights each layer keeps of `total`: exactly, or for `global`, at least.

        Raises ValueError if the distribution or the floors cannot meet the total.
        """
        sizes = [math.prod(shape) for shape in shapes]
        if total == sum(sizes):
            return sizes
        if self.distribution == "global":
            if self.min_layer_density == SAFE:
                return safe_floors(shapes, total)
            return layer_floors(sizes, self.min_layer_density, total)
        return layer_budgets(self.distribution, shapes, total, self.min_layer_density)

    def masks(self, weights, masks, total):
        """Masks of the `total` living weights that are kept; weights, masks: lists of arrays, one per layer."""
        least = self.least([weight.shape for weight in weights], total)
        if self.distribution == "global":
            return global_masks(weights, masks, total, least)
        return [largest(magnitude(weight, mask), count) for weight, mask, count in zip(weights, masks, least)]


def total_budget(sizes, density):
    """Number of weights that a network of the given layer sizes keeps: density times their sum, rounded."""
    return round(density * sum(sizes))


class Group(NamedTuple):
    """Layers that share one budget.

    indices: which ones; size: their weights; schedule: of their common density; patterned: they take an N:M pattern.
    """

    indices: list
    size: int
    schedule: PruningSchedule
    patterned: bool = False

    def budget_at(self, step):
        """Number of weights that these layers keep together after `step`."""
        return total_budget([self.size], self.schedule.density_at(step))


def split_schedule(sizes, schedule, densities):
    """Groups of layers, each on its own way to its own density, that meet the schedule's density together, exactly.

    sizes: of all layers; densities: (0, 1] by index of a layer, each of which becomes a group of its own. The other
    layers form one group, the first, with whatever density is left for them. All groups fall by the same shares of
    their way at the same updates. Raises ValueError if nothing is left for the others, or more than they hold.
    """
    total = total_budget(sizes, schedule.density)
    if not densities:
        return [Group(list(range(len(sizes))), sum(sizes), schedule)]
    fixed = {index: max(1, total_budget([sizes[index]], density)) for index, density in densities.items()}
    others = [index for index in range(len(sizes)) if index not in fixed]
    size, left = sum(sizes[index] for index in others), total - sum(fixed.values())
    if not 0 < left <= size:
        raise ValueError(
            f"a density of {schedule.density:g} keeps {total} of {sum(sizes)} weights; the densities of single layers "
            f"take {sum(fixed.values())} of them, and the other layers hold {size}"
        )
    shares = [(others, size, left), *(([index], sizes[index], count) for index, count in fixed.items())]
    return [Group(indices, of, _towards(schedule, kept / of)) for indices, of, kept in shares]


def split_by_pattern(sizes, schedule, patterned):
    """The Groups of layers that take a pattern, on their way to the schedule's density, and of the others, if any.

    sizes: of all layers; patterned: `pattern.Patterned`, whose `rest` says whether the others stay dense or go the same
    way.
    """
    taken, others = sorted(patterned.axes), patterned.rest_of(sizes)
    groups = [Group(taken, sum(sizes[index] for index in taken), schedule, patterned=True)]
    if others:
        rest = _towards(schedule, 1.0) if patterned.rest == "dense" else schedule
        groups.append(Group(others, sum(sizes[index] for index in others), rest))
    return groups


def _towards(schedule, density):
    """The same schedule to another density."""
    initial = 1.0 if schedule.initial_density == 1 else density
    return replace(schedule, density=density, initial_density=initial)


def safe_floors(shapes, total):
    """Floors under one threshold that keep every layer alive: a quarter of what ERK (see `erk_budgets`) gives it.

    ERK knows how many weights connect a layer's inputs and outputs, not how large they are. The rest of the total goes
    to the largest weights, wherever they are. One weight at least, while there is one for each layer; as the
    total falls, no floor rises.
    """
    least = _one_each(shapes, total)
    if total <= 2 * len(shapes):  # rounding up to one weight could then exceed it
        return least
    return [max(one, int(budget)) for one, budget in zip(least, _erk(shapes, SAFE_SHARE * total))]


def _one_each(shapes, total):
    """One weight for each layer, if there are so many."""
    return [int(total >= len(shapes))] * len(shapes)


def layer_floors(sizes, least, total):
    """The fewest weights of each layer: a share `least` of its size, rounded up; at least 1 unless `least` is 0.

    Raises ValueError if all floors together exceed `total`.
    """
    # 0.07 * 100 is a little above 7 in binary
    floors = [max(math.ceil(least * size - 1e-9), 1 if least else 0) for size in sizes]
    if sum(floors) > total:
        raise ValueError(
            f"min_layer_density {least:g} keeps at least {sum(floors)} weights, more than the {total} that sparsity "
            "leaves; lower one of the two"
        )
    return floors


def global_masks(weights, masks, total, floors=None):
    """Masks of the `total` largest living weights over all layers: one global magnitude threshold.

    weights, masks: lists of arrays, one per layer; floors: the least each layer keeps, at most what it has alive.
    Returns a list of masks; their counts are the layers' budgets n_l. With floors, no masks that meet them have
    a larger sum of magnitudes.
    """
    scores = each(lambda layer: magnitude(*layer), list(zip(weights, masks)), cost=lambda layer: layer[0].size)
    chosen = largest_of(scores, total)
    if floors is None or all(np.count_nonzero(mask) >= floor for mask, floor in zip(chosen, floors)):
        return chosen
    # What the floors guarantee is taken layer by layer, the rest by one threshold over what remains.
    kept = [largest(score, floor) for score, floor in zip(scores, floors)]
    remaining = [np.where(mask, np.float32(-1), score) for score, mask in zip(scores, kept)]
    return [a | b for a, b in zip(kept, largest_of(remaining, total - sum(floors)))]


def layer_budgets(distribution, shapes, total, least=0.0):
    """Budgets by a distribution's name, of which none is below a share `least` of its layer, or with SAFE, none zero.

    Raises ValueError if the total does not suffice.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    floors = _one_each(shapes, total) if least == SAFE else layer_floors(sizes, least, total)
    budgets = BUDGETS[distribution](shapes, total)
    if distribution == "uniform":  # its first layer is dense by definition: it gives nothing up for the others
        others = _one_each(shapes[1:], total - budgets[0]) if least == SAFE else floors[1:]
        floors = [budgets[0], *others]
    return raise_to_floors(budgets, floors, sizes)


def raise_to_floors(budgets, floors, sizes):
    """Budgets (integers) with the same sum, none below its floor; the others give in proportion to what they can.

    Raises ValueError if the floors together exceed the budgets.
    """
    missing = sum(max(floor - budget, 0) for budget, floor in zip(budgets, floors))
    if missing == 0:
        return budgets
    spare = [max(budget - floor, 0) for budget, floor in zip(budgets, floors)]
    if missing > sum(spare):
        raise ValueError(f"min_layer_density needs {missing - sum(spare)} weights more than the other layers can spare")
    share = 1 - missing / sum(spare)
    return _exact([floor + share * room for floor, room in zip(floors, spare)], np.array(sizes), sum(budgets))


def uniform_budgets(shapes, total):
    """The first layer dense, the same density in all others (as in RigL), so that the total is exact.

    Raises ValueError if the first layer alone exceeds the total.
    """
    sizes = _sizes(shapes)
    if len(sizes) == 1:
        return [total]
    if sizes[0] > total:
        raise ValueError(
            f"distribution uniform keeps the first layer dense, but its {sizes[0]} weights exceed the budget of {total}"
        )
    rest = (total - sizes[0]) / sum(sizes[1:])
    return _exact([float(sizes[0])] + [rest * size for size in sizes[1:]], sizes, total)


def erk_budgets(shapes, total):
    """Erdos-Renyi-Kernel budgets (Evci et al., RigL): density proportional to sum(shape) / prod(shape), at most 1.

    Layers that would exceed density 1 are dense, and the others share what is left in the same proportion.
    """
    return _exact(_erk(shapes, total), _sizes(shapes), total)


def _erk(shapes, total):
    """ERK budgets before rounding."""
    sizes = _sizes(shapes)
    raw = np.array([float(sum(shape)) for shape in shapes])  # density * size: prod(shape) cancels
    dense = np.zeros(len(sizes), dtype=bool)
    while not dense.all():
        scale = (total - sizes[dense].sum()) / raw[~dense].sum()
        over = ~dense & (scale * raw > sizes)
        if not over.any():
            break
        dense |= over
    return np.where(dense, sizes, scale * raw)


BUDGETS = {"uniform": uniform_budgets, "erk": erk_budgets}


def _sizes(shapes):
    return np.array([int(np.prod(shape)) for shape in shapes])


def _exact(budgets, sizes, total):
    """Round real budgets to integers by the largest remainder, never above a layer's size, summing to `total`."""
    budgets = np.minimum(np.asarray(budgets, dtype=float), sizes)
    whole = np.floor(budgets + 1e-9).astype(int)
    room = whole < sizes
    order = np.lexsort((np.arange(len(sizes)), -np.where(room, budgets - whole, -1.0)))
    whole[order[: total - whole.sum()]] += 1
    return whole.tolist()
