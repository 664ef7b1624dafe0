"""What a run reads: images of a data set in batches, epoch by epoch, for one worker of several."""

import hashlib
import math
import os
import re
from typing import NamedTuple, Optional

import numpy as np
from mindspore import dataset as ds
from mindspore.dataset import vision

from ..platform.errors import InputError
from . import DATASETS, has_test, published_info
from .info import DataInfo
from .mixing import mixer
from .samples import held_out
from .sharding import WHOLE

OPERATIONS = 2  # of RandAugment on each image
LARGEST_BATCH = 2**28  # numbers, a gigabyte of them
# All that `mindspore.dataset` leaves of an exception is the traceback in the text of its own.
_INPUT_ERROR = re.compile(rf"^{re.escape(InputError.__module__)}\.{InputError.__name__}: (.*)$", re.MULTILINE)


class Source(NamedTuple):
    """What is read, and in which order.

    name: one of DATASETS; data_path: its folder; seed: of order, augmentation, and the images held out; val_fraction:
    share of the training images that is the split `val` and no longer part of `train`, drawn from each class, and the
    split `test` too where the data have none of their own; classes: names of the network's classes, compared with the
    data's where both are known; info: the DataInfo, which only a published data set can do without.
    """

    name: str
    data_path: str = ""
    seed: int = 0
    val_fraction: float = 0.0
    classes: tuple = ()
    info: Optional[DataInfo] = None


class Batching(NamedTuple):
    """How it is put into batches.

    size: images per batch of one worker; num_workers: threads; mixup, cutmix: alpha of each, 0 for none; with them the
    labels are class probabilities (batch, classes); rand_augment: magnitude of RandAugment (Cubuk et al., 2020), 1 to
    30, 0 for none. The last three are of training images.
    """

    size: int
    num_workers: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: int = 0


class Batches:
    """Batches (image, label) of one split of a Source, epoch by epoch.

    Incomplete batches are left out of training, kept in evaluation. shard: the part of this worker, see `Shard`: all
    workers together see in a step the images that a single process would, and in evaluation each image once.

    Every epoch is a pipeline of its own. Its order and augmentation follow the seed and its number alone (and
    num_workers), so a run that continues in the middle of an epoch need not replay the epochs before. The order is that
    of a single process, the augmentation each worker's own but for image files, where it is that of the image.

    steps: batches in an epoch. Raises ValueError if training has not one full batch, InputError if the data is not
    what the name says.
    """

    def __init__(self, source, split, batching, shard=WHOLE):
        self.source, self.split, self.batching, self.shard = source, split, batching, shard
        self.num_workers = max(1, min(batching.num_workers, os.cpu_count() or 1))
        self.info = _info(source)
        if batching.rand_augment and self.info.image_shape[0] != 3:
            raise InputError("rand_augment: only for colour images; leave it out")
        self.loaded, self.classes = _load(source, split)
        samples = shard.size(split, len(self.loaded.labels))
        if split == "train":
            check_batch(source.name, samples * shard.count, batching.size * shard.count)
        self.steps = samples // batching.size if split == "train" else -(-samples // batching.size)

    def content(self):
        """What the split holds, comparable with ==, in words and digits; see `Samples.digest`."""
        labels = self.loaded.labels
        names = "\0".join(self.classes).encode("utf-8", "surrogateescape")
        return {
            f"{self.split} images": f"{len(labels):,} in {len(np.unique(labels)):,} classes",
            f"{self.split} content": self.loaded.digest(),
            "class names": hashlib.sha256(names).hexdigest()[:12],
        }

    def draw(self, count):
        """Keep `count` images of the split, drawn by the seed; all, if there are no more."""
        chosen = np.random.default_rng(self.source.seed).permutation(len(self.loaded.labels))[:count]
        self.loaded = self.loaded.select(np.sort(chosen))

    def epoch(self, number=0):
        """The `mindspore.dataset` of one epoch, counted from 0; its `set_init_step` skips to a step of that epoch."""
        # Skipping to a step then replays the random operations before it, so a resumed run sees the same samples.
        ds.config.set_fast_recovery(False)
        data, workers, batching = DATASETS[self.source.name], self.num_workers, self.batching
        more = [vision.RandAugment(OPERATIONS, batching.rand_augment)] if batching.rand_augment else []
        seed = _seed(self.source.seed, number)
        ds.config.set_seed(seed)
        samples = data.dataset(self.loaded, self.split, self.info, workers, self.shard, seed, more)
        # The sampler has taken the seed by now; all other random operations read it when iteration starts.
        own = _seed(self.source.seed, number, self.shard.index + 1)
        ds.config.set_seed(own)
        mixed = {}
        if batching.mixup or batching.cutmix:
            mix = mixer(self.info.num_classes, batching.mixup, batching.cutmix, own)
            mixed = {"per_batch_map": mix, "input_columns": ["image", "label"]}
        whole = self.split == "train"
        return samples.batch(batching.size, drop_remainder=whole, num_parallel_workers=workers, **mixed)


