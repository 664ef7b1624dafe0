"""CIFAR-10 (Krizhevsky, 2009) in its binary version: data_batch_1.bin to data_batch_5.bin and test_batch.bin."""

from . import cifar

NUM_CLASSES = 10
IMAGE_SHAPE = cifar.IMAGE_SHAPE
NUM_SAMPLES = cifar.NUM_SAMPLES
FOLDER = "cifar-10-batches-bin"
FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def class_names(data_path, split):
    """The order of the classes is part of the format."""
    return ()


def load(split, data_path, info):
    """Images and labels of one split. Raises InputError."""
    return cifar.read_binary(data_path, FOLDER, FILES[split], 1, NUM_CLASSES)


def dataset(loaded, split, info, num_workers, shard, seed, more=()):
    """Samples (image, label) of one split; see `cifar.pipeline`."""
    return cifar.pipeline(loaded, split, info, num_workers, shard, more)
