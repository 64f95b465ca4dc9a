"""The loop: paths -> pixels -> batches -> vectors, shard by shard, in input order, bad images falling out.

Reading, decoding and preprocessing run ahead on threads while the model works; they run across the borders of
shards, so that neither side waits there. Batches do not: a shard's vectors do not depend on which shards were
finished before, so a resumed run gives the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lookalike.embedding.readahead import read_ahead
from lookalike.encoders.base import Encoder
from lookalike.images.decode import DecodeSettings, decode, read_bytes
from lookalike.images.outcome import ImageRejected, QuarantinedImage, Reason


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
    """

    span: range
    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    quarantined: list[QuarantinedImage] = field(default_factory=list)
    clipped: int = 0


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
        All paths of the input, local or fsspec URLs.
    encoder:
        Its preprocessing runs on the threads, its forward pass in the caller's thread.
    decoding:
        Bounds and rules of decoding.
    batch_size:
        Images per forward pass; also how many are prepared ahead.
    on_rejected:
        Called for every image that is set aside; may raise to end the run.
    on_progress:
        Called now and then with how many rows are done.
    on_begin:
        Called with a span before the first of its files is read.
    """

    filepaths: Sequence[str]
    encoder: Encoder
    decoding: DecodeSettings
    batch_size: int
    on_rejected: Callable[[QuarantinedImage], None]
    on_progress: Callable[[int], None]
    on_begin: Callable[[range], None]


@dataclass(frozen=True)
class _Prepared:
    """One image after its thread: ready for the model, or the reason why not."""

    row: int
    pixels: npt.NDArray[np.float32] | None = None
    rejected: ImageRejected | None = None
    clipped: bool = False


def embed(job: Job, spans: Sequence[range], stages: Stages) -> Iterator[Shard]:
    """Embed the given spans of rows and yield a shard for each, in order.

    Every batch but the last of a shard is full. At most `batch_size` prepared images beside the shard's vectors
    are held.

    Parameters
    ----------
    job:
        Inputs and settings.
    spans:
        Rows to embed, ascending and disjoint.
    stages:
        Filled on the way.
    """
    threads = os.cpu_count() or 1

    def rows() -> Iterator[int]:
        for span in spans:
            job.on_begin(span)
            yield from span

    prepared = read_ahead(lambda row: _prepare(job, row), rows(), threads=threads, ahead=job.batch_size + threads)
    done = 0
    for span in spans:
        building = _Building(job, span, stages)
        for _ in span:
            started = time.perf_counter()
            image = next(prepared)
            stages.waiting += time.perf_counter() - started
            building.add(image)
            done += 1
            if done % job.batch_size == 0:
                job.on_progress(done)
        yield building.finish()


def _prepare(job: Job, row: int) -> _Prepared:
    """Read, decode and preprocess one image; called on the threads."""
    try:
        decoded = decode(read_bytes(job.filepaths[row]), job.decoding)
        width, height = job.encoder.preprocessing.resized(*decoded.image.size)
        if width * height > job.decoding.max_pixels:
            raise ImageRejected(Reason.TOO_LARGE, f"resizing it would make {width} x {height} pixels")
        return _Prepared(row, job.encoder.preprocessing(decoded.image), clipped=decoded.clipped)
    except ImageRejected as rejected:
        return _Prepared(row, rejected=rejected)


class _Building:
    """A shard while it fills."""

    def __init__(self, job: Job, span: range, stages: Stages) -> None:
        self._job = job
        self._span = span
        self._stages = stages
        self._batch: list[_Prepared] = []
        self._rows: list[int] = []
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._quarantined: list[QuarantinedImage] = []
        self._clipped = 0

    def add(self, image: _Prepared) -> None:
        """Take the next image of the span."""
        if image.rejected is not None:
            self._set_aside(image.row, image.rejected)
            return
        self._clipped += image.clipped
        self._batch.append(image)
        if len(self._batch) == self._job.batch_size:
            self._forward()

    def finish(self) -> Shard:
        """Embed what is left and return the shard."""
        if self._batch:
            self._forward()
        vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), np.float32)
        return Shard(
            self._span,
            np.array(self._rows, np.int64),
            vectors,
            sorted(self._quarantined, key=lambda image: image.row),
            self._clipped,
        )

    def _forward(self) -> None:
        """Run the model over the batch and set vectors that are not finite aside."""
        started = time.perf_counter()
        pixels = [image.pixels for image in self._batch if image.pixels is not None]
        vectors = self._job.encoder.encode(np.stack(pixels))
        self._stages.forward += time.perf_counter() - started
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        for image, fine in zip(self._batch, finite.tolist(), strict=True):
            if fine:
                self._rows.append(image.row)
            else:
                self._set_aside(image.row, ImageRejected(Reason.BAD_VECTOR, "the model gave NaN or infinity"))
        self._vectors.append(vectors[finite])
        self._batch = []

    def _set_aside(self, row: int, rejected: ImageRejected) -> None:
        image = QuarantinedImage(row, self._job.filepaths[row], rejected.reason, rejected.detail, rejected.size)
        self._quarantined.append(image)
        self._job.on_rejected(image)
