"""Classes of image files by an exported MINDIR, ONNX or SPARSE file, with what it says about its input and output."""

from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from PIL import Image, UnidentifiedImageError

from .errors import InputError
from .export.deployed import Interface
from .export.mindir import read_metadata

_MODES = {1: "L", 3: "RGB"}  # Pillow's name by number of channels


class Classifier:
    """An exported file, opened: `interface` and a call from images to probabilities.

    Raises InputError if the file cannot be read, is none of these formats, or was not written by export.py.
    """

    def __init__(self, path):
        path = Path(path)
        if not path.is_file():
            raise InputError(f"model: cannot read {path}: no such file")
        opener = {".mindir": _open_mindir, ".onnx": _open_onnx, ".sparse": _open_sparse}.get(path.suffix)
        if opener is None:
            raise InputError(f"model: {path} ends in none of .mindir, .onnx and .sparse; export one with export.py")
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
        return outputs if self.interface.softmax else softmax(outputs)


def read_image(path, interface):
    """An image file as the network takes it: float32 (channels, height, width). Raises InputError.

    The shorter side is scaled so that the centre crop of the network's size holds `crop` of it.
    """
    channels, height, width = interface.image_shape
    try:
        with Image.open(path) as file:
            image = file.convert(_MODES[channels])
        scale = max(height / image.height, width / image.width) / interface.crop
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        reason = (
            "not an image" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None) or error
        )
        raise InputError(f"images: cannot read {path}: {reason}") from None
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32)
    pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    if interface.normalized:
        return pixels
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (interface.mean, interface.std))
    return (pixels - mean) / std


def softmax(logits):
    """Probabilities of each row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _open_mindir(path):
    try:
        metadata = read_metadata(path)
        cell = nn.GraphCell(ms.load(str(path)))
    except (DecodeError, OSError, RuntimeError, ValueError):
        raise InputError(f"model: {path} is not a MINDIR file, or a damaged one") from None
    return metadata, lambda images: cell(Tensor(images)).asnumpy()


def _open_onnx(path):
    try:
        from .export.onnx import open_onnx
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
    from .export.sparse_file import from_bytes, interface_metadata
    from .export.sparse_runtime import SparseModel

    model = SparseModel(path)  # which checks the file
    return interface_metadata(from_bytes(path.read_bytes()).interface), model
