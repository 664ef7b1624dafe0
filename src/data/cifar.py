"""What CIFAR-10, CIFAR-100 and data in their binary format share: the records and the augmentation by shifts."""

from pathlib import Path

import numpy as np
from mindspore.dataset import NumpySlicesDataset, vision

from ..platform.errors import InputError
from ..platform.files import GIB, read_regular
from .samples import Samples

IMAGE_SHAPE = (3, 32, 32)
NUM_SAMPLES = {"train": 50_000, "test": 10_000}


def read_binary(data_path, folder, files, label_bytes, num_classes, shape=IMAGE_SHAPE):
    """Samples, images (n, height, width, 3) uint8, of some files of the binary distribution.

    A record is `label_bytes` bytes, the last of which is the label, then the red, green and blue planes of an image of
    `shape` (3, height, width). folder: the name under which the distribution unpacks; data_path is that folder or the
    one around it. Raises InputError naming the file that is missing, short, or has a label out of range.
    """
    record = label_bytes + int(np.prod(shape))
    if not data_path:
        raise InputError(f"data_path: give the folder that holds {folder}/ with --data_path DIR")
    root = Path(data_path) / folder if (Path(data_path) / folder).is_dir() else Path(data_path)
    records = []
    for file in files:
        path = root / file
        content = np.frombuffer(read_regular(path, f"data_path: cannot read {path}", GIB), np.uint8)
        if content.size == 0 or content.size % record:
            raise InputError(
                f"data_path: {path} has {content.size} bytes, not a whole number of {record}-byte "
                "records; it is truncated or not the binary version"
            )
        part = content.reshape(-1, record)
        if part[:, label_bytes - 1].max() >= num_classes:
            raise InputError(f"data_path: {path} has labels above {num_classes - 1}; it is another data set")
        records.append(part)
    records = np.concatenate(records)
    images = np.ascontiguousarray(records[:, label_bytes:].reshape(-1, *shape).transpose(0, 2, 3, 1))
    return Samples(images, records[:, label_bytes - 1].astype(np.int32))


def pipeline(loaded, split, info, num_workers, shard, more=(), mirror=True):
    """Samples (image, label) as float32 CHW; training images are shifted by up to an eighth, and mirrored at random.

    info: the DataInfo; more: operations on what comes of it, uint8 (height, width, 3); mirror: whether a mirrored image
    still has its class.
    """
    size = loaded.images.shape[1]
    augment = []
    if split == "train":
        augment = [vision.RandomCrop(size, padding=size // 8)] + [vision.RandomHorizontalFlip()] * mirror + [*more]
    normalize = vision.Normalize([255 * value for value in info.mean], [255 * value for value in info.std])
    data = NumpySlicesDataset(
        tuple(loaded), ["image", "label"], sampler=shard.sampler(split, len(loaded.labels)), num_parallel_workers=1
    )
    return data.map([*augment, normalize, vision.HWC2CHW()], "image", num_parallel_workers=num_workers)
