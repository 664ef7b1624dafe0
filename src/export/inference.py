"""Classes of image files by an exported MINDIR, ONNX or SPARSE file, with what it says about its input and output."""

from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor

from ..data.images import central_part, read_part
from ..platform.errors import InputError
from ..platform.files import GIB, reading
from .deployed import Interface
from .mindir import load_graph, read_metadata


class Classifier:
    """An exported file, opened: `interface` and a call from images to probabilities.

    Raises InputError if the file cannot be read, is none of these formats, or was not written by export.py.
    """

    def __init__(self, path):
        self.path = path = Path(path)
        opener = {".mindir": _open_mindir, ".onnx": _open_onnx, ".sparse": _open_sparse}.get(path.suffix)
        if opener is None:
            raise InputError(f"model: {path} ends in none of .mindir, .onnx and .sparse; export one with export.py")
        with reading(path, f"model: cannot read {path}", 2 * GIB):
            metadata, self.run = opener(path)
        try:
            self.interface = Interface.from_metadata(metadata)
        except (KeyError, ValueError):
            raise InputError(
                f"model: {path} does not say what it takes; export it with this project's export.py"
            ) from None

    def __call__(self, images):
        """Probabilities (n, classes) of images (n, channels, height, width) as `read_image` returns them."""
        step = self.interface.batch_size or len(images)
        outputs = []
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            padding = [(0, step - len(batch))] + [(0, 0)] * 3
            outputs.append(self.run(np.pad(batch, padding))[: len(batch)])
        outputs = np.concatenate(outputs)
        if outputs.shape != (len(images), len(self.interface.classes)) or not np.isfinite(outputs).all():
            raise InputError(f"model: {self.path}: its outputs are not a finite number for each class; export it anew")
        return outputs if self.interface.softmax else softmax(outputs)


def read_image(path, interface):
    """An image file as the network takes it, and took it in its evaluation: float32 (channels, height, width).

    Raises InputError.
    """
    channels, *size = interface.image_shape
    pixels = read_part(path, channels, size, central_part(size, interface.crop), "images")
    pixels = pixels.transpose(2, 0, 1).astype(np.float32)
    if interface.normalized:
        return pixels
    mean, std = _statistics(interface)
    return (pixels - mean) / std


def inverted(images, interface):
    """The negative of images that `read_image` returned: dark for bright."""
    if interface.normalized:
        return 255 - images
    mean, std = _statistics(interface)
    return (255 - 2 * mean) / std - images


def unlike_training(image, interface):
    """A few words on how an image's mean brightness lies far from that of training images, or None.

    Brightness is taken in standard deviations of the training images' pixels from their mean. Where these are drawings
    on a dark or bright ground, the negative of a drawing lies near the negative of the mean; a photograph's mean lies
    within 2, as a rule.
    """
    mean, std = _statistics(interface)
    values = (image - mean) / std if interface.normalized else image
    brightness = float(values.mean())
    negative = float(((255 - 2 * mean) / std).mean())  # where the negative of an image as bright as the mean lies
    if abs(negative) > 0.7 and brightness / negative > 2 / 3:
        return "as bright or dark as a negative of the training images; add --invert, or leave it out"
    if abs(brightness) > 2:
        return f"much {'brighter' if brightness > 0 else 'darker'} than the training images; its class may be wrong"
    return None


def softmax(logits):
    """Probabilities of each row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _statistics(interface):
    """Mean and standard deviation of the training images' grey values, each (channels, 1, 1)."""
    return (np.float32(values).reshape(-1, 1, 1) for values in (interface.mean, interface.std))


def _open_mindir(path):
    try:
        metadata = read_metadata(path)
        cell = load_graph(path)
    except (DecodeError, OSError, RuntimeError, ValueError):
        raise InputError(f"model: {path} is not a MINDIR file, or a damaged one") from None
    return metadata, lambda images: cell(Tensor(images)).asnumpy()


def _open_onnx(path):
    try:
        from .onnx import open_onnx
    except ImportError as error:
        raise InputError(f"model: ONNX needs {error.name}; run: pip install onnx onnxruntime") from None
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        session = open_onnx(path)
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    ):
        raise InputError(f"model: {path} is not an ONNX file, or a damaged one") from None
    name = session.get_inputs()[0].name
    return session.get_modelmeta().custom_metadata_map, lambda images: session.run(None, {name: images})[0]


def _open_sparse(path):
    from .sparse.file import from_bytes, interface_metadata
    from .sparse.runtime import SparseModel

    model = SparseModel(path)  # which checks the file
    return interface_metadata(from_bytes(path.read_bytes()).interface), model
