"""Data sets by name. A new one is a module here, entered in `DATASETS`, with the names

  NUM_CLASSES, IMAGE_SHAPE (channels, height, width), NUM_SAMPLES (split -> images, as published)
  MEAN, STD (per channel, of values 0..1), and CROP where test images are cropped: share of the shorter side seen
  class_names(data_path, split)                       names of the classes as found in the folder, or () if it has none
  load(split, data_path, info)                        the Samples of a split, read once, before all epochs
  dataset(loaded, split, info, num_workers, shard, seed, more=())    those of one Shard as (image float32 CHW, label
                                                      int32); random operations that are not MindSpore's own follow
                                                      `seed`; more: further operations on training images of uint8

which raises InputError where the folder does not hold the data set. info: the DataInfo that `describe` makes of the
constants; `folder` has none, as its values depend on what it holds. Their splits are `train` and `test`; `val` is the
part of `train` that is held out of training, and is read as `test` is.

`batches` makes of them what a run reads. Formats share `cifar` (binary files), `class_folders` and `images`
(the part of a picture that is seen). Imports `platform` alone.
"""

from . import characters, cifar10, cifar100, digits, folder, imagenet
from .info import DataInfo

DATASETS = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "characters": characters,
    "folder": folder,
}
PUBLISHED = {name: data for name, data in DATASETS.items() if data is not folder}  # whose sizes are known beforehand


def describe(config):
    """The DataInfo of a configuration's data. Raises InputError where they are a folder that does not hold any."""
    if config.dataset == "folder":
        return folder.describe(config)
    info = published_info(config.dataset)
    if config.dry_run and not config.data_path:  # a plan can do without the data
        return info
    return info._replace(classes=DATASETS[config.dataset].class_names(config.data_path, "train"))


def published_info(name):
    """The DataInfo of a published data set, without the names of classes that its files hold."""
    data = PUBLISHED[name]
    return DataInfo(data.NUM_CLASSES, data.IMAGE_SHAPE, data.MEAN, data.STD, getattr(data, "CROP", 1.0))


def has_test(name, data_path):
    """Whether a data set has test images of its own; else they are held out of the training images."""
    return name in PUBLISHED or folder.has_test(data_path)
