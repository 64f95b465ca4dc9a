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

from lookalike.neighbors.cuda.products import STEP

#: float64's machine epsilon, twice its unit roundoff: a bound of n of these is generous for n roundings.
EPSILON = 2.0**-52
#: Exponents of scales stay within this, and so do sums and differences of a few of them within float64's range.
_LARGEST_EXPONENT = 200
#: Values made ready at a time, in float64 (128 MB).
_PREPARED = 1 << 24
#: Vectors that the centre is the mean of.
_SAMPLE = 4096


@dataclass(frozen=True)
class Frame:
    """What both sides of a search share.

    Attributes
    ----------
    metric:
        Its name.
    dimension:
        Of the vectors, before they are padded.
    centre:
        Subtracted from both sides, float64; None where that does not help.
    size:
        Its length, rounded up; 0 without one.
    """

    metric: str
    dimension: int
    centre: torch.Tensor | None = None
    size: float = 0.0

    @property
    def manhattan(self) -> bool:
        """Whether the score is not a product."""
        return self.metric == "manhattan"

    @property
    def sum_error(self) -> float:
        """Relative error bound of a float64 sum over the dimensions, and of a few operations around it."""
        return (self.dimension + 16) * 2 * EPSILON

    @property
    def offset_exponent(self) -> int | None:
        """The scale of centre.s' / s'; None where offsets have the sources' scale squared."""
        return None if self.metric == "euclidean" else math.frexp(self.size)[1]

    def wide(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors in float64, of unit length for the cosine, less the centre."""
        vectors = vectors.double()
        if self.metric == "cosine":
            vectors = vectors * power_of_two(-exponents_of(vectors.abs().amax(1, keepdim=True)))
            lengths = vectors.square().sum(1, keepdim=True).sqrt_()
            vectors = vectors / torch.where(lengths > 0, lengths, 1.0)
        return vectors if self.centre is None else vectors - self.centre

    def lengths(self, wide: torch.Tensor) -> torch.Tensor:
        """Length of each row, rounded up: L1 for Manhattan."""
        lengths = wide.abs().sum(1) if self.manhattan else wide.square().sum(1).sqrt_()
        return lengths * (1 + self.sum_error)

    def wide_error(self, exponents: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """How far `wide`, times 2^-exponent and of such lengths, can be off: norms, divisions, centring."""
        if self.manhattan:  # only powers of two
            return torch.zeros_like(lengths)
        units = self.sum_error * power_of_two(-exponents) if self.metric == "cosine" else 0.0
        return 4 * EPSILON * lengths + units


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


def choose_frame(metric: str, targets: torch.Tensor, sources: torch.Tensor) -> Frame:
    """The frame for these targets; the centre is the mean of the first sources, if that makes vectors much shorter."""
    plain = Frame(metric, targets.shape[1])
    if plain.manhattan or not len(targets):
        return plain
    left = plain.wide(targets[:: -(-len(targets) // _SAMPLE)])
    right = plain.wide(sources[:_SAMPLE])
    centre = right.mean(0)
    before = float(left.square().sum()) * float(right.square().sum())
    after = float((left - centre).square().sum()) * float((right - centre).square().sum())
    # Bounds are proportional to the root of this; half of them is worth the offsets.
    if not after < before / 4:
        return plain
    return Frame(metric, targets.shape[1], centre, float(plain.lengths(centre[None])))


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


def exponents_of(values: torch.Tensor) -> torch.Tensor:
    """The exponents e of values < 2^e, int64; 0 for zero."""
    return torch.frexp(values).exponent.long()


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^exponent in float64, exactly, by its bits; exponents are cut to what a normal number can have."""
    return ((exponents.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)


def _common_exponent(frame: Frame, vectors: torch.Tensor) -> torch.Tensor:
    """An exponent that makes every vector at most 1 long (for Manhattan: every value), from the largest value."""
    low, high = torch.aminmax(vectors) if vectors.numel() else (vectors.new_zeros(()), vectors.new_zeros(()))
    largest = max(-float(low), float(high))
    if frame.metric == "cosine":
        bound = 1.0 + frame.size
    else:
        bound = largest if frame.manhattan else math.sqrt(frame.dimension) * largest + frame.size
    exponent = math.frexp(bound * (1 + frame.sum_error))[1]
    exponent = min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    return torch.tensor([exponent], device=vectors.device)


def _slices(vectors: torch.Tensor) -> Iterator[slice]:
    """Slices of a bounded number of values."""
    step = max(1, _PREPARED // max(vectors.shape[1], STEP))
    return (slice(first, first + step) for first in range(0, len(vectors), step))


def _side(frame: Frame, vectors: torch.Tensor, exponents: torch.Tensor, *, targets: bool) -> Side:
    """Scale and round vectors, a slice at a time."""
    count, padded = len(vectors), -(-frame.dimension // STEP) * STEP
    device = vectors.device
    lengths, offsets = (torch.zeros(count, dtype=torch.float64, device=device) for _ in range(2))
    kinds = [torch.float32] if frame.manhattan else [torch.float32, torch.bfloat16]
    rounded = [
        Rounded(torch.zeros((count, padded), dtype=kind, device=device), torch.zeros_like(lengths)) for kind in kinds
    ]
    for part in _slices(vectors):
        own = exponents if len(exponents) == 1 else exponents[part]
        centred = frame.wide(vectors[part])
        scaled = centred * power_of_two(-own)[:, None]
        lengths[part] = frame.lengths(scaled)
        if targets and frame.centre is not None and frame.metric != "euclidean":
            offsets[part] = (centred + frame.centre) @ frame.centre
        elif not targets:
            offsets[part] = _offsets(frame, scaled)
        for into in rounded:
            into.vectors[part, : frame.dimension] = scaled.to(into.vectors.dtype)
            rest = frame.lengths(scaled - into.vectors[part, : frame.dimension].double())
            into.rests[part] = rest + frame.wide_error(own, lengths[part])
    return Side(vectors, exponents, lengths, offsets, rounded[-1], rounded[0])


def _offsets(frame: Frame, scaled: torch.Tensor) -> torch.Tensor:
    """o(s) of scaled sources; of the order of 1 or less."""
    if frame.metric == "euclidean":
        return -0.5 * scaled.square().sum(1)
    if frame.centre is None:
        return scaled.new_zeros(len(scaled))
    exponent = torch.tensor(frame.offset_exponent, device=scaled.device)
    return scaled @ (frame.centre * power_of_two(-exponent))
