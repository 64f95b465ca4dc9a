"""The space that images are scored in: the pool centred and whitened on its leading principal components.

In the space of an encoder a few directions carry most of the variance (lighting, the kind of part), and every distance
is mostly about them. Whitening gives each of the leading directions the same weight, and leaves out the rest.

Everything is computed from blocks of one size in one order, in float64, so that it does not depend on how the pool is
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from lookalike.errors import VectorError
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.held import Sums, There, held
from lookalike.neighbors.sides import Side, check_values

Singles = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Rows of a block. A constant: sums would depend on it.
BLOCK = 4096
#: A component with less of the variance than this share of the first one's is left out: divided by its deviation it
#: would be rounding, blown up.
_LEAST_VARIANCE = 1e-6
#: Variance that float32 values can have by their rounding alone, relative to their mean square.
_ROUNDING = 1e-13
#: Beyond this, squares of float32 values summed over a pool could lose their meaning.
_MOST = 1e15


class Block(NamedTuple):
    """Some consecutive rows of the pool that may be mined."""

    rows: Rows
    vectors: Floats


class BlockThere(NamedTuple):
    """The same with vectors that may lie on a device; see `neighbors.held`."""

    rows: Rows
    vectors: There


def blocks_there(pool: Side, excluded: Mask | None) -> Iterator[BlockThere]:
    """The pool in blocks, from where it lies: a device that holds it, or `blocks`."""
    there = held(pool)
    for rows, vectors in blocks(pool, excluded) if there is None else there.blocks(excluded):
        yield BlockThere(rows, vectors)


def blocks(pool: Side, excluded: Mask | None, size: int = BLOCK) -> Iterator[Block]:
    """Read the pool in blocks of exactly `size` rows, but for the last one; excluded rows are left out.

    Parameters
    ----------
    pool:
        Chunks of any sizes.
    excluded:
        One value a row of the pool, or None.
    size:
        Rows of a block.

    Raises
    ------
    VectorError
        When values are not finite, or too large.
    """
    held, count = [], 0
    for chunk in pool.chunks(size):
        check_values(chunk.vectors, pool.name, chunk.first)
        rows = np.arange(chunk.first, chunk.first + len(chunk.vectors))
        vectors = chunk.vectors
        if excluded is not None and excluded[rows].any():
            allowed = ~excluded[rows]
            rows, vectors = rows[allowed], vectors[allowed]
        while len(rows):
            take = min(size - count, len(rows))
            held.append(Block(rows[:take], vectors[:take]))
            count += take
            rows, vectors = rows[take:], vectors[take:]
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    return Block(np.concatenate([part.rows for part in parts]), np.concatenate([part.vectors for part in parts]))


class Moments:
    """Mean and covariance of vectors that pass by.

    Parameters
    ----------
    dimension:
        Of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self._shift: Float64s | None = None
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))

    def see(self, vectors: Floats) -> None:
        """Take the next vectors."""
        if not len(vectors):
            return
        _refuse_large(max(float(vectors.max()), -float(vectors.min())))
        plain = vectors.astype(np.float64)
        if self._shift is None:  # near the mean, so that nothing cancels
            self._shift = plain.mean(axis=0)
        plain -= self._shift
        self.count += len(plain)
        self._sum += plain.sum(axis=0)
        self._products += plain.T @ plain

    @classmethod
    def of(cls, sums: Sums) -> Moments:
        """Of vectors that were summed elsewhere."""
        _refuse_large(sums.largest)
        moments = cls(len(sums.shift))
        moments.count, moments._shift, moments._sum, moments._products = sums[:4]
        return moments

    @property
    def mean(self) -> Float64s:
        """Of all vectors so far."""
        assert self._shift is not None
        mean: Float64s = self._shift + self._sum / self.count
        return mean

    @property
    def covariance(self) -> Float64s:
        """Of all vectors so far, divided by their number."""
        off = self._sum / self.count
        covariance: Float64s = self._products / self.count - np.outer(off, off)
        return covariance


def _refuse_large(largest: float) -> None:
    if largest > _MOST:
        raise VectorError(f"the pool has values beyond {_MOST:g}", hint="scale the vectors down")


@dataclass(frozen=True)
class Whitening:
    """Where the pool's centre lies, and its leading components.

    Attributes
    ----------
    mean:
        Of the pool.
    axes:
        dimension x components, each column a principal component divided by its standard deviation; the one with the
        largest variance first.
    """

    mean: Float64s
    axes: Float64s

    @property
    def components(self) -> int:
        """How many there are; 0 where all vectors are equal."""
        return int(self.axes.shape[1])

    @classmethod
    def of(cls, moments: Moments, most: int) -> Whitening:
        """The leading components, those that are nothing but rounding left out.

        Parameters
        ----------
        moments:
            Of the pool.
        most:
            Components at most.
        """
        covariance, dimension = moments.covariance, len(moments.mean)
        # A pool of n rows spans n - 1 dimensions about its mean.
        count = min(most, dimension, moments.count - 1)
        if count < 1:
            return cls(moments.mean, np.empty((dimension, 0)))
        values, vectors = scipy.linalg.eigh(covariance, subset_by_index=[dimension - count, dimension - 1])
        values, vectors = values[::-1], vectors[:, ::-1]
        noise = _ROUNDING * float((np.trace(covariance) + (moments.mean**2).sum()) / dimension)
        good = values > max(_LEAST_VARIANCE * float(values[0]), noise)
        return cls(moments.mean, vectors[:, good] / np.sqrt(values[good]))

    def leading(self, components: int) -> Whitening:
        """The same with the first components only."""
        return Whitening(self.mean, self.axes[:, :components])

    def project(self, vectors: Floats) -> Singles:
        """Whitened coordinates on all components, not yet normalised (`directions` does that)."""
        projected: Singles = ((vectors.astype(np.float64) - self.mean) @ self.axes).astype(np.float32)
        return projected


def directions(projected: Singles, components: int) -> Singles:
    """The first whitened coordinates as unit vectors; a vector at the centre stays zero.

    Parameters
    ----------
    projected:
        Of `Whitening.project`.
    components:
        How many of them.
    """
    leading = projected[:, :components].astype(np.float64)
    lengths = np.sqrt((leading * leading).sum(axis=1, keepdims=True))
    units = np.divide(leading, lengths, out=np.zeros_like(leading), where=lengths > 0)
    return np.ascontiguousarray(units, np.float32)
