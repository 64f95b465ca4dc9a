"""From vectors to two dimensions: principal components, or UMAP where it is installed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackError, eigsh

from lookalike.tables.vectors import Matrix

log = logging.getLogger(__name__)

Points = npt.NDArray[np.float64]
_SEED = 0
#: Squares that are left of equal vectors when their mean is taken off, relative to those before.
_EQUAL = 1e-24
#: Smaller matrices are taken apart as a whole.
_LEAST_LANCZOS = 64
#: UMAP needs some points to learn from, and takes too long with very many.
_LEAST_UMAP, MOST_UMAP = 50, 50_000


@dataclass(frozen=True)
class Principal:
    """The two leading principal components of some vectors.

    Attributes
    ----------
    mean, axes:
        Of the vectors as they are compared; axes are dimension x 2.
    shares:
        The share of the variance that each axis explains; 0 where there is none.
    unit:
        Whether vectors are made of length 1 first.
    """

    mean: Points
    axes: Points
    shares: tuple[float, float]
    unit: bool

    @classmethod
    def of(cls, vectors: Matrix, metric: str) -> Principal:
        """Find them. With the cosine metric, vectors are made of length 1 first: only their direction counts."""
        unit = metric == "cosine"
        points = _compared(vectors, unit)
        mean, size = points.mean(axis=0), float((points**2).sum())
        points = points - mean
        rows, dimension = points.shape
        total = float((points**2).sum())
        axes = np.zeros((dimension, 2))
        shares = [0.0, 0.0]
        if total > _EQUAL * size:
            # The smaller of the two products has the same leading values.
            product = points.T @ points if dimension <= rows else points @ points.T
            values, found = _leading(product)
            for place, value in enumerate(values[::-1]):
                share = float(value) / total
                if share < 1e-12:  # rounding, not a direction
                    continue
                axis = found[:, -1 - place] if dimension <= rows else points.T @ found[:, -1 - place]
                axis = axis / np.linalg.norm(axis)
                axes[:, place] = axis * (1 if axis[np.argmax(np.abs(axis))] > 0 else -1)
                shares[place] = share
        return cls(mean, axes, (shares[0], shares[1]), unit)

    def project(self, vectors: Matrix) -> Points:
        """Vectors in these axes: rows x 2."""
        projected: Points = (_compared(vectors, self.unit) - self.mean) @ self.axes
        return projected


def _leading(product: Points) -> tuple[Points, Points]:
    """The two largest eigenvalues of a symmetric matrix, ascending, and their vectors; one where it has one only."""
    size = len(product)
    if size >= _LEAST_LANCZOS:
        # Without the other values: a tenth of the time. The start is always the same, so the map is, too.
        start = np.random.default_rng(_SEED).standard_normal(size)
        with contextlib.suppress(ArpackError):
            values, vectors = eigsh(product, k=2, which="LA", v0=start)
            order = np.argsort(values)
            return values[order], vectors[:, order]
    values, vectors = eigh(product, subset_by_index=[max(0, size - 2), size - 1])
    return values, vectors


def _compared(vectors: Matrix, unit: bool) -> Points:
    """Vectors as the metric compares them."""
    points: Points = vectors.astype(np.float64)
    if unit:
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.where(lengths > 0, lengths, 1)
    return points


def project(vectors: Matrix, metric: str) -> tuple[Points, str, Principal]:
    """Two coordinates of every vector, by UMAP where it is installed and can be used, by principal components else.

    Returns
    -------
    points
        rows x 2.
    str
        How: ``UMAP`` or ``PCA``.
    Principal
        The principal components.
    """
    principal = Principal.of(vectors, metric)
    if has_umap() and _LEAST_UMAP <= len(vectors) <= MOST_UMAP and all(principal.shares):
        return _umap(vectors, metric), "UMAP", principal
    return principal.project(vectors), "PCA", principal


def has_umap() -> bool:
    """Whether umap-learn is installed (another package has the same import name)."""
    try:
        from umap import UMAP  # noqa: F401
    except ImportError:
        return False
    return True


def _umap(vectors: Matrix, metric: str) -> Points:
    """UMAP with a fixed seed, which makes it use one thread."""
    from umap import UMAP

    log.info(
        "UMAP lays out %d images; without the package umap-learn, principal components take a moment", len(vectors)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed costs threads is known
        points: Points = UMAP(metric=metric, random_state=_SEED, n_jobs=1).fit_transform(vectors).astype(np.float64)
    return points
