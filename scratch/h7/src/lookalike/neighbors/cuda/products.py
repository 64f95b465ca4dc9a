"""Scores on the device: Triton kernels on a GPU, plain torch of the same meaning everywhere else."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lookalike.neighbors.cuda.frame import Frame

#: Consecutive sources (a *group*) whose largest score is looked at first; and how many dimensions are taken at a time:
#: every matrix is padded with zeros to a multiple of it.
GROUP = 16
STEP = 64
#: Values gathered at a time without a kernel.
_GATHER = 1 << 24
#: Values made ready at a time without a kernel, in float64 (128 MB).
PREPARED = 1 << 24
#: Lengths, sums, and what rounding took away: see `round_rows`.
Measured = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Whether the Triton kernels run on a device: bfloat16 on tensor cores needs compute capability 8."""
    if device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] < 8:
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


#: Held while torch's settings are changed: they are those of all threads.
_settings = threading.RLock()


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in float32 proper, not in TF32, whatever was set before; for one thread at a time."""
    with _settings:
        yield from _full_float32()


def _full_float32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    name: str = "allow_tf32"
    wanted: bool | str = False
    try:
        before = getattr(matmul, name)
    except RuntimeError:  # torch has two settings of this, and refuses to read the old one where the new one was used
        name, wanted = "fp32_precision", "ieee"
        before = getattr(matmul, name)
    if before != wanted:
        setattr(matmul, name, wanted)
    try:
        yield
    finally:
        if before != wanted:
            setattr(matmul, name, before)


def round_rows(
    frame: Frame, vectors: torch.Tensor, scales: torch.Tensor, weights: torch.Tensor | None, rounded: torch.Tensor
) -> Measured:
    """`frame.wide(vectors)`, scaled, rounded and measured; see `row_kernels.round_rows`."""
    if has_kernels(vectors.device) and vectors.dtype == torch.float32:
        from lookalike.neighbors.cuda import row_kernels

        if rounded.shape[1] <= row_kernels.MOST_DIMENSIONS:
            kinds = {"unit": frame.metric == "cosine", "manhattan": frame.manhattan}
            return row_kernels.round_rows(vectors, frame.centre, scales, weights, rounded, **kinds)
    return plain_round_rows(frame, vectors, scales, weights, rounded)


def plain_round_rows(
    frame: Frame, vectors: torch.Tensor, scales: torch.Tensor, weights: torch.Tensor | None, rounded: torch.Tensor
) -> Measured:
    """`round_rows` in plain torch."""
    count, dimension = vectors.shape
    lengths, sums, rests = (torch.empty(count, dtype=torch.float64, device=vectors.device) for _ in range(3))
    rounded[:, dimension:] = 0
    step = max(1, PREPARED // rounded.shape[1])
    for part in (slice(first, first + step) for first in range(0, count, step)):
        scaled = frame.wide(vectors[part]) * (scales if len(scales) == 1 else scales[part])[:, None]
        lengths[part] = _lengths(scaled, frame)
        sums[part] = scaled.square().sum(1) if weights is None else scaled @ weights
        rounded[part, :dimension] = scaled.to(rounded.dtype)
        rests[part] = _lengths(scaled - rounded[part, :dimension].double(), frame)
    return lengths, sums, rests


def _lengths(rows: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Length of each row; L1 for Manhattan."""
    return rows.abs().sum(1) if frame.manhattan else rows.square().sum(1).sqrt_()


