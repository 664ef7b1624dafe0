"""Which samples a worker reads."""

from typing import NamedTuple

from mindspore.dataset import DistributedSampler


class Shard(NamedTuple):
    """One of `count` equal parts of a data set, `index` counting from 0."""

    count: int = 1
    index: int = 0

    def sampler(self, split, samples):
        """The sampler of this part of `samples` samples.

        train  a new permutation each epoch, the same on all workers; worker i takes every count-th of it, and what
               does not divide is left out, so that all have as many samples and none is read twice
        test   every count-th sample in order, so that all workers together read each sample exactly once

        Raises ValueError if nothing is left for this part.
        """
        train = split == "train"
        # Without a number of samples the sampler would repeat some, to give all workers as many.
        own = samples // self.count if train else len(range(self.index, samples, self.count))
        if own == 0:
            raise ValueError(f"{samples} {split} images are too few for {self.count} workers")
        sampler = DistributedSampler(self.count, self.index, shuffle=train, num_samples=own)
        sampler.seed -= 1  # it shuffles with its seed + 1; the order is then that of MindSpore's RandomSampler
        return sampler
