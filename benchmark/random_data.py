"""Random images in the formats of CIFAR and ImageNet, for benchmarks and tests: nothing can be learnt from them."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 1000


def noise(height, width):
    """A function of an index -> random image (height, width, 3) uint8."""
    return lambda index: np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_cifar10(folder, train, test, image=None):
    """The six files of CIFAR-10's binary version, with `train` and `test` records of labels 0, 1, ... 9, 0, ...

    image: function of an index -> (32, 32, 3) uint8; the training images come first. Returns the folder.
    """
    folder = _new(folder)
    splits = np.array_split(np.arange(train), 5)
    for number, part in enumerate(splits, start=1):
        _records(part, lambda index: [index % 10], image).tofile(folder / f"data_batch_{number}.bin")
    _records(range(train, train + test), lambda index: [index % 10], image).tofile(folder / "test_batch.bin")
    return folder


def write_cifar100(folder, train, test, image=None):
    """The two files of CIFAR-100's binary version, as `write_cifar10`; the coarse label is the fine one over five."""
    folder = _new(folder)
    labels = lambda index: [index % 100 // 5, index % 100]  # noqa: E731
    _records(range(train), labels, image).tofile(folder / "train.bin")
    _records(range(train, train + test), labels, image).tofile(folder / "test.bin")
    return folder


def write_imagenet(folder, train, val, image=None):
    """Class folders as of ImageNet with JPEG files, each class in turn getting one; most may stay empty.

    image: function of an index -> (height, width, 3) uint8. Returns the folder.
    """
    folder = _new(folder)
    image = image or noise(375, 500)
    for split, indices in (("train", range(train)), ("val", range(train, train + val))):
        for number in range(CLASSES):
            (folder / split / f"n{number:08d}").mkdir(parents=True)
        for place, index in enumerate(indices):
            file = folder / split / f"n{place % CLASSES:08d}" / f"{index}.JPEG"
            Image.fromarray(image(index)).save(file, quality=90)
    return folder


def _new(folder):
    folder = Path(folder)
    folder.mkdir(parents=True)
    return folder


def _records(indices, labels, image):
    image = image or noise(32, 32)
    rows = [np.concatenate([np.uint8(labels(i)), image(i).transpose(2, 0, 1).ravel()]) for i in indices]
    return np.concatenate(rows) if rows else np.zeros(0, np.uint8)
