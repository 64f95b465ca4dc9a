"""What both sides of a search share: the metric, and a centre that both are moved by; and exact powers of two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: float64's machine epsilon, twice its unit roundoff: a bound of n of these is generous for n roundings.
EPSILON = 2.0**-52
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


def exponents_of(values: torch.Tensor) -> torch.Tensor:
    """The exponents e of values < 2^e, int64; 0 for zero."""
    return torch.frexp(values).exponent.long()


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^exponent in float64, exactly, by its bits; exponents are cut to what a normal number can have."""
    return ((exponents.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
