"""What the weights themselves say: zeros, ranks and tail-energy ranks, layer by layer."""

import numpy as np
from tabulate import tabulate

from ..platform.threads import each
from ..pruning.rank_term import choose_rank, layer_norm, output_first


def layer_report(name, weight, tail_energy, groups=None):
    """Counts and ranks of one weight array, as a JSON-able dict.

    rank is the numerical rank of the (out, in*kh*kw) matrix, tail_rank the rank k whose tail holds about
    `tail_energy` of the energy; both are at most max_rank = min(rows, columns). groups: of a transposed convolution,
    whose weight has another layout (see `rank_term.output_first`).
    """
    outputs = output_first(weight, groups) if groups else weight
    matrix = outputs.reshape(outputs.shape[0], -1)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) if layer_norm(weight) else np.zeros(1)
    tolerance = values[0] * max(matrix.shape) * np.finfo(np.float32).eps
    nonzeros = int(np.count_nonzero(weight))
    return {
        "name": name,
        "shape": list(weight.shape),
        "weights": int(weight.size),
        "nonzeros": nonzeros,
        "density": nonzeros / weight.size,
        "rank": int(np.count_nonzero(values > tolerance)),
        "tail_rank": choose_rank(values**2 / np.sum(values**2), tail_energy) if values[0] > 0 else 0,
        "max_rank": min(matrix.shape),
    }


def sparsity_report(weights, tail_energy, transposed):
    """The report of a whole network: sparsity counted from the weights (name -> array), and its per-layer table.

    transposed: {name: groups} of weights of transposed convolutions.
    """

    def report(item):
        name, weight = item
        return layer_report(name, weight, tail_energy, transposed.get(name))

    layers = each(report, list(weights.items()), cost=lambda item: item[1].size)
    total = sum(layer["weights"] for layer in layers)
    nonzeros = sum(layer["nonzeros"] for layer in layers)
    return {
        "sparsity": 1 - nonzeros / total,
        "nonzeros": nonzeros,
        "weights": total,
        "average_relative_rank": float(np.mean([layer["rank"] / layer["max_rank"] for layer in layers])),
        "average_relative_tail_rank": float(np.mean([layer["tail_rank"] / layer["max_rank"] for layer in layers])),
        "layers": layers,
    }


def format_layers(report):
    """The per-layer table as text."""
    rows = [
        [
            layer["name"],
            "x".join(map(str, layer["shape"])),
            layer["weights"],
            layer["nonzeros"],
            f"{100 * layer['density']:.2f}",
            f"{layer['rank']}/{layer['max_rank']}",
            layer["tail_rank"],
        ]
        for layer in report["layers"]
    ]
    headers = ["layer", "shape", "weights", "non-zeros", "density %", "rank", "tail-energy rank k"]
    align = ("left", "left", *["right"] * 5)
    return tabulate(rows, headers, colalign=align, disable_numparse=True)


def format_summary(report):
    """Sparsity and average ranks in one line."""
    return (
        f"sparsity {100 * report['sparsity']:.4f} % ({report['nonzeros']:,} of {report['weights']:,} weights left), "
        f"average relative rank {report['average_relative_rank']:.3f}, "
        f"tail-energy rank {report['average_relative_tail_rank']:.3f}"
    )
