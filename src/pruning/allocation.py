"""Layer budgets: how many weights each layer keeps at a given global density.

A distribution is a function of the layers' shapes and a total; its integer budgets always sum to that total exactly.
`global` needs the weights themselves and is computed by one threshold over all layers (`global_masks`).
"""

import numpy as np

from ..threads import each
from .masks import magnitude
from .selection import largest_of


def total_budget(sizes, density):
    """Number of weights that a network of the given layer sizes keeps: density times their sum, rounded."""
    return round(density * sum(sizes))


def global_masks(weights, masks, total):
    """Masks of the `total` largest living weights over all layers: one global magnitude threshold.

    weights, masks: lists of arrays, one per layer. Returns a list of masks; their counts are the layers' budgets n_l.
    """
    scores = each(lambda layer: magnitude(*layer), list(zip(weights, masks)), cost=lambda layer: layer[0].size)
    return largest_of(scores, total)


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
    sizes = _sizes(shapes)
    raw = np.array([float(sum(shape)) for shape in shapes])  # density * size: prod(shape) cancels
    dense = np.zeros(len(sizes), dtype=bool)
    while not dense.all():
        scale = (total - sizes[dense].sum()) / raw[~dense].sum()
        over = ~dense & (scale * raw > sizes)
        if not over.any():
            break
        dense |= over
    budgets = np.where(dense, sizes, scale * raw)
    return _exact(budgets, sizes, total)


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
