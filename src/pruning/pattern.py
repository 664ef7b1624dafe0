"""N:M patterns: at most N non-zeros in every group of M neighbours along the input channels (Mishra et al., 2021).

A group is M consecutive input channels at one kernel position of one output channel, as CANN's 2:4 sparsity has it; the
conventions of `masks` hold: boolean masks, exact and deterministic selections, of equal scores the earlier wins.

The pattern is reached gradually: at every update the N largest living weights of each group are safe, and one threshold
over all layers decides which of the others stay, until the density is N/M and nothing but the safe ones is left. From
then on, every group keeps its N: drop and grow move weights inside their groups only.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..platform.threads import each
from .allocation import total_budget
from .masks import drop, inside, magnitude, updated
from .selection import largest_of


class Pattern(NamedTuple):
    """kept: N, the weights that each group keeps; of: M, the size of a group."""

    kept: int
    of: int

    @classmethod
    def parse(cls, text):
        """The Pattern that `N:M` says. Raises ValueError unless 1 <= N < M <= 99."""
        match = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", text, re.ASCII)
        if not match or int(match[1]) >= int(match[2]):
            raise ValueError("N:M with N below M, such as 2:4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self):
        return f"{self.kept}:{self.of}"

    @property
    def density(self):
        """Share of the weights that a whole layer keeps."""
        return self.kept / self.of

    def groups(self, array, axis):
        """The array of a layer as (M, number of groups): each column a group; `axis` has the input channels."""
        before, channels = math.prod(array.shape[:axis]), array.shape[axis]
        return np.moveaxis(array.reshape(before, channels // self.of, self.of, -1), 2, 0).reshape(self.of, -1)

    def counts(self, mask, axis):
        """Living weights of every group."""
        return self.groups(mask != 0, axis).sum(axis=0, dtype=np.uint8)

    def largest(self, scores, axis, counts=None):
        """Mask of the largest scores of every group: N of each, or as many as `counts` says."""
        columns = self.groups(scores, axis)
        rank = np.zeros(columns.shape, np.uint8)  # how many come before it; several times quicker than sorting
        for late in range(1, self.of):
            for early in range(late):
                wins = columns[early] >= columns[late]
                rank[late] += wins
                rank[early] += ~wins
        before, channels = math.prod(scores.shape[:axis]), scores.shape[axis]
        mask = (rank < (self.kept if counts is None else counts)).reshape(self.of, before, channels // self.of, -1)
        return np.moveaxis(mask, 0, 2).reshape(scores.shape)

    def drop_and_grow(self, weight, mask, scores, axis, count):
        """`masks.drop_and_grow` within groups: of the layer's weights the `count` smallest are dropped, and each group
        regrows as many as it has lost, where its own `scores` are largest.
        """
        if count == 0:
            return updated(weight, mask, mask)
        left = drop(weight, mask, count)
        lost = self.counts(mask, axis) - self.counts(left, axis)
        return updated(weight, mask, left | self.largest(inside(scores, ~left), axis, lost))


class Patterned(NamedTuple):
    """Which layers of a network take a pattern.

    axes: {index of a layer: axis of its input channels}; rest: what becomes of the other layers, `dense` or
    `unstructured`: pruned to the same density together, by one threshold.
    """

    pattern: Pattern
    axes: Mapping
    rest: str = "dense"

    def rest_of(self, sizes):
        """Indices of the other layers of a network, whose layers have these sizes."""
        return [index for index in range(len(sizes)) if index not in self.axes]

    def target(self, sizes):
        """How many weights of layers of these sizes are left in the end."""
        others = sum(sizes[index] for index in self.rest_of(sizes))
        kept = sum(self.least(sizes[index]) for index in self.axes)
        return kept + (others if self.rest == "dense" else total_budget([others], self.pattern.density))

    def least(self, size):
        """How many weights of a layer of this size are safe: N of every group."""
        return size // self.pattern.of * self.pattern.kept

    def masks(self, weights, masks, indices, total):
        """Masks of the `total` living weights that are kept: the N largest of every group, then the largest of all.

        weights, masks: arrays of the layers `indices`, all of which take the pattern; `total` is at least the number of
        safe weights, and at most that of the living.
        """

        def split(layer):
            weight, mask, index = layer
            scores = magnitude(weight, mask)
            safe = self.pattern.largest(scores, self.axes[index])
            return safe, inside(scores, ~safe)

        layers = list(zip(weights, masks, indices))
        safe, others = zip(*each(split, layers, cost=lambda layer: layer[0].size))
        more = total - sum(map(np.count_nonzero, safe))
        return [mask | rest for mask, rest in zip(safe, largest_of(others, more))]

    def broken(self, arrays, exact=False):
        """{index: groups that hold more than N non-zeros} of the layers where there are any.

        arrays: weights or masks of all layers; exact: a group that holds fewer counts as well, which masks never do.
        """
        found = {}
        for index, axis in self.axes.items():
            counts = self.pattern.counts(arrays[index], axis)
            wrong = counts != self.pattern.kept if exact else counts > self.pattern.kept
            if wrong.any():
                found[index] = int(np.count_nonzero(wrong))
        return found

    def describe(self, names):
        """Which layers take the pattern, in words; names: of all layers."""
        others = [names[index] for index in self.rest_of(names)]
        text = f"pattern {self.pattern} in {len(self.axes)} of {len(names)} layers"
        return f"{text}; {self.rest}: {', '.join(others)}" if others else text
