"""The product is right in either way, and either way can be chosen."""

import time

import numpy as np
import pytest
import torch

from lookalike.neighbors import product
from lookalike.neighbors.product import Product

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("slow", ["numpy", "torch", "neither"])
@pytest.mark.parametrize("writeable", [True, False])
def test_the_faster_library_is_kept(slow, writeable, monkeypatch):
    """One of them is made slow; whichever is chosen, all products are right."""
    used = []
    for name in ("numpy", "torch"):
        real = getattr(product, f"_by_{name}")

        def way(*given, name=name, real=real):
            used.append(name)
            real(*given)
            if name == slow:
                time.sleep(0.2)

        monkeypatch.setattr(product, f"_by_{name}", way)
    monkeypatch.setattr(product, "_LEAST_TRIAL", 1)
    multiply = Product()
    sources = RANDOM.standard_normal((300, 64)).astype(np.float32)
    sources.flags.writeable = writeable
    for count in (5, 9, 2, 7, 1, 6, 8):
        targets = RANDOM.standard_normal((count, 64)).astype(np.float32)
        scores = np.empty((count, 300), np.float32)
        multiply(targets, sources, scores)
        np.testing.assert_allclose(scores, targets.astype(np.float64) @ sources.T.astype(np.float64), atol=1e-4)
    assert {"numpy", "torch"} == set(used)
    if slow != "neither":
        assert used[-1] != slow


def test_reduced_precision_is_never_taken(monkeypatch):
    """A program that lets torch round float32 products must not change the search."""
    monkeypatch.setattr(product, "_LEAST_TRIAL", 1)
    monkeypatch.setattr(product, "_by_torch", lambda *given: pytest.fail("torch was used"))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    multiply = Product()
    for _ in range(8):
        multiply(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.empty((2, 4), np.float32))
