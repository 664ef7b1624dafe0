"""SPARSE: files for the runtime in runtime/, run with it and compared before they take their name."""

import time
from pathlib import Path

import numpy as np

from ...platform.errors import InputError
from ..files import new_file
from ..onnx import write_raw
from ..onnx_file import open_onnx
from ..report import ROUNDING_TOLERANCE, Exported, check_outputs
from .file import to_bytes, weights_of
from .graph import read_onnx
from .runtime import SparseModel


def export_sparse(deployment, path):
    """Write the .sparse file of a Deployment with its Interface inside, run it with the runtime and compare.

    Returns an Exported, its note the gain in time that was measured here. Raises InputError or RuntimeError.
    """
    interface = deployment.interface._replace(batch_size=1)
    with new_file(path) as written:
        raw = written.with_name("raw.onnx")
        write_raw(deployment.network, interface, raw)
        graph = _graph_of(raw)._replace(interface=interface)
        written.write_bytes(to_bytes(graph))
        with SparseModel(written) as model:
            deviation = check_outputs(path, deployment.outputs, model(deployment.images), deployment.rounding)
            note = describe_gain(*measure_gain(raw, model))
        zeros, count = _count_zeros(path, graph, deployment.weights)
        size = written.stat().st_size
        raw.unlink()
    return Exported(path, size, deviation, zeros, count, note)


def _graph_of(raw):
    """The Graph of a network's ONNX file. Raises InputError that says which operation the runtime does not have."""
    try:
        return read_onnx(raw)
    except InputError as error:
        raise InputError(
            f"file_format: SPARSE cannot hold this network: {str(error).partition('converted: ')[2]}; export ONNX or "
            "PACKED instead"
        ) from None


def convert_onnx(source, path):
    """Write the .sparse file of any ONNX file, compare the runtime's outputs with onnxruntime's; returns a line on it.

    Raises InputError where the file cannot be converted, RuntimeError if the outputs differ.
    """
    graph = read_onnx(source)
    with new_file(path) as written:
        written.write_bytes(to_bytes(graph))
        with SparseModel(written) as model:
            images = np.random.default_rng(0).standard_normal((2, *model.input_shape)).astype(np.float32)
            expected = np.concatenate([_dense(source)(image[None]).reshape(1, -1) for image in images])
            deviation = check_outputs(path, expected, model(images), ROUNDING_TOLERANCE)
            note = describe_gain(*measure_gain(source, model))
        size = written.stat().st_size
    nonzeros = sum(np.count_nonzero(weight) for weight in weights_of(graph))
    weights = sum(weight.size for weight in weights_of(graph))
    share = 100 * (1 - nonzeros / weights) if weights else 0
    return f"{path}: {size:,} bytes, {share:.2f} % zeros, largest deviation {deviation:.1e}; {note}"


def measure_gain(source, model, seconds=1.0):
    """Median CPU milliseconds of one image by onnxruntime's dense kernels and by the model, one thread, in turn."""
    dense = _dense(source)
    image = np.random.default_rng(0).standard_normal((1, *model.input_shape)).astype(np.float32)
    times, end = {dense: [], model: []}, time.perf_counter() + seconds
    for call in times:
        call(image)
    while time.perf_counter() < end or len(times[model]) < 5:
        for call, series in times.items():
            begin = time.thread_time()  # not that of the process, in which MindSpore has threads of its own
            call(image)
            series.append(1000 * (time.thread_time() - begin))
    return np.median(times[dense]), np.median(times[model])


def describe_gain(dense, sparse):
    """The gain as one line; where there is none, which file is the better one."""
    line = f"one image, one thread, here: {sparse:.2f} ms, dense by onnxruntime {dense:.2f} ms: "
    line += f"{dense / sparse:.2f} times as fast"
    return line if sparse < dense else f"{line}; no gain, ONNX is the better file for this network"


def _dense(source):
    """A call by onnxruntime on one thread."""
    session = open_onnx(Path(source), threads=1)
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in given.shape]
    return lambda images: session.run(None, {given.name: images.reshape(shape)})[0]


def _count_zeros(path, graph, weights):
    """Zeros of the file's weights, and their number; RuntimeError where it has fewer zeros than the network."""
    sizes = [weight.size for weight in weights.values()]
    expected = sum(int(np.count_nonzero(weight == 0)) for weight in weights.values())
    nonzeros = sum(np.count_nonzero(weight) for weight in weights_of(graph))
    scales = sum(weight.size for weight in weights_of(graph)) - sum(sizes)
    zeros = sum(sizes) - (nonzeros - scales)  # normalisation that is no part of a convolution has weights of its own
    if zeros < expected:
        raise RuntimeError(f"{path}: {zeros} zeros in the written file, {expected} in the network")
    return zeros, sum(sizes)
