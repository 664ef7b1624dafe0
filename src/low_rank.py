"""The rank term of one layer, on the host: best low-rank approximation, loss and gradient.

This is the core of RPG (Tian et al., NeurIPS 2023, Section 3). A convolution weight is read as a matrix M with one
row per output channel and normalised to Mn = M / ||M||_F. Its best rank-k approximation M_k keeps the k largest
singular values (Eckart-Young). The layer's term -||Mn - M_k||_F^2 rewards energy in the tail, that is, high rank.

M_k is a constant of the term, so only the tail T = Mn - M_k is needed, and T = P Mn for the projector P on the
singular directions behind the k-th. P follows from one symmetric eigendecomposition of the smaller Gram matrix,
several times cheaper than a full SVD. The singular vectors themselves are never formed.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg


class LayerTerm(NamedTuple):
    """The rank term of one layer.

    k: rank of the low-rank approximation; loss: -||Mn - M_k||_F^2; gradient: d loss / d weight, shaped and typed like
    the weight. A layer that cannot take part (see `takes_part`) has k 0, loss 0 and gradient 0.
    """

    k: int
    loss: float
    gradient: np.ndarray


def takes_part(weight):
    """Whether a weight has a rank term: it has a non-zero entry and no NaN or Inf."""
    norm = np.linalg.norm(weight.astype(np.float64).ravel())
    return bool(np.isfinite(norm) and norm > 0)


def choose_rank(energies, tail_energy):
    """Rank k in 0..r-1 whose tail holds the share of energy closest to `tail_energy`; the lower k on a tie.

    energies: (r,) squared singular values in descending order, summing to 1; tail_energy: eta, in (0, 1).
    """
    tails = np.cumsum(energies[::-1])[::-1]  # tails[k] = sum of energies[k:]
    return int(np.argmin(np.abs(tails - tail_energy)))


def gram_eigh(matrix):
    """Eigenvalues (descending, clipped at 0) and eigenvectors of the smaller Gram matrix of `matrix`.

    Returns energies (r,), vectors (r, r) with one eigenvector per column, r = min(matrix.shape). The vectors are
    left singular vectors of a wide matrix and right singular vectors of a tall one.
    """
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    values, vectors = linalg.eigh(gram, overwrite_a=True, check_finite=False)
    return np.clip(values[::-1], 0, None), vectors[:, ::-1]


def layer_term(weight, tail_energy):
    """Rank term of one weight and its exact gradient, by the smaller Gram matrix (the `gram` solver).

    weight: (out, in, kh, kw) or (out, in), float; tail_energy: eta in (0, 1). Returns a LayerTerm.
    Raises numpy.linalg.LinAlgError if the eigendecomposition does not converge.
    """
    if not takes_part(weight):
        return LayerTerm(0, 0.0, np.zeros_like(weight))
    matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
    norm = np.linalg.norm(matrix)
    matrix /= norm
    energies, vectors = gram_eigh(matrix)
    k = choose_rank(energies, tail_energy)
    tail = _project(matrix, vectors, k)
    loss = -np.sum(tail * tail)
    # G = -2 T; through the normalisation dL/dM = (G - <G, Mn> Mn) / ||M||, and <T, Mn> = ||T||^2 = -loss.
    gradient = (-2.0 * tail - 2.0 * loss * matrix) / norm
    return LayerTerm(k, float(loss), gradient.reshape(weight.shape).astype(weight.dtype))


def _project(matrix, vectors, k):
    """The tail Mn - M_k: Mn projected on the eigenvectors behind the k-th, through whichever side has fewer."""
    from_head = k <= vectors.shape[1] - k
    basis = vectors[:, :k] if from_head else vectors[:, k:]
    wide = matrix.shape[0] <= matrix.shape[1]
    part = basis @ (basis.T @ matrix) if wide else (matrix @ basis) @ basis.T
    return matrix - part if from_head else part
