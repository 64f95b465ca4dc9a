"""Read-ahead: order, bound, exceptions at their turn, and inputs that hang."""

import threading
import time

import pytest

from lookalike.embedding import readahead
from lookalike.embedding.readahead import read_ahead
from lookalike.errors import ImagesFailed

#: Long enough for anything that does not hang, and for a test that waits for an event that must come.
LONG = 60.0


def never(given):
    raise AssertionError(f"{given} was given up")


def hung(given):
    return f"{given} hung"


@pytest.fixture
def release():
    """An event that calls hang on; set at the end of the test, so that no thread outlives it for long."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def own_threads():
    """Waits until every thread that the test's read-ahead started has ended."""
    before = set(threading.enumerate())

    def join():
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
            assert not thread.is_alive()

    return join


def test_results_come_in_input_order_whatever_finishes_first():
    release = threading.Event()

    def work(number):
        if number == 0:
            release.wait(10)
        elif number == 3:
            release.set()
        return number

    results = read_ahead(work, range(20), threads=4, ahead=6, time_limit=LONG, on_timeout=never)
    assert list(results) == list(range(20))


def test_no_more_than_ahead_results_wait_for_the_caller():
    begun, taken = [], []

    def inputs():
        for number in range(100):
            taken.append(number)
            yield number

    results = read_ahead(begun.append, inputs(), threads=2, ahead=5, time_limit=LONG, on_timeout=never)
    next(results)
    assert len(taken) == 6
    assert len(begun) <= 6
    results.close()
    assert len(begun) <= 6


def test_no_inputs_start_no_thread(own_threads):
    before = threading.active_count()
    assert list(read_ahead(str, [], threads=4, ahead=5, time_limit=LONG, on_timeout=never)) == []
    assert threading.active_count() == before


def test_no_more_threads_than_asked_for_and_all_end_with_the_inputs(own_threads):
    names = set()

    def work(number):
        names.add(threading.current_thread())
        return number

    assert len(list(read_ahead(work, range(50), threads=3, ahead=9, time_limit=LONG, on_timeout=never))) == 50
    assert 1 <= len(names) <= 3
    assert threading.main_thread() not in names
    own_threads()


@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError, SystemExit])
def test_an_exception_is_raised_at_its_turn(kind, own_threads):
    """TimeoutError too: that the function raises it does not make it ours."""

    def work(number):
        if number == 4:
            raise kind("four")
        return number

    seen = []
    with pytest.raises(kind, match="four"):
        for result in read_ahead(work, range(9), threads=3, ahead=3, time_limit=LONG, on_timeout=never):
            seen.append(result)
    assert seen == [0, 1, 2, 3]
    own_threads()


def test_inputs_that_hang_are_given_up_in_their_place_and_their_threads_replaced(release):
    """Both threads hang at once, and later another: without fresh threads nothing after them would come."""

    def work(number):
        if number in (0, 1, 7):
            release.wait(2 * LONG)
        return number

    results = list(read_ahead(work, range(12), threads=2, ahead=4, time_limit=1.0, on_timeout=hung))
    assert results == ["0 hung", "1 hung", 2, 3, 4, 5, 6, "7 hung", 8, 9, 10, 11]
    assert not release.is_set()


def test_the_clock_starts_with_the_work_and_not_in_the_queue(release):
    """Input 1 waits in the queue for all of input 0's time, then works for a moment: that is no timeout."""

    def work(number):
        if number == 0:
            release.wait(2 * LONG)
        time.sleep(0.2)
        return number

    results = list(read_ahead(work, range(2), threads=1, ahead=4, time_limit=2.0, on_timeout=hung))
    assert results == ["0 hung", 1]


def test_a_result_that_is_there_at_its_turn_is_never_given_up():
    """A caller that takes long (a forward pass) does not make its images late."""
    second = threading.Event()

    def work(number):
        if number == 1:
            second.set()
        return number

    results = read_ahead(work, range(2), threads=1, ahead=4, time_limit=0.3, on_timeout=never)
    assert next(results) == 0
    assert second.wait(LONG)
    time.sleep(0.5)
    assert next(results) == 1


def test_when_too_many_hang_the_run_ends_with_an_error(release, monkeypatch):
    monkeypatch.setattr(readahead, "MOST_HANGING", 3)
    results = read_ahead(
        lambda number: release.wait(2 * LONG), range(99), threads=2, ahead=4, time_limit=0.1, on_timeout=hung
    )
    assert [next(results) for _ in range(3)] == ["0 hung", "1 hung", "2 hung"]
    with pytest.raises(ImagesFailed, match=r"4 images gave no result within 0\.1 s"):
        next(results)


def test_a_call_that_returns_after_all_does_not_count_as_hanging_and_its_result_is_dropped(monkeypatch, own_threads):
    """Files that are only slow never add up to an error, however many there are."""
    monkeypatch.setattr(readahead, "MOST_HANGING", 1)
    releases = [threading.Event() for _ in range(4)]
    threads = {}

    def work(number):
        threads[number] = threading.current_thread()
        releases[number].wait(LONG)
        return number

    def on_timeout(number):
        releases[number].set()
        threads[number].join(LONG)
        assert not threads[number].is_alive()
        return hung(number)

    results = list(read_ahead(work, range(4), threads=1, ahead=4, time_limit=0.1, on_timeout=on_timeout))
    assert results == ["0 hung", "1 hung", "2 hung", "3 hung"]
    assert len(set(threads.values())) == 4
    own_threads()


def test_closing_starts_nothing_new_and_does_not_wait_for_what_hangs(release, own_threads):
    begun, returned, second = [], [], threading.Event()

    def work(number):
        begun.append(number)
        if number == 1:
            second.set()
            release.wait(2 * LONG)
        returned.append(number)

    results = read_ahead(work, range(99), threads=1, ahead=5, time_limit=LONG, on_timeout=never)
    next(results)
    assert second.wait(LONG)
    results.close()
    assert returned == [0]
    release.set()
    own_threads()
    assert begun == [0, 1]
