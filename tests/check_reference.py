"""Compare the project's rank terms and mask updates with recorded ones: python tests/check_reference.py PREFIX

PREFIX.npz and PREFIX.json hold inputs and outputs of the authors' released implementation; tests/data/rpg_reference
is a copy. Prints what was compared and the largest deviations; exits 1 on any mismatch, and where the files themselves
are damaged: lists empty or cut short, arrays missing or left over, numbers that are not finite.

The reference truncates its integer budgets in floating point and so sometimes loses a weight; the mask updates are
therefore compared on the recorded budgets, bit for bit.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore as ms
from mindspore import Parameter, Tensor

import src  # noqa: F401
from src.platform.device import select_device
from src.platform.errors import InputError, run_program
from src.pruning.allocation import global_masks
from src.pruning.masks import magnitude
from src.pruning.pruner import Pruner
from src.pruning.rank_term import layer_norm, layer_term
from src.pruning.schedule import PruningSchedule
from src.pruning.selection import largest
from src.rpg_cell import GramRankTerm, SVDRankTerm

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
PER_LAYER = ("layer_density", "layer_global_kept", "layer_kept", "layer_grown")  # lists of a recorded mask update


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
            self.largest[name] = np.max([self.largest.get(name, 0.0), measured])  # of numpy: a NaN stays one
            if not measured <= allowed:
                self.failed.append(f"{case}: {name} {measured:g} > {allowed:g}")

    def report(self):
        """Print the outcome; returns the number of mismatches, of which nothing to compare is one."""
        if self.cases == 0:
            self.failed.append("nothing was compared")
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
            gradient_over_tolerance=(np.max(deviations), 1),
        )
    return comparison.report()


def gradient_deviation(actual, expected, weight):
    """Distance of two gradients in units of what is allowed: 1e-3 relative, or 1e-6 / ||W|| where zero in theory."""
    if actual is None:  # a weight without a rank term
        return np.inf
    scale = layer_norm(weight) or 1.0
    allowed = GRADIENT_TOLERANCE * np.linalg.norm(expected.astype(np.float64)) + 1e-6 / scale
    return np.linalg.norm(actual.astype(np.float64) - expected) / allowed


class RecordedPruner(Pruner):
    """A pruner whose integer budgets are those of a recorded update, `recorded`; all else is as ever."""

    def _kept_masks(self, step, values):
        kept = self.recorded["layer_kept"]
        return [largest(magnitude(value, mask), count) for value, mask, count in zip(values, self.masks, kept)]

    def _drop_counts(self, step, kept):
        return self.recorded["layer_grown"]


def check_mask_updates(updates, arrays):
    """Every recorded mask update by `Pruner.update` on its recorded budgets: masks, weights, momentum, bit for bit."""
    comparison = Comparison("mask updates           ")
    for update in updates:
        name = f"mask{update['case']}_{update['update']}"
        layers = range(len(update["layer_kept"]))
        before, gradients, masks, after = (
            [arrays[f"{name}_{kind}{layer}"] for layer in layers] for kind in ("w", "g", "mask", "wout")
        )
        weights = [Parameter(Tensor(weight), name=f"weight{layer}") for layer, weight in zip(layers, before)]
        momentum = [Parameter(Tensor(gradient), name=f"momentum{layer}") for layer, gradient in zip(layers, gradients)]
        pruner = RecordedPruner(weights, PruningSchedule(1000, 10, update["target"], 0.3, 0.9, 0.9))
        pruner.recorded = update
        if update["update"] > 0:
            earlier = f"mask{update['case']}_{update['update'] - 1}"
            pruner.load_masks([arrays[f"{earlier}_mask{layer}"] for layer in layers])
        lost = lost_weights(before, pruner.masks, update)
        record = pruner.update(update["step"], [Tensor(gradient) for gradient in gradients], [[m] for m in momentum])
        for layer in layers:
            # A weight that the reference lost by rounding and took back keeps its value there; here it starts at zero.
            ours = weights[layer].asnumpy() + before[layer] * (lost[layer] & masks[layer])
            comparison.check(
                f"{name} layer {layer}",
                mask=(np.count_nonzero(pruner.masks[layer] != masks[layer]), 0),
                weight=(np.count_nonzero(ours != after[layer]), 0),
                momentum=(np.count_nonzero(momentum[layer].asnumpy() != gradients[layer] * masks[layer]), 0),
            )
        if record.kept != sum(update["layer_kept"]):
            comparison.failed.append(f"{name}: {record.kept} weights kept, not {sum(update['layer_kept'])}")
    return comparison.report()


def lost_weights(weights, masks, update):
    """Masks of what the recorded threshold leaves in each layer, but its truncated budget does not."""
    scores = [magnitude(weight, mask) for weight, mask in zip(weights, masks)]
    budgets = zip(scores, update["layer_global_kept"], update["layer_kept"])
    return [largest(score, left) & ~largest(score, kept) for score, left, kept in budgets]


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


def damages(reference, arrays):
    """What is wrong with the files themselves, in words: lists empty or cut short, arrays that do not fit, NaN."""
    found = [f"{key}: nothing is recorded" for key in ("rank", "mask_updates") if not reference[key]]
    shapes = {}
    for case in reference["rank"]:
        shapes[case["weight"]] = shapes[case["grad"]] = tuple(case["shape"])
    for index, shape in enumerate(reference["net"]["layers"]):
        shapes[f"net_w{index}"] = tuple(shape)
        if len(shape) == 4:
            shapes[f"net_grad{index}"] = tuple(shape)
    for update in reference["mask_updates"]:
        name = f"mask{update['case']}_{update['update']}"
        counts = {key: len(update[key]) for key in PER_LAYER}
        if len(set(counts.values())) > 1:
            found.append(f"{name}: lists of different lengths: {counts}")
        for layer in range(max(counts.values())):
            weight = arrays.get(f"{name}_w{layer}")
            shapes.update({f"{name}_{kind}{layer}": np.shape(weight) for kind in ("w", "g", "mask", "wout")})
    found += [f"{name}: no such array" for name in shapes if name not in arrays]
    found += [f"{name}: an array that no recorded case names" for name in arrays if name not in shapes]
    both = [name for name in shapes if name in arrays]
    found += [
        f"{name}: {arrays[name].shape} instead of {shapes[name]}" for name in both if arrays[name].shape != shapes[name]
    ]
    found += [f"{name}: not finite" for name, array in arrays.items() if not np.isfinite(array).all()]
    return found + [f"{place}: not finite" for place, number in numbers(reference) if not np.isfinite(number)]


def numbers(value, place=""):
    """(place, number) of all numbers in JSON data."""
    if isinstance(value, (int, float)):
        yield place, value
    elif isinstance(value, (list, dict)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, f"{place} {key}".strip())


def compare(reference, arrays):
    """Compare everything and print what came out; returns the number of mismatches, or of damages.

    reference: what the JSON file holds; arrays: those of the other file, by name.
    """
    found = damages(reference, arrays)
    for damage in found:
        print(damage)
    return len(found) or sum(
        [
            check_gram(reference["rank"], arrays),
            check_svd(reference["rank"], arrays),
            check_network(reference["net"], arrays),
            check_mask_updates(reference["mask_updates"], arrays),
            check_global_stage(reference["mask_updates"], arrays),
        ]
    )


def read(prefix):
    """(reference, arrays) from PREFIX.json and PREFIX.npz. Raises InputError if they cannot be read."""
    try:
        with np.load(prefix + ".npz") as arrays:
            return json.loads(Path(prefix + ".json").read_text()), dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{prefix}: cannot read its .json and .npz: {error}") from None


def main():
    """Compare everything; exit 1 on any mismatch."""
    if len(sys.argv) != 2:
        raise InputError("usage: python tests/check_reference.py PREFIX")
    select_device("CPU")
    mismatches = compare(*read(sys.argv[1]))
    print(f"{mismatches} mismatches")
    raise SystemExit(mismatches > 0)


if __name__ == "__main__":
    run_program(main)
