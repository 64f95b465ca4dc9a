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
    metric: str, targets: torch.Tensor, sources: torch.Tensor, target_rows: torch.Tensor, source_rows: torch.Tensor
) -> torch.Tensor:
    """Distances of some targets to some sources each, in float64.

    A distance depends on nothing but its two vectors, to the last bit, so equal vectors have equal distances wherever
    they stand.

    Parameters
    ----------
    metric:
        Its name.
    targets, sources:
        rows x dimension, contiguous, as all here.
    target_rows, source_rows:
        int64: one a target, and targets x width; -1 for none.

    Returns
    -------
    torch.Tensor
        targets x width; infinite where there is none.
    """
    single = targets.dtype == sources.dtype == torch.float32
    if has_kernels(targets.device) and single:
        from lookalike.neighbors.cuda import row_kernels

        if targets.shape[1] <= row_kernels.MOST_DIMENSIONS:
            return row_kernels.pair_distances(metric, targets, sources, target_rows, source_rows)
    return plain_pair_distances(metric, targets, sources, target_rows, source_rows)


def plain_pair_distances(
    metric: str, targets: torch.Tensor, sources: torch.Tensor, target_rows: torch.Tensor, source_rows: torch.Tensor
) -> torch.Tensor:
    """`pair_distances` in plain torch, a bounded number of values at a time."""
    distances = torch.full(source_rows.shape, torch.inf, dtype=torch.float64, device=targets.device)
    lines, slots = (source_rows >= 0).nonzero(as_tuple=True)
    step = max(1, _GATHER // targets.shape[1])
    for first in range(0, len(lines), step):
        line, slot = lines[first : first + step], slots[first : first + step]
        left = targets.index_select(0, target_rows[line]).double()
        right = sources.index_select(0, source_rows[line, slot]).double()
        distances[line, slot] = _measure(metric, left, right)
    return distances


def merge(
    distances: torch.Tensor,
    rows: torch.Tensor,
    targets: torch.Tensor,
    new_distances: torch.Tensor,
    new_rows: torch.Tensor,
) -> None:
    """Keep the k best of what is known and what is new, in place.

    Parameters
    ----------
    distances, rows:
        targets x k: what is known, by (distance, row).
    targets:
        Which of them have something new.
    new_distances, new_rows:
        Of them x width; rows larger than all that are known, and ascending; infinite and -1 for none.
    """
    k = distances.shape[1]
    size = max(1, _MERGED // (k + new_rows.shape[1]))
    for first in range(0, len(targets), size):
        part = slice(first, first + size)
        at = targets[part]
        # Stable: among equal distances the known come first, and the new are in the order of their rows.
        best, order = torch.sort(torch.cat([distances[at], new_distances[part]], 1), dim=1, stable=True)
        distances[at] = best[:, :k]
        rows[at] = torch.cat([rows[at], new_rows[part]], 1).gather(1, order[:, :k])


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
