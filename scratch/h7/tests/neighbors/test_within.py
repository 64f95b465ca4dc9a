"""All pairs within a cosine distance: those of float64 brute force, whatever the blocks are."""

import numpy as np
import pytest

from lookalike.neighbors import within
from lookalike.neighbors.within import pairs_within


def brute(left, right, threshold):
    left, right = (side.astype(float) for side in (left, right))
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    return set(zip(*np.nonzero(((1 - left @ right.T).astype(np.float32)) <= np.float32(threshold)), strict=True))


def found(*arguments):
    pairs = [pair for lefts, rights in pairs_within(*arguments) for pair in zip(lefts, rights, strict=True)]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 1.0, 2.0])
def test_pairs_are_those_of_brute_force(kind, threshold, monkeypatch):
    random = np.random.default_rng(0)
    left = random.standard_normal((70, 9)).astype(kind) * 10.0 ** random.integers(-3, 4, (70, 1))
    right = np.concatenate([left[:30] + kind(0.1) * random.standard_normal((30, 9)).astype(kind), -left[:20]])
    left, right = left.astype(kind), right.astype(kind)
    assert found(left, right, threshold) == brute(left, right, threshold)
    monkeypatch.setattr(within, "_LEFT", 7)
    monkeypatch.setattr(within, "_RIGHT", 11)
    assert found(left, right, threshold) == brute(left, right, threshold)


def test_a_distance_within_rounding_of_the_threshold_is_measured():
    """Of pairs that float32 products cannot tell apart, exactly those on the right side are given."""
    angles = 0.3 + np.arange(-20, 21) * 1e-7
    left = np.array([[1.0, 0.0]])
    right = np.c_[np.cos(angles), np.sin(angles)]
    threshold = float(1 - np.cos(0.3))
    pairs = found(left, right, threshold)
    assert pairs == brute(left, right, threshold)
    assert 0 < len(pairs) < len(angles)


def test_what_is_known_is_not_given():
    vectors = np.eye(4)[[0, 0, 1, 1]]
    assert found(vectors, vectors, 0.0, lambda lefts, rights: lefts == rights) == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert found(vectors, vectors[:0], 0.0) == set()
    # A zero vector is at distance 1 to everything.
    assert found(np.zeros((1, 4)), vectors, 0.9) == set()
    assert len(found(np.zeros((1, 4)), vectors, 1.0)) == 4