def product_maxima(
    targets: torch.Tensor, sources: torch.Tensor, factors: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Largest of factor * (target . source) + weight * offset in every group; see `kernels.product_maxima`."""
    if has_kernels(targets.device):
        from lookalike.neighbors.cuda import kernels

        return kernels.product_maxima(targets, sources, factors, weights, offsets)
    return plain_product_maxima(targets, sources, factors, weights, offsets)


def plain_product_maxima(
    targets: torch.Tensor, sources: torch.Tensor, factors: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """`product_maxima` in plain torch; products of two bfloat16 are exact in float32."""
    return _maxima(products(targets.float(), sources.float(), factors, weights, offsets), GROUP)


def products(
    targets: torch.Tensor, sources: torch.Tensor, factors: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """All of factor * (target . source) + weight * offset, in the vectors' own type."""
    with full_float32():
        scores = targets @ sources.t()
    scores *= factors[:, None]
    # Targets by targets: the outer product of weights and offsets would be a second matrix of this size.
    scores.addr_(weights, offsets)
    return scores


def manhattan_maxima(targets: torch.Tensor, sources: torch.Tensor, group: int) -> torch.Tensor:
    """Largest negative L1 distance in every group of `group` sources; with 1, all of them."""
    if targets.dtype == torch.float32 and has_kernels(targets.device):
        from lookalike.neighbors.cuda import kernels

        return kernels.manhattan_maxima(targets, sources, group)
    return plain_manhattan_maxima(targets, sources, group)


def plain_manhattan_maxima(targets: torch.Tensor, sources: torch.Tensor, group: int) -> torch.Tensor:
    """`manhattan_maxima` in plain torch."""
    return _maxima(torch.cdist(targets, sources, p=1).neg_(), group)


def passing(scores: torch.Tensor, thresholds: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many scores, and which, reach each target's threshold; see `kernels.passing`."""
    if has_kernels(scores.device):
        from lookalike.neighbors.cuda import kernels

        return kernels.passing(scores, thresholds, most)
    return plain_passing(scores, thresholds, most)


def plain_passing(scores: torch.Tensor, thresholds: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`passing` in plain torch."""
    passes = (scores >= thresholds[:, None]) & (scores > -torch.inf)
    counts = passes.sum(1)
    places = torch.zeros((len(scores), most), dtype=torch.int32, device=scores.device)
    hit_targets, hits = passes.nonzero(as_tuple=True)
    slots = torch.arange(len(hits), device=scores.device) - (counts.cumsum(0) - counts)[hit_targets]
    fits = slots < most
    places[hit_targets[fits], slots[fits]] = hits[fits].int()
    return counts.int(), places


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
    """Scores of all members of some groups of each target; see `row_kernels.member_scores`."""
    if has_kernels(targets.device):
        from lookalike.neighbors.cuda import row_kernels

        return row_kernels.member_scores(
            targets, sources, groups, counts, factors, weights, offsets, manhattan=manhattan
        )
    return plain_member_scores(targets, sources, groups, counts, factors, weights, offsets, manhattan=manhattan)


def plain_member_scores(
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
    """`member_scores` in plain torch, summed in two stages as there, so that one error bound holds for both."""
    scores = torch.full((*groups.shape, GROUP), -torch.inf, dtype=torch.float32, device=targets.device)
    members = torch.arange(GROUP, device=targets.device)
    slots = torch.arange(groups.shape[1], device=targets.device)
    hit_targets, hit_slots = (slots < counts[:, None]).nonzero(as_tuple=True)
    step = max(1, _GATHER // (GROUP * targets.shape[1]))
    for first in range(0, len(hit_targets), step):
        target, slot = hit_targets[first : first + step], hit_slots[first : first + step]
        columns = groups[target, slot].long()[:, None] * GROUP + members
        inside = columns < len(sources)
        columns = torch.where(inside, columns, 0)
        one, other = targets[target, None].float(), sources[columns].float()
        terms = (one - other).abs_().neg_() if manhattan else one * other
        sums = terms.view(len(terms), GROUP, -1, STEP).sum(2).sum(2)
        if not manhattan:
            sums = factors[target, None] * sums + weights[target, None] * offsets[columns]
        scores[target, slot] = torch.where(inside, sums, -torch.inf)
    return scores


def _maxima(scores: torch.Tensor, group: int) -> torch.Tensor:
    """The largest of every `group` consecutive columns."""
    if group == 1:
        return scores
    missing = -scores.shape[1] % group
    padded = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return padded.view(len(scores), -1, group).amax(2)
