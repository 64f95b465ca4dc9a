"""The product is right in either way, and either way can be chosen."""

import os
import time

import numpy as np
import pytest
import torch

from lookalike.neighbors import product
from lookalike.neighbors.product import Product

RANDOM = np.random.default_rng(0)


@pytest.fixture
def multiply(monkeypatch):
    monkeypatch.setattr(product, "_LEAST_WORK", 1)
    return Product()


def watch(monkeypatch, **slower):
    """Record which library is used; make one of them slower."""
    used = []
    for name in ("numpy", "torch"):
        real = getattr(product, f"_by_{name}")

        def way(*given, name=name, real=real):
            used.append(name)
            real(*given)
            time.sleep(slower.get(name, 0))

        monkeypatch.setattr(product, f"_by_{name}", way)
    return used


def check(multiply, count, sources):
    targets = RANDOM.standard_normal((count, 64)).astype(np.float32)
    scores = np.empty((count, len(sources)), np.float32)
    multiply.consider(targets, sources)
    multiply(targets, sources, scores)
    np.testing.assert_allclose(scores, targets.astype(np.float64) @ sources.T.astype(np.float64), atol=1e-4)


@pytest.mark.parametrize(("slow", "kept"), [("numpy", "torch"), ("torch", "numpy")])
@pytest.mark.parametrize("writeable", [True, False])
def test_the_faster_library_is_kept(slow, kept, writeable, multiply, monkeypatch):
    """Whichever is chosen, all products are right."""
    used = watch(monkeypatch, **{slow: 0.3})
    sources = RANDOM.standard_normal((300, 64)).astype(np.float32)
    sources.flags.writeable = writeable
    for count in (5, 9, 2, 7, 1, 6, 8):
        check(multiply, count, sources)
    assert {"numpy", "torch"} == set(used)
    assert used[-3:] == [kept] * 3


@pytest.mark.parametrize("late", [False, True])
def test_reduced_precision_is_never_taken(late, multiply, monkeypatch):
    """A program that lets torch round float32 products must not change the search, whenever it says so."""
    used = watch(monkeypatch, numpy=0.1)
    sources = RANDOM.standard_normal((300, 64)).astype(np.float32)
    for _ in range(6 if late else 0):
        check(multiply, 3, sources)
    assert not late or used[-1] == "torch"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    del used[:]
    for _ in range(6):
        check(multiply, 3, sources)
    assert set(used) == {"numpy"}


def test_a_library_that_rounds_is_seen_by_its_result(multiply, monkeypatch):
    used = watch(monkeypatch, numpy=0.1)
    monkeypatch.setattr(
        product, "_by_torch", lambda left, right, scores: np.copyto(scores, (left @ right.T).astype(np.float16))
    )
    sources = RANDOM.standard_normal((300, 64)).astype(np.float32)
    for _ in range(6):
        check(multiply, 3, sources)
    assert used[-1] == "numpy"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent(multiply, monkeypatch):
    watch(monkeypatch, numpy=0.1)
    sources = RANDOM.standard_normal((3_000, 64)).astype(np.float32)
    for _ in range(6):
        check(multiply, 300, sources)
    child = os.fork()
    if not child:
        check(multiply, 300, sources)
        os._exit(0)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the forked process hangs")
    assert status == 0
