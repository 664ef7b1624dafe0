"""Many devices: everything that knows of workers. One process per device, started by `msrun`; see docs/distributed.md.

A single process gets `SINGLE`, whose methods give back what they are given; nothing distributed is imported for it.
"""

import hashlib
import os

import numpy as np

from .errors import InputError


class Single:
    """One process: the mean, the sum and the agreement of one worker."""

    rank = 0
    size = 1

    def gradient_reducer(self, parameters):
        """None: the compiled step then has no reduction in it."""

    def agreement(self):
        """A function that gives back its flag."""
        return _same

    def mean(self, arrays):
        """The arrays, averaged over workers."""
        return arrays

    def sum(self, array):
        """The array, summed over workers."""
        return array

    def any(self, flags):
        """Which of the flags are up on any worker."""
        return flags

    def gather(self, array):
        """The arrays of all workers, as rows."""
        return array[None]

    def check_equal(self, digest, what):
        """Nothing to compare with."""


def _same(flag):
    return flag


SINGLE = Single()


class Workers:
    """This worker (`rank`, from 0) among `size`, with the communication that a training run needs.

    All methods are collective: every worker must call them, in the same order.
    """

    def __init__(self, rank, size):
        from mindspore import Tensor, ops

        self.rank = rank
        self.size = size
        self._tensor = Tensor
        self.all_reduce = ops.AllReduce()
        self._all_gather = ops.AllGather()

    def gradient_reducer(self, parameters):
        """A Cell of a tuple of gradients of these Parameters -> the tuple of their means over workers; compilable."""
        from mindspore import nn

        return nn.DistributedGradReducer(parameters, mean=True, degree=self.size)

    def agreement(self):
        """A function of a boolean Tensor () -> whether it is true on every worker, known to all of them; compilable.

        The flags are summed up, which is all that AllReduce can do on CPU.
        """
        all_reduce, size = self.all_reduce, self.size

        def everywhere(flag):
            return all_reduce(flag.astype("float32").reshape((1,))).sum() >= size

        return everywhere

    def mean(self, arrays):
        """float32 arrays, averaged over workers, by one message."""
        arrays = list(arrays)
        total = self.sum(np.concatenate([np.asarray(array, np.float32).ravel() for array in arrays]))
        parts = np.split(total / np.float32(self.size), np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays)]

    def sum(self, array):
        """One float32 array, summed over workers; exact for counts below 2**24."""
        return self.all_reduce(self._tensor(np.asarray(array, np.float32))).asnumpy()

    def any(self, flags):
        """Which of the flags are up on any worker, as a list of bool."""
        return (self.sum(flags) > 0).tolist()

    def gather(self, array):
        """One-dimensional arrays of equal length, float32 or int32, of all workers, as rows."""
        return self._all_gather(self._tensor(array)).asnumpy().reshape(self.size, -1)

    def check_equal(self, digest, what):
        """Compare a sha256 digest over workers; `what` says of what, and when.

        Raises RuntimeError on every worker if one differs from that of worker 0.
        """
        words = self.gather(np.frombuffer(digest, np.int32))
        differing = np.flatnonzero((words != words[0]).any(1)).tolist()
        if differing:
            names = ", ".join(map(str, differing))
            raise RuntimeError(f"{what}: those of worker {names} differ from those of worker 0; the job stops here")


def start():
    """Join the job that `msrun` started, if it did; call it once, after the device is chosen.

    Returns Workers, or SINGLE for a process on its own. In the scheduler process of a job it does not return.
    """
    if "MS_ROLE" not in os.environ:
        return SINGLE
    if os.environ["MS_ROLE"] == "MS_WORKER":
        # The launcher tells by this line which worker's log belongs to a process that failed.
        print(f"worker {os.environ['RANK_ID']} of {os.environ['MS_WORKER_NUM']}, process {os.getpid()}", flush=True)
    from mindspore import communication

    communication.init()
    return Workers(communication.get_rank(), communication.get_group_size())


def joined_workers():
    """This process among the workers of a job that it has joined already, by whatever call; SINGLE if there is none."""
    from mindspore import communication

    if not communication.GlobalComm.INITED or communication.get_group_size() == 1:
        return SINGLE
    return Workers(communication.get_rank(), communication.get_group_size())


def local_batch_size(batch_size, workers, parts=1):
    """Images per step and worker, each of whom computes them in equal `parts`.

    Raises InputError if a step's images cannot be shared evenly.
    """
    if batch_size % (workers * parts):
        shares = f"{workers} workers" + (f" in {parts} parts each" if parts > 1 else "")
        raise InputError(
            f"batch_size: {batch_size} images per step cannot be shared evenly by {shares}; "
            f"use a multiple of {workers * parts}"
        )
    return batch_size // workers


def share_out(costs, workers):
    """Indices of `costs` for each worker, balanced: the dearest first, each to the worker with least so far.

    The largest share is at most (4/3 - 1/(3 workers)) of the best possible one (Graham, 1969). A pure function, so
    that every worker knows all shares without asking.
    """
    shares, loads = [[] for _ in range(workers)], [0.0] * workers
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += costs[index]
    return [sorted(share) for share in shares]


def digest_of(arrays):
    """sha256 of the bytes of some arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.digest()
