"""Progress of long loops: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

#: Seconds between log lines where there is no terminal.
_LINE_EVERY = 30.0


def shown_level() -> int:
    """The level from which lookalike's lines are shown to people; a log file may take more than that."""
    logger = logging.getLogger("lookalike")
    files = logging.FileHandler, logging.handlers.MemoryHandler
    levels = [handler.level for handler in logger.handlers if not isinstance(handler, files)]
    return max(logger.getEffectiveLevel(), min(levels, default=logging.NOTSET))


@contextlib.contextmanager
def progress(task: str, total: int, unit: str, note: Callable[[], str] = lambda: "") -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many of `total` are done.

    Parameters
    ----------
    task:
        What is being done, as a participle: ``embedding``.
    total, unit:
        How many of what.
    note:
        Asked for a remark whenever something is shown.
    """
    if sys.stderr.isatty() and shown_level() <= logging.INFO:
        with _bar(task, total, unit, note) as advance:
            yield advance
        return
    started = last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY and done:
            last = now
            rate = done / (now - started)
            left = (total - done) / rate
            remark = f", {note()}" if note() else ""
            log.info("%s: %d of %d %s, %.1f/s, %.0f s left%s", task, done, total, unit, rate, left, remark)

    yield line


@contextlib.contextmanager
def _bar(task: str, total: int, unit: str, note: Callable[[], str]) -> Iterator[Callable[[int], None]]:
    """A rich progress bar on standard error, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit)),
        *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}")),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(task, total=total, rate="", note="")
        started = time.monotonic()

        def advance(done: int) -> None:
            rate = f"{done / max(time.monotonic() - started, 1e-3):.1f}/s"
            bar.update(shown, completed=done, rate=rate, note=note())

        yield advance
