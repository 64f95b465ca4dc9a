"""Read-ahead: order, bound, and exceptions at their turn."""

import threading

import pytest

from lookalike.embedding.readahead import read_ahead


def test_results_come_in_input_order_whatever_finishes_first():
    release = threading.Event()

    def work(number):
        if number == 0:
            release.wait(10)
        elif number == 3:
            release.set()
        return number

    assert list(read_ahead(work, range(20), threads=4, ahead=6)) == list(range(20))


def test_no_more_than_ahead_results_wait_for_the_caller():
    begun = []
    results = read_ahead(begun.append, range(100), threads=2, ahead=5)
    next(results)
    assert len(begun) <= 6
    results.close()
    assert len(begun) <= 6


def test_an_exception_is_raised_at_its_turn():
    def work(number):
        if number == 4:
            raise RuntimeError("four")
        return number

    seen = []
    with pytest.raises(RuntimeError, match="four"):
        for result in read_ahead(work, range(9), threads=3, ahead=3):
            seen.append(result)
    assert seen == [0, 1, 2, 3]
