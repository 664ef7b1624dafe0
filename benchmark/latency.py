"""Latency of ONNX files, dense against sparse, on the CPU runtimes that are installed.

python benchmark/latency.py DENSE.onnx SPARSE.onnx [--rounds 30]

Known runtimes: onnxruntime, OpenVINO, DeepSparse. Nothing of this project is needed, because DeepSparse wants an
environment of its own (docs/deployment.md). The files take turns, one call each, so that a busy machine disturbs all of
them alike; medians are reported.
"""

import argparse
import os
import statistics
import time

import numpy as np
import onnx


def open_onnxruntime(path, threads):
    """A call from images to outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return f"onnxruntime {onnxruntime.__version__}", lambda images: session.run(None, {name: images})[0]


def open_openvino(path, threads):
    """A call from images to outputs; float32 as in the others, sparse weights used wherever OpenVINO knows how."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.8,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return f"openvino {openvino.__version__.split('-')[0]}", lambda images: compiled(images)[0]


def open_deepsparse(path, threads):
    """A call from images to outputs."""
    import deepsparse

    engine = deepsparse.compile_model(path, batch_size=1, num_cores=threads)
    return f"deepsparse {deepsparse.__version__}", lambda images: engine.run([images])[0]


RUNTIMES = (open_onnxruntime, open_openvino, open_deepsparse)


def measure(calls, images, rounds):
    """Median milliseconds of each call, after three calls to warm up."""
    for call in calls:
        for _ in range(3):
            call(images)
    times = [[] for _ in calls]
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call(images)
            times[index].append(1000 * (time.perf_counter() - start))
    return [statistics.median(series) for series in times]


def main():
    """Print one line per runtime and file."""
    parser = argparse.ArgumentParser(description="Latency of one image, dense against sparse ONNX files.")
    parser.add_argument("files", nargs="+", metavar="ONNX", help="files of the same input; the first is the reference")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    threads = os.cpu_count() or 1
    shape = [
        dimension.dim_value for dimension in onnx.load(arguments.files[0]).graph.input[0].type.tensor_type.shape.dim
    ]
    images = np.random.default_rng(0).standard_normal([1, *shape[1:]]).astype(np.float32)
    print(f"one image of {'x'.join(map(str, shape[1:]))}, {threads} threads, median of {arguments.rounds}")
    for opener in RUNTIMES:
        try:
            opened = [opener(path, threads) for path in arguments.files]
        except ImportError as error:
            print(f"{error.name}: not installed")
            continue
        medians = measure([call for _, call in opened], images, arguments.rounds)
        for path, (name, _), median in zip(arguments.files, opened, medians):
            print(f"{name:20} {path:32} {median:9.2f} ms, {medians[0] / median:.2f} times as fast as the first")


if __name__ == "__main__":
    main()
