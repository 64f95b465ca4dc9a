"""The search's inner loops on a GPU, in Triton: first-pass scores of tiles, and scores of single groups.

A *group* is `GROUP` consecutive sources. The first pass writes only the largest score of each group, a sixteenth of the
matrix. Without a GPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested
everywhere; `products` has the same functions in plain torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Consecutive sources whose largest score is written.
GROUP = 16
#: Dimensions taken at a time; every matrix that comes here is padded with zeros to a multiple of it.
STEP = 64
#: Tile of the products: targets, sources, tiles of targets that share tiles of sources in the cache, warps, stages.
_PRODUCT_TILE = (128, 128)
_PRODUCT_BAND = 8
_PRODUCT_WARPS = 8
_PRODUCT_STAGES = 3
#: Tile of the sums of differences, and its warps: large patches a thread, few loads to many sums.
_MANHATTAN_TILE = (128, 128)
_MANHATTAN_WARPS = 4
#: Groups that a program looks at at a time.
_PASSING_BLOCK = 1024
#: Warps that score one group.
_MEMBER_WARPS = 4
#: Dimensions of a vector that one program can hold, and how many of them a warp takes.
MOST_DIMENSIONS = 8192
_ROW_SHARE = 256


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
    rows, columns = _PRODUCT_TILE
    tiles = triton.cdiv(len(targets), rows) * triton.cdiv(len(sources), columns)
    _product_maxima[(tiles,)](
        targets, sources, factors, weights, offsets, maxima,
        len(targets), len(sources), targets.shape[1], maxima.shape[1],
        rows=rows, columns=columns, step=STEP, group=GROUP, band=_PRODUCT_BAND,
        num_warps=_PRODUCT_WARPS, num_stages=_PRODUCT_STAGES,
    )  # fmt: skip
    return maxima


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


def passing_groups(maxima: torch.Tensor, thresholds: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The groups whose maximum reaches the target's threshold.

    Parameters
    ----------
    maxima:
        targets x groups, float32, contiguous.
    thresholds:
        Per target, float32.
    most:
        Groups to write down a target; more are only counted.

    Returns
    -------
    tuple
        How many pass, int32, and which, int32, targets x `most`, ascending; what is beyond the count is undefined.
    """
    counts = torch.empty(len(maxima), dtype=torch.int32, device=maxima.device)
    groups = torch.empty((len(maxima), most), dtype=torch.int32, device=maxima.device)
    if len(maxima):
        _passing_groups[(len(maxima),)](maxima, thresholds, counts, groups, maxima.shape[1], most, block=_PASSING_BLOCK)
    return counts, groups


def member_scores(
    targets: torch.Tensor,
    sources: torch.Tensor,
    groups: torch.Tensor,
    counts: torch.Tensor,
    factors: torch.Tensor,
    weights: torch.Tensor,
    offsets: torch.Tensor,
    *,
    manhattan: bool,
) -> torch.Tensor:
    """Scores of all members of some groups of each target.

    Parameters
    ----------
    targets, sources:
        rows x dimension, bfloat16 or float32, contiguous, dimension a multiple of `STEP`.
    groups, counts:
        targets x width, int32, and how many of each row count, int32.
    factors, weights, offsets:
        As in `product_maxima`; not looked at for `manhattan`.
    manhattan:
        Negative L1 distances instead of products.

    Returns
    -------
    torch.Tensor
        targets x width x `GROUP`, float32; minus infinity beyond the count, and beyond the last source.
    """
    scores = torch.empty((*groups.shape, GROUP), dtype=torch.float32, device=targets.device)
    if groups.numel():
        _member_scores[(groups.numel(),)](
            targets, sources, groups, counts, factors, weights, offsets, scores, groups.shape[1], groups.stride(0),
            len(sources), targets.shape[1], group=GROUP, step=STEP, manhattan=manhattan, num_warps=_MEMBER_WARPS,
        )  # fmt: skip
    return scores


