"""Data sets by name, batched, through `mindspore.dataset`."""

import os

from mindspore import dataset as ds

from . import digits

DATASETS = {"digits": digits}


def build_dataset(name, split, batch_size, seed, num_workers=1):
    """Batches (image, label) of one split; incomplete batches are left out of training, kept in evaluation.

    The order and the augmentation follow `seed` alone. Raises ValueError if training has not one full batch.
    """
    ds.config.set_seed(seed)
    # Skipping to a step then replays the random operations before it, so a resumed run sees the same samples.
    ds.config.set_fast_recovery(False)
    workers = max(1, min(num_workers, os.cpu_count() or 1))
    data = DATASETS[name].dataset(split, workers)
    samples = data.get_dataset_size()
    if split == "train" and samples < batch_size:
        raise ValueError(f"batch_size {batch_size} is larger than the {samples} training images of {name}")
    return data.batch(batch_size, drop_remainder=split == "train", num_parallel_workers=workers)
