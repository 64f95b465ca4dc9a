"""Peak memory does not grow with the pool: the benchmark `memory`, at a small scale."""

import sys

import pytest
from benchmarks.memory import measure


@pytest.mark.skipif(sys.platform == "win32", reason="the benchmark's paths are those of POSIX")
def test_peak_memory_does_not_follow_the_number_of_vectors():
    """The pools have 20 and 102 MB of vectors, 4 MB of them in a shard."""
    small, large = measure(10_000, 512, 2_000), measure(50_000, 512, 2_000)
    assert (small["rows"], large["rows"]) == (10_000, 50_000)
    assert large["peak"] - small["peak"] < 60 * 10**6
