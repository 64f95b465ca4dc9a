"""The metrics: a fast float32 score with a proven error bound, and the exact float64 distance.

A *score* orders sources for one target: larger is nearer. The search finds candidates by float32 scores and decides
among them by float64 distances. For that to be exact, each metric bounds how far its float32 score can be from the true
one, and how far the measured distance can; the bounds are the standard ones for a sum of d products in any order
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1): d * u / (1 - d * u) times the sum of
magnitudes, u being half the machine epsilon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.neighbors import kernels
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.product import Product
from lookalike.neighbors.threads import in_parts

multiply = Product()

#: Values gathered at a time for float64 distances (16 MB for both sides).
_GATHER = 1_000_000
#: Squared norms outside these are not trusted: sums or products could over- or underflow.
_SAFE_SQUARES: dict[type[np.floating], tuple[float, float]] = {np.float32: (1e-25, 1e30), np.float64: (1e-200, 1e200)}
#: Magnitudes up to here can be scored in float32 without overflow, squares and sums included.
_SAFE_MAGNITUDE = 1e15


@dataclass(frozen=True)
class Prepared:
    """One block of vectors, ready for scoring.

    Attributes
    ----------
    vectors:
        rows x dimension, in the type that scores are computed in.
    magnitude:
        Per row, what the error bound of a score is proportional to.
    scale:
        Per row of a block of sources, multiplied with its scores; None for 1.
    offset:
        Per row of a block of sources, added to its scores then, in the type of the scores; None for 0.
    """

    vectors: Floats
    magnitude: Float64s
    scale: Floats | None = None
    offset: Float64s | None = None


class Metric(ABC):
    """One metric; stateless.

    Attributes
    ----------
    measure:
        The kernel for exact distances of pairs of float32 vectors.
    by_blas:
        Whether scores are matrix products, which a BLAS library can spread over the cores.
    """

    measure: Callable[..., None]
    by_blas = True

    @abstractmethod
    def prepare(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """Make a block of sources ready for scoring; `wide` has them scored in float64."""

    def prepare_targets(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """The same for targets. Scores mean the same in either precision."""
        return self.prepare(vectors, wide=wide)

    def consider(self, targets: Floats, sources: Floats) -> None:
        """Look for the fastest way to compute products, before many of them."""
        multiply.consider(targets, sources)

    def product(self, targets: Floats, sources: Floats, scores: Floats) -> None:
        """What scores begin with, before scale and offset (targets x sources); larger is nearer. On this core."""
        multiply(targets, sources, scores)

    @abstractmethod
    def error(self, target: Float64s, source: Float64s, dimension: int, kind: npt.DTypeLike) -> Float64s:
        """A bound on the error of a score of this type, and on that of the measured distance, in terms of a score.

        With both, no source is dropped whose measured distance is as small as that of one that is kept. Rises with
        either magnitude (`Prepared.magnitude`); they may be any shapes that fit each other.
        """

    def margin(self, targets: Prepared, sources: Prepared) -> Float64s:
        """Per target, a bound on the error of its scores against these sources."""
        largest = sources.magnitude.max(initial=0.0)
        kind = np.result_type(targets.vectors, sources.vectors)
        return self.error(targets.magnitude, np.asarray(largest), targets.vectors.shape[1], kind)

    @abstractmethod
    def distances(self, targets: Float64s, sources: Float64s) -> Float64s:
        """Exact distances of pairs: row i of `targets` to row i of `sources`, in float64.

        A pair's distance does not depend on the other pairs, so equal vectors have equal distances.
        """


class Cosine(Metric):
    """1 - cos, from 0 to 2. A zero vector has distance 1 to everything. Scored as t.s / |s|."""

    measure = staticmethod(kernels.measure_cosine)

    def prepare(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """The vectors with 1 / norm as their scale; as unit vectors where their type could not square them."""
        kind: type[np.floating] = np.float64 if wide else np.float32
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            plain = vectors.astype(kind, copy=False)
            squares = np.einsum("ij,ij->i", plain, plain)
        least, most = _SAFE_SQUARES[kind]
        extreme = ~((squares > least) & (squares < most))
        if extreme.any():
            plain = plain.copy()
            plain[extreme] = _units(vectors[extreme].astype(np.float64))
            squares[extreme] = 1
        return Prepared(plain, np.ones(len(plain)), scale=kind(1) / np.sqrt(squares))

    def prepare_targets(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """Unit vectors."""
        units = _units(vectors.astype(np.float64))
        return Prepared(units if wide else units.astype(np.float32), np.ones(len(units)))

    def error(self, target: Float64s, source: Float64s, dimension: int, kind: npt.DTypeLike) -> Float64s:
        """Rounding of the sum (d u), of the norm (d u), of division and scaling; the same for what is measured."""
        return 2 * _errors(dimension + 8, kind) * (target * source)

    def distances(self, targets: Float64s, sources: Float64s) -> Float64s:
        """See `Metric.distances`; sqrt(x * x) is exactly x, so equal vectors have distance exactly 0."""
        # Powers of two cost no precision; they keep squares of very large or small values within float64.
        targets, sources = _near_one(targets), _near_one(sources)
        squares = (targets * targets).sum(axis=1) * (sources * sources).sum(axis=1)
        cosines = np.divide(
            (targets * sources).sum(axis=1), np.sqrt(squares), out=np.zeros(len(targets)), where=squares > 0
        )
        distances: Float64s = np.clip(1.0 - cosines, 0.0, 2.0)
        return distances


class Euclidean(Metric):
    """The L2 distance. Scored as t.s - |s|^2 / 2, which orders sources as the distance does."""

    measure = staticmethod(kernels.measure_euclidean)

    def prepare(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """The vectors as they are, their norms, and -|s|^2 / 2."""
        vectors = vectors.astype(np.float64, copy=False) if wide else _in_safe_type(vectors)
        squares = _squares(vectors)
        return Prepared(vectors, np.sqrt(squares), offset=-0.5 * squares)

    def error(self, target: Float64s, source: Float64s, dimension: int, kind: npt.DTypeLike) -> Float64s:
        """Rounding of the product, of the offset and of their sum; and underflow. And of half the measured square."""
        bound: Float64s = _sum_error(dimension + 6, kind) * (target + source) * source + _underflow(dimension, kind)
        return bound + _sum_error(dimension + 6, np.float64) * (target + source) ** 2

    def distances(self, targets: Float64s, sources: Float64s) -> Float64s:
        """See `Metric.distances`; by difference, so nothing cancels and equal vectors have distance 0."""
        difference = targets - sources
        distances: Float64s = np.sqrt((difference * difference).sum(axis=1))
        return distances


class InnerProduct(Metric):
    """Minus the inner product, so that the largest product is nearest. Scored as t.s."""

    measure = staticmethod(kernels.measure_inner_product)

    def prepare(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """The vectors as they are, and their norms."""
        vectors = vectors.astype(np.float64, copy=False) if wide else _in_safe_type(vectors)
        return Prepared(vectors, np.sqrt(_squares(vectors)))

    def error(self, target: Float64s, source: Float64s, dimension: int, kind: npt.DTypeLike) -> Float64s:
        """Rounding of the product; and underflow. The same for what is measured."""
        bound: Float64s = _errors(dimension + 4, kind) * (target * source) + _underflow(dimension, kind)
        return bound

    def distances(self, targets: Float64s, sources: Float64s) -> Float64s:
        """See `Metric.distances`."""
        distances: Float64s = -(targets * sources).sum(axis=1)
        return distances


class Manhattan(Metric):
    """The L1 distance; the score is its negative."""

    measure = staticmethod(kernels.measure_manhattan)
    by_blas = False

    def prepare(self, vectors: Floats, *, wide: bool = False) -> Prepared:
        """The vectors as they are, and their L1 norms."""
        vectors = vectors.astype(np.float64, copy=False) if wide else _in_safe_type(vectors)
        return Prepared(vectors, np.abs(vectors).sum(axis=1, dtype=np.float64))

    def consider(self, targets: Floats, sources: Floats) -> None:
        """There are no matrix products here."""

    def product(self, targets: Floats, sources: Floats, scores: Floats) -> None:
        """Negative L1 distances."""
        targets, sources = (np.ascontiguousarray(side, scores.dtype) for side in (targets, sources))
        kernels.manhattan(targets, sources, scores)

    def error(self, target: Float64s, source: Float64s, dimension: int, kind: npt.DTypeLike) -> Float64s:
        """Rounding of the differences and of their sum. The same for what is measured."""
        bound: Float64s = _errors(dimension + 4, kind) * (target + source) + _underflow(dimension, kind)
        return bound

    def distances(self, targets: Float64s, sources: Float64s) -> Float64s:
        """See `Metric.distances`."""
        distances: Float64s = np.abs(targets - sources).sum(axis=1)
        return distances


METRICS: dict[str, Metric] = {
    "cosine": Cosine(),
    "euclidean": Euclidean(),
    "manhattan": Manhattan(),
    "inner_product": InnerProduct(),
}


def pair_distances(metric: Metric, targets: Floats, sources: Floats, target_rows: Rows, source_rows: Rows) -> Float64s:
    """Exact distances of pairs of rows, in float64."""
    distances = np.empty(len(target_rows))
    if targets.dtype == sources.dtype == np.float32:
        in_parts(
            lambda part: metric.measure(targets, sources, target_rows[part], source_rows[part], distances[part]),
            len(distances),
        )
        return distances
    # Squares of float64 values can leave float64: NumPy's way scales them.
    step = max(1, _GATHER // targets.shape[1])
    for first in range(0, len(distances), step):
        part = slice(first, first + step)
        left = targets[target_rows[part]].astype(np.float64)
        right = sources[source_rows[part]].astype(np.float64)
        distances[part] = metric.distances(left, right)
    return distances


def _squares(vectors: Floats) -> Float64s:
    """Squared norms, summed in float64: an offset must be right to one rounding."""
    squares: Float64s = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return squares


def _sum_error(terms: int, kind: npt.DTypeLike) -> float:
    """Relative error bound of a sum of `terms` rounded terms, in any order."""
    unit = float(np.finfo(kind).eps) / 2
    return terms * unit / (1 - terms * unit)


def _errors(terms: int, kind: npt.DTypeLike) -> float:
    """The same of a score in one type and of a distance that is measured in float64."""
    return _sum_error(terms, kind) + _sum_error(terms, np.float64)


def _underflow(dimension: int, kind: npt.DTypeLike) -> float:
    """What a sum of products can lose below the smallest number of a type."""
    return (dimension + 6) * float(np.finfo(kind).tiny)


def _in_safe_type(vectors: Floats) -> Floats:
    """The vectors in float32, or in float64 where float32 could overflow or would lose digits."""
    if vectors.dtype == np.float64:
        return vectors
    magnitude = max(float(vectors.max(initial=0.0)), -float(vectors.min(initial=0.0)))
    return vectors if magnitude < _SAFE_MAGNITUDE else vectors.astype(np.float64)


def _units(vectors: Float64s) -> Float64s:
    """Unit vectors in float64; a zero vector stays one."""
    # Scaled by the largest value first, so that squares stay within float64.
    vectors = vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    units: Float64s = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return units


def _near_one(vectors: Float64s) -> Float64s:
    """Each row times the power of two that brings its largest value near 1."""
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, initial=0.0, keepdims=True))
    scaled: Float64s = np.ldexp(vectors, -exponents)
    return scaled
