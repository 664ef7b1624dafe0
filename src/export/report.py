"""What an export did: file, size, deviation of the outputs, zeros counted in the file."""

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from tabulate import tabulate

# Largest deviation of a file's outputs that passes, relative to the largest output:
TOLERANCE = 1e-5  # the same operations on the same kernels
ROUNDING_TOLERANCE = 1e-4  # folding, or another runtime, which add up in another order
LARGEST_TOLERANCE = 1e-3  # of networks that multiply rounding errors, see `rounding_tolerance`


class Exported(NamedTuple):
    """One row of the report.

    deviation: largest difference of the reloaded file's outputs from the network's, relative to the largest output, or
    None where this machine cannot run the file; zeros: among the prunable weights stored in the file, out of `weights`,
    both None where the file cannot be read here; note: what else is to be said of it.
    """

    path: Path
    bytes: int
    deviation: Optional[float]
    zeros: Optional[int]
    weights: Optional[int]
    note: str = ""


def largest_deviation(expected, actual):
    """Largest absolute difference relative to the largest expected value; NaN where either has one."""
    return float(np.abs(expected - actual).max() / max(np.abs(expected).max(), 1e-30))


def rounding_tolerance(outputs, nudged):
    """What may come of adding up in another order: thirty times what one unit in the last place of the inputs does.

    outputs, nudged: of the network as it is, and for inputs moved by as much. Between ROUNDING_TOLERANCE, which most
    networks are far below, and LARGEST_TOLERANCE: deep ones with BatchNorm of small variances multiply such errors by
    hundreds, and each layer adds its own.
    """
    return float(np.clip(30 * largest_deviation(outputs, nudged), ROUNDING_TOLERANCE, LARGEST_TOLERANCE))


def check_outputs(path, expected, actual, tolerance=TOLERANCE):
    """The deviation of outputs; raises RuntimeError if it is above `tolerance`."""
    deviation = largest_deviation(expected, actual)
    if not deviation <= tolerance:
        raise RuntimeError(f"{path}: the written file's outputs differ by {deviation:g} (allowed: {tolerance:g})")
    return deviation


def count_zeros(path, stored, weights):
    """Zeros among the prunable weights of a file, and their number, counted in the file.

    stored: arrays read from the file, by name; weights: those of the network. Raises RuntimeError where a weight is
    missing, or its file has other zeros than the network.
    """
    zeros = 0
    for name, weight in weights.items():
        if name not in stored:
            raise RuntimeError(f"{path}: weight {name} is not in the written file")
        found = int(np.count_nonzero(stored[name] == 0))
        if found != np.count_nonzero(weight == 0):
            raise RuntimeError(f"{path}: weight {name} has {found} zeros in the written file, not those of the network")
        zeros += found
    return zeros, sum(weight.size for weight in weights.values())


def check_dense(path, stored, parameters):
    """Raise RuntimeError unless the parameters that are never pruned are, bit for bit, in a file.

    stored: arrays read from the file, by name; parameters: those of the network.
    """
    for name, parameter in parameters.items():
        if name not in stored or stored[name].tobytes() != parameter.tobytes():
            raise RuntimeError(f"{path}: {name} is missing or differs in the written file")


def format_exported(rows):
    """The rows as a table; the first one is the dense file that the ratio refers to."""
    dense = rows[0].bytes
    table = [
        [
            row.path,
            f"{row.bytes:,}",
            f"{dense / row.bytes:.2f}",
            "not checked" if row.deviation is None else f"{row.deviation:.1e}",
            "not checked" if row.zeros is None else f"{100 * row.zeros / row.weights:.4f}",
        ]
        for row in rows
    ]
    headers = ["file", "bytes", "times smaller", "largest deviation", "sparsity in the file %"]
    return tabulate(table, headers, colalign=("left", *["right"] * 4), disable_numparse=True)
