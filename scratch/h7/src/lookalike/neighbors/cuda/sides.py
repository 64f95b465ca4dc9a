"""Targets and sources on the device: moved, scaled, rounded, and how far rounding can put a score off.

A *score* orders sources for one target; larger is nearer. For the product metrics it is t'.s' + o(s):

============= ============================= ===========
metric        t' and s'                     o(s)
============= ============================= ===========
cosine        unit vectors less a centre c  c.s'
inner_product vectors less c                c.s'
euclidean     vectors less c                -|s'|^2 / 2
============= ============================= ===========

which differs from the cosine, from the dot product and from (|t'|^2 - distance^2) / 2 by a constant of the target. The
centre changes no order; it makes the vectors short where all lie to one side, and every bound is proportional to
their lengths. For ``manhattan`` the score is minus the distance.

Vectors are multiplied by powers of two, which costs no digits: a target by its own, so that its length is at most 1,
the sources of a block by one that makes all of them at most that long. So nothing overflows, and what underflows is
below every bound. `scores.Scoring` says how scores of such vectors are put together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from lookalike.neighbors.cuda import products
from lookalike.neighbors.cuda.frame import Frame, exponents_of, power_of_two
from lookalike.neighbors.cuda.products import STEP, round_rows

#: Exponents of scales stay within this, and so do sums and differences of a few of them within float64's range.
_LARGEST_EXPONENT = 200


@dataclass(frozen=True)
class Rounded:
    """Scaled vectors in one type, padded with zeros, and per row a bound on the length of what rounding took away."""

    vectors: torch.Tensor
    rests: torch.Tensor

    def at(self, index: torch.Tensor | slice) -> Rounded:
        """Some rows."""
        return Rounded(self.vectors[index], self.rests[index])


@dataclass(frozen=True)
class Side:
    """Some targets, or a block of sources.

    Attributes
    ----------
    raw:
        The vectors as they came.
    exponents:
        int64: vectors are scaled by 2^-exponent. One a row, or one for all (length 1).
    lengths:
        float64, of the scaled vectors, rounded up.
    offsets:
        float64, o(s) of the scaled vectors; for targets t.c (unscaled), which the scores leave out.
    coarse:
        What the first pass takes: bfloat16, float32 for Manhattan.
    """

    frame: Frame
    raw: torch.Tensor
    exponents: torch.Tensor
    lengths: torch.Tensor
    offsets: torch.Tensor
    coarse: Rounded

    def at(self, index: torch.Tensor | slice) -> Side:
        """Some rows."""
        exponents = self.exponents if len(self.exponents) == 1 else self.exponents[index]
        return Side(
            self.frame, self.raw[index], exponents, self.lengths[index], self.offsets[index], self.coarse.at(index)
        )

    @cached_property
    def fine(self) -> Rounded:
        """In float32; made when it is first asked for, which few searches do."""
        if self.frame.manhattan:
            return self.coarse
        return _round(self.frame, self.raw, self.exponents, None, torch.float32)[0]


def make_targets(frame: Frame, vectors: torch.Tensor) -> Side:
    """Targets ready for scoring, each with its own scale (for Manhattan one for all)."""
    if frame.manhattan:
        return _side(frame, vectors, _common_exponent(frame, vectors), targets=True)
    parts = [exponents_of(frame.lengths(frame.wide(vectors[part]))) for part in _slices(vectors)]
    exponents = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=vectors.device)
    return _side(frame, vectors, exponents.clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT), targets=True)


def make_sources(frame: Frame, vectors: torch.Tensor) -> Side:
    """A block of sources ready for scoring."""
    return _side(frame, vectors, _common_exponent(frame, vectors), targets=False)


def wide_vectors(frame: Frame, side: Side, part: slice) -> torch.Tensor:
    """Some rows, scaled, in float64."""
    exponents = side.exponents if len(side.exponents) == 1 else side.exponents[part]
    return frame.wide(side.raw[part]) * power_of_two(-exponents)[:, None]


def _common_exponent(frame: Frame, vectors: torch.Tensor) -> torch.Tensor:
    """An exponent that makes every vector at most 1 long (for Manhattan: every value), from the largest value."""
    if frame.metric == "cosine":
        bound = 1.0 + frame.size
    else:
        low, high = torch.aminmax(vectors) if vectors.numel() else (vectors.new_zeros(()), vectors.new_zeros(()))
        largest = max(-float(low), float(high))
        bound = largest if frame.manhattan else math.sqrt(frame.dimension) * largest + frame.size
    exponent = math.frexp(bound * (1 + frame.sum_error))[1]
    exponent = min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    return torch.tensor([exponent], device=vectors.device)


def _slices(vectors: torch.Tensor) -> Iterator[slice]:
    """Slices of a bounded number of values."""
    step = max(1, products.PREPARED // max(vectors.shape[1], STEP))
    return (slice(first, first + step) for first in range(0, len(vectors), step))


def _side(frame: Frame, vectors: torch.Tensor, exponents: torch.Tensor, *, targets: bool) -> Side:
    """Scale and round vectors."""
    weights = None if frame.metric == "euclidean" else frame.centre
    if weights is not None and not targets:
        weights = weights * power_of_two(torch.tensor(-math.frexp(frame.size)[1], device=weights.device))
    kind = torch.float32 if frame.manhattan else torch.bfloat16
    coarse, lengths, sums = _round(frame, vectors, exponents, weights, kind)
    return Side(frame, vectors, exponents, lengths, _offsets(frame, sums, exponents, targets=targets), coarse)


def _round(
    frame: Frame, vectors: torch.Tensor, exponents: torch.Tensor, weights: torch.Tensor | None, kind: torch.dtype
) -> tuple[Rounded, torch.Tensor, torch.Tensor]:
    """Vectors scaled by 2^-exponent in one type; their lengths, rounded up; and the sums of `round_rows`."""
    rounded = vectors.new_empty((len(vectors), -(-frame.dimension // STEP) * STEP), dtype=kind)
    lengths, sums, rests = round_rows(frame, vectors, power_of_two(-exponents), weights, rounded)
    lengths = lengths * (1 + frame.sum_error)
    return Rounded(rounded, rests * (1 + frame.sum_error) + frame.wide_error(exponents, lengths)), lengths, sums


def _offsets(frame: Frame, sums: torch.Tensor, exponents: torch.Tensor, *, targets: bool) -> torch.Tensor:
    """o(s) of scaled sources, of the order of 1 or less; t.c of targets, in true units."""
    if frame.metric == "euclidean":
        return torch.zeros_like(sums) if targets else -0.5 * sums
    if frame.centre is None:
        return torch.zeros_like(sums)
    return sums * power_of_two(exponents) + frame.centre.square().sum() if targets else sums
