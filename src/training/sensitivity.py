"""Sensitivity of single layers: what a network scores with one of them pruned, the others as they are."""

import numpy as np
from mindspore import Tensor, ops

from ..pruning.allocation import total_budget
from ..pruning.selection import largest

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)


def layer_sensitivity(weights, score, sparsities=SPARSITIES, progress=list):
    """The score of a network after pruning each layer alone to each sparsity, by magnitude and without training.

    weights: Parameters, which have their values again in the end, whatever happens; score: function without arguments;
    sparsities: in [0, 1); progress: given the (weight, sparsity) pairs, iterates over them.

    Returns a JSON-able dict: `score` of the network as it is; `sparsities`; `layers`, each with its name, weights,
    nonzeros and `scores`, one per sparsity. A layer that has no more weights than a sparsity leaves stays as it is.
    """
    weights, unpruned = list(weights), score()
    counts = {weight.name: int(np.count_nonzero(weight.asnumpy())) for weight in weights}
    scores = {weight.name: [] for weight in weights}
    for weight, sparsity in progress([(weight, sparsity) for weight in weights for sparsity in sparsities]):
        kept = total_budget([weight.size], 1 - sparsity)
        pruned = kept < counts[weight.name]
        scores[weight.name].append(_score_pruned(weight, kept, score) if pruned else unpruned)
    layers = [
        {"name": w.name, "weights": w.size, "nonzeros": counts[w.name], "scores": scores[w.name]} for w in weights
    ]
    return {"score": unpruned, "sparsities": list(sparsities), "layers": layers}


def _score_pruned(weight, count, score):
    """The score with only the `count` largest of a layer's weights, which then has all of them again."""
    values = weight.asnumpy().copy()
    try:
        ops.assign(weight, Tensor(values * largest(np.abs(values), count)))
        return score()
    finally:
        ops.assign(weight, Tensor(values))
