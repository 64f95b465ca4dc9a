"""The matrix product of the search, by whichever library is faster on this machine.

NumPy's wheels bring an OpenBLAS that knows some processors and takes a kernel 3 to 8 times too slow for others; PyTorch
brings a library of its own. Both are exact enough: the search's bounds hold for any order of a float32 sum.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from lookalike.neighbors.base import Floats

#: Products by NumPy before both are tried: where PyTorch is loaded already, and where loading it must pay.
_FIRST_TRIAL, _LATE_TRIAL = 4, 128
#: A trial takes products of at least so many multiplications; smaller ones tell nothing.
_LEAST_TRIAL = 1 << 28


class Product:
    """`targets @ sources.T`, first by NumPy, then by the faster of NumPy and PyTorch."""

    def __init__(self) -> None:
        self._way: Callable[[Floats, Floats, Floats], None] = _by_numpy
        self._tried = False
        self._seen = 0

    def __call__(self, targets: Floats, sources: Floats, scores: Floats) -> None:
        """Multiply.

        Parameters
        ----------
        targets, sources:
            Rows x dimension.
        scores:
            Where the result goes: targets x sources.
        """
        if not self._tried and targets.dtype == sources.dtype == np.float32:
            if targets.size * len(sources) >= _LEAST_TRIAL:
                self._seen += 1
            if self._seen >= (_FIRST_TRIAL if "torch" in sys.modules else _LATE_TRIAL):
                self._try(targets, sources, scores)
                return
        self._way(targets, sources, scores)

    def _try(self, targets: Floats, sources: Floats, scores: Floats) -> None:
        """Compute this product in both ways, and keep the faster for those to come."""
        self._tried = True
        import torch

        ways = [_by_numpy]
        if torch.get_float32_matmul_precision() == "highest":  # float32 means float32 here
            ways.append(_by_torch)
        seconds: list[float] = []
        for way in ways:
            way(targets, sources, scores)  # the first call starts threads
            started = time.perf_counter()
            way(targets, sources, scores)
            seconds.append(time.perf_counter() - started)
        self._way = ways[int(np.argmin(seconds))]


def _by_numpy(targets: Floats, sources: Floats, scores: Floats) -> None:
    np.matmul(targets, sources.T, out=scores)


def _by_torch(targets: Floats, sources: Floats, scores: Floats) -> None:
    import torch

    if targets.dtype != np.float32 or sources.dtype != np.float32:
        _by_numpy(targets, sources, scores)
        return
    # from_numpy warns of arrays that are read-only, and nothing is written to these.
    left, right = (torch.from_numpy(side if side.flags.writeable else side.copy()) for side in (targets, sources))
    with torch.inference_mode():
        torch.matmul(left, right.T, out=torch.from_numpy(scores))
