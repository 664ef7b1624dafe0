"""What CIFAR-10 and CIFAR-100 share: the binary record format and the standard augmentation."""

from pathlib import Path

import numpy as np
from mindspore.dataset import NumpySlicesDataset, vision

from ..errors import InputError

IMAGE_SHAPE = (3, 32, 32)
NUM_SAMPLES = {"train": 50_000, "test": 10_000}
_PIXELS = int(np.prod(IMAGE_SHAPE))


def read_binary(data_path, folder, files, label_bytes, num_classes):
    """Images (n, 32, 32, 3) uint8 and labels (n,) int32 of some files of the binary distribution.

    A record is `label_bytes` bytes, the last of which is the label, then 3,072 bytes of red, green and blue planes.
    folder: the name under which the distribution unpacks; data_path is that folder or the one around it.
    Raises InputError naming the file that is missing, short, or has a label out of range.
    """
    if not data_path:
        raise InputError(f"data_path: give the folder that holds {folder}/ with --data_path DIR")
    root = Path(data_path) / folder if (Path(data_path) / folder).is_dir() else Path(data_path)
    records = []
    for file in files:
        path = root / file
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise InputError(f"data_path: cannot read {path}: {error.strerror}") from None
        if content.size == 0 or content.size % (label_bytes + _PIXELS):
            raise InputError(
                f"data_path: {path} has {content.size} bytes, not a whole number of {label_bytes + _PIXELS}-byte "
                "records; it is truncated or not the binary version"
            )
        part = content.reshape(-1, label_bytes + _PIXELS)
        if part[:, label_bytes - 1].max() >= num_classes:
            raise InputError(f"data_path: {path} has labels above {num_classes - 1}; it is another data set")
        records.append(part)
    records = np.concatenate(records)
    images = np.ascontiguousarray(records[:, label_bytes:].reshape(-1, *IMAGE_SHAPE).transpose(0, 2, 3, 1))
    return images, records[:, label_bytes - 1].astype(np.int32)


def pipeline(images, labels, split, mean, std, num_workers, shard):
    """Samples as float32 CHW; training images cropped at random from 4 pixels of padding, and mirrored at random.

    mean, std: of the three colours, in 0..1.
    """
    augment = [vision.RandomCrop(32, padding=4), vision.RandomHorizontalFlip()] if split == "train" else []
    normalize = vision.Normalize([255 * value for value in mean], [255 * value for value in std])
    data = NumpySlicesDataset(
        (images, labels), ["image", "label"], sampler=shard.sampler(split, len(labels)), num_parallel_workers=1
    )
    return data.map([*augment, normalize, vision.HWC2CHW()], "image", num_parallel_workers=num_workers)
