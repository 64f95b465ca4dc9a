"""The loop: paths -> pixels -> batches -> vectors, in input order, bad images falling out on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lookalike.embedding.readahead import read_ahead
from lookalike.encoders.base import Encoder
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected, QuarantinedImage, Reason


@dataclass(frozen=True)
class Batch:
    """Vectors of consecutive good images.

    Attributes
    ----------
    rows:
        Their rows in the input, ascending.
    vectors:
        len(rows) x dimension, float32.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


@dataclass
class Outcomes:
    """What the engine notices on the way: images set aside, and 16-bit images that were clipped."""

    quarantined: list[QuarantinedImage] = field(default_factory=list)
    clipped: int = 0


@dataclass(frozen=True)
class _Prepared:
    """One image after its thread: ready for the model, or the reason why not."""

    row: int
    pixels: npt.NDArray[np.float32] | None
    rejected: ImageRejected | None
    clipped: bool


def embed(
    filepaths: Sequence[str],
    encoder: Encoder,
    decoding: DecodeSettings,
    batch_size: int,
    outcomes: Outcomes,
    *,
    reading: ReadSettings,
    time_limit: float,
) -> Iterator[Batch]:
    """Embed images, batch by batch.

    Decoding and preprocessing run ahead on threads while the model works; bad images fall out before
    batching, so every batch but the last is full.

    Parameters
    ----------
    filepaths:
        Local paths or fsspec URLs.
    encoder:
        Its preprocessing runs on the threads, its forward pass here.
    decoding:
        Bounds and rules of decoding.
    batch_size:
        Images per forward pass; also the most images that are prepared ahead.
    outcomes:
        Filled on the way, and complete when the iterator ends.
    reading:
        Which files may be read, and how.
    time_limit:
        Seconds for reading, decoding and preprocessing one image; one that takes longer is set aside.
    """

    def prepare(row: int) -> _Prepared:
        try:
            decoded = decode(read_bytes(filepaths[row], reading), decoding)
            width, height = encoder.preprocessing.resized(*decoded.image.size)
            if width * height > decoding.max_pixels:
                raise ImageRejected(Reason.TOO_LARGE, f"resizing it would make {width} x {height} pixels")
            return _Prepared(row, encoder.preprocessing(decoded.image), None, decoded.clipped)
        except ImageRejected as rejected:
            return _Prepared(row, None, rejected, clipped=False)

    def give_up(row: int) -> _Prepared:
        return _Prepared(
            row, None, ImageRejected(Reason.UNREADABLE, f"no result after {time_limit:g} s"), clipped=False
        )

    threads = os.cpu_count() or 1
    batch: list[tuple[int, npt.NDArray[np.float32]]] = []
    rows = range(len(filepaths))
    for prepared in read_ahead(
        prepare, rows, threads=threads, ahead=batch_size + threads, time_limit=time_limit, on_timeout=give_up
    ):
        if prepared.pixels is None:
            assert prepared.rejected is not None
            outcomes.quarantined.append(_quarantined(prepared.row, filepaths[prepared.row], prepared.rejected))
            continue
        outcomes.clipped += prepared.clipped
        batch.append((prepared.row, prepared.pixels))
        if len(batch) == batch_size:
            yield _forward(batch, filepaths, encoder, outcomes)
            batch = []
    if batch:
        yield _forward(batch, filepaths, encoder, outcomes)


def _forward(
    batch: list[tuple[int, npt.NDArray[np.float32]]],
    filepaths: Sequence[str],
    encoder: Encoder,
    outcomes: Outcomes,
) -> Batch:
    """Run the model over one batch and set vectors that are not finite aside."""
    rows = np.array([row for row, _ in batch], np.int64)
    vectors = encoder.encode(np.stack([pixels for _, pixels in batch]))
    finite = np.isfinite(vectors).all(axis=1)
    for row in rows[~finite]:
        rejected = ImageRejected(Reason.BAD_VECTOR, "the model gave NaN or infinity")
        outcomes.quarantined.append(_quarantined(int(row), filepaths[row], rejected))
    return Batch(rows[finite], vectors[finite])


def _quarantined(row: int, filepath: str, rejected: ImageRejected) -> QuarantinedImage:
    return QuarantinedImage(row, filepath, rejected.reason, rejected.detail, rejected.size)
