"""Compare the project's rank terms and mask updates with recorded ones: python tests/check_reference.py PREFIX

PREFIX.npz and PREFIX.json hold inputs and outputs of the authors' released implementation; tests/data/rpg_reference
is a copy. Prints what was compared and the largest deviations; exits 1 on any mismatch.

The reference truncates its integer budgets in floating point and so sometimes loses a weight; the mask updates are
therefore compared on the recorded budgets, bit for bit.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore as ms
from mindspore import Tensor

import src  # noqa: F401
from src.device import select_device
from src.low_rank import layer_norm, layer_term
from src.pruning.allocation import global_masks
from src.pruning.masks import drop_and_grow, grow, magnitude
from src.pruning.selection import largest
from src.rpg_cell import GramRankTerm, SVDRankTerm

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3


class Comparison:
    """Counts cases and mismatches of one kind, and keeps the largest deviations."""

    def __init__(self, title):
        self.title = title
        self.cases = 0
        self.failed = []
        self.largest = {}

    def check(self, case, **deviations):
        """Take one case; every deviation (name -> measured, allowed) must be within what is allowed."""
        self.cases += 1
        for name, (measured, allowed) in deviations.items():
            self.largest[name] = max(self.largest.get(name, 0.0), float(measured))
            if not measured <= allowed:
                self.failed.append(f"{case}: {name} {measured:g} > {allowed:g}")

    def report(self):
        """Print the outcome; returns the number of mismatches."""
        worst = ", ".join(f"{name} {value:.1e}" for name, value in self.largest.items())
        print(f"{self.title}: {self.cases} compared, {len(self.failed)} mismatches; largest deviation: {worst}")
        for failure in self.failed:
            print(f"  {failure}")
        return len(self.failed)


def check_gram(cases, arrays):
    """Every recorded layer term against the host solver: same k, loss, gradient."""
    comparison = Comparison("rank terms, gram solver")
    for case in cases:
        weight, expected = arrays[case["weight"]], arrays[case["grad"]]
        term = layer_term(weight, case["eta"])
        comparison.check(
            f"rank {case['case']}",
            k=(abs(term.k - case["k"]), 0),
            loss=(abs(term.loss - case["loss"]), LOSS_TOLERANCE),
            gradient_over_tolerance=(gradient_deviation(term.gradient, expected, weight), 1),
        )
    return comparison.report()


def check_svd(cases, arrays):
    """Every recorded layer term against MindSpore's SVD op; k shows in the loss, which jumps with it."""
    comparison = Comparison("rank terms, svd solver ")
    for case in cases:
        weight, expected = arrays[case["weight"]], arrays[case["grad"]]
        loss, gradient = ms.value_and_grad(SVDRankTerm(case["eta"]))(Tensor(weight))
        comparison.check(
            f"rank {case['case']}",
            loss=(abs(float(loss) - case["loss"]), LOSS_TOLERANCE),
            gradient_over_tolerance=(gradient_deviation(gradient.asnumpy(), expected, weight), 1),
        )
    return comparison.report()


def check_network(net, arrays):
    """The mean over a network's convolutions, by both solvers; the linear layer takes no part."""
    comparison = Comparison("network value          ")
    shapes = [tuple(shape) for shape in net["layers"]]
    convolutions = [index for index, shape in enumerate(shapes) if len(shape) == 4]
    weights = [Tensor(arrays[f"net_w{index}"]) for index in convolutions]
    for name, solver in (("gram", GramRankTerm), ("svd", SVDRankTerm)):
        loss, gradients = ms.value_and_grad(solver(net["eta"]), tuple(range(len(weights))))(*weights)
        deviations = [
            gradient_deviation(gradient.asnumpy(), arrays[f"net_grad{index}"], weight.asnumpy())
            for index, gradient, weight in zip(convolutions, gradients, weights)
        ]
        comparison.check(
            f"network by {name}",
            loss=(abs(float(loss) - net["loss"]), LOSS_TOLERANCE),
            gradient_over_tolerance=(max(deviations), 1),
        )
    return comparison.report()


def gradient_deviation(actual, expected, weight):
    """Distance of two gradients in units of what is allowed: 1e-3 relative, or 1e-6 / ||W|| where zero in theory."""
    scale = layer_norm(weight) or 1.0
    allowed = GRADIENT_TOLERANCE * np.linalg.norm(expected.astype(np.float64)) + 1e-6 / scale
    return np.linalg.norm(actual.astype(np.float64) - expected) / allowed


def check_mask_updates(updates, arrays):
    """Every recorded mask update on its recorded budgets: masks and weights bit for bit."""
    comparison = Comparison("mask updates           ")
    for update in updates:
        name = f"mask{update['case']}_{update['update']}"
        for layer, (budget, kept, grown) in enumerate(
            zip(update["layer_global_kept"], update["layer_kept"], update["layer_grown"])
        ):
            weight, gradient = arrays[f"{name}_w{layer}"], arrays[f"{name}_g{layer}"]
            within = largest(magnitude(weight, np.ones(weight.shape, bool)), budget)
            new = replay(weight, within, np.abs(gradient), kept, grown)
            comparison.check(
                f"{name} layer {layer}",
                mask=(np.count_nonzero(new[0] != arrays[f"{name}_mask{layer}"]), 0),
                weight=(np.count_nonzero(new[1] != arrays[f"{name}_wout{layer}"]), 0),
            )
    return comparison.report()


def replay(weight, within, scores, kept, grown):
    """Our drop and grow with a recorded budget; where the reference lost a weight, grow runs on its smaller set."""
    if np.count_nonzero(within) == kept:
        return drop_and_grow(weight, within, scores, grown)
    mask = grow(scores, largest(magnitude(weight, within), kept - grown), grown)
    return mask, np.where(mask & within, weight, np.zeros_like(weight))


def check_global_stage(updates, arrays):
    """The global threshold: the recorded budgets keep at most one weight more than the exact ones in total."""
    comparison = Comparison("global thresholds      ")
    for update in (update for update in updates if update["global_phase"]):
        name = f"mask{update['case']}_{update['update']}"
        count = len(update["layer_global_kept"])
        weights = [arrays[f"{name}_w{layer}"] for layer in range(count)]
        masks = [np.ones(weight.shape, bool) for weight in weights]
        exact = round(update["density"] * sum(weight.size for weight in weights))
        ours = global_masks(weights, masks, exact)
        differences = [abs(np.count_nonzero(m) - n) for m, n in zip(ours, update["layer_global_kept"])]
        comparison.check(
            name,
            total=(abs(sum(map(np.count_nonzero, ours)) - exact), 0),
            layers=(sum(differences), 1),
        )
    return comparison.report()


def main():
    """Compare everything; exit 1 on any mismatch."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/check_reference.py PREFIX")
    select_device("CPU")
    reference = json.loads(Path(sys.argv[1] + ".json").read_text())
    with np.load(sys.argv[1] + ".npz") as arrays:
        mismatches = sum(
            [
                check_gram(reference["rank"], arrays),
                check_svd(reference["rank"], arrays),
                check_network(reference["net"], arrays),
                check_mask_updates(reference["mask_updates"], arrays),
                check_global_stage(reference["mask_updates"], arrays),
            ]
        )
    print(f"{mismatches} mismatches")
    raise SystemExit(mismatches > 0)


if __name__ == "__main__":
    main()
