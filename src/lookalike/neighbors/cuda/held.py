"""A pool in the memory of a device: read once from wherever it comes, and then there for every pass; see `held`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from lookalike.neighbors.base import Floats, Rows
from lookalike.neighbors.cuda.whitened import DeviceArithmetic
from lookalike.neighbors.held import HeldChunk, Sums
from lookalike.neighbors.sides import LARGEST, Side, check_values
from lookalike.tables.embedding_stream import Chunk

#: Rows of a block at most, and values (256 MB in float64). Constants: sums would depend on them.
BLOCK = 65_536
_VALUES = 1 << 25
#: The pool has at most this share of the memory that is free: the search and the scores need the rest.
_FREE_SHARE = 2
#: Rows read at a time where nothing else says.
_READ = 65_536
#: The point that sums are taken about is the mean of so many vectors.
_FIRST = 4096

Mask = npt.NDArray[np.bool_]


def has_room(side: Side, device: torch.device) -> bool:
    """Whether a device has memory for all vectors of a side in float32, beside what is done with them."""
    free, _ = torch.cuda.mem_get_info(device)
    return side.rows * side.dimension * 4 <= free // _FREE_SHARE


class HeldPool:
    """A pool that stays on a device; a `Held`.

    Parameters
    ----------
    side:
        Where it is read from: once as a whole, whoever asks first. Its vectors are float32.
    device:
        Where it stays. A CPU device does the same in plain torch.
    """

    def __init__(self, side: Side, device: torch.device) -> None:
        self.name, self.rows, self.dimension, self.dtype = side.name, side.rows, side.dimension, side.dtype
        self.has_labels = side.has_labels
        self.arithmetic = DeviceArithmetic(device)
        self._side, self._device = side, device
        self._all: torch.Tensor | None = None
        self._whole = False

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Read at most `size` rows at a time: the first time from the side, then from the device.

        Raises
        ------
        VectorError
            When values are not finite, or too large.
        """
        return self._given(size) if self._whole and not labels else self._taken(size, labels)

    def blocks(self, excluded: Mask | None) -> Iterator[tuple[Rows, torch.Tensor]]:
        """See `Held.blocks`; views of the pool where nothing is excluded."""
        everything = self._everything()
        size = max(1, min(BLOCK, _VALUES // self.dimension))
        allowed = None if excluded is None or not excluded.any() else np.flatnonzero(~excluded)
        for first in range(0, self.rows if allowed is None else len(allowed), size):
            if allowed is None:
                yield np.arange(first, min(first + size, self.rows)), everything[first : first + size]
            else:
                rows = allowed[first : first + size]
                yield rows, self._picked(rows)

    def sums(self, excluded: Mask | None) -> Sums:
        """See `Held.sums`."""
        total = torch.zeros(self.dimension, dtype=torch.float64, device=self._device)
        products = torch.zeros((self.dimension, self.dimension), dtype=torch.float64, device=self._device)
        largest = torch.zeros((), device=self._device)
        shift, count = torch.zeros_like(total), 0
        for rows, vectors in self.blocks(excluded):
            if not count:
                shift = vectors[:_FIRST].double().mean(0)
            largest = torch.maximum(largest, vectors.abs().amax())
            plain = vectors.double() - shift
            count += len(rows)
            total += plain.sum(0)
            products += plain.t() @ plain
        return Sums(count, shift.cpu().numpy(), total.cpu().numpy(), products.cpu().numpy(), float(largest))

    def vectors(self, rows: Rows) -> Floats:
        """See `Held.vectors`."""
        self._everything()
        found: Floats = self._picked(rows).cpu().numpy()
        return found

    def _picked(self, rows: Rows) -> torch.Tensor:
        return self._everything().index_select(0, torch.from_numpy(np.ascontiguousarray(rows)).to(self._device))

    def _everything(self) -> torch.Tensor:
        """All vectors; read now, if nobody has."""
        if not self._whole:
            for _ in self.chunks(_READ):
                pass
        assert self._all is not None
        return self._all

    def _taken(self, size: int, labels: bool) -> Iterator[Chunk]:
        """The chunks of the side, each left on the device on its way."""
        if self._all is None:
            self._all = torch.empty((self.rows, self.dimension), dtype=torch.float32, device=self._device)
        for chunk in self._side.chunks(size, labels=labels):
            part = self._all[chunk.first : chunk.first + len(chunk.vectors)]
            # torch warns of memory that may not be written, and nothing is written to this.
            part.copy_(torch.from_numpy(np.require(chunk.vectors, np.float32, ["C", "W"])))
            self._check(chunk, part)
            yield HeldChunk(chunk.first, chunk.vectors, chunk.labels, part)
        self._whole = True

    def _given(self, size: int) -> Iterator[Chunk]:
        """The chunks of what lies on the device."""
        everything = self._everything()
        for first in range(0, self.rows, size):
            part = everything[first : first + size]
            yield HeldChunk(first, part.cpu().numpy(), (), part)

    def _check(self, chunk: Chunk, part: torch.Tensor) -> None:
        """Refuse values as `check_values` does, which is asked to say so."""
        if not part.numel():
            return
        low, high = torch.stack(torch.aminmax(part)).tolist()
        if not (low >= -LARGEST and high <= LARGEST):  # NaN is neither
            check_values(chunk.vectors, self.name, chunk.first)
