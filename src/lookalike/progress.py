"""Progress of long loops: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

#: Seconds between log lines where there is no terminal, and before a bar appears.
_LINE_EVERY = 30.0


@contextlib.contextmanager
def progress(task: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many of `total` are done.

    Parameters
    ----------
    task:
        What is being done, as a participle: ``embedding``.
    total, unit:
        How many of what.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        with _bar(task, total, unit) as advance:
            yield advance
        return
    started = last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY and done:
            last = now
            left = (total - done) * (now - started) / done
            log.info("%s: %d of %d %s, about %.0f s left", task, done, total, unit, left)

    yield line


@contextlib.contextmanager
def _bar(task: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A rich progress bar on standard error, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(task, total=total)
        yield lambda done: bar.update(shown, completed=done)
