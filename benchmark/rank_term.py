"""What does the rank term of a whole network cost? Loss and gradient beside a full SVD per layer.

usage: python benchmark/rank_term.py [--repeats N]
"""

import argparse
import warnings

import numpy as np
from common import medians, sparse_arrays, start, table, torch_or_none
from mindspore import Tensor, ops

from src.models import build_model
from src.pruning.pruner import convolution_weights
from src.pruning.rank_term import layer_terms

ETA = 0.1


def matrices(arrays):
    """The (out, in*kh*kw) matrices of convolution weights."""
    return [array.reshape(len(array), -1) for array in arrays]


def full_svd(arrays):
    """Functions that decompose every layer in full, by library: singular values and vectors only, no gradient."""
    torch = torch_or_none()
    flat = matrices(arrays)
    candidates = {"ops.svd": lambda: [ops.svd(m, full_matrices=False)[0].asnumpy() for m in on_device]}
    on_device = [Tensor(matrix) for matrix in flat]
    candidates["numpy.linalg.svd"] = lambda: [np.linalg.svd(m, full_matrices=False) for m in flat]
    if torch is not None:
        tensors = [torch.from_numpy(matrix) for matrix in flat]
        candidates["torch.linalg.svd"] = lambda: [torch.linalg.svd(t, full_matrices=False) for t in tensors]
    return candidates


def compare(network, repeats, slow_repeats):
    """Rank term against each full SVD, at three sparsities."""
    rows = []
    for sparsity in (0.0, 0.9, 0.98):
        arrays = sparse_arrays(convolution_weights(network), sparsity)
        term = {"rank term": lambda arrays=arrays: layer_terms(arrays, ETA)}
        others = full_svd(arrays)
        slow = {"ops.svd": others.pop("ops.svd")}
        seconds = {**medians({**term, **others}, repeats), **medians(slow, slow_repeats)}
        fastest = min(value for name, value in seconds.items() if name != "rank term")
        rows += [
            [f"{name}, sparsity {sparsity:g}", f"{value:.3f}", f"{value / seconds['rank term']:.1f}"]
            for name, value in seconds.items()
        ]
        rows.append(["fastest full SVD / rank term", "", f"{fastest / seconds['rank term']:.1f}"])
    table(rows, ["ResNet-50, 53 convolutions", "seconds", "over the rank term"])


def growth(repeats):
    """Cost by size of the network."""
    rows = []
    for name, classes in (("resnet20", 10), ("resnet50", 1000), ("resnet101", 1000)):
        arrays = sparse_arrays(convolution_weights(build_model(name, classes, 3)), 0.9)
        seconds = medians({"term": lambda arrays=arrays: layer_terms(arrays, ETA)}, repeats)["term"]
        weights = sum(array.size for array in arrays)
        rows.append([name, len(arrays), f"{weights:,}", f"{seconds:.4f}", f"{1e9 * seconds / weights:.1f}"])
    table(rows, ["growth, sparsity 0.9", "convolutions", "weights", "seconds", "ns per weight"])


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="repeats of everything but ops.svd")
    parser.add_argument("--slow_repeats", type=int, default=1, help="repeats of ops.svd")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    start("Rank term: loss and gradient of all convolutions, Gram solver; the SVDs without any gradient")
    compare(build_model("resnet50", 1000, 3), arguments.repeats, arguments.slow_repeats)
    growth(arguments.repeats)


if __name__ == "__main__":
    main()
