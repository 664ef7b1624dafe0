"""Batches for tests: those that a run reads, also when it continues at some step, and random ones."""

import numpy as np
from mindspore import Tensor

from src.data.batches import Batches, Batching, Source, iterate
from src.data.sharding import WHOLE


def random_batches(count):
    """Batches of eight images of 1 x 6 x 6 and labels of four classes."""
    random = np.random.default_rng(0)
    return [
        (
            Tensor(random.standard_normal((8, 1, 6, 6)).astype(np.float32)),
            Tensor(random.integers(0, 4, 8).astype(np.int32)),
        )
        for _ in range(count)
    ]


def read(name, split, size, shard=WHOLE, **options):
    """`Batches` by a data set's name, in batches of `size`; options: other fields of Source and Batching."""
    source = Source(name, **{key: options.pop(key) for key in Source._fields if key in options})
    return Batches(source, split, Batching(size, **options), shard)


def epochs_of(source, epochs=1, skip=0):
    """Batches (image, label) as arrays, one list per epoch, of `Batches` from step `skip` on."""
    first, done = divmod(skip, source.steps)
    lists = []
    for number in range(first, epochs):
        data = source.epoch(number)
        if number == first and done:
            data.set_init_step(done)
        lists.append(list(iterate(data.create_tuple_iterator(num_epochs=1, output_numpy=True))))
    return lists
