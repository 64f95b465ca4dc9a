"""Scores of some targets against a block of sources, at three precisions, each with a proven bound on its error.

With t~ and s~ the rounded vectors, |t.s - t~.s~| <= |t - t~| |s| + |t~| |s - s~| (Cauchy-Schwarz), and a sum of d
products of theirs is off by at most g |t~| |s~|. The lengths of what rounding took away are measured, not assumed. g is
the standard bound of a sum in any order (Higham, section 3.1), with room to spare: for the tensor cores, which add with
the float32 accumulator but may cut digits off instead of rounding, and may do so for each product, four units a term.

The bounds hold for the difference between a score and what *measured float64 distances* imply, whose own rounding they
include: so a source is dropped only if its measured distance is larger, not merely its true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from lookalike.neighbors.cuda.frame import EPSILON, Frame, power_of_two
from lookalike.neighbors.cuda.products import GROUP, STEP, manhattan_maxima, member_scores, product_maxima, products
from lookalike.neighbors.cuda.sides import Side, wide_vectors

Precision = Literal["coarse", "fine", "wide"]

#: float32's machine epsilon.
_SINGLE = 2.0**-23
#: Added to every bound, a term: far above what underflows in float32 (a product, a sum, an offset), or in float64.
_UNDERFLOW = {"coarse": 2.0**-120, "fine": 2.0**-120, "wide": 2.0**-500}
#: Sources made ready in float64 at a time (values).
_WIDE = 1 << 24


@dataclass(frozen=True)
class Bound:
    """How far scores can be from what the measured distances imply: absolute + relative * |score|."""

    absolute: torch.Tensor
    relative: float

    def lower(self, scores: torch.Tensor) -> torch.Tensor:
        """What is certain of scores (one a target), in float64."""
        return self._less(scores.double())

    def threshold(self, floor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """What a score must reach so that it can be the floor or more, rounded down."""
        threshold = self._less(floor).to(kind)
        # A threshold must never rise by its own rounding.
        return torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))

    def _less(self, values: torch.Tensor) -> torch.Tensor:
        """The values less the bound; infinities stay."""
        less = values - self.absolute
        if self.relative:
            less -= self.relative * values.abs()
        return torch.where(values.isinf(), values, less)


@dataclass(frozen=True)
class Scoring:
    """Some targets and a block of sources.

    Scores are in units of their own: a power of two for each target (`unit`), so that they are of the order of 1.
    """

    frame: Frame
    targets: Side
    sources: Side

    def at(self, index: torch.Tensor) -> Scoring:
        """For some of the targets."""
        return Scoring(self.frame, self.targets.at(index), self.sources)

    @property
    def groups(self) -> int:
        """Groups of sources."""
        return -(-len(self.sources.raw) // GROUP)

    @cached_property
    def _shift(self) -> torch.Tensor:
        """The scale of the sources' offsets / the scale of each target; for Manhattan, sources / targets."""
        offset = self.frame.offset_exponent
        scale = self.sources.exponents if offset is None or self.frame.manhattan else offset
        return scale - self.targets.exponents

    @property
    def _has_offsets(self) -> bool:
        return self.frame.centre is not None or self.frame.metric == "euclidean"

    @cached_property
    def factors(self) -> torch.Tensor:
        """Per target: products (for Manhattan: targets) times this are in units; at most 1."""
        if not (self._has_offsets or self.frame.manhattan):
            return torch.ones_like(self.targets.lengths)
        return power_of_two(-self._shift.clamp(min=0)).expand(len(self.targets.raw))

    @cached_property
    def weights(self) -> torch.Tensor:
        """Per target: offsets (for Manhattan: sources) times this are in units; at most 1."""
        if not (self._has_offsets or self.frame.manhattan):
            return torch.zeros_like(self.targets.lengths)
        return power_of_two(self._shift.clamp(max=0)).expand(len(self.targets.raw))

    @cached_property
    def unit(self) -> torch.Tensor:
        """Per target: a true score times this is in units."""
        if self.frame.manhattan:
            return power_of_two(-torch.maximum(self.targets.exponents, self.sources.exponents)).expand(
                len(self.targets.raw)
            )
        exponents = self.targets.exponents + self.sources.exponents
        return power_of_two(-(exponents + self._shift.clamp(min=0) if self._has_offsets else exponents))

    @cached_property
    def _matched(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For Manhattan: both sides in float32 at one scale."""
        return (
            self.targets.fine.vectors * self.factors[:1].float(),
            self.sources.fine.vectors * self.weights[:1].float(),
        )

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Factors, weights and offsets in float32."""
        return self.factors.float(), self.weights.float(), self.sources.offsets.float()

    def maxima(self) -> torch.Tensor:
        """First pass: the largest score of every group."""
        if self.frame.manhattan:
            return manhattan_maxima(*self._matched, GROUP)
        return product_maxima(self.targets.coarse.vectors, self.sources.coarse.vectors, *self._affine)

    def members(self, groups: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Scores of the members of some groups: targets x width x group; minus infinity where there is none."""
        if self.frame.manhattan:
            return member_scores(*self._matched, groups, counts, *self._affine, manhattan=True)
        vectors = self.targets.coarse.vectors, self.sources.coarse.vectors
        return member_scores(*vectors, groups, counts, *self._affine, manhattan=False)

    def fine(self) -> torch.Tensor:
        """All scores in float32."""
        if self.frame.manhattan:
            return manhattan_maxima(*self._matched, 1)
        return products(self.targets.fine.vectors, self.sources.fine.vectors, *self._affine)

    def wide(self) -> torch.Tensor:
        """All scores in float64."""
        count = len(self.sources.raw)
        left = wide_vectors(self.frame, self.targets, slice(None))
        scores = left.new_empty((len(left), count))
        step = max(1, _WIDE // self.frame.dimension)
        for part in (slice(first, first + step) for first in range(0, count, step)):
            right = wide_vectors(self.frame, self.sources, part)
            if self.frame.manhattan:
                scores[:, part] = manhattan_maxima(left * self.factors[:1], right * self.weights[:1], 1)
            else:
                scores[:, part] = products(left, right, self.factors, self.weights, self.sources.offsets[part])
        return scores

    def floor(self, distances: torch.Tensor) -> torch.Tensor:
        """What a source's score must be at least, in units, for its measured distance to be at most the given one.

        Minus infinity for an infinite distance. Plus infinity where the distance cannot be less: sources that come
        later lose to those of equal distance that came before.
        """
        frame, targets = self.frame, self.targets
        if frame.manhattan:
            levels = -distances * (1 + 4 * EPSILON)
        elif frame.metric == "euclidean":
            squares = (targets.lengths * power_of_two(targets.exponents)).square()
            levels = (squares - distances.square()) / 2 - frame.sum_error * 2 * (squares + distances.square())
        else:
            values = (1.0 if frame.metric == "cosine" else 0.0) - distances
            lengths = targets.lengths * power_of_two(targets.exponents) + frame.size
            error = frame.sum_error * 2 * (lengths * frame.size + values.abs()) + 4 * EPSILON * distances
            levels = values - targets.offsets - error
        levels = torch.where(distances.isinf(), -torch.inf, levels * self.unit)
        if frame.metric == "inner_product":
            return levels
        return torch.where(distances == 0, torch.inf, levels)

    def bound(self, precision: Precision) -> Bound:
        """Bound on the error of scores of a precision, of everything that is rounded on the way."""
        dimension = self.frame.dimension
        # Twice the standard bound of a sum of n terms. Members have STEP sums of every STEP-th term, then their sum:
        # one bound for the first pass and for them saves work of the host that the device would wait for.
        members = -(-dimension // STEP) + STEP + 8
        sums = {
            "coarse": max(4 * dimension + 32, members) * _SINGLE,
            "fine": (dimension + 16) * _SINGLE,
            "wide": (dimension + 16) * EPSILON,
        }[precision]
        if self.frame.manhattan:
            if precision == "coarse":
                sums = max(dimension + 16, members) * _SINGLE
            left, right = self._rests(precision)
            absolute = 1.01 * (self.factors * left + self.weights * right) + (dimension + 16) * _UNDERFLOW[precision]
            return Bound(absolute, 2 * sums + 2 * self.frame.sum_error)
        return Bound(self._product_bound(precision, sums), 0.0)

    def _rests(self, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
        """What rounding took away, at most: of each target, of any source."""
        if precision == "wide":
            left, right = (self.frame.wide_error(side.exponents, side.lengths) for side in (self.targets, self.sources))
            return left, right.amax()
        if precision == "coarse":
            return self.targets.coarse.rests, self.sources.coarse.rests.amax()
        return self.targets.fine.rests, self.sources.fine.rests.amax()

    def _product_bound(self, precision: Precision, sums: float) -> torch.Tensor:
        """See the module. Lengths and rests are rounded up already; products of them cost less than `sums` has room."""
        frame, sources = self.frame, self.sources
        left_rest, right_rest = self._rests(precision)
        left, right = self.targets.lengths, sources.lengths.amax()
        sizes = (left + left_rest) * (right + right_rest)
        # Multiplied by the factor, added to the offset, which has been rounded, too.
        last = 8 * (EPSILON if precision == "wide" else _SINGLE)
        product = left_rest * right + (left + left_rest) * right_rest + (sums + last) * sizes
        source_error = frame.wide_error(sources.exponents, sources.lengths).amax()
        offset = last * sources.offsets.abs().amax() + frame.sum_error * right * right.clamp(min=1.0) + source_error
        absolute = self.factors * product + self.weights * offset + (frame.dimension + 16) * _UNDERFLOW[precision]
        return (absolute + self._measuring_error() * self.unit) * (1 + 64 * EPSILON)

    def _measuring_error(self) -> torch.Tensor:
        """How far the measured distances, as scores, can be from the true ones, in true units."""
        frame = self.frame
        left = self.targets.lengths * power_of_two(self.targets.exponents)
        right = self.sources.lengths.amax() * power_of_two(self.sources.exponents)
        if frame.metric == "cosine":
            return torch.full_like(left, 2 * frame.sum_error)
        if frame.metric == "inner_product":
            return 2 * frame.sum_error * (left + frame.size) * (right + frame.size)
        return frame.sum_error * (left + right).square()
