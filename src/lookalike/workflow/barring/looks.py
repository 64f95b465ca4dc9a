"""What is kept of a picture to tell its copies, and looking at many: a file that did not change is decoded once.

A look is kept in the cache of vectors, as a vector of another kind in a database of its own: the quick check by path,
size and modification time, the bound in bytes and `lookalike cache` are the same for both.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from lookalike.config.schemas import RunConfig
from lookalike.embedding.cache import Cached, Entry, VectorCache
from lookalike.embedding.loop import cache_folder_of, trusts_paths
from lookalike.embedding.prepare import CacheLookup, Group
from lookalike.encoders.identity import PICTURES, EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.outcome import ImageRejected
from lookalike.progress import progress
from lookalike.reports.thumbnails import Reading
from lookalike.tables.boxes import split_box
from lookalike.workflow.barring.pictures import on_threads, refuse_remote

#: Edge of a fingerprint.
EDGE = 64
#: Raised when a look is made in another way, so that old ones are not taken for new ones.
_VERSION = 1
#: Bytes of a digest, and of width and height.
_DIGEST, _SIDES = 32, 8
#: What is kept of a picture, in words of four bytes.
_WORDS = (_DIGEST + _SIDES + EDGE * EDGE) // 4
#: Pictures that are looked up at a time, and remembered.
_WINDOW = 512

Singles = npt.NDArray[np.float32]


class Look(NamedTuple):
    """What tells the copies of a picture.

    Attributes
    ----------
    digest:
        Equal for the same pixels in the same size, whatever the file format.
    shape:
        Logarithm of width / height.
    fingerprint:
        `EDGE` x `EDGE`, float32, of length 1; zero where the picture has one colour.
    """

    digest: bytes
    shape: float
    fingerprint: Singles


def look(image: Image.Image) -> Look:
    """Look at a decoded picture."""
    return _unpack(_pack(image))


class Looks:
    """Looks at image files on threads. To be closed.

    Parameters
    ----------
    inputs:
        How files are read, and where the cache is; `cache_dir` off: every file is decoded.
    """

    def __init__(self, inputs: RunConfig) -> None:
        self._inputs, self._reading = inputs, Reading.of(vars(inputs))
        self._cache: VectorCache | None = None
        self._new: deque[Entry] = deque()  # filled by threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was seen, however this ends."""
        if self._cache is not None:
            self._store(self._cache)
            self._cache.close()

    def each(self, paths: Sequence[str], task: str) -> Iterator[Look | ImageRejected]:
        """Yield a look at each file, in their order, or why it cannot be read. A URL is not read.

        Parameters
        ----------
        paths:
            The files.
        task:
            What the progress bar says.

        Raises
        ------
        ImagesFailed
            When so many files hang that the disk or the network seems to be dead.
        """
        cache = self._open() if len(paths) else None
        lookup = CacheLookup(
            cache,
            paths,
            self._reading.pixels.max_pixels,
            by_path=trusts_paths(self._inputs.verify, self._inputs.root),
            max_bytes=self._reading.files.max_bytes,
        )

        def rows() -> Iterator[int]:
            """All rows, each once it was looked up by its path, a window of them at a time."""
            for first in range(0, len(paths), _WINDOW):
                window = range(first, min(first + _WINDOW, len(paths)))
                lookup.begin(window)
                yield from window

        def one(row: int) -> Look:
            refuse_remote(paths[row], self._reading)
            return self._look(row, paths[row], lookup)

        with progress(task, len(paths), "images") as advance:
            for row, found in enumerate(on_threads(one, rows(), self._reading)):
                yield found
                lookup.forget((row,))
                if cache is not None and len(self._new) >= _WINDOW:
                    self._store(cache)
                advance(row + 1)

    def _look(self, row: int, path: str, lookup: CacheLookup) -> Look:
        """Look at one file, and note what is new of it for the cache; on a thread."""
        group = Group()
        data = lookup.find_or_read(row, self._reading.files, group)
        if data is None:
            kept = group.known[0][1]
        else:
            decoded = decode(data, self._reading.pixels, box=split_box(path)[1])
            kept = _pack(decoded.image)
            group.note(row, decoded.pixels, decoded.clipped)
        if row in group.seen:  # a file that was read; where its content was known, its path is new
            digest, stamp, pixels, clipped = group.seen[row]
            self._new.append(Entry(path, digest, stamp, Cached(kept, pixels, clipped)))
        return _unpack(kept)

    def _open(self) -> VectorCache | None:
        """The cache, opened once it is needed; None where there is none."""
        if self._cache is None:
            folder = cache_folder_of(self._inputs.embedding("", ""))
            if folder is not None:
                self._cache = VectorCache(folder, identity_of(self._reading.pixels), self._inputs.cache_bytes)
        return self._cache

    def _store(self, cache: VectorCache) -> None:
        cache.store([self._new.popleft() for _ in range(len(self._new))])


def identity_of(pixels: DecodeSettings) -> EncoderIdentity:
    """What tells looks that may be compared: how files become pixels, and these a look. It names their database."""
    made = json.dumps([_VERSION, EDGE, pixels.exif, pixels.bit_depth, PIL.__version__])
    return EncoderIdentity(
        ModelIdentity(
            family=PICTURES,
            architecture=f"{EDGE} x {EDGE}, exif={pixels.exif}, bit_depth={pixels.bit_depth}, Pillow {PIL.__version__}",
            dimension=_WORDS,
            weights="",
            preprocessing=hashlib.sha256(made.encode()).hexdigest(),
            pooling="none",
            normalisation="none",
        ),
        Numerics(precision="uint8", runtime="pillow", decoder="pillow"),
        Origin("", {"pillow": PIL.__version__}),
    )


def _pack(image: Image.Image) -> Singles:
    """What is kept: digest, width, height and the picture in grey. Bytes, by the cache's type of a vector."""
    digest = hashlib.sha256(f"{image.size}".encode() + _pixels(image)).digest()
    grey = image.convert("L").resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    return np.frombuffer(digest + np.array(image.size, "<u4").tobytes() + grey.tobytes(), "<f4")


def _unpack(kept: Singles) -> Look:
    """A look from what was kept."""
    data = kept.tobytes()
    width, height = np.frombuffer(data, "<u4", count=2, offset=_DIGEST).tolist()
    grey = np.frombuffer(data, np.uint8, offset=_DIGEST + _SIDES).reshape(EDGE, EDGE)
    return Look(data[:_DIGEST], float(np.log(width / height)), _fingerprint(grey.astype(np.float32)))


def _fingerprint(values: Singles) -> Singles:
    """A picture in grey less its local mean, of length 1; zero where it has one colour."""
    padded = np.pad(values, 1, mode="edge")
    around = sum(padded[down : down + EDGE, right : right + EDGE] for down in range(3) for right in range(3)) / 9
    fine = values - around
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    # Of one colour: what is left is rounding.
    fine = fine / length if length > 1e-2 else np.zeros_like(fine)
    return fine.astype(np.float32)


def _pixels(image: Image.Image) -> bytes:
    """The pixels: one byte each where the picture is grey, in whatever mode it is stored, else three."""
    if image.mode == "L":
        return image.tobytes()
    colours = np.asarray(image.convert("RGB"))
    for step in (16, 1):  # nearly every picture with colour is known by a few of its pixels
        some = colours[::step, ::step]
        if not (some[..., :1] == some[..., 1:]).all():
            return colours.tobytes()
    return colours[..., 0].tobytes()
