"""What happens to the vectors of a model: averaged over turned images, brought to length 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lookalike.config.schemas import TRUE_WORDS
from lookalike.encoders.base import LoadRequest

if TYPE_CHECKING:
    import torch

Forward: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
#: From a batch and the setting `augment` to batches of the other images that a vector is the mean of.
Turn: TypeAlias = "Callable[[torch.Tensor, str], list[torch.Tensor]]"


@dataclass(frozen=True)
class Finish:
    """The settings `augment` and `normalize`, for every family alike.

    Attributes
    ----------
    augment:
        ``none``, ``flip`` or ``rot90``.
    normalizes:
        Whether vectors are divided by their length.
    """

    augment: str
    normalizes: bool

    @classmethod
    def of(cls, request: LoadRequest, *, reference: bool) -> Finish:
        """What is asked for; `reference` is whether the family's reference brings its vectors to length 1."""
        wanted = str(request.normalize).strip().lower()
        return cls(request.augment, reference if wanted == "auto" else wanted in TRUE_WORDS)

    @property
    def normalisation(self) -> str:
        """For the identity."""
        return "l2" if self.normalizes else "none"

    def pooling(self, name: str) -> str:
        """The pooling of the identity: the model's own, and what is averaged after it."""
        return name if self.augment == "none" else f"{name}, mean of {self.augment}"

    def wrap(self, forward: Forward, turn: Turn | None = None) -> Forward:
        """A forward pass with everything that is asked for.

        Vectors are averaged as they come from the model, before their length is changed. `turn` turns the images of
        a batch that does not hold them as height x width.
        """
        if self.augment == "none" and not self.normalizes:
            return forward

        def finished(batch: torch.Tensor) -> torch.Tensor:
            vectors = forward(batch).float()
            for turned in (turn or _turned)(batch, self.augment):
                vectors = vectors + forward(turned).float()
            vectors = vectors / _TURNS[self.augment]
            if self.normalizes:
                # A vector of zeros stays one; the smallest normal number keeps 0 / 0 away.
                vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1.2e-38)
            return vectors

        return finished


#: How many images each vector is the mean of.
_TURNS = {"none": 1, "flip": 2, "rot90": 4}


def _turned(batch: torch.Tensor, augment: str) -> list[torch.Tensor]:
    """The other images that a vector is the mean of."""
    if augment == "flip":
        return [batch.flip(-1)]
    return [batch.rot90(turns, (-2, -1)) for turns in (1, 2, 3)] if augment == "rot90" else []
