"""The rank term of one layer: against a full SVD, finite differences, and its defined cases."""

import numpy as np
import pytest

from src.pruning.rank_term import choose_rank, gram_eigh, gram_svd, layer_term

SHAPES = [(8, 4, 3, 3), (32, 4, 1, 1), (6, 6), (1, 5, 3, 3), (12, 1, 1, 1), (5, 16, 3, 3)]


def by_full_svd(weight, tail_energy):
    """k and loss as the definition says them, by a full SVD and a loop."""
    matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    tails = [np.sum(values[k:] ** 2) for k in range(len(values))]
    k = min(range(len(values)), key=lambda k: abs(tails[k] - tail_energy))
    low_rank = (left[:, :k] * values[:k]) @ right[:k]
    return k, low_rank, -np.sum((matrix / np.linalg.norm(matrix) - low_rank) ** 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("tail_energy", [0.05, 0.2, 0.6])
def test_agrees_with_a_full_svd(shape, density, tail_energy, rng):
    weight = rng.standard_normal(shape) * (rng.random(shape) < density)
    k, _, loss = by_full_svd(weight, tail_energy)
    term = layer_term(weight, tail_energy)
    assert term.k == k
    assert term.loss == pytest.approx(loss, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tail_energy", [0.1, 0.5])
def test_gradient_against_finite_differences(shape, tail_energy, rng):
    """Central differences of -||Mn - M_k||^2 with M_k held constant, along random directions."""
    weight = rng.standard_normal(shape)
    _, low_rank, _ = by_full_svd(weight, tail_energy)
    gradient = layer_term(weight, tail_energy).gradient

    def loss(values):
        matrix = values.reshape(values.shape[0], -1)
        return -np.sum((matrix / np.linalg.norm(matrix) - low_rank) ** 2)

    for _ in range(5):
        direction = rng.standard_normal(shape)
        step = 1e-5
        slope = (loss(weight + step * direction) - loss(weight - step * direction)) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_scale_of_the_weight_does_not_change_the_loss(rng):
    weight = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    small, large = layer_term(weight, 0.1), layer_term(1000 * weight, 0.1)
    assert small.loss == pytest.approx(large.loss, rel=1e-6)
    assert np.allclose(small.gradient, 1000 * large.gradient, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_layer_that_is_zero_or_not_finite_takes_no_part(value):
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[0, 0, 0, 0] = value
    term = layer_term(weight, 0.1)
    assert (term.k, term.loss, term.gradient) == (0, 0.0, None)


def test_one_row_is_all_tail_and_has_no_gradient(rng):
    term = layer_term(rng.standard_normal((1, 8, 3, 3)), 0.1)
    assert term.k == 0
    assert term.loss == pytest.approx(-1.0)
    assert np.abs(term.gradient).max() < 1e-12


@pytest.mark.parametrize(
    ("energies", "tail_energy", "k"),
    [
        ((0.6, 0.3, 0.1), 0.1, 2),
        ((0.6, 0.3, 0.1), 0.4, 1),
        ((0.6, 0.3, 0.1), 0.9, 0),
        ((0.75, 0.25), 0.625, 0),  # as far from 1 as from 0.25: the lower rank
        ((1.0,), 0.1, 0),
        ((1.0, 0.0, 0.0), 0.1, 1),
    ],
)
def test_choice_of_the_rank(energies, tail_energy, k):
    assert choose_rank(np.array(energies), tail_energy) == k


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7), (1, 5)])
def test_both_decompositions_give_the_same_energies_and_directions(shape, rng):
    matrix = rng.standard_normal(shape)
    energies, vectors = gram_svd(matrix)
    expected, directions = gram_eigh(matrix)
    assert np.allclose(energies, expected)  # of a matrix that is not normalised, too: they sum to 1
    assert vectors.shape == directions.shape == (min(shape), min(shape))
    assert np.allclose(np.abs(np.sum(vectors * directions, axis=0)), 1)  # up to the sign
