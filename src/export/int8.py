"""ONNX in 8 bits: weights and activations quantised by onnxruntime's quantiser, zeros kept.

Weights are symmetric per output channel, so that zero is zero on the integers' scale too; activations take their ranges
from training images. The file holds pairs of QuantizeLinear and DequantizeLinear (QDQ), which other runtimes read.
"""

import logging
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ..data.batches import Batches, Batching, draw_training_images, iterate
from .files import new_file
from .inference import Classifier
from .report import Exported, largest_deviation

OPSET = 13  # the first with scales per channel
_AT_A_TIME = 64  # images


class Accuracy(NamedTuple):
    """Top-1 over the test images, in per cent, of the file with float32 and of the one with int8 numbers."""

    float32: float
    int8: float
    images: int


def export_int8(deployment, float_file, path, images):
    """Quantise the ONNX file that was written of a Deployment; returns an Exported.

    images: float32 (n, channels, height, width) for calibration, as the network takes them.
    Raises RuntimeError where the written file has lost a zero.
    """
    with new_file(path) as written:
        prepared = written.with_name("prepared.onnx")
        onnx.save(version_converter.convert_version(onnx.load(str(float_file)), OPSET), str(prepared))
        with _quiet():
            quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(written),
                _Calibration(images, deployment.interface.batch_size),
                QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_probabilities(prepared),
                extra_options={"WeightSymmetric": True},
            )
        model = onnx.load(str(written))
        zeros, count = count_kept_zeros(path, integer_weights(model), deployment.weights)
        onnx.helper.set_model_props(model, deployment.interface.to_metadata())
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(written))
        outputs = Classifier(written).run(deployment.images)
        deviation = largest_deviation(deployment.outputs, outputs)
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def integer_weights(model):
    """int8 arrays of a quantised ONNX model's weights, by the names they had in float32."""
    suffix = "_quantized"
    return {
        tensor.name[: -len(suffix)]: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith(suffix) and tensor.data_type == onnx.TensorProto.INT8
    }


def count_kept_zeros(path, stored, weights):
    """Zeros among the prunable weights of an int8 file, and their number; small weights may have become zero too.

    Raises RuntimeError where a weight is missing, or one of the network's zeros is not zero in the file.
    """
    zeros = 0
    for name, weight in weights.items():
        if name not in stored or stored[name].size != weight.size:
            raise RuntimeError(f"{path}: weight {name} is not in the written file in 8 bits")
        integers = stored[name] if stored[name].shape == weight.shape else stored[name].T
        if integers[weight == 0].any():
            raise RuntimeError(f"{path}: weight {name} has lost zeros in the written file")
        zeros += int(np.count_nonzero(integers == 0))
    return zeros, sum(weight.size for weight in weights.values())


def as_input(images, interface):
    """Normalised images (n, channels, height, width) as the network takes them: in grey values if it wants these."""
    if not interface.normalized:
        return images
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (interface.mean, interface.std))
    return images * std + mean


def calibration_images(trained, interface, count):
    """Training images by which activations get their ranges, as the network takes them. Raises InputError."""
    return as_input(draw_training_images(trained.source(), count, trained.config.num_workers), interface)


def compare_accuracy(trained, float_file, int8_file):
    """The Accuracy of two ONNX files over the test images, by onnxruntime. Raises InputError."""
    classifiers = [Classifier(file) for file in (float_file, int8_file)]
    dataset = Batches(trained.source(), "test", Batching(_AT_A_TIME, trained.config.num_workers)).epoch()
    right, count = np.zeros(2), 0
    for images, labels in iterate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)):
        inputs = as_input(images, classifiers[0].interface)
        right += [np.count_nonzero(classifier(inputs).argmax(1) == labels) for classifier in classifiers]
        count += len(labels)
    return Accuracy(*(100 * right / count), count)


def _probabilities(path):
    """The nodes that turn logits into probabilities: in 8 bits these would no longer add up to 1."""
    return [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Softmax"]


class _Calibration(CalibrationDataReader):
    """Batches of calibration images, as onnxruntime asks for them."""

    def __init__(self, images, batch_size):
        step = batch_size or _AT_A_TIME
        padding = [(0, -len(images) % batch_size if batch_size else 0)] + [(0, 0)] * 3
        images = np.pad(images, padding, mode="edge")
        self.batches = iter([{"images": images[i : i + step]} for i in range(0, len(images), step)])

    def get_next(self):
        return next(self.batches, None)


@contextmanager
def _quiet():
    """The quantiser's advice on how to call it says nothing to the user of this program."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
