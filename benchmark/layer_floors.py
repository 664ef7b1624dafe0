"""Floors under layers at equal totals: does a small U-Net lose a layer, and what does it reach?

python benchmark/layer_floors.py [--sparsity 0.9 0.95 0.98] [--seeds 3] [--floors none "quarter of ERK"]

Pictures of a disc and a square under noise, 32x32 pixels, drawn by the seed; the network says of each pixel what it
belongs to. Every run prunes through `RPG` at its default settings but for the length. One line per sparsity and floor:
mean intersection over union of the three classes on pictures that were not trained on, for each seed, and the layers
that have no weight left.
"""

import argparse
from unittest import mock

import mindspore as ms
import numpy as np
from common import start
from mindspore import Tensor, nn, ops

from src.library import RPG
from src.pruning import allocation

SIZE, CLASSES, BATCH, STEPS = 32, 3, 32, 400


class Twice(nn.SequentialCell):
    """Two 3x3 convolutions with BatchNorm."""

    def __init__(self, inputs, outputs):
        cells = []
        for channels in (inputs, outputs):
            cells += [nn.Conv2d(channels, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(cells)


class UNet(nn.Cell):
    """Three levels of 8, 16 and 32 channels, up again by transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = Twice(1, 8), Twice(8, 16), Twice(16, 32)
        self.pool = nn.MaxPool2d(2, 2)
        self.up_second, self.up_first = nn.Conv2dTranspose(32, 16, 2, 2), nn.Conv2dTranspose(16, 8, 2, 2)
        self.back_second, self.back_first = Twice(32, 16), Twice(16, 8)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def construct(self, x):
        first = self.first(x)
        second = self.second(self.pool(first))
        x = self.up_second(self.third(self.pool(second)))
        x = self.back_second(ops.concat((x, second), 1))
        return self.head(self.back_first(ops.concat((self.up_first(x), first), 1)))


def draw(random, count):
    """Pictures (n, 1, 32, 32) and the class of every pixel (n, 32, 32): 1 for the square, 2 for the disc."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((count, SIZE, SIZE), np.int32)
    for label in labels:
        for kind in (1, 2):
            y, x, radius = (*random.integers(6, SIZE - 6, 2), random.integers(4, 8))
            down, across = abs(rows - y), abs(columns - x)
            label[np.maximum(down, across) < radius if kind == 1 else down**2 + across**2 < radius**2] = kind
    images = (labels > 0) + random.normal(0, 0.7, labels.shape)
    return images[:, None].astype(np.float32), labels


def intersection_over_union(network, images, labels):
    """Mean over the classes, in per cent."""
    network.set_train(False)
    found = np.concatenate([network(Tensor(part)).asnumpy().argmax(1) for part in np.split(images, 8)])
    shares = [((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum() for k in range(CLASSES)]
    return 100 * float(np.mean(shares))


SAFE_FLOORS = allocation.safe_floors  # which a run replaces

FLOORS = {
    "none": lambda shapes, total: [0] * len(shapes),
    "one per layer": lambda shapes, total: [1] * len(shapes),
    "one per output": lambda shapes, total: [shape[0] for shape in shapes],
    "quarter of ERK": SAFE_FLOORS,
    "half of ERK": lambda shapes, total: SAFE_FLOORS(shapes, 2 * total),
}


def run(sparsity, floor, seed):
    """Score of a pruned U-Net, or of a dense one (floor None), and the layers that lost all weights."""
    ms.set_seed(seed)
    random = np.random.default_rng(seed)
    test = draw(np.random.default_rng(1000), 256)
    network = UNet()
    optimizer = nn.Momentum(network.trainable_params(), nn.cosine_decay_lr(0.0, 0.05, STEPS, STEPS, 1), 0.9)
    pruning = RPG(network, STEPS, seed=seed, sparsity=sparsity, update_interval=10, min_layer_density="auto")
    step = pruning.train_step(nn.CrossEntropyLoss(), optimizer)
    with mock.patch.object(allocation, "safe_floors", floor):
        for _ in range(STEPS):
            step(*map(Tensor, draw(random, BATCH)))
    return intersection_over_union(network, *test), [name for name, mask in pruning.masks.items() if not mask.any()]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--floors", nargs="+", choices=list(FLOORS), default=list(FLOORS))
    arguments = parser.parse_args()
    start("Floors under layers, at equal totals")
    for sparsity in arguments.sparsity:
        for name in arguments.floors:
            scores, dead = zip(*(run(sparsity, FLOORS[name], seed) for seed in range(arguments.seeds)))
            shown = " ".join(f"{score:6.2f}" for score in scores)
            lost = "; ".join(",".join(names) or "-" for names in dead)
            print(f"{100 * sparsity:g} %  {name:<15} {shown}  mean {np.mean(scores):6.2f}  lost: {lost}", flush=True)


if __name__ == "__main__":
    main()
