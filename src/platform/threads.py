"""Work on many layers at once: one thread per core, each with its own layer and its own share of BLAS."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

MOST_THREADS = 8  # beyond that, the largest layer alone takes longer than all others together


def each(function, items, cost=lambda item: item.size):
    """[function(item) for item in items], the costliest first, on several threads.

    The function should spend its time in numpy or other code that releases Python's global lock. It runs on a pool
    of fixed size and must not spread further work itself; a single item is worked on in place.
    """
    if len(items) == 1:
        return [function(items[0])]
    order = sorted(range(len(items)), key=lambda index: -cost(items[index]))
    with _blas().limit(limits=1, user_api="blas"):
        done = dict(zip(order, _pool().map(function, [items[index] for index in order])))
    return [done[index] for index in range(len(items))]


@cache
def _pool():
    return ThreadPoolExecutor(max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)))))


@cache
def _blas():
    return ThreadpoolController()
