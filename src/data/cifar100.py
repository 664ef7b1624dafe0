"""CIFAR-100 (Krizhevsky, 2009) in its binary version, train.bin and test.bin, with the fine labels."""

from . import cifar

NUM_CLASSES = 100
IMAGE_SHAPE = cifar.IMAGE_SHAPE
NUM_SAMPLES = cifar.NUM_SAMPLES
FOLDER = "cifar-100-binary"
FILES = {"train": ["train.bin"], "test": ["test.bin"]}
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def class_names(data_path, split):
    """The order of the classes is part of the format."""
    return ()


def load(split, data_path, info):
    """Images and labels of one split. Raises InputError."""
    # a record has two labels, the coarse one first
    return cifar.read_binary(data_path, FOLDER, FILES[split], 2, NUM_CLASSES)


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split; see `cifar.pipeline`."""
    return cifar.pipeline(loaded, split, info, num_workers, shard, more)
