"""The rank term of one layer, on the host: best low-rank approximation, loss and gradient.

This is the core of RPG (Tian et al., NeurIPS 2023, Section 3). A convolution weight is read as a matrix M with one
row per output channel (see `output_first` for transposed convolutions) and normalised to Mn = M / ||M||_F. Its best
rank-k approximation M_k keeps the k largest singular values (Eckart-Young). The layer's term -||Mn - M_k||_F^2 rewards
energy in the tail, that is, high rank.

M_k is a constant of the term, so only the tail T = Mn - M_k is needed, and T = P Mn for the projector P on the
singular directions behind the k-th. P follows from one symmetric eigendecomposition of the smaller Gram matrix,
several times cheaper than a full SVD. The singular vectors themselves are never formed.
"""

from typing import NamedTuple

import numpy as np

from ..platform.threads import each
from .lapack import eigh


class LayerTerm(NamedTuple):
    """The rank term of one layer.

    k: rank of the low-rank approximation; loss: -||Mn - M_k||_F^2; gradient: d loss / d weight, shaped and typed like
    the weight. A layer that cannot take part (see `layer_norm`) has k 0, loss 0 and gradient None. One whose
    decomposition failed takes part with loss 0 and a gradient of zeros: it counts in the mean over layers all the same,
    which workers form without asking each other.
    """

    k: int
    loss: float
    gradient: np.ndarray
    failed: bool = False


NO_TERM = LayerTerm(0, 0.0, None)


def layer_norm(weight):
    """||W||_F as a float, or 0.0 if the weight has no rank term: it is all zeros, or has a NaN or Inf."""
    norm = float(np.linalg.norm(weight.ravel()))
    if not np.isfinite(norm):  # perhaps only the square overflowed
        norm = float(np.linalg.norm(weight.ravel().astype(np.float64)))
    return norm if np.isfinite(norm) else 0.0


def output_first(weight, groups):
    """A transposed convolution's weight (in, out / groups, *kernel) as (out, in / groups, *kernel), like any other's.

    weight: array or Tensor. The rank term's matrix then has one row per output channel, also where there are groups.
    """
    grouped = weight.reshape((groups, weight.shape[0] // groups, *weight.shape[1:]))
    return grouped.swapaxes(1, 2).reshape(output_first_shape(weight.shape, groups))


def output_first_shape(shape, groups):
    """The shape that `output_first` gives a weight of this one."""
    inputs, outputs, *kernel = shape
    return (groups * outputs, inputs // groups, *kernel)


def choose_rank(energies, tail_energy):
    """Rank k in 0..r-1 whose tail holds the share of energy closest to `tail_energy`; the lower k on a tie.

    energies: (r,) squared singular values in descending order, summing to 1; tail_energy: eta, in (0, 1).
    """
    tails = np.cumsum(energies[::-1])[::-1]  # tails[k] = sum of energies[k:]
    return int(np.argmin(np.abs(tails - tail_energy)))


def gram_eigh(matrix):
    """Eigenvalues (ascending) and eigenvectors of the smaller Gram matrix of a normalised matrix.

    Returns energies (r,) in float64, summing to 1, and vectors (r, r), one per column, r = min(matrix.shape): the
    left singular vectors of a wide matrix, the right ones of a tall matrix.
    """
    rows, columns = matrix.shape
    values, vectors = eigh(matrix @ matrix.T if rows <= columns else matrix.T @ matrix)
    energies = np.clip(values.astype(np.float64), 0, None)
    return energies / energies.sum(), vectors


def gram_svd(matrix):
    """What `gram_eigh` gives, by a singular value decomposition in float64: several times slower, and sturdier."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    vectors = left if matrix.shape[0] <= matrix.shape[1] else right.T
    energies = values[::-1] ** 2
    return energies / energies.sum(), vectors[:, ::-1].astype(matrix.dtype)


def decompose(matrix):
    """`gram_eigh`, or `gram_svd` where it does not converge or gives what is not finite, or None where both fail."""
    for solver in (gram_eigh, gram_svd):
        try:
            energies, vectors = solver(matrix)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(energies).all() and np.isfinite(vectors).all():
            return energies, vectors
    return None


def decomposition_cost(shape):
    """Time of one layer's term up to a factor: what is balanced between threads and between workers.

    shape: of the weight. With r = min(rows, columns) and c = max(rows, columns), the products grow with r^2 c; LAPACK's
    eigendecomposition gets more efficient with size and grows with r^2.5 from r = 128 to 1024. The factor between the
    two is fitted to the layers of a ResNet-50 on a CPU.
    """
    rows, columns = shape[0], int(np.prod(shape[1:]))
    small, large = min(rows, columns), max(rows, columns)
    return small**2 * (large + 112 * small**0.5)


def layer_term(weight, tail_energy):
    """Rank term of one weight and its exact gradient, by the smaller Gram matrix (the `gram` solver).

    weight: (out, in, kh, kw) or (out, in), float32 or float64; computed in its own precision, of which float32 is
    enough (the recorded gradients are met to a few 1e-6). tail_energy: eta in (0, 1). Returns a LayerTerm.
    """
    norm = layer_norm(weight)
    if norm == 0.0:
        return NO_TERM
    matrix = (weight / weight.dtype.type(norm)).reshape(weight.shape[0], -1)
    decomposed = decompose(matrix)
    if decomposed is None:
        return LayerTerm(0, 0.0, np.zeros_like(weight), failed=True)
    energies, vectors = decomposed
    k = choose_rank(energies[::-1], tail_energy)
    behind = len(energies) - k
    loss = -float(energies[:behind].sum())
    # G = -2 T; through the normalisation dL/dM = (G - <G, Mn> Mn) / ||M||, and <T, Mn> = ||T||^2 = -loss.
    # T is the part of Mn along the directions behind the k-th, or Mn without the part along the first k: whichever
    # has fewer directions is multiplied out, with the factor of the gradient already inside.
    factor = -2.0 / norm
    if behind < k:
        gradient = _along(matrix, vectors[:, :behind], factor)
        matrix *= factor * loss
    else:
        gradient = _along(matrix, vectors[:, behind:], -factor)
        matrix *= factor * (1 + loss)
    gradient += matrix
    return LayerTerm(k, loss, gradient.reshape(weight.shape))


def layer_terms(weights, tail_energy):
    """The rank terms of several weights, layers spread over the threads of `threads.each`."""

    def term(weight):
        return layer_term(weight, tail_energy)

    return each(term, weights, cost=lambda weight: decomposition_cost(weight.shape))


def _along(matrix, basis, factor):
    """factor times the projection of a matrix on basis vectors (columns) of its smaller side."""
    scaled = basis * basis.dtype.type(factor)
    wide = matrix.shape[0] <= matrix.shape[1]
    return scaled @ (basis.T @ matrix) if wide else (matrix @ basis) @ scaled.T
