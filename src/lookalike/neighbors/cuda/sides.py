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

import torch

from lookalike.neighbors.cuda.frame import Frame, exponents_of, power_of_two
from lookalike.neighbors.cuda.products import STEP, round_rows

#: Exponents of scales stay within this, and so do sums and differences of a few of them within float64's range.
_LARGEST_EXPONENT = 200
#: Values made ready at a time, in float64 (128 MB).
_PREPARED = 1 << 24


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
    fine:
        In float32.
    """

    raw: torch.Tensor
    exponents: torch.Tensor
    lengths: torch.Tensor
    offsets: torch.Tensor
    coarse: Rounded
    fine: Rounded

    def at(self, index: torch.Tensor | slice) -> Side:
        """Some rows."""
        exponents = self.exponents if len(self.exponents) == 1 else self.exponents[index]
        fine = self.fine.at(index)
        coarse = fine if self.coarse is self.fine else self.coarse.at(index)
        return Side(self.raw[index], exponents, self.lengths[index], self.offsets[index], coarse, fine)


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
    step = max(1, _PREPARED // max(vectors.shape[1], STEP))
    return (slice(first, first + step) for first in range(0, len(vectors), step))


def _side(frame: Frame, vectors: torch.Tensor, exponents: torch.Tensor, *, targets: bool) -> Side:
    """Scale and round vectors."""
    shape = (len(vectors), -(-frame.dimension // STEP) * STEP)
    kinds = [torch.float32] if frame.manhattan else [torch.float32, torch.bfloat16]
    weights = frame.centre
    if weights is not None and frame.metric == "euclidean":
        weights = None
    elif weights is not None and not targets:
        weights = weights * power_of_two(torch.tensor(-math.frexp(frame.size)[1], device=weights.device))
    rounded = [vectors.new_empty(shape, dtype=kind) for kind in kinds]
    lengths, sums, rests = round_rows(frame, vectors, power_of_two(-exponents), weights, rounded)
    lengths = lengths * (1 + frame.sum_error)
    error = frame.wide_error(exponents, lengths)
    sides = [Rounded(some, rest * (1 + frame.sum_error) + error) for some, rest in zip(rounded, rests, strict=True)]
    offsets = _offsets(frame, sums, exponents, targets=targets)
    return Side(vectors, exponents, lengths, offsets, sides[-1], sides[0])


def _offsets(frame: Frame, sums: torch.Tensor, exponents: torch.Tensor, *, targets: bool) -> torch.Tensor:
    """o(s) of scaled sources, of the order of 1 or less; t.c of targets, in true units."""
    if frame.metric == "euclidean":
        return torch.zeros_like(sums) if targets else -0.5 * sums
    if frame.centre is None:
        return torch.zeros_like(sums)
    return sums * power_of_two(exponents) + frame.centre.square().sum() if targets else sums
