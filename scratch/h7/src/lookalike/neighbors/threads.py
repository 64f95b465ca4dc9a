"""The processor's cores, for kernels that release Python's lock."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

from lookalike.cores import usable_cores

#: What a part has at least: a matrix product of fewer rows is slow.
LEAST = 32


def in_parts(work: Callable[[slice], None], count: int, most: int = sys.maxsize, least: int = LEAST) -> None:
    """Call `work` with slices that cover `range(count)`, on all cores; errors propagate. Not to be nested.

    Parameters
    ----------
    work:
        Called on threads.
    count:
        Of all.
    most, least:
        Of one slice.
    """
    number, pool = _pool(os.getpid())
    size = min(most, max(least, -(-count // number)))
    parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    if len(parts) == 1:
        work(parts[0])
    else:
        list(pool.map(work, parts))


def cores() -> int:
    """How many cores this process may use."""
    return _pool(os.getpid())[0]


def one_blas_thread() -> AbstractContextManager[object]:
    """Let BLAS libraries multiply on the calling thread only, where threads of our own multiply side by side.

    A library's threads go on looking for work for a while after each product, and take it from those that scan.
    """
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1, user_api="blas")
    return limited


@functools.lru_cache(1)
def _pool(process: int) -> tuple[int, ThreadPoolExecutor]:
    """Threads of this process: those of a parent are not there after a fork."""
    number = usable_cores()
    return number, ThreadPoolExecutor(number, "search")
