"""Peak memory does not grow with the pool: the benchmark `memory`, at a small scale."""

import sys

import pytest
from benchmarks.memory import measure


@pytest.mark.skipif(sys.platform == "win32", reason="the benchmark's paths are those of POSIX")
def test_peak_memory_of_fifty_thousand_rows_is_near_that_of_a_full_shard():
    """At 2 KB a vector the larger table holds 100 MB of vectors, of which 20 MB, one shard, are held at a time."""
    small, large = measure(10_000, 512), measure(50_000, 512)
    assert (small["rows"], large["rows"]) == (10_000, 50_000)
    assert large["peak"] - small["peak"] < 70 * 10**6
