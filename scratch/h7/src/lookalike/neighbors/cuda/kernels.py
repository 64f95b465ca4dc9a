"""The search's inner loops on a GPU, in Triton: first-pass scores of tiles, and which of them pass.

A *group* is `GROUP` consecutive sources. The first pass writes only the largest score of each group, a sixteenth of the
matrix. Without a GPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested
everywhere; `products` has the same functions in plain torch.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from lookalike.neighbors.cuda.products import GROUP, STEP

#: Tile of the products: targets, sources, tiles of targets that share tiles of sources in the cache, warps, stages.
_PRODUCT_TILE = (128, 128)
_PRODUCT_BAND = 8
_PRODUCT_WARPS = 8
_PRODUCT_STAGES = 3
#: Where tiles are copied in bulk (compute capability 9, with this much shared memory), they can be larger.
_BULK_TILE = (128, 256)
_BULK_MEMORY = 3 * (128 + 256) * 64 * 2
#: Tile of the sums of differences, and its warps: large patches a thread, few loads to many sums.
_MANHATTAN_TILE = (128, 128)
_MANHATTAN_WARPS = 4
#: Scores that a program looks at at a time.
_PASSING_BLOCK = 1024


def product_maxima(
    targets: torch.Tensor, sources: torch.Tensor, factors: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Largest of factor * (target . source) + weight * offset in every group.

    Parameters
    ----------
    targets, sources:
        rows x dimension, bfloat16, contiguous, dimension a multiple of `STEP`.
    factors, weights:
        Per target, float32.
    offsets:
        Per source, float32.

    Returns
    -------
    torch.Tensor
        targets x groups, float32.
    """
    maxima = _empty_maxima(targets, sources, GROUP)
    if maxima.numel() and _copies_in_bulk(targets.device):
        return _bulk_product_maxima(targets, sources, factors, weights, offsets, maxima)
    rows, columns = _PRODUCT_TILE
    tiles = triton.cdiv(len(targets), rows) * triton.cdiv(len(sources), columns)
    _product_maxima[(tiles,)](
        targets, sources, factors, weights, offsets, maxima,
        len(targets), len(sources), targets.shape[1], maxima.shape[1],
        rows=rows, columns=columns, step=STEP, group=GROUP, band=_PRODUCT_BAND,
        num_warps=_PRODUCT_WARPS, num_stages=_PRODUCT_STAGES,
    )  # fmt: skip
    return maxima


def _bulk_product_maxima(
    targets: torch.Tensor,
    sources: torch.Tensor,
    factors: torch.Tensor,
    weights: torch.Tensor,
    offsets: torch.Tensor,
    maxima: torch.Tensor,
) -> torch.Tensor:
    """`product_maxima` by one program a multiprocessor, which copies its tiles in bulk."""
    rows, columns = _BULK_TILE
    tiles = triton.cdiv(len(targets), rows) * triton.cdiv(len(sources), columns)
    programs = min(tiles, _multiprocessors(targets.device))
    left, right = (
        TensorDescriptor.from_tensor(*side) for side in ((targets, [rows, STEP]), (sources, [columns, STEP]))
    )
    _persistent_product_maxima[(programs,)](
        left, right, factors, weights, offsets, maxima,
        len(targets), len(sources), targets.shape[1], maxima.shape[1], programs,
        rows=rows, columns=columns, step=STEP, group=GROUP, band=_PRODUCT_BAND,
        num_warps=_PRODUCT_WARPS, num_stages=_PRODUCT_STAGES,
    )  # fmt: skip
    return maxima


