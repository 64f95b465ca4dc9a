"""SigLIP2 NaFlex: patches of a variable grid, as `Preprocessing` packs them into arrays of one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lookalike.images.preprocess import DIGIT

if TYPE_CHECKING:
    import torch


class Patches(NamedTuple):
    """What the model takes.

    Attributes
    ----------
    values:
        images x patches x values of a patch.
    grids:
        images x 2, int64: rows and columns of patches.
    present:
        images x patches: whether it is a patch, or padding.
    """

    values: torch.Tensor
    grids: torch.Tensor
    present: torch.Tensor


def unpack(batch: torch.Tensor) -> Patches:
    """The patches of a batch of packed arrays; exact in every type of at least 8 significant bits."""
    import torch

    digits = batch[:, 0, :4].float()
    grids = torch.stack([digits[:, 0] * DIGIT + digits[:, 1], digits[:, 2] * DIGIT + digits[:, 3]], 1).long()
    values = batch[:, 1:]
    numbers = torch.arange(values.shape[1], device=batch.device)
    return Patches(values, grids, numbers < grids.prod(1, keepdim=True))


def turned(batch: torch.Tensor, augment: str) -> list[torch.Tensor]:
    """The batch mirrored (``flip``), or by one, two and three quarter turns (``rot90``), packed as it was.

    Each image has its own grid, so each is unpacked into an image and packed again.
    """
    import torch

    grids = unpack(batch).grids.tolist()
    side = round((batch.shape[2] // 3) ** 0.5)
    results = [batch.clone() for _ in range({"none": 0, "flip": 1, "rot90": 3}[augment])]
    for number, (rows, columns) in enumerate(grids):
        patches = batch[number, 1 : 1 + rows * columns].view(rows, columns, side, side, 3)
        image = patches.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
        for turns, result in enumerate(results, start=1):
            other = image.flip(1) if augment == "flip" else torch.rot90(image, turns, (0, 1))
            down, across = other.shape[0] // side, other.shape[1] // side
            cut = other.reshape(down, side, across, side, 3).permute(0, 2, 1, 3, 4)
            result[number, 1 : 1 + rows * columns] = cut.reshape(rows * columns, -1)
            digits = [*divmod(down, DIGIT), *divmod(across, DIGIT)]
            result[number, 0, :4] = torch.tensor(digits, dtype=batch.dtype)
    return results
