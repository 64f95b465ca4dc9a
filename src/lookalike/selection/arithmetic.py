"""What scores are computed with on the processor; `neighbors.held.Arithmetic` says what each part means."""

from __future__ import annotations

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.held import Arithmetic, Hiding, held
from lookalike.neighbors.sides import Side
from lookalike.selection.halves import half_means
from lookalike.selection.scoring import likeness, mean_of, near, without_self
from lookalike.selection.space import BLOCK, Singles, Whitening, directions


class HostArithmetic:
    """`Arithmetic` by NumPy and the exact search.

    Parameters
    ----------
    devices:
        Where neighbours are searched, as `neighbors.devices.choose_devices` returns them.
    """

    def __init__(self, devices: list[str]) -> None:
        self._devices = devices

    def project(self, vectors: Floats, mean: Float64s, axes: Float64s) -> Singles:
        """See `Arithmetic.project`."""
        return project(Whitening(mean, axes), vectors)

    def units(self, projected: Singles, components: int) -> Singles:
        """See `Arithmetic.units`."""
        return directions(projected, components)

    def put(self, vectors: Floats) -> Floats:
        """See `Arithmetic.put`."""
        return vectors

    def products(self, queries: Singles, vector: Float64s) -> Float64s:
        """See `Arithmetic.products`."""
        products: Float64s = queries.astype(np.float64) @ vector
        return products

    def mean_cosines(
        self, queries: Singles, images: Singles, k: int, weights: Float64s | None = None, own: Rows | None = None
    ) -> Float64s:
        """See `Arithmetic.mean_cosines`."""
        if own is not None:
            return mean_of(without_self(near(queries, images, k + 1, self._devices), own, k))
        found = near(queries, images, k, self._devices)
        return mean_of(found.cosines) if weights is None else likeness(found, weights)

    def half_means(
        self,
        queries: Singles,
        images: Singles,
        targets: Singles,
        hiding: Hiding,
        k: int,
        own: Rows | None = None,
        own_target: Rows | None = None,
    ) -> tuple[Float64s, Float64s]:
        """See `Arithmetic.half_means`."""
        if own is None:
            nearest = near(queries, images, k, self._devices).cosines
        else:
            nearest = without_self(near(queries, images, k + 1, self._devices), own, k)
        return half_means(nearest, queries.astype(np.float64) @ targets.T.astype(np.float64), hiding, k, own_target)


def arithmetic_of(pool: Side, devices: list[str]) -> Arithmetic:
    """What computes with the blocks that `passes.blocks_of` gives of a pool."""
    there = held(pool)
    return HostArithmetic(devices) if there is None else there.arithmetic


def project(whitening: Whitening, vectors: Floats) -> Singles:
    """`Whitening.project` block by block, so that little is held in float64."""
    projected = np.empty((len(vectors), whitening.components), np.float32)
    for first in range(0, len(vectors), BLOCK):
        projected[first : first + BLOCK] = whitening.project(vectors[first : first + BLOCK])
    return projected
