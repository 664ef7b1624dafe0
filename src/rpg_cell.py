"""The training objective of RPG: task loss + lambda * rank term (RPG, Section 3).

The rank term of the network is the mean of the layers' terms -||Mn - M_k||_F^2 (see `rank_term.py`) over the
convolutions that take part. Two solvers give the same numbers:

svd   MindSpore's SVD op, inside the graph; for devices that have the op.
gram  the smaller Gram matrix and LAPACK on the host, with the exact gradient; for every device, and several times
      faster. It leaves the graph, so it runs in PyNative mode only.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .platform.device import current_target
from .platform.errors import InputError
from .platform.parallel import SINGLE, share_out
from .pruning.rank_term import decomposition_cost, layer_norm, layer_terms, output_first, output_first_shape


class RPGWithLossCell(nn.Cell):
    """Task loss plus weighted rank term; differentiate it to get the dense gradient that decides what grows.

    task: Cell of a batch -> scalar loss; rank_term: Cell of (*weights) -> scalar; rank_weight: lambda;
    weights: the convolution weights (Parameters of the task's network) that the rank term is taken of; transposed:
    {name: groups} of those of transposed convolutions, whose layout is another (see `rank_term.output_first`).

    Among several workers each decomposes its own share of the layers only, and its rank term is scaled so that the
    mean over workers is the rank term of the network. The mean of the gradients, taken over workers anyway, then
    is the gradient of the whole.
    """

    def __init__(self, task, rank_term, rank_weight, weights, workers=SINGLE, transposed=None):
        super().__init__(auto_prefix=False)
        self.task = task
        self.rank_term = rank_term
        self.rank_weight = rank_weight
        self.weights = list(weights)
        self.workers = workers.size
        self.groups = transposed or {}
        shares = share_out([self._cost(weight) for weight in self.weights], workers.size)
        self.own = [self.weights[index] for index in shares[workers.rank]]

    def construct(self, *batch):
        return self.terms(*batch)[0]

    def terms(self, *batch):
        """(objective, task loss, rank term), all scalars; the rank term as this worker contributes to the mean."""
        task, rank = self.task(*batch), self.share()
        return task + self.rank_weight * rank, task, rank

    def share(self):
        """This worker's part of the rank term, times the number of workers."""
        if self.workers == 1:
            return self.rank_term(*self._output_first(self.weights))
        if not self.own:  # more workers than layers
            return Tensor(0.0, ms.float32)
        # The solver divides by the layers that take part among its own; the network's mean divides by all of them.
        # Masks and weights are the same on all workers, so each can count for itself.
        own, every = self.rank_term.count(*self.own), self.rank_term.count(*self.weights)
        return self.rank_term(*self._output_first(self.own)) * (
            self.workers * own / ops.maximum(every, ops.ones_like(every))
        )

    def _output_first(self, weights):
        groups = [self.groups.get(weight.name) for weight in weights]
        return [output_first(w, g) if g else w for w, g in zip(weights, groups)]

    def _cost(self, weight):
        groups = self.groups.get(weight.name)
        return decomposition_cost(output_first_shape(weight.shape, groups) if groups else weight.shape)


class SVDRankTerm(nn.Cell):
    """Rank term by MindSpore's SVD op; differentiable and compilable.

    tail_energy: eta in (0, 1). construct(*weights) returns a scalar; weights that are zero or not finite take no part.
    failures: how many decompositions gave what is not finite so far; such a layer is left out, but counts in the mean.
    """

    def __init__(self, tail_energy):
        super().__init__()
        self.tail_energy = tail_energy
        self.failures = Parameter(Tensor(0.0, ms.float32), name="rank_failures", requires_grad=False)

    def construct(self, *weights):
        total, count, failures = 0.0, 0.0, 0.0
        for weight in weights:
            loss, present, failed = self.layer(weight)
            total += loss
            count += present
            failures += failed
        total = ops.depend(total, ops.assign_add(self.failures, ops.stop_gradient(failures)))
        return total / ops.maximum(count, ops.ones_like(count))

    def count(self, *weights):
        """How many of the weights take part, as a scalar Tensor."""
        count = 0.0
        for weight in weights:
            count += self.present(ops.stop_gradient(weight)).astype(weight.dtype)
        return count

    def present(self, weight):
        """Whether a weight takes part, as a boolean Tensor."""
        square = ops.stop_gradient((weight * weight).sum())
        return ops.logical_and(ops.isfinite(square), square > 0)

    def layer(self, weight):
        """(loss, 1.0, whether it failed) of one weight, or (0.0, 0.0, 0.0) if it takes no part."""
        matrix = weight.reshape(weight.shape[0], -1)
        present = self.present(matrix)
        # A matrix without a rank term is replaced by zeros, which every step below maps to zeros.
        matrix = ops.where(present, matrix, ops.zeros_like(matrix))
        normalised = matrix / ops.sqrt(ops.where(present, (matrix * matrix).sum(), 1.0))
        low_rank = ops.stop_gradient(self.approximate(ops.stop_gradient(normalised)))
        works = ops.isfinite(low_rank.sum())
        # Where the decomposition failed, the matrix stands for its own approximation: no tail, no gradient.
        low_rank = ops.where(works, low_rank, ops.stop_gradient(normalised))
        tail = normalised - low_rank
        failed = ops.logical_not(works).astype(ms.float32)
        return -(tail * tail).sum(), present.astype(weight.dtype), failed

    def approximate(self, matrix):
        """Best rank-k approximation of a normalised matrix, k by its tail energy."""
        values, left, right = ops.svd(matrix, full_matrices=False, compute_uv=True)
        energies = values * values
        tails = energies.sum() - ops.cumsum(energies, 0) + energies
        k = ops.argmin(ops.abs(tails - self.tail_energy))
        kept = values * (ops.arange(values.shape[0]) < k).astype(values.dtype)
        return ops.matmul(left * kept, right.swapaxes(0, 1))


class GramRankTerm(nn.Cell):
    """Rank term by Gram matrices on the host, layers spread over threads; the gradient is exact, not traced.

    tail_energy: eta in (0, 1). construct(*weights) returns a scalar; weights that are zero or not finite take no part.
    failures: how many layers were left out so far because no solver could decompose them (see `rank_term.decompose`).
    """

    def __init__(self, tail_energy):
        super().__init__()
        self.tail_energy = tail_energy
        self.gradients = ()
        self.failures = Parameter(Tensor(0.0, ms.float32), name="rank_failures", requires_grad=False)

    def construct(self, *weights):
        terms = layer_terms([weight.asnumpy() for weight in weights], self.tail_energy)
        count = max(sum(term.gradient is not None for term in terms), 1)
        failed = sum(term.failed for term in terms)
        if failed:
            ops.assign_add(self.failures, Tensor(failed, ms.float32))
        self.gradients = [
            ops.zeros_like(weight) if term.gradient is None else Tensor.from_numpy(term.gradient)
            for term, weight in zip(terms, weights)
        ]
        self.present = count
        return Tensor(np.float32(sum(term.loss for term in terms) / count))

    def count(self, *weights):
        """How many of the weights take part, as a scalar Tensor."""
        return Tensor(np.float32(sum(layer_norm(weight.asnumpy()) > 0 for weight in weights)))

    def bprop(self, *args):
        """Gradients of the last construct, times the incoming one; `args` are its inputs, output and sensitivity."""
        factor = args[-1] / self.present
        return tuple(factor * gradient for gradient in self.gradients)


def build_objective(settings, task, weights, transposed, parts, workers):
    """The RPGWithLossCell of PruningSettings over `weights`, or None where these have no rank term or there are none.

    transposed: see RPGWithLossCell; parts: that a batch is computed in. Only the last one carries the rank term, and
    the gradients are divided by their number, so it counts that many times.
    """
    if not settings.rank_weight or not weights:
        return None
    rank_term = build_rank_term(settings.rank_solver, settings.tail_energy)
    return RPGWithLossCell(task, rank_term, parts * settings.rank_weight, weights, workers, transposed)


SOLVERS = {"svd": SVDRankTerm, "gram": GramRankTerm}


def build_rank_term(solver, tail_energy):
    """The rank term by its solver's name; `auto` is `gram`, which runs on every device and is the faster one.

    Raises InputError for `svd` on Ascend.
    """
    if solver == "svd" and current_target() == "Ascend":
        raise InputError("rank_solver: svd has no kernel on Ascend; use gram")
    return SOLVERS["gram" if solver == "auto" else solver](tail_energy)
