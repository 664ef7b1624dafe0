"""What does a mask update cost? Selection by bracket beside the same update by full sorts, with the same masks out.

usage: python benchmark/mask_update.py [--repeats N]
"""

import argparse
import tracemalloc

import numpy as np
from common import medians, start, table, torch_or_none
from mindspore import Tensor

from src.models import build_model
from src.pruning.allocation import Allocation
from src.pruning.pruner import Pruner, convolution_weights, prunable_weights
from src.pruning.rank_term import layer_terms
from src.pruning.schedule import PruningSchedule

ETA, STEP, FRACTION = 0.1, 100, 0.2


def stable_order(scores, torch):
    """Positions by falling score, the earlier first on equal ones."""
    if torch is not None:
        return torch.sort(torch.from_numpy(scores), descending=True, stable=True).indices.numpy()
    return np.argsort(-scores, kind="stable")


def by_full_sort(weights, masks, gradients, total, fraction, torch):
    """The mask update as the definition reads: sort everything globally, then each layer twice."""
    scores = np.concatenate([np.where(mask, np.abs(w), -1).ravel() for w, mask in zip(weights, masks)])
    kept = np.zeros(scores.size, bool)
    kept[stable_order(scores, torch)[:total]] = True
    new_masks, start = [], 0
    for weight, gradient in zip(weights, gradients):
        within = kept[start : start + weight.size]
        start += weight.size
        budget = np.count_nonzero(within)
        count = int(fraction * budget)
        mask = np.zeros(weight.size, bool)
        mask[stable_order(np.where(within, np.abs(weight.ravel()), -1), torch)[: budget - count]] = True
        mask[stable_order(np.where(mask, -1, np.abs(gradient.ravel())), torch)[:count]] = True
        new_masks.append(mask.reshape(weight.shape))
    return new_masks


class Case:
    """A network of given density, about to be updated."""

    def __init__(self, name, classes, density):
        network = build_model(name, classes, 3)
        random = np.random.default_rng(0)
        weights = prunable_weights(network)
        self.schedule = PruningSchedule(10**6, STEP, density, 0.3, 0.9, 0.9, density)
        self.pruner = Pruner(weights, self.schedule, Allocation("erk" if density < 1 else "global"))
        self.pruner.allocation = Allocation("global")
        self.pruner.schedule = PruningSchedule(10**6, STEP, density * 0.99, FRACTION, 0.9, 0.9, density)
        self.masks = list(self.pruner.masks)
        self.weights = [weight.asnumpy().copy() for weight in weights]
        self.gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        self.on_device = [Tensor(gradient) for gradient in self.gradients]
        self.convolutions = [weight.asnumpy() for weight in convolution_weights(network)]
        self.size = sum(weight.size for weight in weights)

    def reset(self):
        """Back to the masks and weights before the update."""
        self.pruner.masks = list(self.masks)
        for weight, value in zip(self.pruner.weights, self.weights):
            weight.asnumpy()[...] = value

    def ours(self):
        """The whole of Pruner.update, device to device."""
        self.pruner.masks = list(self.masks)
        self.pruner.update(STEP, self.on_device, [[] for _ in self.weights])
        return self.pruner.masks

    def sorted(self, torch):
        """The same masks by full sorts."""
        total = round(self.pruner.schedule.density_at(STEP) * self.size)
        fraction = self.pruner.schedule.drop_fraction_at(STEP)
        return by_full_sort(self.weights, self.masks, self.gradients, total, fraction, torch)


def released_rank_terms(case, torch):
    """Rank terms the released way: a full SVD per layer, and the gradient by automatic differentiation."""
    for array in case.convolutions:
        weight = torch.from_numpy(array.reshape(len(array), -1)).requires_grad_()
        normalised = weight / weight.norm()
        left, values, right = torch.linalg.svd(normalised.detach(), full_matrices=False)
        tails = torch.flip(torch.cumsum(torch.flip(values**2, [0]), 0), [0])
        k = int(torch.argmin((tails - ETA).abs()))
        (-((normalised - (left[:, :k] * values[:k]) @ right[:k]) ** 2).sum()).backward()


def peak(function):
    """Peak of numpy's allocations during a call, in bytes."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def compare(repeats, torch):
    """ResNet-50 at three densities."""
    rows = []
    library = "torch" if torch is not None else "numpy"
    for density in (1.0, 0.1, 0.02):
        case = Case("resnet50", 1000, density)
        case.reset()
        same = all(np.array_equal(a, b) for a, b in zip(case.ours(), case.sorted(torch)))
        assert same, "the two ways must give the same masks"
        candidates = {"ours": case.ours, "sorted": lambda case=case: case.sorted(torch)}
        if torch is not None:
            candidates["term"] = lambda case=case: layer_terms(case.convolutions, ETA)
            candidates["svd"] = lambda case=case: released_rank_terms(case, torch)
        seconds = medians(candidates, repeats)
        whole = "-"
        if torch is not None:
            whole = f"{(seconds['sorted'] + seconds['svd']) / (seconds['ours'] + seconds['term']):.1f}"
        rows.append(
            [
                f"density {density:g}",
                f"{seconds['ours']:.3f}",
                f"{seconds['sorted']:.3f}",
                f"{seconds['sorted'] / seconds['ours']:.1f}",
                whole,
                f"{peak(case.ours) / (4 * case.size):.2f}",
            ]
        )
    table(
        rows,
        [
            "ResNet-50, same masks",
            "update, s",
            f"by full sorts ({library}), s",
            "ratio",
            "with rank term: ratio",
            "peak memory / weights",
        ],
    )


def growth(repeats):
    """Cost by size of the network."""
    rows = []
    for name, classes in (("resnet20", 10), ("resnet50", 1000), ("resnet101", 1000)):
        case = Case(name, classes, 0.1)
        seconds = medians({"ours": case.ours}, repeats)["ours"]
        rows.append([name, f"{case.size:,}", f"{seconds:.4f}", f"{1e9 * seconds / case.size:.1f}"])
    table(rows, ["growth, density 0.1", "weights", "seconds", "ns per weight"])


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    start("Mask update: threshold, drop, grow, masks and weights back on the device")
    compare(arguments.repeats, torch_or_none())
    growth(arguments.repeats)


if __name__ == "__main__":
    main()
