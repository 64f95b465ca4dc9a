"""The certificate: what it says, and that it sees a search that is wrong."""

import numpy as np
import pytest

from lookalike import SearchError
from lookalike.neighbors import finder
from lookalike.neighbors import search as search_module
from lookalike.neighbors.base import Found
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import open_side
from support.neighbors import METRICS

RANDOM = np.random.default_rng(0)


def certified(target, source, metric, k=5):
    return search(open_side(target, "target", ""), open_side(source, "source", ""), Search(k, metric, certified=True))


@pytest.mark.parametrize("metric", METRICS)
def test_an_easy_search_is_decided_in_the_first_pass(metric):
    target, source = RANDOM.standard_normal((50, 32)), RANDOM.standard_normal((20_000, 32))
    found = certified(target.astype(np.float32), source.astype(np.float32), metric)
    assert (found.certificate.widened, found.certificate.checked) == (0, 32)
    assert str(found.certificate).startswith("50 of 50 queries decided in fp32; 32 checked")


@pytest.mark.parametrize("metric", METRICS)
def test_targets_that_the_first_pass_cannot_decide_are_counted(metric):
    """Half of the targets are near thousands of sources that float32 cannot tell apart."""
    centre = RANDOM.standard_normal(64)
    crowd = (centre * (1 + 1e-7 * RANDOM.standard_normal((5_000, 64)))).astype(np.float32)
    plain = RANDOM.standard_normal((500, 64)).astype(np.float32)
    target = np.concatenate([crowd[:10], -plain[:10]])
    found = certified(target, np.concatenate([plain, crowd]), metric)
    assert 5 <= found.certificate.widened <= 15
    assert "at higher precision" in str(found.certificate)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_hard_data_raises_no_false_alarm(metric, scale):
    """Twins, offsets, near ties: the check allows for what float64 cannot tell."""
    near = 1_000 + 1e-3 * RANDOM.standard_normal((4_000, 32))
    source = (scale * np.concatenate([near, near[:2_000], RANDOM.standard_normal((3_000, 32))])).astype(np.float32)
    certified(source[::200], source, metric, k=30)


@pytest.mark.parametrize("metric", METRICS)
def test_one_long_vector_does_not_blind_the_check(metric, monkeypatch):
    """Its own error is large; that of the others is not."""
    real = finder.CpuFinder.finish

    def finish(self):
        distances, rows, widened = real(self)
        return Found(distances * 1.001, rows, widened)

    monkeypatch.setattr(finder.CpuFinder, "finish", finish)
    target, source = RANDOM.standard_normal((9, 16)), RANDOM.standard_normal((4_000, 16))
    source[7] = 1e14
    with pytest.raises(SearchError):
        certified(-np.abs(target), source, metric)


@pytest.mark.parametrize("within_label", [False, True])
def test_a_source_that_may_not_be_returned_is_seen(within_label, monkeypatch):
    """The check applies labels and exclusion on its own."""
    monkeypatch.setattr(search_module, "_shares", lambda chunk, routes, *rest: (
        (route, chunk.vectors, chunk.first + np.arange(len(chunk.vectors))) for route in routes
    ))  # fmt: skip
    target, source = RANDOM.standard_normal((9, 16)), RANDOM.standard_normal((400, 16))
    excluded = None if within_label else np.arange(400) % 2 == 0
    wanted = Search(5, "cosine", within_label, excluded, certified=True)
    sides = open_side(target, "target", "", ["a"] * 9), open_side(source, "source", "", ["A", "b"] * 200)
    with pytest.raises(SearchError):
        search(*sides, wanted)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("wrong", ["a row", "a distance", "the last row", "a neighbour was missed"])
def test_a_wrong_search_is_refused(metric, wrong, monkeypatch):
    real = finder.CpuFinder.finish

    def finish(self):
        distances, rows, widened = real(self)
        if wrong == "a row":
            rows[:, 2] += 1
        elif wrong == "a distance":
            distances[:, 0] += 0.01
        elif wrong == "the last row":
            rows[:, -1] = rows[:, 0]
        else:
            distances[:, 1:-1], rows[:, 1:-1] = distances[:, 2:].copy(), rows[:, 2:].copy()
        return Found(distances, rows, widened)

    monkeypatch.setattr(finder.CpuFinder, "finish", finish)
    target, source = RANDOM.standard_normal((9, 16)), RANDOM.standard_normal((400, 16))
    with pytest.raises(SearchError, match="other neighbours than float64 brute force"):
        certified(target, source[:5] if wrong == "the last row" else source, metric)
