"""Ordered read-ahead: a function over many inputs on a few threads, results in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


def read_ahead(
    function: Callable[[Input], Output], inputs: Iterable[Input], *, threads: int, ahead: int
) -> Iterator[Output]:
    """Yield `function(input)` for every input, in order, computed ahead on threads.

    At most `ahead` results exist at a time beside the one in the caller's hands, which bounds the memory. An
    exception in `function` is raised here, at its input's turn; what was begun is waited for, nothing new starts.

    Parameters
    ----------
    function:
        Called on the threads.
    inputs:
        Consumed lazily.
    threads, ahead:
        Number of threads, and of inputs in flight.
    """
    pending: deque[Future[Output]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        try:
            for item in inputs:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
