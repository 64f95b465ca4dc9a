"""Several devices: one process each, because one process can run Python code for one device only.

The first device works in this process, every other one in a process of its own that embeds some of the shards and
commits them. A shard's vectors do not depend on who embeds it, so the table is the same as with one device.
A worker reads its task from its standard input and ends when that is closed, so it never outlives this process; it
reports on its standard output.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from lookalike.embedding.engine import Stages
from lookalike.embedding.loop import Counts, Work, load_model, open_sources, run_loop
from lookalike.embedding.shards import Plan, Workplace
from lookalike.encoders.base import Encoder
from lookalike.errors import ConfigError, ImagesFailed, LookalikeError
from lookalike.progress import shown_level

#: What a worker runs.
_PROGRAM = "from lookalike.embedding.workers import main; main()"
#: Seconds between two looks at how far the workers are.
_WAIT = 0.5


@dataclass(frozen=True)
class _Task:
    """What a worker does: the work (it opens the earlier tables again), its device, and its shards."""

    work: Work
    plan: Plan
    device: str
    spans: Sequence[range]
    log_level: int


class Workers:
    """The processes of all devices but the first; a context manager that ends them.

    Parameters
    ----------
    work:
        What to do.
    plan:
        Of the workplace; its lock is held by this process.
    shares:
        The device and the spans of each worker.
    """

    def __init__(self, work: Work, plan: Plan, shares: Sequence[tuple[str, Sequence[range]]]) -> None:
        work = replace(work, sources=())
        level = shown_level()
        self._tasks = [_Task(work, plan, device, spans, level) for device, spans in shares]
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        try:
            for task in self._tasks:
                self._workers.append(_Worker(task))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    @property
    def done(self) -> int:
        """Rows that the workers are done with.

        Raises
        ------
        LookalikeError
            What ended a worker.
        """
        return sum(worker.done for worker in self._workers)

    def wait(self, on_progress: Callable[[int], None]) -> Counts:
        """Wait until all have finished; calls `on_progress` with `done` now and then."""
        counts = Counts()
        for worker in self._workers:
            while not worker.has_ended(_WAIT):
                on_progress(self.done)
            counts.add(worker.result())
        return counts


class _Worker:
    """One process, and the thread that listens to it."""

    def __init__(self, task: _Task) -> None:
        self._device = task.device
        self._done = 0
        self._counts: Counts | None = None
        self._error: BaseException | None = None
        # Not the processes of `multiprocessing`, which run the user's main program again; and with -P, so that a file
        # of the working directory is not taken for a module.
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C ends this process, which ends the workers
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(task,), daemon=True)
        self._listener.start()

    @property
    def done(self) -> int:
        """Rows that it is done with; raises what ended it."""
        if self._error is not None:
            raise self._error
        return self._done

    def has_ended(self, seconds: float) -> bool:
        """Wait for its end, but not longer than some seconds."""
        self._listener.join(seconds)
        return not self._listener.is_alive()

    def result(self) -> Counts:
        """What it counted; raises what ended it."""
        if self._error is not None:
            raise self._error
        assert self._counts is not None
        return self._counts

    def stop(self) -> None:
        """End it, if it has not ended yet."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it had not read is written again when the pipe is closed
                pipe.close()

    def _listen(self, task: _Task) -> None:
        """Send the task, then take reports until the process ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            content = pickle.dumps(task)
            self._process.stdin.write(len(content).to_bytes(8, "little"))
            self._process.stdin.write(content)
            self._process.stdin.flush()
            del content, task  # all paths of the input
            for line in self._process.stdout:
                self._take(pickle.loads(base64.b64decode(line)))  # noqa: S301 - our own process wrote it
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            pass  # it ended in the middle of something; its status says more
        status = self._process.wait()
        if self._counts is None and self._error is None:
            self._error = ImagesFailed(
                f"the process of {self._device} ended with status {status}",
                hint="run the same command again: what is finished is kept. Status -9 often means that memory ran out",
            )

    def _take(self, report: Any) -> None:
        if isinstance(report, int):
            self._done = report
        elif isinstance(report, Counts):
            self._counts = report
        else:
            self._error = _failure(report)


def _failure(report: dict[str, str]) -> BaseException:
    """The error of a worker, as if it had been raised here."""
    for kind in _kinds(LookalikeError):
        if kind.__name__ == report["kind"]:
            return kind(report["what"], where=report["where"], hint=report["hint"])
    return RuntimeError(f"in the process of another device:\n{report['what']}")


def _kinds(kind: type[LookalikeError]) -> list[type[LookalikeError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _kinds(below))]


def _work_off(task: _Task, on_progress: Callable[[int], None]) -> Counts:
    """What a worker does with its task."""
    settings, filepaths = task.work.settings, task.work.filepaths
    work = replace(task.work, sources=open_sources(settings))
    for source in work.sources:
        source.table.build_index()
    encoder = load_model(settings, task.device)
    _check_same(encoder, task)
    # Not entered: the lock is held by the process that waits.
    workplace = Workplace(Path(settings.output_parquet), task.plan, filepaths, settings.shard_rows)
    return run_loop(work, encoder, workplace, task.spans, on_progress, Stages())


def _check_same(encoder: Encoder, task: _Task) -> None:
    """Refuse to mix vectors that are computed in another way than those of the first device.

    The decoder may differ: its pixels do not.
    """
    mine = {**asdict(encoder.identity.numerics), "model": encoder.identity.fingerprint, "decoder": ""}
    first = {**task.plan.numerics, "model": task.plan.encoder, "decoder": ""}
    differing = [key for key in mine if mine[key] != first[key]]
    if differing:
        raise ConfigError(
            f"{task.device} computes with another {', '.join(differing)} than the first device",
            where=f"device={task.work.settings.device}",
            hint="name devices of one kind, or set precision",
        )


def main() -> None:
    """The program of a worker."""
    # Reports have standard output for themselves; what libraries print there goes to standard error.
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def report(content: object) -> None:
        reports.write(base64.b64encode(pickle.dumps(content)) + b"\n")
        reports.flush()

    size = int.from_bytes(sys.stdin.buffer.read(8), "little")
    task: _Task = pickle.loads(sys.stdin.buffer.read(size))  # noqa: S301 - our own process wrote it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format=f"%(levelname)s  {task.device}: %(message)s")
    logging.getLogger("lookalike").setLevel(task.log_level)
    try:
        report(_work_off(task, report))
    except LookalikeError as error:
        report({"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint})
    except Exception:  # noqa: BLE001 - raised again in the process that waits
        report({"kind": "", "what": traceback.format_exc()})


def _end_with_parent() -> None:
    """End this process when its standard input closes."""
    os.read(0, 1)
    os._exit(1)
