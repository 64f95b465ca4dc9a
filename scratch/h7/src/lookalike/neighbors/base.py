"""What the parts of the search share: the result, and what a device must be able to do."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Neighbors(NamedTuple):
    """The nearest sources of every target.

    Attributes
    ----------
    distances:
        targets x k, float32, ascending along a row; infinity where a target has fewer than k sources.
    rows:
        targets x k, int64, rows of the source, -1 where there is none; equal distances are in ascending order of the
        row.
    """

    distances: npt.NDArray[np.float32]
    rows: Rows


class Found(NamedTuple):
    """What a `Finder` has found.

    Attributes
    ----------
    distances:
        targets x k, float64, ascending; infinity where there are fewer sources.
    rows:
        targets x k, rows of the source; -1 where there are fewer.
    widened:
        Per target, whether the first pass could not decide it, so that it was scored at higher precision.
    """

    distances: Float64s
    rows: Rows
    widened: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, targets: int, k: int) -> Found:
        """Nothing yet."""
        return cls(np.full((targets, k), np.inf), np.full((targets, k), -1, np.int64), np.zeros(targets, np.bool_))

    def at(self, part: slice) -> Found:
        """Views of some targets."""
        return Found(self.distances[part], self.rows[part], self.widened[part])


class Finder(Protocol):
    """Finds the k nearest sources of some targets, on one device, while the sources pass by."""

    def see(self, vectors: Floats, rows: Rows) -> None:
        """Take the next sources.

        Parameters
        ----------
        vectors:
            sources x dimension, float32 or float64, finite.
        rows:
            Their rows in the whole pool, ascending within a call and from call to call.
        """
        ...

    def finish(self) -> Found:
        """Return what was found."""
        ...
