"""Data sets by name, batched, through `mindspore.dataset`."""

import os

from mindspore import dataset as ds

from . import digits

DATASETS = {"digits": digits}


def build_dataset(name, split, batch_size, seed, num_workers=1, num_shards=1, shard_id=0):
    """Batches (image, label) of one split; incomplete batches are left out of training, kept in evaluation.

    batch_size: images per batch of this shard; num_shards, shard_id: the part of one worker. All together see in a
    step the images that a single process would, and in evaluation each image once.

    The order and the augmentation follow `seed` alone; the order is that of a single process, the augmentation each
    worker's own. Raises ValueError if training has not one full batch, or there are more shards than images.
    """
    ds.config.set_seed(seed)
    # Skipping to a step then replays the random operations before it, so a resumed run sees the same samples.
    ds.config.set_fast_recovery(False)
    workers = max(1, min(num_workers, os.cpu_count() or 1))
    data = DATASETS[name].dataset(split, workers)
    samples = data.get_dataset_size()
    global_batch = batch_size * num_shards
    if split == "train" and samples < global_batch:
        raise ValueError(f"batch_size {global_batch} is larger than the {samples} training images of {name}")
    if samples < num_shards:
        raise ValueError(f"the {samples} {split} images of {name} are too few for {num_shards} workers")
    if num_shards > 1:
        data = _shard(DATASETS[name].dataset(split, workers, num_shards, shard_id), seed, shard_id)
        if split != "train":  # the sampler repeats images to give all shards the same number
            data = data.take(len(range(shard_id, samples, num_shards)))
    data = data.batch(batch_size, drop_remainder=split == "train", num_parallel_workers=workers)
    return data.take(samples // global_batch) if split == "train" and num_shards > 1 else data


def _shard(data, seed, shard_id):
    """Make the shards of a data set slices of the order that a single process sees, and their augmentation differ."""
    source = data
    while source.children:
        source = source.children[0]
    # MindSpore's DistributedSampler shuffles all samples with its seed + 1, then takes every n-th; RandomSampler
    # shuffles them the same way with the seed itself.
    source.sampler.seed = seed - 1
    ds.config.set_seed((seed + 1_000_003 * shard_id) % 2**32)  # read when iteration starts, by all but the sampler
    return data
