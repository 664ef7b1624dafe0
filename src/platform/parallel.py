"""Many devices: everything that knows of workers. One process per device, started by `msrun`; see docs/distributed.md.

A single process gets `SINGLE`, whose methods give back what they are given; nothing distributed is imported for it.
"""

import hashlib
import os
import socket

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

    def gather_text(self, text):
        """The texts of all workers."""
        return [text]

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

    def gather_text(self, text):
        """The texts of all workers, of any length."""
        content = text.encode("utf-8")
        lengths = self.gather(np.array([len(content)], np.int32))[:, 0]
        words = np.zeros(-(-lengths.max() // 4), np.int32)
        words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
        rows = np.ascontiguousarray(self.gather(words)).view(np.uint8)
        return [row[:length].tobytes().decode("utf-8") for row, length in zip(rows, lengths)]

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
    Raises InputError if what the environment says of the job makes no sense.
    """
    if "MS_ROLE" not in os.environ:
        return SINGLE
    check_cluster(os.environ)
    if os.environ["MS_ROLE"] == "MS_WORKER":
        # The launcher tells by this line which worker's log belongs to a process that failed.
        print(f"worker {os.environ['RANK_ID']} of {os.environ['MS_WORKER_NUM']}, process {os.getpid()}", flush=True)
    from mindspore import communication

    communication.init()
    return Workers(communication.get_rank(), communication.get_group_size())


def check_cluster(environment):
    """Raise InputError if a variable by which `msrun` tells a process of its job is missing or makes no sense."""
    mend = "leave starting to scripts/run_distribute_train.sh, or unset MS_ROLE to train in one process"
    role = environment["MS_ROLE"]
    if role not in ("MS_WORKER", "MS_SCHED"):
        raise InputError(f"MS_ROLE: {role!r} is neither MS_WORKER nor MS_SCHED; {mend}")
    workers = _whole_number(environment, "MS_WORKER_NUM", 1, 2**20, mend)
    _whole_number(environment, "MS_SCHED_PORT", 1, 65535, mend)
    if not environment.get("MS_SCHED_HOST"):
        raise InputError(f"MS_SCHED_HOST: the address of the scheduler is missing; {mend}")
    if role == "MS_WORKER":
        _whole_number(environment, "RANK_ID", 0, workers - 1, mend)


def check_scheduler(address, port):
    """Raise InputError unless this host, where the scheduler of a job is to run, has the address, and the port free."""
    try:
        family, kind, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"MASTER_ADDR: {address}: {error.strerror}") from None
    with socket.socket(family, kind) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that is only just closed is free
        try:
            server.bind(where)
            server.listen()
        except OSError as error:
            raise InputError(f"MASTER_ADDR, MASTER_PORT: cannot use {address}:{port}: {error.strerror}") from None


def _whole_number(environment, name, low, high, mend):
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise InputError(f"{name}: {text!r} is not a whole number from {low} to {high}; {mend}")
    return int(text)


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
