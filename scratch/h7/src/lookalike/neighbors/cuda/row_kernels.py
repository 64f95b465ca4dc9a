"""The search's work on single vectors on a GPU, in Triton: made ready, scored one by one, measured in float64.

As for `kernels`, `products` and `exact` have the same functions in plain torch, and Triton's interpreter runs these
without a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lookalike.neighbors.cuda.products import GROUP, STEP

#: Warps that score one group.
_MEMBER_WARPS = 4
#: Dimensions of a vector that one program can hold, and how many of them a warp takes.
MOST_DIMENSIONS = 8192
_ROW_SHARE = 256


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
    """Distances of some targets to some sources each, in float64.

    A distance depends on nothing but its two vectors, to the last bit.

    Parameters
    ----------
    metric:
        ``cosine``, ``euclidean``, ``manhattan`` or ``inner_product``.
    targets, sources:
        rows x dimension, float32, contiguous, at most `MOST_DIMENSIONS`.
    target_rows, source_rows:
        int64: one a target, and targets x width; -1 for none.

    Returns
    -------
    torch.Tensor
        targets x width, float64; infinite where there is none.
    """
    distances = torch.empty(source_rows.shape, dtype=torch.float64, device=targets.device)
    if distances.numel():
        block = triton.next_power_of_2(targets.shape[1])
        # Without fused multiplication and addition, so that the three sums of a cosine are rounded alike.
        _pair_distances[(distances.numel(),)](
            targets, sources, target_rows, source_rows, distances, source_rows.shape[1], targets.shape[1],
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
    targets, sources, target_rows, source_rows, distances, width, dimension, metric: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """One pair."""
    pair = tl.program_id(0).to(tl.int64)
    source = tl.load(source_rows + pair)
    if source < 0:
        tl.store(distances + pair, float("inf"))
    else:
        inner = tl.arange(0, block)
        inside = inner < dimension
        target = tl.load(target_rows + pair // width)
        left = tl.load(targets + target * dimension + inner, mask=inside, other=0.0).to(tl.float64)
        right = tl.load(sources + source * dimension + inner, mask=inside, other=0.0).to(tl.float64)
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
