"""What do masks, mask updates and rank terms add to a training step?

usage: python benchmark/step_overhead.py [--model resnet50 --size 224 --batch_size 32 --repeats N]
"""

import argparse

import mindspore as ms
import numpy as np
from common import medians, start, table
from mindspore import Tensor, nn

from src.models import build_model
from src.pruning.allocation import Allocation
from src.pruning.pruner import Pruner, convolution_weights, prunable_weights
from src.pruning.schedule import PruningSchedule
from src.rpg_cell import RPGWithLossCell, build_rank_term
from src.training.optimizer import build_optimizer
from src.training.train_step import Pruning, TaskLoss, TrainStep

INTERVAL = 100  # dT of the paper
MANY = 10**6  # steps of the schedule: no update falls due by itself


def build_step(arguments, kind):
    """A TrainStep on a fresh network: dense, masked (98 % zeros), or ranked (masked, rank term in every step)."""
    ms.set_seed(0)
    network = build_model(arguments.model, arguments.classes, 3).set_train()
    optimizer = build_optimizer(network, [0.01] * 1000, 0.9, False, 1e-4)
    task = TaskLoss(network, nn.CrossEntropyLoss(label_smoothing=0.1))
    if kind == "dense":
        return TrainStep(task, optimizer)
    schedule = PruningSchedule(MANY, MANY // 2, 0.02, 0.3, 0.9, 0.9, 0.02)
    pruner = Pruner(prunable_weights(network), schedule, Allocation("erk"))
    objective = RPGWithLossCell(task, build_rank_term("gram", 0.2), 4.0, convolution_weights(network))
    return TrainStep(task, optimizer, Pruning(pruner, objective, 1 if kind == "ranked" else 0))


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    start(f"Training step of {arguments.model}, batch {arguments.batch_size}, {arguments.size} x {arguments.size}")
    random = np.random.default_rng(0)
    images = Tensor(
        random.standard_normal((arguments.batch_size, 3, arguments.size, arguments.size)).astype(np.float32)
    )
    labels = Tensor(random.integers(0, arguments.classes, arguments.batch_size).astype(np.int32))
    steps = {kind: build_step(arguments, kind) for kind in ("dense", "masked", "ranked")}

    def update():
        step = steps["masked"]
        step.step = MANY // 2 - 1  # the next step is the update
        return float(step(images, labels))

    def run(kind):
        steps[kind].step = 0
        return float(steps[kind](images, labels))

    candidates = {kind: lambda kind=kind: run(kind) for kind in steps}
    seconds = medians({**candidates, "update": update}, arguments.repeats)
    dense = seconds["dense"]
    rows = [
        ["dense step", f"{dense:.3f}", ""],
        ["masked step", f"{seconds['masked']:.3f}", f"{100 * (seconds['masked'] / dense - 1):+.2f} %"],
        ["step with the rank term", f"{seconds['ranked']:.3f}", f"{100 * (seconds['ranked'] / dense - 1):+.2f} %"],
        [
            "mask update in place of a step",
            f"{seconds['update']:.3f}",
            f"{100 * (seconds['update'] / dense - 1):+.2f} %",
        ],
        [
            f"updates, one in {INTERVAL} steps",
            "",
            f"{100 * (seconds['update'] / dense - 1) / INTERVAL:+.3f} %",
        ],
    ]
    table(rows, ["", "seconds", "over a dense step"])
    print(f"{arguments.batch_size / dense:.1f} images/s dense, {arguments.batch_size / seconds['masked']:.1f} masked")


if __name__ == "__main__":
    main()
