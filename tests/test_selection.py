"""Selection by bracket against a full stable sort, where the sample helps and where it misleads."""

import numpy as np
import pytest

from src.pruning import selection
from src.pruning.selection import largest, largest_of

SIZE = 300_000


def by_sort(scores, count):
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def normal(rng):
    return np.abs(rng.standard_normal(SIZE))


def mostly_masked(rng):
    return np.where(rng.random(SIZE) < 0.02, np.abs(rng.standard_normal(SIZE)), -1)


def few_values(rng):
    return rng.integers(0, 4, SIZE)


def one_value(rng):
    return np.ones(SIZE)


def ascending(rng):
    return np.arange(SIZE)


def in_step_with_the_sample(rng):
    """Every sampled score is large, all others are small: the bracket is wrong."""
    scores = np.zeros(SIZE)
    scores[:: SIZE // selection.SAMPLE] = 9
    return scores + rng.random(SIZE)


def outliers(rng):
    scores = rng.random(SIZE)
    scores[:5] = 1e30
    return scores


KINDS = [normal, mostly_masked, few_values, one_value, ascending, in_step_with_the_sample, outliers]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("share", [0, 1e-5, 0.02, 0.5, 0.99, 1])
def test_agrees_with_a_full_sort(kind, share, rng):
    scores = kind(rng).astype(np.float32).reshape(100, -1)
    count = round(share * SIZE)
    assert np.array_equal(largest(scores, count), by_sort(scores, count))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.97])
def test_several_arrays_are_one(share, rng):
    parts = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (200, 300), (1,), (64, 64, 3, 3))]
    count = round(share * sum(part.size for part in parts))
    together = by_sort(np.concatenate([part.ravel() for part in parts]), count)
    chosen = largest_of(parts, count)
    assert [mask.shape for mask in chosen] == [part.shape for part in parts]
    assert np.array_equal(np.concatenate([mask.ravel() for mask in chosen]), together)


def test_ties_over_several_arrays_go_to_the_earlier_one():
    chosen = largest_of([np.ones(3, np.float32), np.ones(3, np.float32)], 4)
    assert [mask.tolist() for mask in chosen] == [[True] * 3, [True, False, False]]


def test_inputs_are_left_alone(rng):
    scores = rng.random((50, 50)).astype(np.float32)
    before = scores.copy()
    largest(scores, 100)
    assert np.array_equal(scores, before)
