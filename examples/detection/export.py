"""Export a network for deployment: python examples/detection/export.py --ckpt FILE [--file_format MINDIR|ONNX]"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src import select_device
from src.export.files import new_file
from src.export.mindir import load_graph, put_metadata, stored_weights
from src.export.onnx import mend_transposed
from src.export.onnx_file import open_onnx
from src.export.report import (
    ROUNDING_TOLERANCE,
    TOLERANCE,
    Exported,
    check_dense,
    check_outputs,
    count_zeros,
    format_exported,
)
from src.platform.command_line import Parser, positive
from src.platform.errors import InputError, run_program
from src.platform.files import check_new

import mindspore as ms  # isort: skip  after src, which sets its environment
import numpy as np
import onnx

from examples.detection.networks import DeployedNetwork, inputs, read_detector

SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx"}


def main():
    """Write a checkpoint's network in another format, read it back, and compare."""
    arguments = _parse()
    path = Path(arguments.file_name or Path(arguments.ckpt).with_suffix(SUFFIXES[arguments.file_format]))
    if path.suffix != SUFFIXES[arguments.file_format]:
        raise InputError(f"file_name: {path} does not end with {SUFFIXES[arguments.file_format]}")
    check_new(path, arguments.overwrite, "file_name")
    select_device(arguments.device_target)
    network, description = read_detector(arguments.ckpt)
    counted = {name: int(np.count_nonzero(network.parameters_dict()[name].asnumpy())) for name in description["pruned"]}
    if counted != description["nonzeros"]:
        raise InputError(f"ckpt: {arguments.ckpt}: its zeros have come back; use the file as train.py wrote it")
    detector = description["detector"]
    size = detector["image_size"]
    images = np.random.default_rng(0).random((arguments.batch_size, 3, size, size), np.float32)
    metadata = {"detector": json.dumps(detector), "classes": json.dumps(description["classes"])}
    write = write_mindir if arguments.file_format == "MINDIR" else write_onnx
    deployed = DeployedNetwork(network, detector["task"])
    print(format_exported([write(path, deployed, images, description["pruned"], metadata)]))


def write_mindir(path, network, images, pruned, metadata):
    """Write a MINDIR of a DeployedNetwork, run it again, and compare; returns an Exported. Raises RuntimeError."""

    def add_metadata(model):
        put_metadata(model.user_info, metadata)

    expected = _outputs(network(inputs(images)))
    weights, dense = _parameters(network, pruned)
    with new_file(path) as written:
        name = str(written.with_suffix(""))
        ms.export(network, inputs(images), file_name=name, file_format="MINDIR", custom_func=add_metadata)
        actual = _outputs(load_graph(written)(inputs(images)))
        deviation = max(check_outputs(path, *pair, TOLERANCE) for pair in zip(expected, actual))
        stored = stored_weights(written)
        zeros = count_zeros(path, stored, weights)
        check_dense(path, stored, dense)
        size = written.stat().st_size
    return Exported(path, size, deviation, *zeros)


def write_onnx(path, network, images, pruned, metadata):
    """The same for ONNX, run by onnxruntime. MindSpore converts a Cell only once."""
    expected = _outputs(network(inputs(images)))
    weights, dense = _parameters(network, pruned)
    with new_file(path, 3 * sum(array.nbytes for array in (*weights.values(), *dense.values()))) as written:
        raw = written.with_name("raw.onnx")
        ms.onnx.export(network, inputs(images), file_name=str(raw), input_names=["images"])
        model = onnx.load(str(raw))
        mend_transposed(model)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, str(written))
        actual = open_onnx(written).run(None, {"images": images})
        deviation = max(check_outputs(path, *pair, ROUNDING_TOLERANCE) for pair in zip(expected, actual))
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        zeros = count_zeros(path, stored, weights)
        check_dense(path, stored, dense)
        size = written.stat().st_size
    return Exported(path, size, deviation, *zeros)


def _outputs(outputs):
    return [output.asnumpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _parameters(network, pruned):
    """Pruned weights, and all other parameters that the deployed network computes with, by name."""
    arrays = {p.name: p.asnumpy() for p in network.get_parameters() if p.dtype == ms.float32}
    return {name: arrays.pop(name) for name in pruned}, arrays


def _parse():
    parser = Parser(__doc__.partition(":")[0])
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="network.ckpt of a run")
    parser.add_argument("--file_format", default="MINDIR", choices=tuple(SUFFIXES))
    parser.add_argument("--file_name", metavar="OUT", help="file to write (default: beside the checkpoint)")
    parser.add_argument("--batch_size", type=positive, default=1, help="pictures per call (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file, if it exists")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
