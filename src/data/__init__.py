"""Data sets by name, batched and sharded, through `mindspore.dataset`.

Each is a module with the names

  NUM_CLASSES, IMAGE_SHAPE (channels, height, width), NUM_SAMPLES (split -> images, as published)
  MEAN, STD (per channel, of values 0..1), and CROP where test images are cropped: share of the shorter side seen
  class_names(data_path, split)                       names of the classes as found in the folder, or () if it has none
  load(split, data_path, info)                        the Samples of a split, read once, before all epochs
  dataset(loaded, split, info, num_workers, shard, seed)    those of one Shard as (image float32 CHW, label int32);
                                                      random operations that are not MindSpore's own follow `seed`

and raises InputError where the folder does not hold the data set. info: the DataInfo that `describe` makes of the
constants; `folder` has none, as its values depend on what it holds. Their splits are `train` and `test`; `val` is the
part of `train` that is held out of training, and is read as `test` is.
"""

import os
import re

import numpy as np
from mindspore import dataset as ds
from mindspore.dataset import transforms, vision

from ..platform.errors import InputError
from . import characters, cifar10, cifar100, digits, folder, imagenet
from .info import DataInfo
from .samples import held_out
from .sharding import Shard

PUBLISHED = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "characters": characters,
}
DATASETS = {**PUBLISHED, "folder": folder}

# All that `mindspore.dataset` leaves of an exception is the traceback in the text of its own.
_INPUT_ERROR = re.compile(rf"^{re.escape(InputError.__module__)}\.{InputError.__name__}: (.*)$", re.MULTILINE)


class Batches:
    """Batches (image, label) of one split, epoch by epoch.

    Incomplete batches are left out of training, kept in evaluation. batch_size: images per batch of this shard;
    num_shards, shard_id: the part of this worker, see `Shard`: all workers together see in a step the images that a
    single process would, and in evaluation each image once; mixup: alpha of mixup (Zhang et al., 2018), 0 for none;
    with it the labels are class probabilities (batch, classes); classes: names of the network's classes, compared with
    the data's where both are known; val_fraction: share of the training images that is the split `val` and no longer
    part of `train`, drawn by `seed` from each class, and the split `test` too where the data have none of their own;
    info: the DataInfo, which only a published data set can do without.

    Every epoch is a pipeline of its own. Its order and augmentation follow `seed` and its number alone (and
    num_workers), so a run that continues in the middle of an epoch need not replay the epochs before. The order is that
    of a single process, the augmentation each worker's own but for image files, where it is that of the image.

    Raises ValueError if training has not one full batch, InputError if the data is not what the name says.
    """

    def __init__(
        self,
        name,
        split,
        batch_size,
        seed,
        num_workers=1,
        data_path="",
        num_shards=1,
        shard_id=0,
        mixup=0.0,
        classes=(),
        val_fraction=0.0,
        info=None,
    ):
        self.name, self.split, self.batch_size, self.seed, self.mixup = name, split, batch_size, seed, mixup
        self.num_workers = max(1, min(num_workers, os.cpu_count() or 1))
        self.shard = Shard(num_shards, shard_id)
        self.info = info or published_info(name)
        source = "test" if split == "test" and has_test(name, data_path) else "train"
        _check_classes(name, source, data_path, classes)
        self.loaded = DATASETS[name].load(source, data_path, self.info)
        if source == "train" and val_fraction:
            held = held_out(self.loaded.labels, val_fraction, seed)
            self.loaded = self.loaded.select(~held if split == "train" else held)
        samples = self.shard.size(split, len(self.loaded.labels))
        if split == "train":
            check_batch(name, samples * num_shards, batch_size * num_shards)
        self.steps = samples // batch_size if split == "train" else -(-samples // batch_size)

    def epoch(self, number):
        """The `mindspore.dataset` of one epoch, counted from 0; its `set_init_step` skips to a step of that epoch."""
        # Skipping to a step then replays the random operations before it, so a resumed run sees the same samples.
        ds.config.set_fast_recovery(False)
        data, workers = DATASETS[self.name], self.num_workers
        seed = _seed(self.seed, number)
        ds.config.set_seed(seed)
        samples = data.dataset(self.loaded, self.split, self.info, workers, self.shard, seed)
        # The sampler has taken the seed by now; all other random operations read it when iteration starts.
        ds.config.set_seed(_seed(self.seed, number, self.shard.index + 1))
        if self.mixup:
            samples = samples.map(transforms.OneHot(self.info.num_classes), "label", num_parallel_workers=workers)
        batched = samples.batch(self.batch_size, drop_remainder=self.split == "train", num_parallel_workers=workers)
        if self.mixup:
            batched = batched.map(vision.MixUpBatch(self.mixup), ["image", "label"], num_parallel_workers=workers)
        return batched


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


def build_dataset(*arguments, **options):
    """The first epoch of `Batches`: all there is to an evaluation."""
    return Batches(*arguments, **options).epoch(0)


def published_steps(name, batch_size, val_fraction=0.0):
    """Training steps per epoch by the data set's published size, for plans made without the data."""
    samples = DATASETS[name].NUM_SAMPLES["train"]
    samples -= round(val_fraction * samples)
    check_batch(name, samples, batch_size)
    return samples // batch_size


def check_batch(name, samples, batch_size):
    """Raises ValueError if a batch does not fit into the training images."""
    if samples < batch_size:
        raise ValueError(f"batch_size {batch_size} is larger than the {samples} training images of {name}")


def batches(iterator):
    """One epoch of a dataset iterator. Raises the InputError of a function that reads a file for it."""
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            found = _INPUT_ERROR.search(str(error))
            if found is None:
                raise
            raise InputError(found[1]) from None
        yield batch


def _seed(*numbers):
    """One seed for `mindspore.dataset` from several numbers, unlike that of any others for all practical purposes."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)  # the sampler counts on from it


def _check_classes(name, split, data_path, classes):
    found = DATASETS[name].class_names(data_path, split)
    for index, (known, here) in enumerate(zip(classes, found)):
        if known != here:
            raise InputError(
                f"data_path: {data_path}: class {index} is {here} here, but {known} in the network's training data"
            )
