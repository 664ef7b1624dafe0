"""Latency of pruned networks: the sparse runtime against onnxruntime and, where it is installed, MNN.

python benchmark/sparse_latency.py [--networks resnet50 ...] [--sparsities 0.98 ...] [--threads 1 2] [--picture FILE]
python benchmark/sparse_latency.py --onnx TRAINED.onnx

One image per call. All runtimes of a row take turns in one process, a call each; medians of CPU time, and of wall time
behind it. The weights are random. "erk" keeps random ones at Erdos-Renyi-Kernel densities; "mag" draws them from a
Laplace distribution of variance 2 / fan-in and keeps what one global threshold leaves: about the densities of trained
networks, dense early layers and nearly empty late ones. An ONNX file is measured with the zeros it has. onnxruntime
runs the same file with its dense kernels. For a quiet measurement begin the command with `taskset -c 1`.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import numpy as np
import onnx
import onnxruntime

from src.export.sparse.file import to_bytes
from src.export.sparse.graph import read_onnx
from src.export.sparse.runtime import SparseModel
from src.pruning.allocation import BUDGETS

NETWORKS = {"resnet20": (10, 3, 32), "resnet50": (1000, 3, 224), "mobilenet_v2": (1000, 3, 224)}
LAWS = ("mag", "erk")


def write_dense(name, path):
    """An ONNX file of a network with random weights, for one image.

    Runs in a process of its own: threads that MindSpore leaves behind would count as CPU time of the measurements.
    """
    import mindspore as ms
    from mindspore import Tensor

    from benchmark.random_checkpoint import settle_batch_norms
    from src.models import build_model
    from src.platform.device import select_device

    select_device("CPU")
    classes, channels, size = NETWORKS[name]
    ms.set_seed(0)
    if name == "mobilenet_v2":
        import mindcv

        network = mindcv.create_model("mobilenet_v2_100", num_classes=classes)
    else:
        network = build_model(name, classes, channels)
    settle_batch_norms(network, (4, channels, size, size))
    image = Tensor(np.zeros((1, channels, size, size), np.float32))
    ms.onnx.export(network.set_train(False), image, file_name=str(path), input_names=["images"])


def prune(model, law, sparsity):
    """Set a share of an ONNX model's convolution and dense weights to zero, in place.

    What is left is scaled so that every layer keeps its norm, and activations their size.
    """
    names = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in names]
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    total = round((1 - sparsity) * sum(weight.size for weight in weights))
    random = np.random.default_rng(0)
    if law == "mag":
        spreads = [np.sqrt(1 / np.prod(weight.shape[1:])) for weight in weights]
        scores = [abs(random.laplace(0, spread, weight.shape)) for weight, spread in zip(weights, spreads)]
        threshold = np.partition(np.concatenate([s.ravel() for s in scores]), -total)[-total]
        masks = [score >= threshold for score in scores]
        weights = [np.copysign(score, weight) for score, weight in zip(scores, weights)]
    else:
        masks = []
        for weight, budget in zip(weights, BUDGETS["erk"]([weight.shape for weight in weights], total)):
            mask = np.zeros(weight.size, bool)
            mask[random.permutation(weight.size)[:budget]] = True
            masks.append(mask.reshape(weight.shape))
    for tensor, weight, mask in zip(tensors, weights, masks):
        size = np.linalg.norm(onnx.numpy_helper.to_array(tensor))
        pruned = weight * mask * (size / max(np.linalg.norm(weight * mask), 1e-30)) + 0.0
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(pruned), tensor.name))


def open_onnxruntime(path, threads):
    """A call from images to outputs by onnxruntime's dense kernels."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # in the next one's turn
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_mnn(path, threads, sparse):
    """A call by MNN, with or without its sparse kernels; None where it is not installed."""
    try:
        import _tools
        import MNN
    except ImportError:
        return None
    converted = path.with_suffix(".sparse.mnn" if sparse else ".dense.mnn")
    if not converted.exists():
        words = ["", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted)]
        _tools.mnnconvert(words + (["--detectSparseSpeedUp"] if sparse else []))
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession({"numThread": threads, "precision": "high"})
    given, result = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)

    def call(images):
        given.copyFrom(MNN.Tensor(images.shape, MNN.Halide_Type_Float, images, MNN.Tensor_DimensionType_Caffe))
        interpreter.runSession(session)
        host = MNN.Tensor(result.getShape(), MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe)
        result.copyToHostTensor(host)
        return np.array(host.getData(), np.float32).reshape(result.getShape())

    return call


def open_ours(path, threads):
    """A call by the sparse runtime."""
    file = path.with_suffix(".sparse")
    if not file.exists():
        file.write_bytes(to_bytes(read_onnx(path)))
    return SparseModel(file, threads)


