"""Export of a trained network for deployment, checked by reading the written file back."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

TOLERANCE = 1e-5  # largest deviation of a reloaded file's logits, relative to the largest logit


class Exported(NamedTuple):
    """path: the written file; bytes: its size; deviation: largest difference of logits after reloading."""

    path: Path
    bytes: int
    deviation: float


def export_mindir(network, image_shape, path, batch_size=1):
    """Write a MINDIR of a network in evaluation mode and compare its logits with the network's.

    image_shape: (channels, height, width); batch_size: images per call, or None for a dynamic batch.
    Raises RuntimeError if the reloaded file does not give the same logits.
    """
    path = Path(path)
    images = Tensor(np.random.default_rng(0).standard_normal((batch_size or 2, *image_shape)).astype(np.float32))
    signature = images if batch_size else Tensor(shape=[None, *image_shape], dtype=ms.float32)
    # ms.export makes the folder it writes to private and the file read-only, hence a folder of its own.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        ms.export(network, signature, file_name=str(Path(folder) / "network"), file_format="MINDIR")
        written = Path(folder) / "network.mindir"
        reloaded = nn.GraphCell(ms.load(str(written)))
        deviation = largest_deviation(network(images).asnumpy(), reloaded(images).asnumpy())
        if not deviation <= TOLERANCE:
            raise RuntimeError(f"{path}: reloaded logits differ by {deviation:g}; the file is not usable")
        os.chmod(written, 0o644)
        os.replace(written, path)
    return Exported(path, path.stat().st_size, deviation)


def largest_deviation(expected, actual):
    """Largest absolute difference relative to the largest expected value."""
    return float(np.abs(expected - actual).max() / max(np.abs(expected).max(), 1e-30))
