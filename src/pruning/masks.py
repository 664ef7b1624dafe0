"""The mask update of one layer, as pure functions of weight, gradient, mask and integer budgets.

All arrays of one call have the same shape; masks are boolean, True where a weight lives. Selections are exact and
deterministic: on equal scores the position that comes first in memory wins, whatever the machine.
"""

from typing import NamedTuple

import numpy as np


class LayerUpdate(NamedTuple):
    """mask: positions alive after the update; weight: values after it, zero wherever the mask is False."""

    mask: np.ndarray
    weight: np.ndarray


def largest(scores, count):
    """Mask of the `count` largest scores (0 <= count <= size), in linear time: one partition, no full sort."""
    if count == 0:
        return np.zeros(scores.shape, dtype=bool)
    if count == scores.size:
        return np.ones(scores.shape, dtype=bool)
    flat = scores.ravel()
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    chosen = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return chosen.reshape(scores.shape)


def magnitude(weight, mask):
    """Scores for keeping a weight: |w| where the mask is True, -1 elsewhere, so that living zeros come first."""
    return np.where(mask, np.abs(weight), np.float32(-1))


def drop(weight, mask, count):
    """The mask without its `count` smallest weights."""
    return largest(magnitude(weight, mask), np.count_nonzero(mask) - count)


def grow(scores, mask, count):
    """The mask with the `count` positions outside it whose scores (>= 0, such as |dense gradient|) are largest."""
    return mask | largest(np.where(mask, np.float32(-1), scores), count)


def drop_and_grow(weight, mask, scores, count):
    """Drop the `count` smallest weights and regrow as many where `scores` is largest (those just dropped included).

    mask: the layer's mask within its budget. A position regrown at once keeps its value; any other starts at zero.
    """
    new_mask = grow(scores, drop(weight, mask, count), count)
    return LayerUpdate(new_mask, np.where(mask & new_mask, weight, np.zeros_like(weight)))
