"""Densities from which the sparse runtime's dense kernels are faster: python benchmark/sparse_break_even.py

Two builds of the runtime, one that runs every layer with its sparse kernels and one with its dense ones, take turns on
networks of one layer at rising densities. Printed are the sparse kernel's times over the dense one's (CPU time of one
image, one thread, the smallest of several medians), and the density at which they are equal, per layer and instruction
set. runtime/kernels.c has the limits that follow from it: BREAK_EVENS.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmark.common import machine, table
from src.export.sparse.file import Axis, Graph, Operation, to_bytes

ROOT = Path(__file__).resolve().parent.parent
DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# channels in and out, kernel, size of the map; a size of 1 is a fully connected layer
LAYERS = ((16, 16, 3, 32), (64, 64, 3, 28), (256, 64, 1, 28), (256, 256, 1, 14), (512, 1000, 1, 1), (2048, 1000, 1, 1))


def build(folder, limit):
    """The program of a build in which `limit` is the density from which layers run densely."""
    script = ROOT / "scripts" / "build_runtime.sh"
    subprocess.run(
        ["bash", script, "--output", folder],
        env={**os.environ, "CFLAGS": f"-DALL_FROM={limit}"},
        check=True,
        capture_output=True,
    )
    return folder / "rpg_sparse"


def layer_file(channels, outputs, kernel, size, density):
    """A .sparse file of one layer, and a pool over the map, which costs little."""
    random = np.random.default_rng(0)
    shape = (outputs, channels, kernel, kernel)
    mask = random.permutation(np.prod(shape)).reshape(shape) < density * np.prod(shape)
    axis = Axis(kernel, 1, kernel // 2, kernel // 2)
    weight = np.float32(random.standard_normal(shape) * mask)
    operations = [Operation("convolution", (0,), "relu", window=(axis, axis), weight=weight)]
    if size > 1:
        operations.append(Operation("average_pool", (1,), window=(Axis(size), Axis(size))))
    return to_bytes(Graph((channels, size, size), operations))


def milliseconds(program, path, isa, image, repeat):
    """Median CPU time of one image; None where the processor has no such instructions."""
    words = [program, path, "--isa", isa, "--repeat", str(repeat)]
    done = subprocess.run(words, input=image.tobytes(), capture_output=True, text=False)
    if done.returncode:
        return None
    return float(done.stdout.split(b" ms of CPU time")[0].split()[-1])


def break_even(densities, ratios):
    """The density at which the ratio, linear between those measured, first reaches 1; infinity where it never does."""
    for (low, before), (high, after) in zip(zip(densities, ratios), zip(densities[1:], ratios[1:])):
        if before < 1 <= after:
            return low + (high - low) * (1 - before) / (after - before)
    return densities[0] if ratios[0] >= 1 else np.inf


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description="Densities from which dense kernels of the sparse runtime are faster.")
    parser.add_argument("--isas", nargs="+", default=["avx512", "avx2", "sse2", "neon"])
    parser.add_argument("--repeat", type=int, default=31)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        programs = [build(folder / name, limit) for name, limit in (("sparse", 2), ("dense", -1))]
        path = folder / "layer.sparse"
        for isa in arguments.isas:
            for channels, outputs, kernel, size in LAYERS:
                image = np.random.default_rng(1).standard_normal((channels, size, size)).astype(np.float32)
                ratios = []
                for density in DENSITIES:
                    path.write_bytes(layer_file(channels, outputs, kernel, size, density))
                    times = [
                        [milliseconds(program, path, isa, image, arguments.repeat) for program in programs]
                        for _ in range(arguments.rounds)
                    ]
                    if times[0][0] is None:
                        break
                    sparse, dense = np.min(times, axis=0)
                    ratios.append(sparse / dense)
                if ratios:
                    label = f"{isa} {kernel}x{kernel} {channels} to {outputs}, {size}x{size}"
                    equal = break_even(DENSITIES, ratios)
                    rows.append([label, *(f"{ratio:.2f}" for ratio in ratios), f"{equal:.2f}"])
                    print(" | ".join(rows[-1]), file=sys.stderr)
    print("Time of sparse over dense kernels by density of the layer, and the density at which they are equal")
    print(f"{machine()}\n")
    table(rows, ["", *map(str, DENSITIES), "equal at"])


if __name__ == "__main__":
    main()
