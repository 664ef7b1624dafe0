"""Pictures in class folders, <root>/<class>/<file>: listed once for all epochs, read and augmented when needed."""

import os
from functools import cache
from random import Random

import numpy as np
from mindspore.dataset import NumpySlicesDataset, vision
from PIL import Image

from ..platform.errors import InputError
from .images import central_part, random_part, read_part
from .samples import Samples


@cache
def suffixes():
    """Those of the image files that Pillow reads, in small letters."""
    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN)


def find_images(root):
    """The paths of all image files below a folder, in the order of their names; hidden folders are left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name[0] != ".")
        found += [os.path.join(folder, name) for name in sorted(files) if _is_image(name)]
    return found


def names(root):
    """The names of the class folders in `root`, in the order of their labels: the alphabet's. Raises InputError."""
    return tuple(sorted(entry.name for entry in _entries(root) if entry.is_dir() and entry.name[0] != "."))


def flat_images(root):
    """The paths of the pictures in `root` itself, if it has no class folders; else ()."""
    entries = [entry for entry in _entries(root) if entry.name[0] != "."]
    if any(entry.is_dir() for entry in entries):
        return ()
    return tuple(entry.path for entry in entries if _is_image(entry.name))


def list_images(root, classes):
    """The Samples of some class folders: paths as bytes, labels by the place of their class. Raises InputError.

    The order is that of classes and file names, whatever the file system's.
    """
    paths, counts = [], []
    for name in classes:
        folder = os.path.join(root, name)
        files = sorted(os.fsencode(entry.path) for entry in _entries(folder) if _is_image(entry.name))
        paths += files
        counts.append(len(files))
    if not paths:
        raise InputError(f"data_path: no images in the class folders of {root}")
    # An array of bytes has a fifth of the memory of a list of str, which ImageNet's million would feel.
    return Samples(np.array(paths), np.repeat(np.arange(len(classes), dtype=np.int32), counts))


def pipeline(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) as float32 CHW, with shape, crop, mean and deviation of a DataInfo.

    train: a random part, mirrored at random, as a function of `seed` and the image alone: neither threads nor workers
    change it; then what the operations `more` make of it, uint8 (height, width, channels). Otherwise the central part.
    """

    channels = info.image_shape[0]

    def read(index):
        path = os.fsdecode(bytes(loaded.images[index]))
        if split != "train":
            return read_part(path, channels, info.size, central_part(info.size, info.crop), "data_path")
        random = Random(f"{seed} {index}")
        return read_part(path, channels, info.size, random_part(random), "data_path", mirror=random.random() < 0.5)

    indices = np.arange(len(loaded.labels))
    data = NumpySlicesDataset(
        (indices, loaded.labels), ["image", "label"], sampler=shard.sampler(split, len(indices)), num_parallel_workers=1
    )
    normalize = vision.Normalize([255 * value for value in info.mean], [255 * value for value in info.std])
    augment = more if split == "train" else ()
    return data.map([read, *augment, normalize, vision.HWC2CHW()], "image", num_parallel_workers=num_workers)


def _is_image(name):
    return name.lower().endswith(suffixes()) and not name.startswith(".")


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"data_path: cannot read {folder}: {error.strerror}") from None