def measure(calls, images, rounds):
    """{name: (CPU milliseconds, wall milliseconds)}, medians over rounds in which every call has its turn."""
    times = {name: [] for name in calls}
    repeat, end = 0, time.perf_counter() + 1  # small networks get more rounds
    while repeat < rounds + 2 or time.perf_counter() < end:
        repeat += 1
        for name, call in calls.items():
            wall, used = time.perf_counter(), time.process_time()
            call(images)
            if repeat > 2:
                times[name].append((1000 * (time.process_time() - used), 1000 * (time.perf_counter() - wall)))
    return {name: tuple(np.median(series, axis=0)) for name, series in times.items()}


def compare(path, threads, rounds):
    """Times of every runtime on one ONNX file, after a check that their outputs agree.

    None where the output does not depend on the image any more: such a network takes no time.
    """
    candidates = {
        "onnxruntime": open_onnxruntime(path, threads),
        "MNN": open_mnn(path, threads, False),
        "MNN sparse": open_mnn(path, threads, True),
        "ours": open_ours(path, threads),
    }
    calls = {name: call for name, call in candidates.items() if call}
    images = np.random.default_rng(0).standard_normal((1, *calls["ours"].input_shape)).astype(np.float32)
    expected = calls["onnxruntime"](images).reshape(-1)
    if np.array_equal(expected, calls["onnxruntime"](-images).reshape(-1)):
        return None
    for name, call in calls.items():
        deviation = abs(call(images).reshape(-1) - expected).max() / max(abs(expected).max(), 1e-30)
        if not deviation < (1e-4 if name == "ours" else 1e-2):
            raise RuntimeError(f"{path}: the outputs of {name} differ by {deviation:g}")
    return measure(calls, images, rounds)


def row(label, times):
    """A row of the table: times, and how many times as fast as onnxruntime by CPU time."""
    cells = [f"{times[name][0]:.2f} / {times[name][1]:.2f}" if name in times else "-" for name in RUNTIMES]
    ratios = [f"{times['onnxruntime'][0] / times[name][0]:.2f}" if name in times else "-" for name in RUNTIMES[1:]]
    return [label, *cells, *ratios]


RUNTIMES = ("onnxruntime", "MNN", "MNN sparse", "ours")
HEADERS = ["", *(f"{name} ms" for name in RUNTIMES), *(f"{name} x" for name in RUNTIMES[1:])]


def draw(points, path):
    """Speed-up over sparsity, a line per network and law. points: {(network, law): [(sparsity, speed-up), ...]}."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for index, ((network, law), values) in enumerate(points.items()):
        sparsities, gains = zip(*sorted(values))
        axes.plot(
            [100 * s for s in sparsities],
            gains,
            color=f"C{index // len(LAWS)}",
            linestyle="-" if law == "mag" else "--",
            marker="o",
            label=f"{network}, {law}",
        )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="zeros among the weights, %", ylabel="times as fast as onnxruntime, dense", yscale="log")
    axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    axes.set_xticks(sorted({100 * sparsity for values in points.values() for sparsity, _ in values}))
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Latency of pruned networks by runtime, one image a call.")
    parser.add_argument("--onnx", nargs="+", default=[], metavar="FILE", help="files to measure instead")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--picture", metavar="FILE", help="draw the speed-ups with the first number of threads")
    arguments = parser.parse_args()
    points = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(Path(file).name, file, None, None) for file in arguments.onnx]
        for name in [] if arguments.onnx else arguments.networks:
            dense = Path(folder) / f"{name}.onnx"
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                process.submit(write_dense, name, dense).result()
            jobs += [(name, dense, law, sparsity) for sparsity in arguments.sparsities for law in LAWS]
        rows = {threads: [] for threads in arguments.threads}
        for name, source, law, sparsity in jobs:
            model = onnx.load(str(source))
            if law:
                prune(model, law, sparsity)
            with tempfile.TemporaryDirectory(dir=folder) as inner:
                path = Path(inner) / "network.onnx"
                onnx.save(model, str(path))
                for threads in arguments.threads:
                    times = compare(path, threads, arguments.rounds)
                    label = f"{name} {100 * sparsity:g} % {law}" if law else name
                    if times is None:
                        print(f"{label}: nothing of the image reaches the output", file=sys.stderr)
                        break
                    rows[threads].append(row(label, times))
                    print(f"{threads} threads: {' | '.join(rows[threads][-1])}", file=sys.stderr)
                    if law and threads == arguments.threads[0]:
                        gain = times["onnxruntime"][0] / times["ours"][0]
                        points.setdefault((name, law), []).append((sparsity, gain))
    from benchmark.common import machine, table

    print("Latency of one image: median CPU / wall milliseconds, and times as fast as onnxruntime by CPU time")
    print(f"{machine()}\n")
    for threads in arguments.threads:
        print(f"threads: {threads}")
        table(rows[threads], HEADERS)
    if arguments.picture and points:
        draw(points, arguments.picture)


if __name__ == "__main__":
    main()
