"""From paths to pixels, a group at a time, on threads: the cache is asked, Pillow decodes, bad files fall out.

`PillowPreparer` is the way of every machine; `card.CardPreparer` decodes on a CUDA device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lookalike.cores import usable_cores
from lookalike.embedding.boards import Boards
from lookalike.embedding.cache import Cached, FileStamp, VectorCache, content_digest
from lookalike.encoders.base import Encoder, Pixels
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.images.preprocess import Preprocessing
from lookalike.tables.boxes import split_box


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

    def add(self, other: Group) -> None:
        """Add what became of other images, all but their rows and pixels."""
        self.rejected += other.rejected
        self.clipped += other.clipped
        self.known += other.known
        self.reused += other.reused
        self.seen.update(other.seen)

    def take(self, row: int, known: Cached) -> None:
        """Take an image's vector from the cache."""
        self.known.append((row, known.vector))
        self.clipped += known.clipped

    def note(self, row: int, pixels: int, clipped: bool) -> None:
        """Note what decoding showed of an image."""
        self.clipped += clipped
        if row in self.seen:
            self.seen[row] = self.seen[row]._replace(pixels=pixels, clipped=clipped)


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

    @property
    def alone(self) -> Preparer:
        """What prepares the images of a group one by one where the group does not end in time."""
        ...

    def begin(self, span: Sequence[int]) -> None:
        """Called before the first image of a span is prepared, on a thread of its own."""
        ...

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare the images of some rows. May be called again for the same rows, by way of `alone`."""
        ...

    def forget(self, rows: Sequence[int]) -> None:
        """Called when the images of some rows have been taken: nothing of them is needed any more."""
        ...


class CacheLookup:
    """What the cache knows of the images of a run; without a cache, nothing.

    Parameters
    ----------
    cache:
        The encoder's vectors, or None.
    filepaths:
        All paths of the input.
    max_pixels, max_bytes:
        Today's bounds; images beyond them are not taken from the cache. None: no bound.
    by_path:
        Whether path, size and modification time are enough, or the content must be read.
    """

    def __init__(
        self,
        cache: VectorCache | None,
        filepaths: Sequence[str],
        max_pixels: int,
        *,
        by_path: bool,
        max_bytes: int | None = None,
    ) -> None:
        self._cache = cache
        self._filepaths = filepaths
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes
        self._by_path = by_path
        self._found: dict[int, Cached] = {}

    def begin(self, span: Sequence[int]) -> None:
        """Look a span's paths up, all at once."""
        if self._cache is not None and self._by_path:
            found = self._cache.by_path([self._filepaths[row] for row in span], self._max_bytes)
            self._found.update((span[position], cached) for position, cached in found.items())

    def find_or_read(self, row: int, reading: ReadSettings, group: Group) -> bytes | None:
        """Put what the cache knows of a row into its group and return None, or return the bytes of its file.

        Raises
        ------
        ImageRejected
            When the file cannot be read.
        """
        known = self._bounded(self._found.get(row))
        if known is not None:
            group.take(row, known)
            return None
        path = self._filepaths[row]
        if self._cache is None:
            return read_bytes(path, reading)
        # Below a root, or a start, the path names another file than the one that the working directory has.
        stamp = None if reading.root or reading.start else FileStamp.of(path)
        data = read_bytes(path, reading)
        digest = content_digest(data, split_box(path)[1])
        known = self._bounded(self._cache.by_content(digest))
        group.seen[row] = Seen(digest, stamp, known.pixels if known else 0, bool(known and known.clipped))
        if known is None:
            return data
        group.take(row, known)
        return None

    def forget(self, rows: Sequence[int]) -> None:
        """Let go of what was found for rows."""
        for row in rows:
            self._found.pop(row, None)

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
    threads:
        As many as there are cores, if not given.
    time_limit:
        Seconds for decoding a file of which parts are wanted.
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
        threads: int | None = None,
        time_limit: float = math.inf,
    ) -> None:
        self.threads = threads or usable_cores()
        self.ahead = batch_size + self.threads
        self._filepaths = filepaths
        self._preprocessing = encoder.preprocessing
        self._decoding = decoding
        self._reading = reading
        self._cache = cache
        self._boards = Boards(decoding, time_limit)
        self.begin, self.forget = cache.begin, cache.forget

    @property
    def alone(self) -> PillowPreparer:
        """See `Preparer.alone`."""
        return self

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare one image, or find its vector in the cache."""
        (row,) = rows
        group = Group()
        try:
            data = self._cache.find_or_read(row, self._reading, group)
        except ImageRejected as rejected:
            return Group(rejected=[(row, rejected)])
        if data is not None:
            self.prepare(row, data, group)
        return group

    def is_part(self, row: int) -> bool:
        """Whether the image of a row is a part of its file."""
        return split_box(self._filepaths[row])[1] is not None

    def prepare(self, row: int, data: bytes, group: Group) -> None:
        """Decode and preprocess the bytes of one image into a group that holds nothing else."""
        try:
            box = split_box(self._filepaths[row])[1]
            decoded = decode(data, self._decoding) if box is None else self._boards.decode(data, box)
            width, height = resized_within(decoded.image.size, self._preprocessing, self._decoding.max_pixels)
            group.rows, group.pixels = [row], self._preprocessing(decoded.image)[None]
            group.note(row, max(width * height, decoded.pixels), decoded.clipped)
        except ImageRejected as rejected:
            group.rejected.append((row, rejected))


def resized_within(size: tuple[int, int], preprocessing: Preprocessing, max_pixels: int) -> tuple[int, int]:
    """Width and height that resizing will give an image of some width and height.

    Raises
    ------
    ImageRejected
        When they make too many pixels, as a thin strip does whose short edge grows.
    """
    width, height = preprocessing.resized(*size)
    if width * height > max_pixels:
        raise ImageRejected(Reason.TOO_LARGE, f"resizing it would make {width} x {height} pixels")
    return width, height
