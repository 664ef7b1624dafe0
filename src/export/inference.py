"""Classes of image files by an exported MINDIR, ONNX or SPARSE file, with what it says about its input and output."""

from pathlib import Path

import numpy as np
from mindspore import Tensor

from ..data.images import central_part, read_part
from ..platform.errors import InputError
from ..platform.files import GIB, reading
from . import mindir
from .deployed import Interface


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
            metadata, load = opener(path)
        try:
            self.interface = Interface.from_metadata(metadata)
        except (KeyError, ValueError):
            raise InputError(
                f"model: {path} does not say what it takes; export it with this project's export.py"
            ) from None
        self.run = load()  # last: it is a library in C++ that reads the rest

    def __call__(self, images):
        """Probabilities (n, classes) of images (n, channels, height, width) as `read_image` returns them."""
        step = self.interface.batch_size or len(images)
        outputs = []
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            padding = [(0, step - len(batch))] + [(0, 0)] * 3
            output = self.run(np.pad(batch, padding))
            fits = isinstance(output, np.ndarray) and output.shape == (step, len(self.interface.classes))
            if not (fits and output.dtype.kind == "f" and np.isfinite(output).all()):
                raise InputError(
                    f"model: {self.path}: its outputs are not a finite number for each class; export it anew"
                )
            outputs.append(output[: len(batch)])
        outputs = np.concatenate(outputs)
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


# For each format: what a file says of itself, and a function that loads the rest and returns a call.


def _open_mindir(path):
    where = f"model: {path}"
    metadata = mindir.get_metadata(mindir.read_model(path, where).user_info)

    def load():
        try:
            cell = mindir.load_graph(path)
        except (RuntimeError, ValueError):
            raise InputError(f"{where} is not a MINDIR file, or a damaged one") from None

        def run(images):
            try:
                return cell(Tensor(images)).asnumpy()
            except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"{where} cannot be run: {_first_line(error)}") from None

        return run

    return metadata, load


def _open_onnx(path):
    try:
        from . import onnx_file
    except ImportError as error:
        raise InputError(f"model: ONNX needs {error.name}; run: pip install onnx onnxruntime") from None
    where = f"model: {path}"
    model = onnx_file.read_model(path, where)

    def load():
        session = onnx_file.open_model(model, where)
        name = session.get_inputs()[0].name

        def run(images):
            try:
                return session.run(None, {name: images})[0]
            except onnx_file.FAILURES as error:  # whose text is of the library's sources
                raise InputError(
                    f"{where} cannot be run ({type(error).__name__}): it takes other images than it says, or more "
                    f"memory than {onnx_file.MOST_MEMORY >> 30} GiB"
                ) from None

        return run

    return {entry.key: entry.value for entry in model.metadata_props}, load


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _open_sparse(path):
    from .sparse.file import from_bytes, interface_metadata
    from .sparse.runtime import SparseModel

    model = SparseModel(path)  # which checks the file
    return interface_metadata(from_bytes(path.read_bytes()).interface), lambda: model
