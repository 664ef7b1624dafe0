"""Shared by the benchmarks: timing in turn, the machine's description, and networks with random masks."""

import datetime
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tabulate import tabulate

import src  # noqa: F401  sets the environment before mindspore loads
from src.platform.device import select_device


def start(title):
    """Select the CPU and print what is measured where."""
    select_device("CPU")
    print(f"{title}\n{machine()}\n")


def machine():
    """Processor, cores in use, date."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {datetime.date.today()}"


def medians(candidates, repeats):
    """Median seconds of each candidate (name -> function), all run in turn `repeats` times after one warm-up."""
    seconds = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, function in candidates.items():
            begin = time.perf_counter()
            function()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def table(rows, headers):
    """Print a table."""
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))))
    print()


def sparse_arrays(weights, sparsity, seed=0):
    """Copies of weights (Parameters) as arrays with a random share `sparsity` of each set to zero."""
    random = np.random.default_rng(seed)
    arrays = [weight.asnumpy().copy() for weight in weights]
    return [array * (random.random(array.shape, np.float32) >= sparsity) for array in arrays]


def torch_or_none():
    """The torch module limited to this process's cores, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch
