"""Small copies of images: for the contact sheet, the gallery and the atlas, and a reason where there is none."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.readahead import read_ahead
from lookalike.errors import MissingDependency
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected
from lookalike.progress import progress
from lookalike.tables.boxes import split_box

#: Threads that read; more than the cores, because some of them wait for a disk or a network.
_THREADS = min(32, max(8, 2 * (os.cpu_count() or 1)))
#: The reasons of `images.outcome.Reason`, for people.
_WORDS = {
    "missing": "the file is not there any more",
    "unreadable": "the file cannot be read",
    "truncated": "the file ends early",
    "too_large": "the image is too large",
    "not_an_image": "the file is not an image",
    "bad_box": "the box is not inside the image",
}


@dataclass(frozen=True)
class Reading:
    """How images are read and decoded: as the encoder saw them.

    Attributes
    ----------
    files:
        Which files may be read.
    pixels:
        How they become pixels.
    time_limit:
        Seconds for one file.
    """

    files: ReadSettings
    pixels: DecodeSettings
    time_limit: float

    @classmethod
    def of(cls, settings: Mapping[str, Any], start: str = "") -> Reading:
        """From the settings of a run; what it does not name has the default of `ImageEmbeddingsConfig`.

        Relative paths start in `start`, or in the working directory.
        """

        def get(name: str) -> Any:
            value = setting(settings, name)
            return getattr(ImageEmbeddingsConfig, name) if value is None else value

        return cls(
            ReadSettings(get("root"), get("max_bytes"), get("retries"), start),
            DecodeSettings(get("exif"), get("bit_depth"), get("max_pixels")),
            get("time_limit"),
        )


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image as a file; empty, with the reason in words, where the image cannot be read."""

    data: bytes
    reason: str = ""


@dataclass(frozen=True)
class Look:
    """What small copies are like.

    Attributes
    ----------
    edge:
        Longest edge.
    kind:
        Pillow's name of the format.
    options:
        What Pillow takes for it.
    """

    edge: int
    kind: str
    options: Mapping[str, Any]


#: A thumbnail of the gallery: 2 to 4 KB for a picture of a product. WebP's effort is the least but one; the usual 4
#: takes more than twice as long and saves 5 % of the bytes.
GALLERY = Look(128, "WEBP", {"quality": 70, "method": 1})
#: A picture of the atlas, in a format that every program shows.
ATLAS = Look(96, "JPEG", {"quality": 80})


def setting(settings: Mapping[str, Any], name: str) -> Any:
    """A setting of a run, at the top or in one of its groups; None where it has none of that name."""
    if name in settings:
        return settings[name]
    groups = (group for group in settings.values() if isinstance(group, Mapping))
    return next((group[name] for group in groups if name in group), None)


def small_copy(filepath: str, edge: int, reading: Reading) -> Image.Image:
    """Read an image and make it small, in RGB.

    Raises
    ------
    ImageRejected
        When it cannot be read.
    """
    # Twice the edge: what the JPEG decoder leaves out must not be seen.
    data, box = read_bytes(filepath, reading.files), split_box(filepath)[1]
    picture = decode(data, reading.pixels, edge=2 * edge, box=box).image
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return picture.convert("RGB")


def make_thumbnails(filepaths: Sequence[str], reading: Reading) -> list[Thumbnail]:
    """Make the thumbnails of the gallery, in the order of the paths.

    Raises
    ------
    ImagesFailed
        When so many files hang that the disk or the network seems to be dead.
    """
    made: list[Thumbnail] = []
    with progress("drawing the gallery", len(filepaths), "images") as advance:
        for thumbnail in small_files(filepaths, reading, GALLERY):
            made.append(thumbnail)
            advance(len(made))
    return made


def small_files(filepaths: Sequence[str], reading: Reading, look: Look) -> Iterator[Thumbnail]:
    """Make small copies on threads, a few ahead of who takes them, in the order of the paths.

    Raises
    ------
    ImagesFailed
        As `make_thumbnails`.
    """

    def make(filepath: str) -> Thumbnail:
        try:
            picture = small_copy(filepath, look.edge, reading)
        except ImageRejected as outcome:
            return Thumbnail(b"", f"{_WORDS.get(outcome.reason, outcome.reason)}: {outcome.detail}")
        except MissingDependency as error:
            return Thumbnail(b"", error.what)
        stream = io.BytesIO()
        picture.save(stream, look.kind, **look.options)
        return Thumbnail(stream.getvalue())

    def late(_: str) -> Thumbnail:
        return Thumbnail(b"", f"{_WORDS['unreadable']}: it gave no answer within {reading.time_limit:g} s")

    yield from read_ahead(
        make, filepaths, threads=_THREADS, ahead=4 * _THREADS, time_limit=reading.time_limit, on_timeout=late
    )
