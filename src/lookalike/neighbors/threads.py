"""The processor's cores, for kernels that release Python's lock."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Parts that each core gets: more than one, so that none waits long for the last; and what a part has at least.
_PARTS = 2
_LEAST = 32


def in_parts(work: Callable[[slice], None], count: int) -> None:
    """Call `work` with slices that cover `range(count)`, on all cores; errors propagate."""
    cores, pool = _pool(os.getpid())
    size = max(_LEAST, -(-count // (cores * _PARTS)))
    parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    if len(parts) == 1:
        work(parts[0])
    else:
        list(pool.map(work, parts))


@functools.lru_cache(1)
def _pool(process: int) -> tuple[int, ThreadPoolExecutor]:
    """Threads of this process: those of a parent are not there after a fork."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores, ThreadPoolExecutor(cores, "search")
