"""ImageNet (ILSVRC-2012) as folders of JPEG files: train/<class>/*.JPEG and val/<class>/*.JPEG.

Labels count the class folders in alphabetical order, as everywhere for this data set.
"""

from pathlib import Path
from typing import NamedTuple

from mindspore.dataset import ImageFolderDataset, vision

from ..errors import InputError

NUM_CLASSES = 1000
IMAGE_SHAPE = (3, 224, 224)
NUM_SAMPLES = {"train": 1_281_167, "test": 50_000}
FOLDERS = {"train": "train", "test": "val"}
CROP = 224 / 256  # share of a resized test image's shorter side that is seen
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def class_names(data_path, split):
    """The class folders of one split in the order of their labels.

    Raises InputError if there are not as many as classes, or if the two splits do not have the same.
    """
    names = _folders(data_path, split)
    if len(names) != NUM_CLASSES:
        raise InputError(
            f"data_path: {_root(data_path, split)} has {len(names)} class folders; the network has {NUM_CLASSES}"
        )
    if split == "test" and _root(data_path, "train").is_dir():
        differing = sorted(set(names) ^ set(_folders(data_path, "train")))
        if differing:
            raise InputError(
                f"data_path: the class folders of train and val in {data_path} differ: "
                f"{', '.join(differing[:3])} {'...' if len(differing) > 3 else ''}"
            )
    return names


class Folders(NamedTuple):
    """The folders of one split: where they are, the label of each, and how many images they hold."""

    root: str
    labels: dict
    samples: int


def load(split, data_path):
    """The Folders of one split. Raises InputError."""
    labels = {name: index for index, name in enumerate(class_names(data_path, split))}
    root = str(_root(data_path, split))
    samples = ImageFolderDataset(root, class_indexing=labels).get_dataset_size()
    if samples == 0:
        raise InputError(f"data_path: no images in the class folders of {root}")
    return Folders(root, labels, samples)


def dataset(loaded, split, num_workers, shard):
    """Samples (image, label) of one split as float32 CHW of 224 x 224 pixels.

    train: a random part of the image, resized, mirrored at random; test: resized to 256, centre crop.
    """
    if split == "train":
        operations = [vision.RandomCropDecodeResize(224), vision.RandomHorizontalFlip()]
    else:
        operations = [vision.Decode(), vision.Resize(256), vision.CenterCrop(224)]
    normalize = vision.Normalize([255 * value for value in MEAN], [255 * value for value in STD])
    sampler = shard.sampler(split, loaded.samples)
    data = ImageFolderDataset(
        loaded.root, num_parallel_workers=num_workers, sampler=sampler, class_indexing=loaded.labels
    )
    return data.map([*operations, normalize, vision.HWC2CHW()], "image", num_parallel_workers=num_workers)


def _root(data_path, split):
    if not data_path:
        raise InputError("data_path: give the folder that holds train/ and val/ with --data_path DIR")
    return Path(data_path) / FOLDERS[split]


def _folders(data_path, split):
    root = _root(data_path, split)
    try:
        return tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    except OSError as error:
        raise InputError(f"data_path: cannot read {root}: {error.strerror}") from None
