"""Which samples a worker reads."""

from typing import NamedTuple

from mindspore.dataset import DistributedSampler


class Shard(NamedTuple):
    """One of `count` equal parts of a data set, `index` counting from 0."""

    count: int = 1
    index: int = 0

    def size(self, split, samples):
        """How many of `samples` samples this part has. Raises ValueError if that is none."""
        own = samples // self.count if split == "train" else len(range(self.index, samples, self.count))
        if own == 0:
            raise ValueError(f"{samples} {split} images are too few for {self.count} workers")
        return own

    def sampler(self, split, samples):
        """The sampler of this part of `samples` samples.

        train       a new permutation each epoch, the same on all workers; worker i takes every count-th of it, and what
                    does not divide is left out, so that all have as many samples and none is read twice
        val, test   every count-th sample in order, so that all workers together read each sample exactly once

        Raises ValueError if nothing is left for this part.
        """
        # Without a number of samples the sampler would repeat some, to give all workers as many.
        own = self.size(split, samples)
        sampler = DistributedSampler(self.count, self.index, shuffle=split == "train", num_samples=own)
        sampler.seed -= 1  # it shuffles with its seed + 1; the order is then that of MindSpore's RandomSampler
        return sampler


WHOLE = Shard()
