"""What makes training fast on a CPU? ResNet-20 at 32 x 32 under different settings, each in a process of its own.

usage: python benchmark/cpu_throughput.py [--steps N --rounds N]
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np

OURS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MS_DEV_HOST_BLOCKING_RUN": "1"}
SETTINGS = {
    "as the programs set it": ("graph", 128, OURS),
    "MindSpore's own dispatch threads": ("graph", 128, {**OURS, "MS_DEV_HOST_BLOCKING_RUN": "0"}),
    "PyNative instead of a graph": ("pynative", 128, OURS),
    "PyNative, own dispatch threads": ("pynative", 128, {**OURS, "MS_DEV_HOST_BLOCKING_RUN": "0"}),
    "one OpenMP thread": ("graph", 128, {**OURS, "OMP_NUM_THREADS": "1"}),
    "batch 32": ("graph", 32, OURS),
    "batch 256": ("graph", 256, OURS),
    "oneDNN's own choice of ISA": ("graph", 128, {**OURS, "ONEDNN_MAX_CPU_ISA": "ALL"}),
    "PyTorch": ("torch", 128, OURS),
}


def mindspore_step(mode, batch_size):
    """A function that trains one step and waits for it."""
    from common import start

    start("child")
    import mindspore as ms
    from mindspore import Tensor, nn

    from src.models import build_model
    from src.training.optimizer import build_optimizer
    from src.training.train_step import TaskLoss, TrainStep

    network = build_model("resnet20", 10, 3).set_train()
    optimizer = build_optimizer(network, [0.01] * 1000, 0.9, False, 1e-4)
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((batch_size, 3, 32, 32)).astype(np.float32))
    labels = Tensor(random.integers(0, 10, batch_size).astype(np.int32))
    loss_fn = nn.CrossEntropyLoss()
    if mode == "graph":
        step = TrainStep(TaskLoss(network, loss_fn), optimizer)
        return lambda: float(step(images, labels))
    gradients = ms.value_and_grad(lambda x, y: loss_fn(network(x), y), None, optimizer.parameters)

    def eager():
        loss, grads = gradients(images, labels)
        optimizer(grads)
        return float(loss)

    return eager


def torch_step(batch_size):
    """The same network and step in PyTorch, written down once more."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.short = nn.Identity()
            if stride != 1 or channels != width:
                self.short = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

        def forward(self, x):
            out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return (out + self.short(x)).relu()

    blocks, channels = [], 16
    for width in (16, 32, 64):
        for index in range(3):
            blocks.append(Block(channels, width, 2 if width > 16 and index == 0 else 1))
            channels = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    network = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))

    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def child(mode, batch_size, steps):
    """Print images per second: the median over `steps` steps after two of warm-up."""
    step = torch_step(batch_size) if mode == "torch" else mindspore_step(mode, batch_size)
    seconds = []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    print("images/s", batch_size / float(np.median(seconds[2:])))


def measure(mode, batch_size, variables, steps):
    """Images per second in a process of its own, as a list of one, or of none where the framework is missing."""
    if variables["ONEDNN_MAX_CPU_ISA"] == "ALL":
        steps = 1  # minutes otherwise
    done = subprocess.run(
        [sys.executable, __file__, "--steps", str(steps), "--child", mode, str(batch_size)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("images/s")]


def main():
    """Run every setting in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="processes per setting, all settings in turn")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]), arguments.steps)
        return
    from common import machine, table

    print(f"Training ResNet-20 at 32 x 32\n{machine()}\n")
    speeds = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, setting in SETTINGS.items():
            speeds[name] += measure(*setting, arguments.steps)
    speeds = {name: float(np.median(values)) if values else None for name, values in speeds.items()}
    ours = speeds["as the programs set it"]
    table(
        [
            [name, f"{speed:.0f}" if speed else "not installed", f"{speed / ours:.2f}" if speed else ""]
            for name, speed in speeds.items()
        ],
        ["", "images/s", "ratio"],
    )


if __name__ == "__main__":
    main()
