"""Directions in a whitened space, and means of cosines between them, on a device; see `held.Arithmetic`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.cuda.exact import pair_distances, plain_pair_distances
from lookalike.neighbors.cuda.finder import CudaFinder, on
from lookalike.neighbors.cuda.halves import half_means
from lookalike.neighbors.cuda.products import full_float32
from lookalike.neighbors.held import Hiding

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

    def project(self, vectors: torch.Tensor, mean: Float64s, axes: Float64s) -> torch.Tensor:
        """See `Arithmetic.project`."""
        return ((vectors.double() - self._put(mean)) @ self._put(axes)).float()

    def units(self, projected: torch.Tensor, components: int) -> torch.Tensor:
        """See `Arithmetic.units`."""
        return _units(projected[:, :components])

    def put(self, vectors: Floats) -> torch.Tensor:
        """See `Arithmetic.put`."""
        return self._put(vectors)

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
                means[part] = _mean(_nearest(queries[part], images, k, None if places is None else places[part]))
            means *= 1.0 if weights is None else float(weights[0])
        return self._back(means)

    def half_means(
        self,
        queries: torch.Tensor,
        images: torch.Tensor,
        targets: torch.Tensor,
        hiding: Hiding,
        k: int,
        own: Rows | None = None,
        own_target: Rows | None = None,
    ) -> tuple[Float64s, Float64s]:
        """See `Arithmetic.half_means`."""
        near = min(k, len(images))
        cosines = torch.full((len(queries), near), -torch.inf, dtype=torch.float64, device=self._device)
        places = None if own is None else self._put(own)
        step = max(1, self._cosines // max(len(images), 1))
        for first in range(0, len(queries) if near else 0, step):
            part = slice(first, first + step)
            # In plain torch: a Triton kernel would be compiled anew for every number of components.
            cosines[part] = 1.0 - _nearest(
                queries[part], images, near, None if places is None else places[part], plain=True
            )
        like, unlike = half_means(
            cosines, queries.double() @ targets.double().t(), self._put(hiding.visible), self._put(hiding.weights),
            hiding.means.tolist(), k, None if own_target is None else self._put(own_target),
        )  # fmt: skip
        return self._back(like), self._back(unlike)

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


def _units(projected: torch.Tensor) -> torch.Tensor:
    """Vectors with length 1 in float32, those at the centre zero."""
    leading = projected.double()
    lengths = leading.square().sum(1, keepdim=True).sqrt_()
    return (leading / torch.where(lengths > 0, lengths, 1.0)).float()


def _nearest(
    queries: torch.Tensor, images: torch.Tensor, k: int, own: torch.Tensor | None, *, plain: bool = False
) -> torch.Tensor:
    """The least distances of some queries, ascending: the largest cosines in float32, measured in float64."""
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
        found = (plain_pair_distances if plain else pair_distances)("cosine", queries, images, index, places)
    # Sorted, so that the sum does not depend on the order in which equal float32 values came.
    return found.sort(dim=1).values


def _mean(distances: torch.Tensor) -> torch.Tensor:
    """Per row, the mean cosine of what is there; 0 without any."""
    there = torch.isfinite(distances)
    return torch.where(there, 1.0 - distances, 0.0).sum(1) / there.sum(1).clamp_(min=1)
