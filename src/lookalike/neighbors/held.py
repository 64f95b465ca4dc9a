"""A pool that stays on a device once it was read: what selection may ask of it, without knowing what lies there.

Reading the files of a large pool takes longer than anything that a GPU does with it. So where one GPU searches, and
the pool fits into half of its free memory, the first pass leaves the vectors there, and no file is read again.
Elsewhere the pool is read anew for every pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.sides import Side
from lookalike.tables.embedding_stream import Chunk

#: Vectors of a block, or directions, where they lie: an array, or a tensor on a device.
There = Any


class Sums(NamedTuple):
    """What mean and covariance of vectors are made from.

    Attributes
    ----------
    rows:
        How many vectors.
    shift:
        What was subtracted from each: a point near their mean.
    total:
        The sum of what was left.
    products:
        The sum of its outer products with itself.
    largest:
        The largest absolute value of all vectors.
    """

    rows: int
    shift: Float64s
    total: Float64s
    products: Float64s
    largest: float


class Hiding(NamedTuple):
    """Halves of some targets.

    Attributes
    ----------
    visible:
        halves x targets: who is; everyone else is hidden.
    weights:
        Of the targets; of the visible ones of a half they are scaled to a mean of 1. Where these are 0, they count
        alike.
    """

    visible: npt.NDArray[np.bool_]
    weights: Float64s

    @property
    def means(self) -> Float64s:
        """Per half, the mean weight of the visible targets; 0 where they count alike."""
        return np.array([self.weights[own].mean() if self.weights[own].any() else 0.0 for own in self.visible])


class Arithmetic(Protocol):
    """What scores are computed with; on the processor or on a device, to the same figures but for rounding.

    Everything is summed in float64. On a device, an unweighted mean takes the largest cosines as float32 finds them,
    and measures these in float64: that puts it off by less than 1e-7.
    """

    def project(self, vectors: There, mean: Float64s, axes: Float64s) -> There:
        """Whitened coordinates in float32: vectors less a mean, projected on some axes."""
        ...

    def units(self, projected: There, components: int) -> There:
        """Directions: the first whitened coordinates as unit vectors in float32; at the mean they are zero."""
        ...

    def put(self, vectors: Floats) -> There:
        """Directions, or vectors, that were made or read elsewhere."""
        ...

    def products(self, queries: There, vector: Float64s) -> Float64s:
        """The product of each direction and one vector."""
        ...

    def mean_cosines(
        self, queries: There, images: There, k: int, weights: Float64s | None = None, own: Rows | None = None
    ) -> Float64s:
        """Per query, the mean of its cosines to the k nearest images; over all where there are fewer, 0 without any.

        Parameters
        ----------
        queries, images:
            Directions.
        k:
            How many at most.
        weights:
            Per image, what its cosine is multiplied by.
        own:
            Per query, its own row among the images, which is left out; -1 where it is not among them.
        """
        ...

    def half_means(
        self,
        queries: There,
        images: There,
        targets: There,
        hiding: Hiding,
        k: int,
        own: Rows | None = None,
        own_target: Rows | None = None,
    ) -> tuple[Float64s, Float64s]:
        """Per half and query, the mean cosine to the k nearest visible targets, and that to the k nearest others.

        The others are the images and the hidden targets. `selection.halves` says it in full.

        Parameters
        ----------
        queries, images, targets:
            Directions.
        hiding:
            Who is hidden, and how much each target counts.
        k:
            How many at most.
        own:
            Per query, its own row among the images, which is left out; None where none is among them.
        own_target:
            Per query, which target it is itself, which is left out; None where none is.
        """
        ...


class Held(Side, Protocol):
    """A pool on a device; a `Side` that can do more."""

    arithmetic: Arithmetic

    def blocks(self, excluded: npt.NDArray[np.bool_] | None) -> Iterator[tuple[Rows, There]]:
        """The rows that may be mined, and their vectors on the device."""
        ...

    def sums(self, excluded: npt.NDArray[np.bool_] | None) -> Sums:
        """Of the rows that may be mined."""
        ...

    def vectors(self, rows: Rows) -> Floats:
        """The vectors of some rows, in memory."""
        ...


@dataclass(frozen=True)
class HeldChunk(Chunk):
    """A chunk whose vectors lie on a device, too, and were checked there.

    Attributes
    ----------
    held:
        The same vectors there.
    """

    held: There = None


def hold(side: Side, devices: list[str]) -> Side:
    """The side, made to stay on the device from its first reading on; itself where that is not possible.

    Parameters
    ----------
    side:
        A pool.
    devices:
        As `choose_devices` returns them.
    """
    if held(side) is not None or len(devices) != 1 or not devices[0].startswith("cuda") or side.dtype != np.float32:
        return side
    import torch

    from lookalike.neighbors.cuda.held import HeldPool, has_room

    device = torch.device(devices[0])
    return HeldPool(side, device) if has_room(side, device) else side


def held(side: Side) -> Held | None:
    """The same side, where it is one that stays on a device."""
    return cast(Held, side) if hasattr(side, "arithmetic") else None