def draw_training_images(source, count, num_workers=1):
    """`count` training images of a Source, drawn by its seed and read as test images are: float32 (count, channels,
    height, width).

    Raises InputError if there are not so many, or the data is not what the name says.
    """
    data, workers = DATASETS[source.name], max(1, min(num_workers, os.cpu_count() or 1))
    loaded, _ = _load(source, "train")
    if count > len(loaded.labels):
        raise InputError(
            f"calibration_images: {count} are asked for, {source.name} has {len(loaded.labels)} training images"
        )
    chosen = loaded.select(np.random.default_rng(source.seed).permutation(len(loaded.labels))[:count])
    samples = data.dataset(chosen, "test", _info(source), workers, WHOLE, source.seed)
    read = iterate(samples.batch(64).create_tuple_iterator(num_epochs=1, output_numpy=True))
    return np.concatenate([images for images, _ in read])


def published_steps(name, batch_size, val_fraction=0.0):
    """Training steps per epoch by the data set's published size, for plans made without the data."""
    samples = DATASETS[name].NUM_SAMPLES["train"]
    samples -= round(val_fraction * samples)
    check_batch(name, samples, batch_size)
    return samples // batch_size


def check_memory(batch_size, image_shape):
    """Raise InputError if a batch of images (channels, height, width) is larger than any that is meant."""
    numbers = math.prod((batch_size, *image_shape))
    if numbers > LARGEST_BATCH:
        size = " x ".join(map(str, image_shape))
        most = LARGEST_BATCH // math.prod(image_shape)
        raise InputError(f"batch_size: {batch_size} images of {size} pixels are too many; {most} are possible")


def check_batch(name, samples, batch_size):
    """Raises ValueError if a batch does not fit into the training images."""
    if samples < batch_size:
        raise ValueError(f"batch_size {batch_size} is larger than the {samples} training images of {name}")


def iterate(iterator):
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


def _info(source):
    return source.info or published_info(source.name)


def _load(source, split):
    """The Samples of a split, read in whole or a part of the training images, and the names of its classes."""
    data, info = DATASETS[source.name], _info(source)
    read_as = "test" if split == "test" and has_test(source.name, source.data_path) else "train"
    classes = data.class_names(source.data_path, read_as)
    _check_classes(source, classes)
    loaded = data.load(read_as, source.data_path, info)
    if read_as == "train" and source.val_fraction:
        held = held_out(loaded.labels, source.val_fraction, source.seed)
        loaded = loaded.select(~held if split == "train" else held)
    return loaded, classes or info.classes


def _check_classes(source, found):
    for index, (known, here) in enumerate(zip(source.classes, found)):
        if known != here:
            raise InputError(
                f"data_path: {source.data_path}: class {index} is {here} here, but {known} in the network's training "
                "data"
            )


def _seed(*numbers):
    """One seed for `mindspore.dataset` from several numbers, unlike that of any others for all practical purposes."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)  # the sampler counts on from it
