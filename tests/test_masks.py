"""The mask update of one layer: from tables, and its invariants for any layer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.pruning.masks import drop, drop_and_grow, grow, magnitude
from src.pruning.selection import largest


def floats(*values):
    return np.array(values, np.float32)


def bools(text):
    return np.array([character == "1" for character in text])


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ((1, 3, 2), 0, "000"),
        ((1, 3, 2), 1, "010"),
        ((1, 3, 2), 2, "011"),
        ((1, 3, 2), 3, "111"),
        ((5, 5, 5, 5), 2, "1100"),  # ties go to the earlier position
        ((0, 1, 1, 2, 1), 3, "01110"),
        ((-1, -1, 0), 2, "101"),
    ],
)
def test_largest(scores, count, expected):
    assert np.array_equal(largest(floats(*scores), count), bools(expected))


@pytest.mark.parametrize(
    ("weight", "mask", "scores", "count", "new_mask", "new_weight"),
    [
        # nothing dropped: the mask stays, whatever the gradients say
        ((5, 4, 0, 0), "1100", (0, 0, 9, 9), 0, "1100", (5, 4, 0, 0)),
        # the smallest goes, the position with the largest gradient comes, and it starts at zero
        ((5, 4, 0, 0), "1100", (0, 0, 9, 8), 1, "1010", (5, 0, 0, 0)),
        # a position just dropped may come back, and then keeps its value
        ((5, 4, 0, 0), "1100", (0, 9, 8, 0), 1, "1100", (5, 4, 0, 0)),
        # a weight outside the mask never survives as a value, even if it grows
        ((5, 4, 3, 0), "1100", (0, 0, 9, 0), 1, "1010", (5, 0, 0, 0)),
        # gradients of kept positions do not count
        ((5, 4, 3, 0), "1110", (99, 99, 0, 1), 1, "1101", (5, 4, 0, 0)),
        # a living zero is dropped before any other, but counts as alive
        ((5, 0, 0, 0), "1100", (0, 0, 0, 1), 1, "1001", (5, 0, 0, 0)),
        # everything dropped: the gradients alone decide
        ((5, 4, 0, 0), "1100", (0, 1, 2, 0), 2, "0110", (0, 4, 0, 0)),
    ],
)
def test_drop_and_grow(weight, mask, scores, count, new_mask, new_weight):
    new = drop_and_grow(floats(*weight), bools(mask), floats(*scores), count)
    assert np.array_equal(new.mask, bools(new_mask))
    assert np.array_equal(new.weight, floats(*new_weight))


@st.composite
def layers(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
    values = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, -1.0])
    mask = draw(hnp.arrays(bool, shape))
    weight = draw(hnp.arrays(np.float32, shape, elements=values)) * mask
    gradient = draw(hnp.arrays(np.float32, shape, elements=values))
    count = draw(st.integers(0, int(mask.sum())))
    return weight, mask, gradient, count


@given(layers())
def test_invariants(layer):
    weight, mask, gradient, count = layer
    scores = np.abs(gradient)
    kept = drop(weight, mask, count)
    new = drop_and_grow(weight, mask, scores, count)
    dropped, grown = mask & ~kept, new.mask & ~kept
    assert new.mask.sum() == mask.sum()  # the budget holds
    assert dropped.sum() == grown.sum() == count
    assert not (kept & ~mask).any()
    assert (kept & new.mask == kept).all()  # what is kept stays
    if dropped.any() and kept.any():
        assert np.abs(weight[dropped]).max() <= np.abs(weight[kept]).min()
    if grown.any() and (~kept & ~grown).any():
        assert scores[grown].min() >= scores[~kept & ~grown].max()
    assert (new.weight[~new.mask] == 0).all()
    assert np.array_equal(new.weight[new.mask & mask], weight[new.mask & mask])
    assert (new.weight[new.mask & ~mask] == 0).all()
    assert not np.signbit(new.weight[~new.mask]).any()  # +0, whose bytes are zero, too


@given(layers())
def test_update_with_nothing_to_drop_changes_nothing(layer):
    weight, mask, gradient, _ = layer
    new = drop_and_grow(weight, mask, np.abs(gradient), 0)
    assert np.array_equal(new.mask, mask)
    assert np.array_equal(new.weight, weight)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])),
    st.data(),
)
def test_largest_agrees_with_a_full_stable_sort(scores, data):
    count = data.draw(st.integers(0, scores.size))
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    assert np.array_equal(largest(scores, count), expected.reshape(scores.shape))


def test_living_zeros_come_before_masked_positions():
    assert np.array_equal(magnitude(floats(0, -2, 3), bools("110")), floats(0, 2, -1))
    assert np.array_equal(grow(floats(0, 0, 0), bools("010"), 1), bools("110"))
