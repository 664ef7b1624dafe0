"""ImageNet (ILSVRC-2012) as folders of JPEG files: train/<class>/*.JPEG and val/<class>/*.JPEG, or val/*.JPEG and a
list of labels beside it (see `label_list`).

Labels count the class folders in alphabetical order, as everywhere for this data set.
"""

from pathlib import Path

from ..platform.errors import InputError
from . import class_folders, label_list

NUM_CLASSES = 1000
IMAGE_SHAPE = (3, 224, 224)
NUM_SAMPLES = {"train": 1_281_167, "test": 50_000}
FOLDERS = {"train": "train", "test": "val"}
CROP = 224 / 256  # share of a resized test image's shorter side that is seen
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def class_names(data_path, split):
    """The class folders of one split in the order of their labels; of a flat one, those of training, or the names that
    its list has; () if it has but numbers.

    Raises InputError if there are not as many as classes, or if the two splits do not have the same.
    """
    if split == "test" and class_folders.flat_images(_root(data_path, split)):
        if _root(data_path, "train").is_dir():
            return class_names(data_path, "train")
        names = label_list.known_classes(data_path)
        return names if len(names) == NUM_CLASSES else ()
    names = class_folders.names(_root(data_path, split))
    if len(names) != NUM_CLASSES:
        raise InputError(
            f"data_path: {_root(data_path, split)} has {len(names)} class folders; the network has {NUM_CLASSES}"
        )
    if split == "test" and _root(data_path, "train").is_dir():
        differing = sorted(set(names) ^ set(class_folders.names(_root(data_path, "train"))))
        if differing:
            raise InputError(
                f"data_path: the class folders of train and val in {data_path} differ: "
                f"{', '.join(differing[:3])} {'...' if len(differing) > 3 else ''}"
            )
    return names


def load(split, data_path, info):
    """The Samples of one split, by the names of their files. Raises InputError."""
    flat = split == "test" and class_folders.flat_images(_root(data_path, split))
    if flat:
        return label_list.load_flat(data_path, flat, NUM_CLASSES, class_names(data_path, split) or info.classes)
    return class_folders.list_images(_root(data_path, split), class_names(data_path, split))


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split, 224 x 224 pixels; see `class_folders.pipeline`."""
    return class_folders.pipeline(loaded, split, info, num_workers, shard, seed, more)


def _root(data_path, split):
    if not data_path:
        raise InputError("data_path: give the folder that holds train/ and val/ with --data_path DIR")
    return Path(data_path) / FOLDERS[split]
