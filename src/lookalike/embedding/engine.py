"""The loop: paths -> pixels -> batches -> vectors, shard by shard, in input order, bad images falling out.

Reading, decoding and preprocessing run ahead on threads while the model works; they run across the borders of
shards, so that neither side waits there. Batches do not: a shard's vectors do not depend on which shards were
finished before, so a resumed run gives the same bytes as an undisturbed one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lookalike.embedding.cache import Cached, Entry
from lookalike.embedding.prepare import Group, Preparer, Seen
from lookalike.embedding.readahead import read_ahead
from lookalike.encoders.base import Encoder, Pending, Pixels
from lookalike.images.outcome import ImageRejected, QuarantinedImage, Reason

#: A group has this many times the limit of a file before its images are prepared one by one: enough for a slow disk,
#: and not so long that one file that hangs stops the run for an hour.
_GROUP_LIMITS = 4


@dataclass
class Shard:
    """What became of some consecutive rows of the input.

    Attributes
    ----------
    span:
        The rows.
    rows:
        Those that were embedded, ascending.
    vectors:
        len(rows) x dimension, float32.
    quarantined:
        The others, in order.
    clipped:
        How many 16-bit images were clipped.
    cached:
        How many vectors came from the cache.
    reused:
        How many came from an earlier table.
    entries:
        What the cache may learn from it.
    """

    span: range
    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    quarantined: list[QuarantinedImage] = field(default_factory=list)
    clipped: int = 0
    cached: int = 0
    entries: list[Entry] = field(default_factory=list)
    reused: int = 0


@dataclass
class Stages:
    """Where the time of the loop went, in seconds: waiting for decoded images, and in the model."""

    waiting: float = 0.0
    forward: float = 0.0

    @property
    def limit(self) -> str:
        """The stage that limits the speed: ``decode-bound`` or ``compute-bound``."""
        return "decode-bound" if self.waiting > self.forward else "compute-bound"


@dataclass(frozen=True)
class Job:
    """What the engine needs to know.

    Attributes
    ----------
    filepaths:
        All paths of the input.
    encoder:
        Its forward pass runs in the caller's thread.
    preparer:
        Runs on threads, ahead of the model.
    batch_size:
        Images per forward pass.
    time_limit:
        Seconds for reading, decoding and preprocessing one image; one that takes longer is set aside.
    on_rejected:
        Called for every image that is set aside; may raise to end the run.
    on_progress:
        Called now and then with how many rows are done.
    on_begin:
        Called with a span before the first of its files is read.
    """

    filepaths: Sequence[str]
    encoder: Encoder
    preparer: Preparer
    batch_size: int
    time_limit: float
    on_rejected: Callable[[QuarantinedImage], None]
    on_progress: Callable[[int], None]
    on_begin: Callable[[range], None]


def embed(job: Job, spans: Iterable[range], stages: Stages) -> Iterator[Shard]:
    """Embed the given spans of rows and yield a shard for each, in order.

    Every batch but the last of a shard is full. What the preparer has in flight and two batches are held beside the
    shard's vectors.

    Parameters
    ----------
    job:
        Inputs and settings.
    spans:
        Rows to embed, ascending and disjoint; the next is asked for while the one before it waits for the model.
    stages:
        Filled on the way.
    """
    step = job.preparer.group_size
    begun: deque[range] = deque()

    def begin(span: range) -> range:
        job.on_begin(span)
        job.preparer.begin(span)
        return span

    def groups() -> Iterator[range]:
        # A span is begun while the one before it is embedded: looking at ten thousand files takes a while.
        for span in read_ahead(begin, spans, threads=1, ahead=1, time_limit=math.inf, on_timeout=begin):
            begun.append(span)
            yield from (span[first : first + step] for first in range(0, len(span), step))

    def give_up(rows: Sequence[int]) -> Group:
        """A single image is set aside; of a group, only those that alone give no result either."""
        if len(rows) == 1:
            detail = f"no result after {job.time_limit:g} s"
            return Group(rejected=[(rows[0], ImageRejected(Reason.UNREADABLE, detail))])
        alone = job.preparer.alone
        return _joined(
            read_ahead(
                alone, [[row] for row in rows], threads=alone.threads, ahead=alone.ahead,
                time_limit=job.time_limit, on_timeout=give_up,
            )
        )  # fmt: skip

    prepared = read_ahead(
        job.preparer, groups(), threads=job.preparer.threads, ahead=job.preparer.ahead,
        time_limit=job.time_limit * (_GROUP_LIMITS if step > 1 else 1), on_timeout=give_up,
    )  # fmt: skip
    with contextlib.closing(prepared):
        yield from _build(job, begun, prepared, stages)


def _build(job: Job, begun: deque[range], prepared: Iterator[Group], stages: Stages) -> Iterator[Shard]:
    """Make shards of the groups, as they come; a span is in `begun` before its first group comes."""
    step = job.preparer.group_size
    done = 0
    before: _Building | None = None
    try:
        while (group := _next(prepared, stages)) is not None:
            span = begun.popleft()
            building = _Building(job, span, stages)
            for first in range(0, len(span), step):
                if first:
                    group = _next(prepared, stages)
                    assert group is not None
                building.add(group)
                rows = span[first : first + step]
                job.preparer.forget(rows)
                done += len(rows)
                if done % job.batch_size < step:
                    job.on_progress(done)
                if before is not None:  # only now, so that a card has work while the shard is finished and written
                    finished, before = before, None
                    yield finished.finish()
            building.flush()
            before = building
    except Exception:
        if before is not None:  # what is finished is kept
            yield before.finish()
        raise
    if before is not None:
        yield before.finish()


def _next(prepared: Iterator[Group], stages: Stages) -> Group | None:
    """The next group, or None after the last."""
    started = time.perf_counter()
    group = next(prepared, None)
    stages.waiting += time.perf_counter() - started
    return group


class _Building:
    """A shard while it fills."""

    def __init__(self, job: Job, span: range, stages: Stages) -> None:
        self._job = job
        self._span = span
        self._stages = stages
        self._waiting_rows: list[int] = []
        self._waiting: list[Pixels] = []
        self._under_way: deque[tuple[list[int], Pending]] = deque()
        self._rows: list[int] = []
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._quarantined: list[QuarantinedImage] = []
        self._clipped = 0
        self._cached = 0
        self._reused = 0
        self._seen: dict[int, Seen] = {}

    def add(self, group: Group) -> None:
        """Take the next group of the span, and embed as many full batches as there are."""
        for row, rejected in group.rejected:
            self._set_aside(row, rejected)
        self._clipped += group.clipped
        self._cached += len(group.known) - group.reused
        self._reused += group.reused
        self._seen.update(group.seen)
        for row, vector in group.known:
            self._rows.append(row)
            self._vectors.append(vector[None])
        if group.pixels is not None:
            self._waiting_rows += group.rows
            self._waiting.append(group.pixels)
        while len(self._waiting_rows) >= self._job.batch_size:
            self._forward()

    def flush(self) -> None:
        """Embed what is left: no more groups will come."""
        if self._waiting_rows:
            self._forward()

    def finish(self) -> Shard:
        """Wait for the vectors and return the shard."""
        while self._under_way:
            self._collect()
        vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), np.float32)
        self._vectors = []  # this object lives on until the next shard begins
        rows = np.array(self._rows, np.int64)
        order = np.argsort(rows)  # vectors from the cache overtook those that waited for their batch
        rows, vectors = rows[order], vectors[order]
        return Shard(
            self._span,
            rows,
            vectors,
            sorted(self._quarantined, key=lambda image: image.row),
            self._clipped,
            self._cached,
            [self._entry(int(row), vector) for row, vector in zip(rows, vectors, strict=True) if row in self._seen],
            self._reused,
        )

    def _entry(self, row: int, vector: npt.NDArray[np.float32]) -> Entry:
        digest, stamp, pixels, clipped = self._seen[row]
        return Entry(self._job.filepaths[row], digest, stamp, Cached(vector, pixels, clipped))

    def _forward(self) -> None:
        """Start the model on one batch, and take the vectors of the batch before."""
        size = self._job.batch_size
        rows, self._waiting_rows = self._waiting_rows[:size], self._waiting_rows[size:]
        pixels = _concatenated(self._waiting)
        self._waiting = [pixels[size:]] if self._waiting_rows else []
        started = time.perf_counter()
        self._under_way.append((rows, self._job.encoder.start(pixels[:size])))
        self._stages.forward += time.perf_counter() - started
        if len(self._under_way) > 1:
            self._collect()

    def _collect(self) -> None:
        """Wait for the oldest batch; set vectors that are not finite aside."""
        rows, pending = self._under_way.popleft()
        started = time.perf_counter()
        vectors = pending()
        self._stages.forward += time.perf_counter() - started
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        for row, fine in zip(rows, finite.tolist(), strict=True):
            if fine:
                self._rows.append(row)
            else:
                self._set_aside(row, ImageRejected(Reason.BAD_VECTOR, "the model gave NaN or infinity"))
        self._vectors.append(vectors[finite])

    def _set_aside(self, row: int, rejected: ImageRejected) -> None:
        image = QuarantinedImage(row, self._job.filepaths[row], rejected.reason, rejected.detail, rejected.size)
        self._quarantined.append(image)
        self._job.on_rejected(image)


def _joined(groups: Iterable[Group]) -> Group:
    """Several groups as one."""
    whole = Group()
    pixels: list[Pixels] = []
    for group in groups:
        whole.rows += group.rows
        whole.add(group)
        if group.pixels is not None:
            pixels.append(group.pixels)
    if pixels:
        whole.pixels = _concatenated(pixels)
    return whole


def _concatenated(pieces: list[Pixels]) -> Pixels:
    """Arrays as an array; as soon as there is a tensor among them, a tensor like it."""
    if len(pieces) == 1:
        return pieces[0]
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if len(arrays) == len(pieces):
        return np.concatenate(arrays)
    import torch

    like = next(piece for piece in pieces if isinstance(piece, torch.Tensor))
    try:
        return torch.cat([torch.as_tensor(piece).to(like) for piece in pieces])
    except torch.OutOfMemoryError:  # the model takes them to the card slice by slice
        torch.cuda.empty_cache()
        return torch.cat([torch.as_tensor(piece).to("cpu", like.dtype) for piece in pieces])
