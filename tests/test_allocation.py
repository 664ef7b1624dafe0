"""Layer budgets: exact sums, never more than a layer has, and the distributions' own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.pruning.allocation import erk_budgets, global_masks, total_budget, uniform_budgets

SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 1, 1), (10, 64)]


def sizes(shapes):
    return [int(np.prod(shape)) for shape in shapes]


shape = st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 3), st.integers(1, 3))
shapes = st.lists(shape | st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=8)


@given(shapes, st.floats(0, 1))
def test_erk_is_exact_and_bounded(shapes, density):
    total = total_budget(sizes(shapes), density)
    budgets = erk_budgets(shapes, total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes(shapes)))


@given(shapes, st.floats(0, 1))
def test_uniform_is_exact_and_bounded(shapes, density):
    total = total_budget(sizes(shapes), density)
    if len(shapes) > 1 and total < sizes(shapes)[0]:
        with pytest.raises(ValueError, match="first layer"):
            uniform_budgets(shapes, total)
        return
    budgets = uniform_budgets(shapes, total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes(shapes)))
    if len(shapes) > 1:
        assert budgets[0] == sizes(shapes)[0]


def test_erk_follows_the_sum_of_the_dimensions():
    budgets = np.array(erk_budgets(SHAPES, total_budget(sizes(SHAPES), 0.05)))
    per_dimension = budgets / np.array([sum(shape) for shape in SHAPES])
    assert np.ptp(per_dimension) < 0.05 * per_dimension.mean()


def test_erk_caps_small_layers_at_dense():
    budgets = erk_budgets(SHAPES, total_budget(sizes(SHAPES), 0.5))
    assert budgets[0] == sizes(SHAPES)[0]
    assert sum(budgets) == total_budget(sizes(SHAPES), 0.5)


def test_uniform_gives_the_rest_one_density():
    budgets = uniform_budgets(SHAPES, total_budget(sizes(SHAPES), 0.2))
    densities = [budget / size for budget, size in zip(budgets[1:], sizes(SHAPES)[1:])]
    assert np.ptp(densities) < 0.001


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_global_masks_keep_the_largest_of_the_living(seed, density):
    random = np.random.default_rng(seed)
    masks = [random.random(shape) < 0.7 for shape in SHAPES]
    weights = [random.standard_normal(shape).astype(np.float32) * mask for shape, mask in zip(SHAPES, masks)]
    alive = sum(mask.sum() for mask in masks)
    total = int(density * alive)
    chosen = global_masks(weights, masks, total)
    assert sum(mask.sum() for mask in chosen) == total
    assert all(not (new & ~old).any() for new, old in zip(chosen, masks))
    inside = np.concatenate([np.abs(w[new]) for w, new in zip(weights, chosen)])
    outside = np.concatenate([np.abs(w[old & ~new]) for w, old, new in zip(weights, masks, chosen)])
    if inside.size and outside.size:
        assert inside.min() >= outside.max()
