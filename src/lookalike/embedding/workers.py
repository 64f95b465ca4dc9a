"""Several devices: one process each, because one process can run Python code for one device only.

The first device works in this process, every other one in a process of its own. It takes its shards from one queue
with the others, one when there is room for it, so a device that is late or slow delays nobody. A shard's vectors do not
depend on who embeds it, so the table is the same as with one device.

A process needs about as long to start and to load its model as a run of its own. So it is started before this one
loads torch, and is given its device at once; its shards come later. It reads what it is given from its standard
input and ends when that is closed, so it never outlives this process; it reports on its standard output.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.engine import Stages
from lookalike.embedding.loop import Counts, Work, load_model, open_sources, run_loop
from lookalike.embedding.shards import Plan, Spans, Workplace
from lookalike.encoders.base import Encoder
from lookalike.encoders.load import ask_for_queues
from lookalike.errors import ConfigError, ImagesFailed, LookalikeError
from lookalike.progress import shown_level

log = logging.getLogger(__name__)

#: What a worker runs.
_PROGRAM = "from lookalike.embedding.workers import main; main()"
#: Seconds between two looks at how far the workers are.
_WAIT = 0.5


class _Wish(Enum):
    """What a worker asks for: its task, or the next span."""

    TASK = "task"
    SPAN = "span"


@dataclass(frozen=True)
class _Order:
    """What a worker can begin with: the model of these settings on its device."""

    settings: ImageEmbeddingsConfig
    device: str
    log_level: int


@dataclass(frozen=True)
class _Task:
    """What a worker does: the work (it opens the earlier tables again), and the plan of the workplace."""

    work: Work
    plan: Plan


class Crew:
    """The processes of all devices but the first; a context manager that ends them.

    Parameters
    ----------
    settings:
        Of the run.
    devices:
        All devices, or what they probably are; each but the first is given a process, which loads the model.
    """

    def __init__(self, settings: ImageEmbeddingsConfig, devices: Sequence[str]) -> None:
        self._settings = settings
        self._workers: list[_Worker] = []
        self._spans = Spans([])
        self._start(devices[1:])

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes: from here on none of them writes anything."""
        self._stop(0)

    def begin(self, devices: Sequence[str], work: Work, plan: Plan, spans: Spans) -> None:
        """Have the processes work; those that are missing are started, and those that are not needed end.

        Parameters
        ----------
        devices:
            All that take part.
        work:
            What to do.
        plan:
            Of the workplace; its lock is held by this process.
        spans:
            Where the devices take their shards from.
        """
        right = 0
        for worker, device in zip(self._workers, devices[1:], strict=False):
            if worker.device != device:
                break
            right += 1
        self._stop(right)
        self._start(devices[1 + right :])
        self._spans = spans
        task = _Task(replace(work, sources=()), plan)
        for worker in self._workers:
            worker.begin(task, spans)

    @property
    def done(self) -> int:
        """Rows that the workers are done with.

        Raises
        ------
        LookalikeError
            What ended a worker that has something to do, or may get it.
        """
        return sum(worker.done for worker in self._workers if not self._spans.is_idle(worker.name))

    def wait(self, on_progress: Callable[[int], None]) -> None:
        """Wait until all spans are embedded; calls `on_progress` with `done` now and then.

        A process that never got a span, because it was too late, is not waited for; its error is told, and loses
        nothing.
        """
        for worker in self._workers:
            while not (worker.has_ended or self._spans.is_idle(worker.name)):
                on_progress(self.done)
                worker.wait(_WAIT)
            if worker.error is not None and self._spans.is_idle(worker.name):
                log.warning("%s took no part: %s", worker.device, _in_short(worker.error))
        on_progress(self.done)

    def reports(self) -> list[tuple[str, Counts]]:
        """The device of each worker and what it did, after `wait`."""
        reports = []
        for worker in self._workers:
            counts = worker.counts or Counts()
            counts.times = worker.times | counts.times
            reports.append((worker.device, counts))
        return reports

    def _start(self, devices: Sequence[str]) -> None:
        level = shown_level()
        try:
            for device in devices:
                self._workers.append(_Worker(_Order(self._settings, device, level), f"worker {len(self._workers)}"))
        except BaseException:
            self._stop(0)
            raise

    def _stop(self, first: int) -> None:
        """End the workers from the given one on."""
        for worker in self._workers[first:]:
            worker.kill()
        for worker in self._workers[first:]:
            worker.clean_up()
        del self._workers[first:]


