"""Telling copies by their pixels: a digest for the same pixels, a fingerprint for the same picture.

The fingerprint is the picture in grey at 64 x 64 less its local mean, as a vector of length 1: edges and grain,
whatever the brightness. Two pictures agree by the cosine of their fingerprints, mirrored and turned upside down, too.
Nearly all real copies (JPEG of quality 85, three quarters of the size, mirrored) agree to 0.995 and more, different
images of the same kind of product to 0.994 and less (docs/leakage.md); distances of embeddings of the two overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike.cores import usable_cores
from lookalike.embedding.readahead import read_ahead
from lookalike.errors import MissingDependency
from lookalike.images.decode import decode
from lookalike.images.locate import is_remote, read_bytes
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.neighbors.base import Rows
from lookalike.progress import progress
from lookalike.reports.thumbnails import Reading
from lookalike.tables.boxes import split_box

#: Edge of a fingerprint.
EDGE = 64
#: Pictures whose fingerprints agree by at least this cosine are copies.
AGREE = 0.995
#: Sides of a picture and of its copy have the same ratio, up to this factor: a smaller copy is rounded to whole pixels.
_SHAPE = 1.05
#: Fingerprints that are compared at a time.
_BATCH = 512

Made = TypeVar("Made")
Singles = npt.NDArray[np.float32]


class Look(NamedTuple):
    """What is kept of a picture.

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
    digest = hashlib.sha256(f"{image.size}".encode() + _pixels(image)).digest()
    grey = image.convert("L").resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    values = np.asarray(grey, np.float32)
    padded = np.pad(values, 1, mode="edge")
    around = sum(padded[down : down + EDGE, right : right + EDGE] for down in range(3) for right in range(3)) / 9
    fine = values - around
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    # Of one colour: what is left is rounding.
    fine = fine / length if length > 1e-2 else np.zeros_like(fine)
    return Look(digest, float(np.log(image.width / image.height)), fine.astype(np.float32))


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


def each_picture(
    paths: Sequence[str], reading: Reading, make: Callable[[Image.Image], Made], task: str = ""
) -> Iterator[Made | ImageRejected]:
    """Decode files on threads, and yield in their order what `make` makes of each, or why it cannot be read.

    A URL is not read.

    Parameters
    ----------
    paths, reading:
        The files, and how they are read.
    make:
        Called on the threads.
    task:
        What the progress bar says; empty: there is none.
    """

    def one(path: str) -> Made | ImageRejected:
        try:
            if is_remote(path, reading.files.root):
                raise ImageRejected(Reason.UNREADABLE, "a URL, which is not read to compare it")
            return make(decode(read_bytes(path, reading.files), reading.pixels, box=split_box(path)[1]).image)
        except ImageRejected as rejected:
            return rejected
        except MissingDependency as error:
            return ImageRejected(Reason.UNREADABLE, error.what)

    def late(_: str) -> ImageRejected:
        return ImageRejected(Reason.UNREADABLE, f"no result after {reading.time_limit:g} s")

    threads = usable_cores()
    results: Iterator[Made | ImageRejected] = read_ahead(
        one, paths, threads=threads, ahead=4 * threads, time_limit=reading.time_limit, on_timeout=late
    )
    if not task:
        yield from results
        return
    with progress(task, len(paths), "images") as advance:
        for done, result in enumerate(results, 1):
            yield result
            advance(done)


class Copies(NamedTuple):
    """Which of some pictures are copies.

    Attributes
    ----------
    same:
        Per picture, the first one that has the same pixels, or -1.
    alike:
        Per picture, the one that agrees most, if that is enough, or -1.
    """

    same: Rows
    alike: Rows


class Album:
    """Pictures that copies are looked for of.

    Parameters
    ----------
    looks:
        What is known of them, by their number; None where a file could not be read.
    """

    def __init__(self, looks: Sequence[Look | None]) -> None:
        there = [(row, one) for row, one in enumerate(looks) if one is not None]
        self._digests: dict[bytes, int] = {}
        for row, one in there:
            self._digests.setdefault(one.digest, row)
        self._rows = np.array([row for row, _ in there], np.int64)
        self._shapes = np.array([one.shape for _, one in there])
        self._prints = np.array([one.fingerprint for _, one in there], np.float32).reshape(len(there), EDGE * EDGE)

    def __len__(self) -> int:
        """Return the number of pictures that could be read."""
        return len(self._rows)

    def find(self, looks: Sequence[Look]) -> Copies:
        """Find which of some pictures are copies of those in the album."""
        same = np.array([self._digests.get(one.digest, -1) for one in looks], np.int64)
        alike = np.full(len(looks), -1, np.int64)
        for first in range(0, len(looks) if len(self) else 0, _BATCH):
            part = looks[first : first + _BATCH]
            alike[first : first + len(part)] = self._alike(part)
        return Copies(same, alike)

    def _alike(self, looks: Sequence[Look]) -> Rows:
        """Per picture, the one that agrees most, or -1."""
        seen = np.stack([one.fingerprint for one in looks])
        turned = np.stack([seen, seen[:, :, ::-1], seen[:, ::-1], seen[:, ::-1, ::-1]], axis=1)
        # All have length 1 (or 0, for one colour, which agrees with nothing): products are cosines.
        agree = turned.reshape(-1, EDGE * EDGE) @ self._prints.T
        agree = agree.reshape(len(looks), 4, len(self)).max(axis=1)
        best = agree.argmax(axis=1)
        shapes = np.array([one.shape for one in looks])
        fits = (agree[np.arange(len(looks)), best] >= AGREE) & (np.abs(shapes - self._shapes[best]) <= np.log(_SHAPE))
        return np.where(fits, self._rows[best], -1)
