"""Pictures of one's own: class folders of image files, DIR/train/<class>/* and DIR/val/<class>/*, or DIR/<class>/*.

DIR/val may also hold the pictures themselves, with a list of their labels beside it (see `label_list`).

Labels count the class folders in alphabetical order. Where there is no DIR/val, the share of the images that
`val_fraction` holds out of training is the test data.

Its values depend on the folder and on settings, so `describe` finds them out, and takes the place of constants.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..platform.errors import InputError
from . import class_folders, imagenet, label_list
from .images import central_part, read_part
from .info import DataInfo
from .samples import Samples, held_out

FOLDERS = imagenet.FOLDERS
SIZE = 224
MOST_NAMES = 20  # of unreadable files in one message
_AT_A_TIME = 1024  # images waiting for a thread


def describe(settings):
    """The DataInfo of the folder `settings.data_path`; each of its images is read once, and all have to be readable.

    settings: with image_size (0: 224), crop, grey, statistics (`data`: mean and deviation of the images that are
    trained on, as evaluation would see them; `imagenet`), val_fraction, seed, num_workers and skip_unreadable, with
    which files that cannot be read become `skipped`. Raises InputError.
    """
    path = settings.data_path
    root = _root(path, "train")
    if not has_test(path) and not settings.val_fraction:
        raise InputError(
            f"data_path: {path} has no train/ and val/; if it holds the class folders themselves, say which share of "
            "the images is to test the network: --val_fraction 0.2"
        )
    classes = class_folders.names(root)
    if len(classes) < 2:
        raise InputError(f"data_path: {root} has {len(classes)} class folders; two at least are needed")
    if settings.grey and settings.statistics == "imagenet":
        raise InputError("statistics: imagenet's are of three colours; leave out grey, or take those of the data")
    size = settings.image_size or SIZE
    shape, crop = (1 if settings.grey else 3, size, size), settings.crop
    info = DataInfo(len(classes), shape, (0.0,) * shape[0], (1.0,) * shape[0], crop, classes)

    train = load("train", path, info)
    test = load("test", path, info) if has_test(path) else train.select(slice(0))
    paths = [os.fsdecode(bytes(name)) for name in (*train.images, *test.images)]
    moments = _moments(paths, info, settings.num_workers)
    skipped = tuple(os.path.relpath(name, path) for name, found in zip(paths, moments) if found is None)
    info = info._replace(skipped=skipped)
    if skipped and not settings.skip_unreadable:
        raise InputError(
            f"data_path: {path}: {format_skipped(info)}; mend or remove them, or leave them out with --skip_unreadable"
        )

    readable = np.array([found is not None for found in moments[: len(train.labels)]])
    labels = train.labels[readable]
    missing = sorted(set(range(len(classes))) - set(labels.tolist()))
    if missing:
        raise InputError(f"data_path: no image that can be read in {root / classes[missing[0]]}")
    if settings.statistics == "imagenet":
        return info._replace(mean=imagenet.MEAN, std=imagenet.STD)
    used = np.array([found for found in moments[: len(train.labels)] if found is not None])
    if settings.val_fraction:
        used = used[~held_out(labels, settings.val_fraction, settings.seed)]
    mean, std = _statistics(used.sum(0), len(used) * size * size)
    return info._replace(mean=mean, std=std)


def has_test(data_path):
    """Whether the test images have a folder of their own."""
    return any((Path(data_path) / name).is_dir() for name in FOLDERS.values())


def class_names(data_path, split):
    """`load` compares the names itself, and gives each image the label of its name."""
    return ()


def load(split, data_path, info):
    """The Samples of one split without the `skipped`, by the names of their files; labels are places in `classes`.

    A class may be without images. Raises InputError for a class folder that is none of `classes`.
    """
    root = _root(data_path, split)
    skipped = {os.fsencode(Path(data_path) / name) for name in info.skipped}
    flat = split == "test" and class_folders.flat_images(root)
    if flat:
        found = label_list.load_flat(data_path, flat, info.num_classes, info.classes)
        return found.select(np.array([bytes(name) not in skipped for name in found.images]))
    names = class_folders.names(root)
    strange = [name for name in names if name not in info.classes]
    if strange:
        raise InputError(f"data_path: {root / strange[0]} is none of the network's {info.num_classes} classes")
    found = class_folders.list_images(root, names)
    labels = np.array([info.classes.index(name) for name in names], np.int32)[found.labels]
    return Samples(found.images, labels).select(np.array([bytes(name) not in skipped for name in found.images]))


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split; see `class_folders.pipeline`."""
    return class_folders.pipeline(loaded, split, info, num_workers, shard, seed, more)


def format_skipped(info):
    """The files that cannot be read, in words."""
    names = ", ".join(info.skipped[:MOST_NAMES])
    more = len(info.skipped) - MOST_NAMES
    return f"{len(info.skipped)} files cannot be read: {names}{f' and {more} more' if more > 0 else ''}"


def _root(data_path, split):
    if not data_path:
        raise InputError(
            "data_path: give the folder that holds train/ and val/, or class folders, with --data_path DIR"
        )
    return Path(data_path) / FOLDERS[split] if has_test(data_path) else Path(data_path)


def _moments(paths, info, threads):
    """Sums of the grey values of each image and of their squares, (2, channels) of int64; None if unreadable."""
    part = central_part(info.size, info.crop)

    def moments(path):
        try:
            pixels = read_part(path, info.image_shape[0], info.size, part, "data_path").astype(np.int64)
        except InputError:
            return None
        return np.stack([pixels.sum((0, 1)), (pixels**2).sum((0, 1))])

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), _AT_A_TIME):
            found += pool.map(moments, paths[start : start + _AT_A_TIME])
    return found


def _statistics(sums, pixels):
    """Mean and standard deviation per channel, of values 0..1; the latter is one grey step at least."""
    mean, square = sums / (255 * pixels), sums[1] / (255**2 * pixels)
    std = np.sqrt(np.maximum(square - mean[0] ** 2, 255.0**-2))
    return tuple(map(float, mean[0])), tuple(map(float, std))
