"""What do more workers save and cost? Rank term per worker, and bytes sent per step, on one machine's CPUs.

usage: python benchmark/scaling.py [--model resnet50] [--repeats N]

The rank term: each worker's share of the layers is timed alone, on one core; what counts is the slowest share. The
messages: bytes that one worker sends for one training step, counted by the kernel on the loopback device while `msrun`
workers average gradients of the network's size, and then BatchNorm's statistics, forward and backward. On a busy
machine start it in a network namespace of its own, so that nobody else's bytes are counted:

    unshare --net sh -c 'ip link set lo up; python benchmark/scaling.py'
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import medians, sparse_arrays, start, table
from mindspore import Tensor, jit, nn
from threadpoolctl import threadpool_limits

from src.models import MODELS, build_model
from src.platform import parallel
from src.platform.device import select_device
from src.pruning.pruner import convolution_weights
from src.pruning.rank_term import decomposition_cost, layer_term

WORKERS = (1, 2, 4)
STEPS = 5  # reductions that are counted, after one that is not


def rank_term(network, repeats):
    """The slowest share of the rank term for each number of workers."""
    weights = convolution_weights(network)
    arrays = sparse_arrays(weights, 0.9)
    costs = [decomposition_cost(weight.shape) for weight in weights]
    shares = {
        (workers, rank): share for workers in WORKERS for rank, share in enumerate(parallel.share_out(costs, workers))
    }
    terms = {name: lambda share=share: one_by_one(arrays[index] for index in share) for name, share in shares.items()}
    seconds = medians(terms, repeats)
    rows = []
    for workers in WORKERS:
        own = [(workers, rank) for rank in range(workers)]
        dearest = max(sum(costs[index] for index in shares[name]) for name in own) / sum(costs)
        slowest = max(seconds[name] for name in own)
        layers = ", ".join(str(len(shares[name])) for name in own)
        rows.append([workers, layers, f"{dearest:.3f}", f"{slowest:.3f}", f"{slowest / seconds[1, 0]:.3f}"])
    table(rows, ["workers", "layers of each", "estimated cost", "seconds, slowest", "over one worker"])


def one_by_one(arrays):
    """Rank terms on one thread, as a worker with a core of its own computes them."""
    with threadpool_limits(1):
        for array in arrays:
            layer_term(array, 0.1)


def messages(model):
    """Bytes that one worker sends for one step, and the time of it, for each number of workers."""
    rows = []
    for workers in WORKERS[1:]:
        for what, found in measure(model, workers).items():
            ring = 2 * (workers - 1) / workers * found["bytes"]
            volumes = [f"{value / 2**20:.2f}" for value in (found["sent"], ring)]
            rows.append([workers, what, found["messages"], *volumes, f"{1000 * found['seconds']:.0f}"])
    table(rows, ["workers", "of a step", "messages", "MiB sent", "MiB, ideal ring", "ms"])


def measure(model, workers):
    """What worker 0 of a job of `workers` workers on this machine measured (see `worker`)."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = ["msrun", f"--worker_num={workers}", f"--local_worker_num={workers}", "--join=True"]
        command += [f"--master_port={30_000 + os.getpid() % 10_000}", f"--log_dir={folder}"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(
            [*command, __file__, "--model", model, "--measure", str(result)],
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return json.loads(result.read_text())


def worker(network, result):
    """Be one worker: send messages of the network's sizes as a training step does; worker 0 writes what they cost."""
    select_device("CPU")
    workers = parallel.start()
    parameters = network.trainable_params()
    reducer = workers.gradient_reducer(parameters)
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]

    @jit
    def average_gradients(*tensors):
        return reducer(tensors)

    @jit
    def add_statistics(*tensors):
        sums = ()
        for tensor in tensors:
            sums += (workers.all_reduce(tensor),)
        return sums

    gradients = [Tensor(np.ones(parameter.shape, np.float32)) for parameter in parameters]
    statistics = [Tensor(np.ones(2 * cell.num_features, np.float32)) for cell in norms] * 2  # there and back
    found = {
        "gradients": cost(average_gradients, gradients, workers),
        "BatchNorm": cost(add_statistics, statistics, workers),
    }
    if workers.rank == 0:
        Path(result).write_text(json.dumps(found))


def cost(function, tensors, workers):
    """Bytes that a worker sends for one call, and the seconds it takes."""
    function(*tensors)[-1].asnumpy()
    workers.sum([0])  # all are here
    sent, begin = loopback_bytes(), time.perf_counter()
    for _ in range(STEPS):
        function(*tensors)[-1].asnumpy()
    workers.sum([0])
    return {
        "messages": len(tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "seconds": (time.perf_counter() - begin) / STEPS,
        "sent": (loopback_bytes() - sent) / STEPS / workers.size,
    }


def loopback_bytes():
    """Bytes sent over the loopback device of this network namespace since it is up, by everyone."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.split()[0] == "lo:")


def main():
    """Print both tables, or be one of the workers that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet50", choices=tuple(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    network = build_model(arguments.model, 1000, 3)
    if arguments.measure:
        worker(network, arguments.measure)
        return
    start(f"{arguments.model}: rank term of one mask update, and messages of one step, by the number of workers")
    rank_term(network, arguments.repeats)
    messages(arguments.model)


if __name__ == "__main__":
    main()
