"""The embedded data: 1,797 real handwritten digits of 8x8 grey pixels that scikit-learn ships (`load_digits`)."""

import numpy as np
from mindspore.dataset import NumpySlicesDataset, vision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NUM_CLASSES = 10
IMAGE_SHAPE = (1, 8, 8)
CLASS_NAMES = tuple("0123456789")
MEAN, STD = (78.0,), (96.0,)  # per channel, of the grey values 0..255


def arrays(split):
    """Images (n, 8, 8, 1) uint8 and labels (n,) int32 of the `train` (1,437) or `test` (360) split, always the same."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    return (train_images, train_labels) if split == "train" else (test_images, test_labels)


def dataset(split, num_workers, num_shards=1, shard_id=0):
    """Samples (image, label) of one split as float32 CHW; the training split shuffled, shifted by up to one pixel."""
    images, labels = arrays(split)
    train = split == "train"
    data = NumpySlicesDataset(
        (images, labels),
        ["image", "label"],
        shuffle=train,
        num_parallel_workers=1,
        num_shards=num_shards if num_shards > 1 else None,
        shard_id=shard_id if num_shards > 1 else None,
    )
    augment = [vision.RandomCrop(8, padding=1)] if train else []
    return data.map(
        [*augment, vision.Normalize(list(MEAN), list(STD)), vision.HWC2CHW()], "image", num_parallel_workers=num_workers
    )
