"""Directions in a whitened space, and means of cosines between them, on a device; see `held.Arithmetic`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lookalike.neighbors.base import Float64s, Rows
from lookalike.neighbors.cuda.exact import pair_distances
from lookalike.neighbors.cuda.finder import CudaFinder, on
from lookalike.neighbors.cuda.products import full_float32

#: Cosines at a time (512 MB in float32), and bytes of the device's memory for one.
_COSINES = 1 << 27
_COSINE_SHARE = 256
#: Queries at a time where weights make it matter which images are the nearest.
_QUERIES = 16_384


class DeviceArithmetic:
    """`Arithmetic` on a device.

    Parameters
    ----------
    device:
        Where directions lie; a CPU device does the same in plain torch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cosines = _COSINES
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
            self._cosines = min(_COSINES, memory // _COSINE_SHARE)

    def directions(self, vectors: torch.Tensor, mean: Float64s, axes: Float64s) -> torch.Tensor:
        """See `Arithmetic.directions`; rounded to float32 twice, as on the processor."""
        projected = (vectors.double() - self._put(mean)) @ self._put(axes)
        leading = projected.float().double()
        lengths = leading.square().sum(1, keepdim=True).sqrt_()
        return (leading / torch.where(lengths > 0, lengths, 1.0)).float()

    def put(self, directions: npt.NDArray[np.float32]) -> torch.Tensor:
        """See `Arithmetic.put`."""
        return self._put(directions)

    def products(self, queries: torch.Tensor, vector: Float64s) -> Float64s:
        """See `Arithmetic.products`."""
        return self._back(queries.double() @ self._put(vector))

    def mean_cosines(
        self,
        queries: torch.Tensor,
        images: torch.Tensor,
        k: int,
        weights: Float64s | None = None,
        own: Rows | None = None,
    ) -> Float64s:
        """See `Arithmetic.mean_cosines`."""
        k = min(k, len(images))
        means = torch.zeros(len(queries), dtype=torch.float64, device=self._device)
        if k and weights is not None and (weights != weights[0]).any():
            assert own is None  # nobody asks for both
            for first in range(0, len(queries), _QUERIES):
                part = slice(first, first + _QUERIES)
                means[part] = self._weighted(queries[part], images, k, self._put(weights))
        elif k:
            places = None if own is None else self._put(own)
            step = max(1, self._cosines // len(images))
            for first in range(0, len(queries), step):
                part = slice(first, first + step)
                means[part] = _plain(queries[part], images, k, None if places is None else places[part])
            means *= 1.0 if weights is None else float(weights[0])
        return self._back(means)

    def _weighted(self, queries: torch.Tensor, images: torch.Tensor, k: int, weights: torch.Tensor) -> torch.Tensor:
        """Exactly the nearest, of equal ones the first: another one could have another weight."""
        finder = CudaFinder(queries, "cosine", k, self._device)
        finder.see(images, np.arange(len(images)))
        distances, rows = finder.found
        return ((1.0 - distances) * weights[rows]).mean(1)

    def _put(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        # torch warns of memory that may not be written, and nothing is written to this.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)

    def _back(self, values: torch.Tensor) -> Float64s:
        found: Float64s = values.cpu().numpy()
        return found


def _plain(queries: torch.Tensor, images: torch.Tensor, k: int, own: torch.Tensor | None) -> torch.Tensor:
    """The means of some queries: the largest cosines in float32, measured in float64."""
    with full_float32():
        cosines = queries @ images.t()
    if own is not None:
        there = (own >= 0).nonzero()[:, 0]
        cosines[there, own[there]] = -torch.inf
    largest, places = torch.topk(cosines, k, dim=1)
    del cosines
    places = places.masked_fill_(largest == -torch.inf, -1)
    index = torch.arange(len(queries), device=queries.device)
    with on(queries.device):
        found = pair_distances("cosine", queries, images, index, places)
    # Sorted, so that the sum does not depend on the order in which equal float32 values came.
    found = found.sort(dim=1).values
    there = torch.isfinite(found)
    return torch.where(there, 1.0 - found, 0.0).sum(1) / there.sum(1).clamp_(min=1)