class _Worker:
    """One process, and the thread that listens to it and gives it what it asks for."""

    def __init__(self, order: _Order, name: str) -> None:
        self.device = order.device
        self.name = name
        self.counts: Counts | None = None
        self.times: dict[str, float] = {}
        self._done = 0
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self._tasks: queue.SimpleQueue[tuple[_Task, Spans] | None] = queue.SimpleQueue()
        self._spans = Spans([])
        # Not the processes of `multiprocessing`, which run the user's main program again; and with -P, so that a file
        # of the working directory is not taken for a module.
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C ends this process, which ends the workers
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(order,), daemon=True)
        self._listener.start()

    def begin(self, task: _Task, spans: Spans) -> None:
        """Let it have a task as soon as it asks for one."""
        self._tasks.put((task, spans))

    @property
    def done(self) -> int:
        """Rows that it is done with; raises what ended it."""
        if self.error is not None:
            raise self.error
        return self._done

    @property
    def has_ended(self) -> bool:
        """Whether it has finished its work, or failed."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for its end, but not longer than some seconds."""
        self._ended.wait(seconds)

    def kill(self) -> None:
        """End it, if it has not ended yet."""
        self._process.kill()
        self._tasks.put(None)

    def clean_up(self) -> None:
        """Wait until nothing of it is left."""
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it had not read is written again when the pipe is closed
                pipe.close()

    def _listen(self, order: _Order) -> None:
        """Send the order, then take reports and fulfil wishes until the process ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError, EOFError, pickle.UnpicklingError):
            # Suppressed: it ended in the middle of something; its status says more.
            _send(self._process.stdin, order)
            for line in self._process.stdout:
                self._take(pickle.loads(base64.b64decode(line)), self._process.stdin)  # noqa: S301 - our own process wrote it
        status = self._process.wait()
        if self.counts is None and self.error is None:
            self.error = ImagesFailed(
                f"the process of {self.device} ended with status {status}",
                hint="run the same command again: what is finished is kept. Status -9 often means that memory ran out",
            )
        self._ended.set()

    def _take(self, report: Any, answers: Any) -> None:
        if report is _Wish.TASK:
            if (given := self._tasks.get()) is not None:
                task, self._spans = given
                _send(answers, task)
        elif report is _Wish.SPAN:
            _send(answers, self._spans.take(self.name))
        elif isinstance(report, int):
            self._done = report
        elif isinstance(report, tuple):
            name, when = report
            self.times[name] = when
        elif isinstance(report, Counts):
            self.counts = report
            self._ended.set()  # everything is committed; ending the process takes another moment
        else:
            self.error = _failure(report)
            self._ended.set()


def _in_short(error: BaseException) -> str:
    """An error in one line; of one that nobody expected the last, without the way to it."""
    return error.what if isinstance(error, LookalikeError) else str(error).strip().splitlines()[-1]


def _send(pipe: Any, content: object) -> None:
    """Write an object behind its length."""
    data = pickle.dumps(content)
    pipe.write(len(data).to_bytes(8, "little"))
    pipe.write(data)
    pipe.flush()


def _failure(report: dict[str, str]) -> BaseException:
    """The error of a worker, as if it had been raised here."""
    for kind in _kinds(LookalikeError):
        if kind.__name__ == report["kind"]:
            return kind(report["what"], where=report["where"], hint=report["hint"])
    return RuntimeError(f"in the process of another device:\n{report['what']}")


def _kinds(kind: type[LookalikeError]) -> list[type[LookalikeError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _kinds(below))]


def main() -> None:
    """The program of a worker."""
    desk = _Desk()
    desk.report(("process", time.time()))
    ask_for_queues()
    order: _Order = desk.receive()
    logging.basicConfig(format=f"%(levelname)s  {order.device}: %(message)s")
    logging.getLogger("lookalike").setLevel(order.log_level)
    try:
        desk.report(_work(order, desk))
    except LookalikeError as error:
        desk.report({"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint})
    except Exception:  # noqa: BLE001 - raised again in the process that waits
        desk.report({"kind": "", "what": traceback.format_exc()})
    os._exit(0)  # everything is written; taking a CUDA context down in good order takes another second


class _Desk:
    """Where a worker gets what it works on, and leaves its reports; it ends the process when nobody is there any more.

    Reports have standard output for themselves; what libraries print there goes to standard error.
    """

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def report(self, content: object) -> None:
        """Tell the process that waits; from any thread."""
        with self._lock:
            self._out.write(base64.b64encode(pickle.dumps(content)) + b"\n")
            self._out.flush()

    def receive(self) -> Any:
        """Take the next thing that was sent, or wait for it."""
        return pickle.loads(self._inbox.get())  # noqa: S301 - our own process wrote it

    def ask(self, wish: _Wish) -> Any:
        """Ask for something and wait for it."""
        self.report(wish)
        return self.receive()

    def _read(self) -> None:
        given = sys.stdin.buffer
        while head := given.read(8):
            size = int.from_bytes(head, "little")
            data = given.read(size)
            if len(data) < size:
                break
            self._inbox.put(data)
        os._exit(1)


def _work(order: _Order, desk: _Desk) -> Counts:
    """Load the model, then embed spans as long as there are any."""
    encoder = load_model(order.settings, order.device)
    desk.report(("model", time.time()))
    task: _Task = desk.ask(_Wish.TASK)
    _check_same(encoder, order.device, task)
    settings, filepaths = task.work.settings, task.work.filepaths
    work = replace(task.work, sources=open_sources(settings))
    for source in work.sources:
        source.table.build_index()
    # Not entered: the lock is held by the process that waits.
    workplace = Workplace(Path(settings.output_parquet), task.plan, filepaths, settings.shard_rows, settings.batch_size)
    spans = iter(lambda: desk.ask(_Wish.SPAN), None)
    return run_loop(work, encoder, workplace, spans, desk.report, Stages())


def _check_same(encoder: Encoder, device: str, task: _Task) -> None:
    """Refuse to mix vectors that are computed in another way than those of the first device.

    The decoder may differ: its pixels do not.
    """
    mine = {**asdict(encoder.identity.numerics), "model": encoder.identity.fingerprint, "decoder": ""}
    first = {**task.plan.numerics, "model": task.plan.encoder, "decoder": ""}
    differing = [key for key in mine if mine[key] != first[key]]
    if differing:
        raise ConfigError(
            f"{device} computes with another {', '.join(differing)} than the first device",
            where=f"device={task.work.settings.device}",
            hint="name devices of one kind, or set precision",
        )
