"""The mask update of one layer, as pure functions of weight, gradient, mask and integer budgets.

All arrays of one call have the same shape; masks are boolean, True where a weight lives. Selections are exact and
deterministic: on equal scores the position that comes first in memory wins, whatever the machine.

Masked values are formed by multiplication: numpy's `where` branches on every element and is ten times slower.
"""

from typing import NamedTuple

import numpy as np

from .selection import largest


class LayerUpdate(NamedTuple):
    """mask: positions alive after the update; weight: values after it, zero wherever the mask is False."""

    mask: np.ndarray
    weight: np.ndarray


def magnitude(weight, mask):
    """Scores for keeping a weight: |w| where the mask is True, -1 elsewhere, so that living zeros come first."""
    return inside(np.abs(weight), mask)


def drop(weight, mask, count):
    """The mask without its `count` smallest weights."""
    return largest(magnitude(weight, mask), np.count_nonzero(mask) - count)


def grow(scores, mask, count):
    """The mask with the `count` positions outside it whose scores (>= 0, such as |dense gradient|) are largest."""
    return mask | largest(inside(scores, ~mask), count)


def drop_and_grow(weight, mask, scores, count):
    """Drop the `count` smallest weights and regrow as many where `scores` is largest (those just dropped included).

    mask: the layer's mask within its budget. A position regrown at once keeps its value; any other starts at zero.
    """
    new_mask = mask if count == 0 else grow(scores, drop(weight, mask, count), count)
    return updated(weight, mask, new_mask)


def updated(weight, mask, new_mask):
    """The LayerUpdate from one mask to the next: what lives in both keeps its value, all else is zero."""
    return LayerUpdate(new_mask, weight * (mask & new_mask) + np.float32(0))  # adding zero turns -0 into 0


def inside(scores, mask):
    """The finite scores where the mask is True, -1 elsewhere."""
    found = scores * mask
    found -= ~mask
    return found