@functools.cache
def _copies_in_bulk(device: torch.device) -> bool:
    """Whether a device has bulk copies, and memory for their tiles."""
    if device.type != "cuda":
        return False
    properties: Any = torch.cuda.get_device_properties(device)
    return bool(properties.major >= 9 and properties.shared_memory_per_block_optin > _BULK_MEMORY)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def manhattan_maxima(targets: torch.Tensor, sources: torch.Tensor, group: int) -> torch.Tensor:
    """Largest negative L1 distance in every group of `group` sources; with 1, all of them.

    Parameters
    ----------
    targets, sources:
        rows x dimension, float32, dimension even.
    group:
        1, or a power of two up to the tile's width.

    Returns
    -------
    torch.Tensor
        targets x groups, float32.
    """
    maxima = _empty_maxima(targets, sources, group)
    rows, columns = _MANHATTAN_TILE
    tiles = triton.cdiv(len(targets), rows) * triton.cdiv(len(sources), columns)
    # One dimension of many vectors is read at a time: side by side in memory when the matrices stand on their side.
    _manhattan_maxima[(tiles,)](
        targets.t().contiguous(), sources.t().contiguous(), maxima,
        len(targets), len(sources), targets.shape[1], maxima.shape[1],
        rows=rows, columns=columns, group=group, num_warps=_MANHATTAN_WARPS,
    )  # fmt: skip
    return maxima


def passing(scores: torch.Tensor, thresholds: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where scores reach the target's threshold.

    Parameters
    ----------
    scores:
        targets x places, float32 or float64, contiguous; minus infinity never passes.
    thresholds:
        Per target, of the same type.
    most:
        Places to write down a target; more are only counted.

    Returns
    -------
    tuple
        How many pass, int32, and which, int32, targets x `most`, ascending; what is beyond the count is undefined.
    """
    counts = torch.empty(len(scores), dtype=torch.int32, device=scores.device)
    places = torch.empty((len(scores), most), dtype=torch.int32, device=scores.device)
    if len(scores):
        _passing[(len(scores),)](scores, thresholds, counts, places, scores.shape[1], most, block=_PASSING_BLOCK)
    return counts, places


def _empty_maxima(targets: torch.Tensor, sources: torch.Tensor, group: int) -> torch.Tensor:
    """Room for the maxima of every target."""
    shape = (len(targets), triton.cdiv(len(sources), group))
    return torch.empty(shape, dtype=torch.float32, device=targets.device)


@triton.jit
def _store_maxima(
    scores, maxima, row, first_column, row_count, column_count, group_count,
    rows: tl.constexpr, columns: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """The largest score of each group of a tile."""
    column = first_column + tl.arange(0, columns)
    scores = tl.where((column < column_count)[None, :], scores, float("-inf"))
    if group > 1:
        scores = tl.max(tl.reshape(scores, (rows, columns // group, group)), axis=2)
    place = first_column // group + tl.arange(0, columns // group)
    at = maxima + row.to(tl.int64)[:, None] * group_count + place[None, :]
    tl.store(at, scores, mask=(row < row_count)[:, None] & (place < group_count)[None, :])


@triton.jit
def _tile_place(tile, row_tiles, column_tiles, band: tl.constexpr):
    """Row and column of a tile: tiles run down bands of rows, so that neighbours in time share sources."""
    band_tiles = band * column_tiles
    first_row_tile = (tile // band_tiles) * band
    band_rows = tl.minimum(row_tiles - first_row_tile, band)
    return first_row_tile + (tile % band_tiles) % band_rows, (tile % band_tiles) // band_rows


@triton.jit
def _store_scores(
    total, factors, weights, offsets, maxima, first_row, first_column, row_count, column_count, group_count,
    rows: tl.constexpr, columns: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """From a tile of products to its groups' maxima."""
    row = first_row + tl.arange(0, rows)
    column = first_column + tl.arange(0, columns)
    factor = tl.load(factors + row, mask=row < row_count, other=0.0)
    weight = tl.load(weights + row, mask=row < row_count, other=0.0)
    offset = tl.load(offsets + column, mask=column < column_count, other=0.0)
    scores = factor[:, None] * total + weight[:, None] * offset[None, :]
    _store_maxima(scores, maxima, row, first_column, row_count, column_count, group_count, rows, columns, group)


@triton.jit
def _product_maxima(
    targets, sources, factors, weights, offsets, maxima, row_count, column_count, dimension, group_count,
    rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr, group: tl.constexpr, band: tl.constexpr,
):  # fmt: skip
    """One tile: targets x sources."""
    row_tile, column_tile = _tile_place(
        tl.program_id(0), tl.cdiv(row_count, rows), tl.cdiv(column_count, columns), band
    )
    row = row_tile * rows + tl.arange(0, rows)
    column = column_tile * columns + tl.arange(0, columns)
    inner = tl.arange(0, step)
    left = targets + row.to(tl.int64)[:, None] * dimension + inner[None, :]
    right = sources + column.to(tl.int64)[None, :] * dimension + inner[:, None]
    total = tl.zeros((rows, columns), tl.float32)
    for _ in range(0, dimension, step):
        one = tl.load(left, mask=(row < row_count)[:, None], other=0.0)
        other = tl.load(right, mask=(column < column_count)[None, :], other=0.0)
        total = tl.dot(one, other, total)
        left += step
        right += step
    _store_scores(
        total, factors, weights, offsets, maxima, row_tile * rows, column_tile * columns, row_count, column_count,
        group_count, rows, columns, group,
    )  # fmt: skip


@triton.jit
def _persistent_product_maxima(
    targets, sources, factors, weights, offsets, maxima, row_count, column_count, dimension, group_count, programs,
    rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr, group: tl.constexpr, band: tl.constexpr,
):  # fmt: skip
    """Every so many-th tile: one tile's last products run beside the next one's first copies."""
    row_tiles = tl.cdiv(row_count, rows)
    column_tiles = tl.cdiv(column_count, columns)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, programs, flatten=True):
        row_tile, column_tile = _tile_place(tile, row_tiles, column_tiles, band)
        total = tl.zeros((rows, columns), tl.float32)
        for at in range(0, dimension, step):
            one = targets.load([row_tile * rows, at])
            other = sources.load([column_tile * columns, at])
            total = tl.dot(one, other.T, total)
        _store_scores(
            total, factors, weights, offsets, maxima, row_tile * rows, column_tile * columns, row_count, column_count,
            group_count, rows, columns, group,
        )  # fmt: skip


