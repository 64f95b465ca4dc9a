"""From paths to pixels, a group at a time, on threads: the cache is asked, Pillow decodes, bad files fall out.

`PillowPreparer` is the way of every machine; `card.CardPreparer` decodes on a CUDA device.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lookalike.embedding.cache import Cached, FileStamp, VectorCache, content_digest
from lookalike.encoders.base import Encoder, Pixels
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected, Reason


@dataclass
class Group:
    """Images after their thread: ready for the model, or the reason why not.

    Attributes
    ----------
    rows:
        Those that are ready, ascending.
    pixels:
        len(rows) x 3 x height x width, an array or a tensor on the encoder's device; None where there are none.
    rejected:
        Images that were set aside, with their reason.
    clipped:
        How many 16-bit images were clipped.
    known:
        Images whose vectors came from the cache or from an earlier table.
    seen:
        What was noted of the files that were read, for the cache.
    reused:
        How many of `known` came from an earlier table and not from the cache.
    """

    rows: list[int] = field(default_factory=list)
    pixels: Pixels | None = None
    rejected: list[tuple[int, ImageRejected]] = field(default_factory=list)
    clipped: int = 0
    known: list[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=list)
    seen: dict[int, Seen] = field(default_factory=dict)
    reused: int = 0


class Seen(NamedTuple):
    """What the cache wants to know of a file: digest and stamp, the most pixels it made, and whether it was clipped."""

    digest: bytes
    stamp: FileStamp | None
    pixels: int
    clipped: bool


class Preparer(Protocol):
    """Reads, decodes and preprocesses groups of images; called on threads.

    Attributes
    ----------
    group_size:
        Images that it takes at a time.
    threads, ahead:
        Threads that it wants, and groups in flight.
    """

    group_size: int
    threads: int
    ahead: int

    def begin(self, span: Sequence[int]) -> None:
        """Called in the caller's thread before the first image of a span is prepared."""
        ...

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare the images of some rows."""
        ...


def usable_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CacheLookup:
    """What the cache knows of the images of a run; without a cache, nothing.

    Parameters
    ----------
    cache:
        The encoder's vectors, or None.
    filepaths:
        All paths of the input.
    max_pixels:
        Today's bound; images beyond it are not taken from the cache.
    by_path:
        Whether path, size and modification time are enough, or the content must be read.
    """

    def __init__(self, cache: VectorCache | None, filepaths: Sequence[str], max_pixels: int, *, by_path: bool) -> None:
        self._cache = cache
        self._filepaths = filepaths
        self._max_pixels = max_pixels
        self._by_path = by_path
        self._found: dict[int, Cached] = {}

    def begin(self, span: Sequence[int]) -> None:
        """Look a span's paths up, all at once."""
        if self._cache is not None and self._by_path:
            found = self._cache.by_path([self._filepaths[row] for row in span])
            self._found.update((span[position], cached) for position, cached in found.items())

    def by_path(self, row: int) -> Cached | None:
        """What `begin` found for a row."""
        return self._bounded(self._found.pop(row, None))

    def by_content(self, digest: bytes) -> Cached | None:
        """What is known of a content."""
        return self._bounded(self._cache.by_content(digest)) if self._cache is not None else None

    def _bounded(self, cached: Cached | None) -> Cached | None:
        return cached if cached is not None and cached.pixels <= self._max_pixels else None


class PillowPreparer:
    """Prepares images one by one with Pillow, on as many threads as there are cores.

    Parameters
    ----------
    filepaths:
        All paths of the input, local or fsspec URLs.
    encoder:
        Gives the preprocessing.
    decoding, reading:
        Bounds and rules.
    batch_size:
        About how many prepared images may wait for the model.
    cache:
        Where vectors may be known from.
    """

    group_size = 1

    def __init__(
        self,
        filepaths: Sequence[str],
        encoder: Encoder,
        decoding: DecodeSettings,
        reading: ReadSettings,
        batch_size: int,
        cache: CacheLookup,
    ) -> None:
        self.threads = usable_cores()
        self.ahead = batch_size + self.threads
        self._filepaths = filepaths
        self._preprocessing = encoder.preprocessing
        self._decoding = decoding
        self._reading = reading
        self._cache = cache
        self.begin = cache.begin

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare one image, or find its vector in the cache."""
        (row,) = rows
        known = self._cache.by_path(row)
        if known is not None:
            return Group(known=[(row, known.vector)], clipped=int(known.clipped))
        try:
            stamp = FileStamp.of(self._filepaths[row])
            data = read_bytes(self._filepaths[row], self._reading)
            digest = content_digest(data)
            known = self._cache.by_content(digest)
            if known is not None:
                seen = {row: Seen(digest, stamp, known.pixels, known.clipped)}
                return Group(known=[(row, known.vector)], clipped=int(known.clipped), seen=seen)
            decoded = decode(data, self._decoding)
            width, height = self._preprocessing.resized(*decoded.image.size)
            if width * height > self._decoding.max_pixels:
                raise ImageRejected(Reason.TOO_LARGE, f"resizing it would make {width} x {height} pixels")
            pixels = max(width * height, decoded.image.width * decoded.image.height)
            seen = {row: Seen(digest, stamp, pixels, decoded.clipped)}
            return Group([row], self._preprocessing(decoded.image)[None], clipped=int(decoded.clipped), seen=seen)
        except ImageRejected as rejected:
            return Group(rejected=[(row, rejected)])