def pair_distances(
    metric: str, targets: torch.Tensor, sources: torch.Tensor, target_rows: torch.Tensor, source_rows: torch.Tensor
) -> torch.Tensor:
    """Distances of pairs in float64; each depends on nothing but its two vectors, to the last bit.

    Parameters
    ----------
    metric:
        ``cosine``, ``euclidean``, ``manhattan`` or ``inner_product``.
    targets, sources:
        rows x dimension, float32, contiguous, at most `MOST_DIMENSIONS`.
    target_rows, source_rows:
        int64, one pair an entry.
    """
    distances = torch.empty(len(target_rows), dtype=torch.float64, device=targets.device)
    if len(target_rows):
        block = triton.next_power_of_2(targets.shape[1])
        # Without fused multiplication and addition, so that the three sums of a cosine are rounded alike.
        _pair_distances[(len(target_rows),)](
            targets, sources, target_rows, source_rows, distances, targets.shape[1],
            metric=metric, block=block, num_warps=min(16, max(1, block // _ROW_SHARE)), enable_fp_fusion=False,
        )  # fmt: skip
    return distances


def round_rows(
    vectors: torch.Tensor,
    centre: torch.Tensor | None,
    scales: torch.Tensor,
    weights: torch.Tensor | None,
    rounded: torch.Tensor,
    *,
    unit: bool,
    manhattan: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale and round vectors, and measure them; everything before the rounding is float64.

    Parameters
    ----------
    vectors:
        rows x dimension, float32, contiguous, at most `MOST_DIMENSIONS`.
    centre:
        Subtracted, float64; None for none.
    scales:
        float64 powers of two, one a row or one for all, multiplied at last.
    weights:
        float64, one a dimension, for the sums that are returned; None for none.
    rounded:
        Where to write: float32 or bfloat16, rows x padded dimension, contiguous.
    unit:
        Whether vectors are brought to length 1 first.
    manhattan:
        Whether lengths are sums of sizes.

    Returns
    -------
    tuple
        Lengths of the scaled vectors; their weighted sums, or (with no weights) their squares' sums; and the lengths of
        what rounding took away. All float64, one a row.
    """
    count, dimension = vectors.shape
    lengths, sums, rests = (torch.empty(count, dtype=torch.float64, device=vectors.device) for _ in range(3))
    if count:
        block = triton.next_power_of_2(rounded.shape[1])
        _round_rows[(count,)](
            vectors, vectors if centre is None else centre, scales, vectors if weights is None else weights,
            rounded, lengths, sums, rests, dimension, rounded.shape[1],
            block=block, unit=unit, manhattan=manhattan, centred=centre is not None, one_scale=len(scales) == 1,
            weighted=weights is not None, num_warps=min(16, max(1, block // _ROW_SHARE)),
        )  # fmt: skip
    return lengths, sums, rests


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
def _product_maxima(
    targets, sources, factors, weights, offsets, maxima, row_count, column_count, dimension, group_count,
    rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr, group: tl.constexpr, band: tl.constexpr,
):  # fmt: skip
    """One tile: targets x sources. Tiles run down bands of rows, so that neighbours in time share sources."""
    row_tiles = tl.cdiv(row_count, rows)
    column_tiles = tl.cdiv(column_count, columns)
    band_tiles = band * column_tiles
    first_row_tile = (tl.program_id(0) // band_tiles) * band
    band_rows = tl.minimum(row_tiles - first_row_tile, band)
    row_tile = first_row_tile + (tl.program_id(0) % band_tiles) % band_rows
    first_column = (tl.program_id(0) % band_tiles) // band_rows * columns
    row = row_tile * rows + tl.arange(0, rows)
    column = first_column + tl.arange(0, columns)
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
    factor = tl.load(factors + row, mask=row < row_count, other=0.0)
    weight = tl.load(weights + row, mask=row < row_count, other=0.0)
    offset = tl.load(offsets + column, mask=column < column_count, other=0.0)
    scores = factor[:, None] * total + weight[:, None] * offset[None, :]
    _store_maxima(scores, maxima, row, first_column, row_count, column_count, group_count, rows, columns, group)


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
def _passing_groups(maxima, thresholds, counts, groups, group_count, most, block: tl.constexpr):
    """One target."""
    target = tl.program_id(0).to(tl.int64)
    threshold = tl.load(thresholds + target)
    count = 0
    for first in range(0, group_count, block):
        place = first + tl.arange(0, block)
        # No maximum reaches a threshold that is not a number; beyond the last group nothing does.
        value = tl.load(maxima + target * group_count + place, mask=place < group_count, other=float("-inf"))
        passes = ((value >= threshold) & (place < group_count)).to(tl.int32)
        found = tl.sum(passes, axis=0)
        if found > 0:
            at = count + tl.cumsum(passes, axis=0) - 1
            tl.store(groups + target * most + at, place, mask=(passes > 0) & (at < most))
            count += found
    tl.store(counts + target, count)


@triton.jit
def _member_scores(
    targets, sources, groups, counts, factors, weights, offsets, scores, width, stride, column_count, dimension,
    group: tl.constexpr, step: tl.constexpr, manhattan: tl.constexpr,
):  # fmt: skip
    """The members of one group for one target. `step` sums side by side, added at the end: fewer roundings a sum."""
    hit = tl.program_id(0).to(tl.int64)
    target = hit // width
    at = scores + hit * group + tl.arange(0, group)
    if hit % width >= tl.load(counts + target):
        tl.store(at, tl.full((group,), float("-inf"), tl.float32))
    else:
        inner = tl.arange(0, step)
        column = tl.load(groups + target * stride + hit % width).to(tl.int64) * group + tl.arange(0, group)
        inside = column < column_count
        left = targets + target * dimension + inner
        right = sources + column[:, None] * dimension + inner[None, :]
        total = tl.zeros((group, step), tl.float32)
        for _ in range(0, dimension, step):
            one = tl.load(left).to(tl.float32)
            other = tl.load(right, mask=inside[:, None], other=0.0).to(tl.float32)
            if manhattan:
                total -= tl.abs(one[None, :] - other)
            else:
                total += one[None, :] * other
            left += step
            right += step
        score = tl.sum(total, axis=1)
        if not manhattan:
            offset = tl.load(offsets + column, mask=inside, other=0.0)
            score = tl.load(factors + target) * score + tl.load(weights + target) * offset
        tl.store(at, tl.where(inside, score, float("-inf")))


@triton.jit
def _near_one(value):
    """A vector times the power of two that brings its largest value near 1; float32's are all normal in float64."""
    bits = tl.max(tl.abs(value), axis=0).to(tl.int64, bitcast=True) >> 52
    return value * tl.where(bits > 0, (2045 - bits) << 52, 1023 << 52).to(tl.float64, bitcast=True)


@triton.jit
def _pair_distances(
    targets, sources, target_rows, source_rows, distances, dimension, metric: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """One pair."""
    pair = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, block)
    inside = inner < dimension
    left = tl.load(targets + tl.load(target_rows + pair) * dimension + inner, mask=inside, other=0.0).to(tl.float64)
    right = tl.load(sources + tl.load(source_rows + pair) * dimension + inner, mask=inside, other=0.0).to(tl.float64)
    if metric == "euclidean":
        distance = tl.sqrt(tl.sum((left - right) * (left - right), axis=0))
    elif metric == "manhattan":
        distance = tl.sum(tl.abs(left - right), axis=0)
    elif metric == "inner_product":
        distance = 0.0 - tl.sum(left * right, axis=0)
    else:
        left = _near_one(left)
        right = _near_one(right)
        # The root of x * x is exactly x, so equal vectors have distance exactly 0.
        squares = tl.sum(left * left, axis=0) * tl.sum(right * right, axis=0)
        cosine = tl.where(squares > 0.0, tl.sum(left * right, axis=0) / tl.sqrt(squares), 0.0)
        distance = tl.minimum(tl.maximum(1.0 - cosine, 0.0), 2.0)
    tl.store(distances + pair, distance)


@triton.jit
def _round_rows(
    vectors, centre, scales, weights, rounded, lengths, sums, rests, dimension, padded,
    block: tl.constexpr, unit: tl.constexpr, manhattan: tl.constexpr, centred: tl.constexpr, one_scale: tl.constexpr,
    weighted: tl.constexpr,
):  # fmt: skip
    """One vector."""
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, block)
    inside = inner < dimension
    value = tl.load(vectors + row * dimension + inner, mask=inside, other=0.0).to(tl.float64)
    if unit:
        value = _near_one(value)
        length = tl.sqrt(tl.sum(value * value, axis=0))
        value *= 1.0 / tl.where(length > 0.0, length, 1.0)
    if centred:
        value -= tl.load(centre + inner, mask=inside, other=0.0)
    value *= tl.load(scales) if one_scale else tl.load(scales + row)
    squares = tl.sum(value * value, axis=0)
    tl.store(lengths + row, tl.sum(tl.abs(value), axis=0) if manhattan else tl.sqrt(squares))
    if weighted:
        tl.store(sums + row, tl.sum(value * tl.load(weights + inner, mask=inside, other=0.0), axis=0))
    else:
        tl.store(sums + row, squares)
    # To bfloat16 by way of float32, whatever the machine would do with float64.
    given = value.to(tl.float32).to(rounded.dtype.element_ty)
    tl.store(rounded + row * padded + inner, given, mask=inner < padded)
    rest = value - given.to(tl.float32).to(tl.float64)
    tl.store(rests + row, tl.sum(tl.abs(rest), axis=0) if manhattan else tl.sqrt(tl.sum(rest * rest, axis=0)))