@triton.jit
def _manhattan_maxima(
    targets, sources, maxima, row_count, column_count, dimension, group_count,
    rows: tl.constexpr, columns: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """One tile of negative L1 distances; both matrices stand on their side: dimension x vectors."""
    row_tiles = tl.cdiv(row_count, rows)
    row = (tl.program_id(0) % row_tiles) * rows + tl.arange(0, rows)
    first_column = (tl.program_id(0) // row_tiles) * columns
    column = first_column + tl.arange(0, columns)
    left = targets + row
    right = sources + column
    total = tl.zeros((rows, columns), tl.float32)
    for _ in range(0, dimension, 2):
        # Two dimensions at once: the second's loads are on their way while the first is added.
        one = tl.load(left, mask=row < row_count, other=0.0)
        other = tl.load(right, mask=column < column_count, other=0.0)
        next_one = tl.load(left + row_count, mask=row < row_count, other=0.0)
        next_other = tl.load(right + column_count, mask=column < column_count, other=0.0)
        total += tl.abs(one[:, None] - other[None, :])
        total += tl.abs(next_one[:, None] - next_other[None, :])
        left += 2 * row_count
        right += 2 * column_count
    _store_maxima(-total, maxima, row, first_column, row_count, column_count, group_count, rows, columns, group)


@triton.jit
def _passing(scores, thresholds, counts, places, score_count, most, block: tl.constexpr):
    """One target."""
    target = tl.program_id(0).to(tl.int64)
    threshold = tl.load(thresholds + target)
    count = 0
    for first in range(0, score_count, block):
        place = first + tl.arange(0, block)
        # What stands for no source is minus infinity, which an open threshold would let pass.
        value = tl.load(scores + target * score_count + place, mask=place < score_count, other=float("-inf"))
        passes = ((value >= threshold) & (value > float("-inf"))).to(tl.int32)
        found = tl.sum(passes, axis=0)
        if found > 0:
            at = count + tl.cumsum(passes, axis=0) - 1
            tl.store(places + target * most + at, place, mask=(passes > 0) & (at < most))
            count += found
    tl.store(counts + target, count)
