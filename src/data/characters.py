"""Rendered characters, 36 classes of 16x16 pixels in CIFAR's binary format, made by `benchmark/make_characters.py`."""

import string

from . import cifar

CLASSES = string.digits + string.ascii_uppercase
NUM_CLASSES = len(CLASSES)
IMAGE_SHAPE = (3, 16, 16)
NUM_SAMPLES = {"train": 2_400, "test": 1_800}
FOLDER = "characters"
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def class_names(data_path, split):
    """The ten digits, then the capital letters."""
    return tuple(CLASSES)


def load(split, data_path, info):
    """Images and labels of one split. Raises InputError."""
    return cifar.read_binary(data_path, FOLDER, [f"{split}.bin"], 1, NUM_CLASSES, IMAGE_SHAPE)


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split; see `cifar.pipeline`."""
    return cifar.pipeline(loaded, split, info, num_workers, shard, more, mirror=False)
