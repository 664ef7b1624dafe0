"""Data sets by name. A new one is a module here, entered in `DATASETS`, with the names

  NUM_CLASSES, IMAGE_SHAPE (channels, height, width), NUM_SAMPLES (split -> images, as published)
  MEAN, STD (per channel, of values 0..1), and CROP where test images are cropped: share of the shorter side seen
  class_names(data_path, split)                       names of the classes as found in the folder, or () if it has none
  load(split, data_path)                              the Samples of a split, read once, before all epochs
  dataset(loaded, split, num_workers, shard, seed)    those of one Shard as (image float32 CHW, label int32); random
                                                      operations that are not MindSpore's own follow `seed`

which raises InputError where the folder does not hold the data set. Their splits are `train` and `test`; `val` is the
part of `train` that is held out of training, and is read as `test` is.

`batches` makes of them what a run reads. Formats share `cifar` (binary files), `folders` (class folders) and `images`
(the part of a picture that is seen). Imports `platform` alone.
"""

from . import characters, cifar10, cifar100, digits, imagenet

DATASETS = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "characters": characters,
}
