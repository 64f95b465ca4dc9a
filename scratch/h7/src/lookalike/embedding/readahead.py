"""Ordered read-ahead: a function over many inputs on a few threads, results in input order, hung inputs set aside.

The threads are daemons of our own. Those of `ThreadPoolExecutor` are joined when the process ends, so that one
decoder that never returns, or one dead network mount, would keep the process alive for ever.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

from lookalike.errors import ImagesFailed

Input = TypeVar("Input")
Output = TypeVar("Output")

#: Threads that may hang at a time. More of them are not bad files but a disk or network that does not answer.
MOST_HANGING = 32
#: Seconds that closing waits, all together, for calls that are under way.
GRACE = 2.0


def read_ahead(
    function: Callable[[Input], Output],
    inputs: Iterable[Input],
    *,
    threads: int,
    ahead: int,
    time_limit: float,
    on_timeout: Callable[[Input], Output],
) -> Generator[Output, None, None]:
    """Yield `function(input)` for every input, in order, computed ahead on threads.

    At most `ahead` results exist at a time beside the one in the caller's hands, and at most `MOST_HANGING`
    calls that were given up still hold what they work on: that bounds the memory. An exception in `function` is
    raised here, at its input's turn. Closing the iterator starts nothing new, and waits a moment for calls under way:
    a thread that is still in a library's C++ code when the interpreter ends would take the process down with it.

    A call can be given up only while other threads run: a C function that never returns and never lets go of
    Python's lock stops everything.

    Parameters
    ----------
    function:
        Called on the threads.
    inputs:
        Consumed lazily.
    threads, ahead:
        Number of threads, and of inputs in flight.
    time_limit:
        Seconds for one input, from the moment that a thread takes it. A call without a result at its turn is
        given up then: its thread is left behind, and a fresh one takes its place.
    on_timeout:
        Gives the result in place of a call that was given up. Called here.

    Raises
    ------
    ImagesFailed
        When more than `MOST_HANGING` calls that were given up still have not returned.
    """
    crew = _Crew(function, time_limit)
    pending: deque[_Job[Input, Output]] = deque()
    try:
        for given in inputs:
            if crew.hired < threads:
                crew.hire()
            pending.append(crew.submit(given))
            if len(pending) > ahead:
                yield crew.result(pending.popleft(), on_timeout)
        while pending:
            yield crew.result(pending.popleft(), on_timeout)
    finally:
        crew.close()


class _Job(Generic[Input, Output]):
    """One input on its way. `begun` and `ended` tell the caller that the fields before them are set."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self.start = 0.0
        self.begun = threading.Event()
        self.results: list[Output] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self.given_up = False


class _Crew(Generic[Input, Output]):
    """The threads, and the queue that they take jobs from, first come first served.

    So the caller's next result is never behind one that hangs: every job before it has ended or was given up,
    and each that was given up made room for a fresh thread. Watching that one job is therefore enough.
    """

    def __init__(self, function: Callable[[Input], Output], time_limit: float) -> None:
        self.hired = 0
        self._threads: list[threading.Thread] = []
        self._function = function
        self._time_limit = time_limit
        self._jobs: SimpleQueue[_Job[Input, Output] | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # for `given_up` and `_hanging`
        self._hanging = 0

    def hire(self) -> None:
        """Start one more thread."""
        thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
        thread.start()
        self._threads.append(thread)
        self.hired += 1

    def submit(self, given: Input) -> _Job[Input, Output]:
        """Queue an input."""
        job: _Job[Input, Output] = _Job(given)
        self._jobs.put(job)
        return job

    def result(self, job: _Job[Input, Output], on_timeout: Callable[[Input], Output]) -> Output:
        """Wait for a job's result, at most until its time is over."""
        job.begun.wait()
        left = job.start + self._time_limit - time.monotonic()
        if not job.ended.wait(min(max(left, 0.0), threading.TIMEOUT_MAX)) and self._give_up(job):
            return on_timeout(job.given)
        if job.error is not None:
            raise job.error
        return job.results.pop()

    def close(self) -> None:
        """Let every thread end after the job that it works on, and wait `GRACE` seconds for that."""
        self._closed = True
        for _ in range(self.hired):
            self._jobs.put(None)
        end = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _give_up(self, job: _Job[Input, Output]) -> bool:
        """Leave a job and its thread behind, unless it ended at the last moment."""
        with self._lock:
            if job.ended.is_set():
                return False
            job.given_up = True
            self._hanging += 1
            hanging = self._hanging
        if hanging > MOST_HANGING:
            raise ImagesFailed(
                f"{hanging} images gave no result within {self._time_limit:g} s each and are still being read",
                hint="check that the disk or network that holds them answers; a longer time_limit waits longer",
            )
        self.hire()
        return True

    def _work(self) -> None:
        """What a thread does. It holds no job while it waits for the next, so that results can be freed."""
        while self._take(self._jobs.get()):
            pass

    def _take(self, job: _Job[Input, Output] | None) -> bool:
        """Do a job; says whether the thread may take another."""
        if job is None or self._closed:
            return False
        job.start = time.monotonic()
        job.begun.set()
        try:
            job.results.append(self._function(job.given))
        except BaseException as error:  # noqa: BLE001 - raised at the input's turn
            job.error = error
        with self._lock:
            job.ended.set()
            self._hanging -= job.given_up
        return not job.given_up
