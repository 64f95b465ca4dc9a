"""Where a search runs: on the processor, on a GPU, or with the sources dealt to several GPUs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from lookalike.errors import ConfigError
from lookalike.neighbors.base import Finder, Floats, Found, Rows
from lookalike.neighbors.finder import CpuFinder
from lookalike.neighbors.held import There

#: Products (targets x sources x dimensions) from which a GPU is worth the seconds in which torch and it are started.
_WORTH_A_GPU = 1e11


def choose_devices(wanted: str, products: float = 0.0) -> list[str]:
    """The devices of the setting `device`: ``cpu``, or names of CUDA devices.

    Parameters
    ----------
    wanted:
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, or several of these with commas; ``auto`` is the processor for a small
        search, and the first CUDA device (of compute capability 8 or more, where the kernels run) for a large one.
    products:
        Targets x sources x dimensions of the search.

    Raises
    ------
    ConfigError
        When a device is unknown, not there, or of a kind that cannot search.
    """
    if wanted == "cpu" or (wanted == "auto" and products < _WORTH_A_GPU):
        return ["cpu"]  # without loading torch
    from lookalike.encoders.load import choose_devices as there

    if wanted == "auto":
        return _first_card(there("auto", "torch"))
    devices = there(wanted, "torch")
    if not all(device == "cpu" or device.startswith("cuda") for device in devices):
        raise ConfigError(f"device={wanted!r} is not possible for a search", hint="use auto, cpu or cuda")
    return sorted(set(devices))


def _first_card(devices: list[str]) -> list[str]:
    """The first CUDA device, where the kernels run on it; dealing to several has to be asked for."""
    cards = [device for device in devices if device.startswith("cuda")][:1]
    if not cards:
        return ["cpu"]  # without loading torch, which takes seconds and half a gigabyte
    import torch

    from lookalike.neighbors.cuda.products import has_kernels

    return cards if has_kernels(torch.device(cards[0])) else ["cpu"]


def make_finder(targets: There, metric: str, k: int, devices: list[str]) -> Finder:
    """The finder of some targets on some devices (as `choose_devices` returns them).

    Targets that lie on a device are searched for there.
    """
    if not isinstance(targets, np.ndarray):
        from lookalike.neighbors.cuda.finder import CudaFinder

        return CudaFinder(targets, metric, k, targets.device)
    finders = [_on(device, targets, metric, k) for device in devices]
    return finders[0] if len(finders) == 1 else DealingFinder(finders)


def first_pass(metric: str, devices: list[str]) -> str:
    """Precision of the first pass there."""
    return "fp32" if devices == ["cpu"] or metric == "manhattan" else "bf16"


def _on(device: str, targets: Floats, metric: str, k: int) -> Finder:
    if device == "cpu":
        return CpuFinder(targets, metric, k)
    import torch

    from lookalike.neighbors.cuda.finder import CudaFinder

    return CudaFinder(targets, metric, k, torch.device(device))


class DealingFinder:
    """Deals the sources to several finders, each on a thread of its own, and merges what they find; a `Finder`.

    One call of each is under way at a time, so that as many chunks are held as there are finders.

    Parameters
    ----------
    finders:
        For the same targets.
    """

    def __init__(self, finders: list[Finder]) -> None:
        self._finders = finders
        self._threads = [ThreadPoolExecutor(1, "device") for _ in finders]
        self._under_way: list[Future[None] | None] = [None] * len(finders)
        self._next = 0

    def see(self, vectors: Floats, rows: Rows) -> None:
        """See `Finder.see`."""
        turn, self._next = self._next, (self._next + 1) % len(self._finders)
        self._wait(turn)
        self._under_way[turn] = self._threads[turn].submit(self._finders[turn].see, vectors, rows)

    def finish(self) -> Found:
        """See `Finder.finish`; equal distances are in the order of the rows, whoever found them."""
        for turn, thread in enumerate(self._threads):
            self._wait(turn)
            thread.shutdown()
        found = [finder.finish() for finder in self._finders]
        distances = np.concatenate([one.distances for one in found], axis=1)
        rows = np.concatenate([one.rows for one in found], axis=1)
        order = np.lexsort((rows, distances))[:, : found[0].rows.shape[1]]
        return Found(
            np.take_along_axis(distances, order, axis=1),
            np.take_along_axis(rows, order, axis=1),
            np.any([one.widened for one in found], axis=0),
        )

    def _wait(self, turn: int) -> None:
        """Wait for a finder's last call; its error is raised here."""
        waiting, self._under_way[turn] = self._under_way[turn], None
        if waiting is not None:
            waiting.result()
