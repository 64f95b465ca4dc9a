"""Distances of pairs in float64 on the device, and the k best of each target."""

from __future__ import annotations

import numpy as np
import torch

from lookalike.neighbors.cuda.frame import exponents_of, power_of_two
from lookalike.neighbors.cuda.products import has_kernels

#: Values gathered at a time, a side (128 MB in float64); a few times that in between.
_GATHER = 1 << 24
#: Entries sorted at a time: distance, row and place of each.
_MERGED = 1 << 24


def pair_distances(
    metric: str,
    targets: torch.Tensor,
    sources: torch.Tensor,
    target_rows: torch.Tensor,
    source_rows: torch.Tensor,
) -> torch.Tensor:
    """Measure pairs in float64, a bounded number of values at a time.

    A pair's distance depends on nothing but its two vectors, to the last bit, so equal vectors have equal distances
    wherever they stand.
    """
    kinds = {targets.dtype, sources.dtype}
    if has_kernels(targets.device) and kinds == {torch.float32} and targets.is_contiguous():
        from lookalike.neighbors.cuda import kernels

        if targets.shape[1] <= kernels.MOST_DIMENSIONS:
            return kernels.pair_distances(metric, targets, sources.contiguous(), target_rows, source_rows)
    return plain_pair_distances(metric, targets, sources, target_rows, source_rows)


def plain_pair_distances(
    metric: str,
    targets: torch.Tensor,
    sources: torch.Tensor,
    target_rows: torch.Tensor,
    source_rows: torch.Tensor,
) -> torch.Tensor:
    """`pair_distances` in plain torch."""
    distances = torch.empty(len(target_rows), dtype=torch.float64, device=targets.device)
    step = max(1, _GATHER // targets.shape[1])
    for first in range(0, len(target_rows), step):
        part = slice(first, first + step)
        left = targets.index_select(0, target_rows[part]).double()
        right = sources.index_select(0, source_rows[part]).double()
        distances[part] = _measure(metric, left, right)
    return distances


def merge(
    distances: torch.Tensor,
    rows: torch.Tensor,
    targets: torch.Tensor,
    pairs: torch.Tensor,
    new_distances: torch.Tensor,
    new_rows: torch.Tensor,
) -> None:
    """Keep the k best of what is known and what is new, in place.

    Parameters
    ----------
    distances, rows:
        targets x k: what is known, by (distance, row).
    targets:
        Indices into them that `pairs` counts from.
    pairs:
        Index into `targets` of each new pair, ascending.
    new_distances, new_rows:
        Of each new pair; its row larger than all that are known, and ascending among those of one target.
    """
    k = distances.shape[1]
    counts = torch.bincount(pairs, minlength=len(targets))
    ends = counts.cumsum(0)
    starts = ends - counts
    touched = counts.nonzero()[:, 0]
    if not len(touched):
        return
    width = int(counts.max())
    for some in torch.split(touched, max(1, _MERGED // (k + width))):
        part = slice(int(starts[some[0]]), int(ends[some[-1]]))
        line = torch.searchsorted(some, pairs[part])
        place = k + torch.arange(part.start, part.stop, device=pairs.device) - starts[pairs[part]]
        at = targets[some]
        joined = distances.new_full((len(some), k + width), torch.inf)
        joined_rows = rows.new_full(joined.shape, -1)
        joined[:, :k], joined_rows[:, :k] = distances[at], rows[at]
        joined[line, place], joined_rows[line, place] = new_distances[part], new_rows[part]
        # Stable: among equal distances the known come first, and each part is in the order of its rows.
        best, order = torch.sort(joined, dim=1, stable=True)
        distances[at] = best[:, :k]
        rows[at] = joined_rows.gather(1, order[:, :k])


def _measure(metric: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Distances of rows to rows."""
    if metric == "euclidean":
        return _roots(_sums((left - right).square_()))
    if metric == "manhattan":
        return _sums((left - right).abs_())
    if metric == "inner_product":
        return 0.0 - _sums(left * right)
    # Powers of two cost no precision; they keep squares of very large or small values within float64.
    left, right = _near_one(left), _near_one(right)
    squares = _sums(left * left) * _sums(right * right)
    # sqrt(x * x) is exactly x, so equal vectors have distance exactly 0.
    cosines = torch.where(squares > 0, _sums(left * right) / _roots(squares), 0.0)
    return (1.0 - cosines).clamp_(0.0, 2.0)


def _near_one(vectors: torch.Tensor) -> torch.Tensor:
    """Each row times the power of two that brings its largest value near 1."""
    return vectors * power_of_two(-exponents_of(vectors.abs().amax(1, keepdim=True)))


def _roots(squares: torch.Tensor) -> torch.Tensor:
    """Square roots, right to the last bit; on a processor one in seventy of torch's own is not."""
    return squares.sqrt() if squares.is_cuda else torch.from_numpy(np.sqrt(squares.numpy()))


def _sums(terms: torch.Tensor) -> torch.Tensor:
    """Sums of rows by halves, in an order that the number of dimensions alone decides.

    `torch.sum` may choose its order by the number of rows, and the last bit of a pair's distance would depend on what
    else is measured with it.
    """
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        folded = terms[:, :half] + terms[:, half : 2 * half]
        if terms.shape[1] % 2:
            folded[:, 0] += terms[:, -1]
        terms = folded
    return terms[:, 0]
