"""ONNX, written by MindSpore's exporter and checked with onnxruntime."""

import mindspore as ms
import onnx
import onnxruntime
from mindspore import Tensor

from .files import new_file
from .report import Exported, check_outputs, count_zeros


def export_onnx(network, interface, path, weights):
    """Write an ONNX file of a DeployedNetwork with its Interface inside, run it with onnxruntime and compare.

    weights: prunable weights by name, whose zeros are counted in the file. The network must not have been exported
    before: MindSpore converts a Cell to ONNX only once. Returns an Exported.
    Raises RuntimeError if the written file does not give the same outputs or has other zeros.
    """
    images = interface.random_images()
    with new_file(path) as written:
        raw = written.with_name("raw.onnx")
        ms.onnx.export(network, interface.signature(), file_name=str(raw), input_names=["images"])
        model = onnx.load(str(raw))
        onnx.helper.set_model_props(model, interface.to_metadata())
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(written))
        outputs = open_onnx(written).run(None, {model.graph.input[0].name: images})[0]
        deviation = check_outputs(path, network(Tensor(images)).asnumpy(), outputs)
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        zeros, count = count_zeros(path, stored, weights)
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def open_onnx(path):
    """An onnxruntime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings about the exporter's shape hints say nothing about the result
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
