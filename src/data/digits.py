"""The embedded data: 1,797 real handwritten digits of 8x8 grey pixels that scikit-learn ships (`load_digits`)."""

import numpy as np
from mindspore.dataset import NumpySlicesDataset, vision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .samples import Samples

NUM_CLASSES = 10
IMAGE_SHAPE = (1, 8, 8)
NUM_SAMPLES = {"train": 1437, "test": 360}
MEAN, STD = (78 / 255,), (96 / 255,)


def arrays(split):
    """Images (n, 8, 8, 1) uint8 and labels (n,) int32 of the `train` (1,437) or `test` (360) split, always the same."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    return (train_images, train_labels) if split == "train" else (test_images, test_labels)


def class_names(data_path, split):
    """The digits."""
    return tuple("0123456789")


def load(split, data_path, info):
    """The Samples of one split; data_path is not used, as they come with scikit-learn."""
    return Samples(*arrays(split))


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split as float32 CHW; training images are shifted by up to one pixel."""
    augment = [vision.RandomCrop(8, padding=1), *more] if split == "train" else []
    data = NumpySlicesDataset(
        tuple(loaded), ["image", "label"], sampler=shard.sampler(split, len(loaded.labels)), num_parallel_workers=1
    )
    normalize = vision.Normalize([255 * value for value in info.mean], [255 * value for value in info.std])
    return data.map([*augment, normalize, vision.HWC2CHW()], "image", num_parallel_workers=num_workers)
