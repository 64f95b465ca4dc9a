"""The matrix product of the search, by the library that is faster on this machine.

NumPy's wheels bring an OpenBLAS that knows some processors and takes a kernel 3 to 8 times too slow for others; PyTorch
brings a library of its own. Both are exact enough: the search's bounds hold for any order of a float32 sum.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from lookalike.neighbors.base import Floats

#: Multiplications of a chunk for which both are tried: where PyTorch is loaded already (1 s or less), and where loading
#: it must pay.
_LEAST_WORK, _LEAST_WORK_TO_LOAD = 20_000_000_000, 1_000_000_000_000
#: Targets and sources of a trial.
_SAMPLE = 1024
#: How many times as fast PyTorch must be, in the best of so many turns.
_MUST_GAIN = 1.25
_TURNS = 3
#: Largest difference of the two ways, relative to the largest lengths: above what float32 rounds, below what
#: bfloat16 rounds.
_MOST_DIFFERENCE = 2e-5
#: Settings of oneDNN, which PyTorch uses, that let it round float32 values.
_ROUNDING = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


class Product:
    """`targets @ sources.T`: by NumPy, or by PyTorch where a trial finds it faster."""

    def __init__(self) -> None:
        #: The process in which PyTorch was found faster: after a fork, its threads are not there.
        self._by_torch_in = 0
        self._tried = False

    def consider(self, targets: Floats, sources: Floats) -> None:
        """Try both on a small part, once in a process, where so many products are to come that it pays."""
        work = targets.size * len(sources)
        least = _LEAST_WORK if "torch" in sys.modules else _LEAST_WORK_TO_LOAD
        if self._tried or work < least or not targets.dtype == sources.dtype == np.float32:
            return
        self._tried = True
        self._try(targets[:_SAMPLE], sources[:_SAMPLE])

    def __call__(self, targets: Floats, sources: Floats, scores: Floats) -> None:
        """Multiply.

        Parameters
        ----------
        targets, sources:
            Rows x dimension.
        scores:
            Where the result goes: targets x sources.
        """
        single = targets.dtype == sources.dtype == np.float32
        if single and self._by_torch_in == os.getpid() and _float32_is_float32():
            _by_torch(targets, sources, scores)
        else:
            _by_numpy(targets, sources, scores)

    def _try(self, targets: Floats, sources: Floats) -> None:
        """Compute a product in both ways, in turn, and find the faster."""
        if not _float32_is_float32():
            return
        seconds: dict[str, float] = {"numpy": np.inf, "torch": np.inf}
        results = {name: np.empty((len(targets), len(sources)), np.float32) for name in seconds}
        for _ in range(_TURNS):
            for name, way in (("numpy", _by_numpy), ("torch", _by_torch)):
                started = time.perf_counter()
                way(targets, sources, results[name])
                seconds[name] = min(seconds[name], time.perf_counter() - started)
        lengths = [float(np.sqrt(np.einsum("ij,ij->i", side, side).max())) for side in (targets, sources)]
        right = bool(np.abs(results["torch"] - results["numpy"]).max() <= _MOST_DIFFERENCE * lengths[0] * lengths[1])
        if right and seconds["numpy"] >= _MUST_GAIN * seconds["torch"]:
            self._by_torch_in = os.getpid()


def _float32_is_float32() -> bool:
    """Whether PyTorch may not round the values of float32 products; anyone may change that at any time."""
    import torch

    fine = torch.get_float32_matmul_precision() == "highest"
    newer = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "ieee")
    modes = {os.environ.get(name, "STRICT").upper() for name in _ROUNDING}
    return fine and newer in ("ieee", "none") and modes == {"STRICT"}


def _by_numpy(targets: Floats, sources: Floats, scores: Floats) -> None:
    np.matmul(targets, sources.T, out=scores)


def _by_torch(targets: Floats, sources: Floats, scores: Floats) -> None:
    import torch

    # from_numpy warns of arrays that are read-only, and nothing is written to these.
    left, right = (torch.from_numpy(side if side.flags.writeable else side.copy()) for side in (targets, sources))
    with torch.inference_mode():
        torch.matmul(left, right.T, out=torch.from_numpy(scores))
