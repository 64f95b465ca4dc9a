"""From bytes to pixels, as transformers' own reference would see them, within bounds.

The rules (transformers 5, `convert_to_rgb`): the first frame; anything with transparency is composited on
white; every other mode goes through Pillow's conversion to RGB; EXIF orientation is not applied. Grey images
stay grey (mode ``L``) here, because resizing one plane and repeating it gives the same numbers as resizing
three equal ones.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lookalike.images.outcome import ImageRejected, Reason
from lookalike.tables.boxes import Box

#: The formats that are read: ICO decodes inside `open`, past the pixel bound, and EPS starts another program.
_FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
#: What Pillow's decoders raise on damaged data. A closed list: anything else is a bug and propagates.
_DAMAGED = (RuntimeError, OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
            NotImplementedError, struct.error, zlib.error)  # fmt: skip
#: Pillow modes with more than 8 bits a channel; its conversion to RGB clips them at 255.
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
#: The EXIF tag of the orientation, and its values that exchange width and height.
_ORIENTATION, _TURNED = 0x0112, frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class DecodeSettings:
    """How a file becomes pixels.

    Attributes
    ----------
    exif:
        ``ignore`` or ``apply`` the EXIF orientation.
    bit_depth:
        ``clip`` 16-bit values at 255 (the reference's way), or ``scale`` them to 8 bits.
    max_pixels:
        An image with more pixels is refused from its header, before anything is decoded.
    """

    exif: str
    bit_depth: str
    max_pixels: int


@dataclass(frozen=True)
class Decoded:
    """Pixels of one image.

    Attributes
    ----------
    image:
        Mode ``L`` or ``RGB``.
    clipped:
        Whether 16-bit values over 255 were clipped.
    pixels:
        Of the whole file.
    """

    image: Image.Image
    clipped: bool
    pixels: int


def decode(data: bytes, settings: DecodeSettings, *, edge: int = 0, box: Box | None = None) -> Decoded:
    """Decode the bytes of one image file.

    Parameters
    ----------
    data, settings:
        The file, and how it becomes pixels.
    edge:
        For thumbnails: a JPEG may be decoded to an eighth of its size, many times faster, but to no smaller than
        this edge. 0: the whole image.
    box:
        The part that is wanted; `edge` has no effect then.

    Raises
    ------
    ImageRejected
        When the bytes are not an image, end early, are damaged, or hold more pixels than allowed, or the box is not
        inside the image.
    """
    return finish(load(data, settings, edge=0 if box else edge), settings, box)


@dataclass(frozen=True)
class Loaded:
    """A whole image in memory, as its file has it: its mode, its palette; upright where that is wanted.

    Attributes
    ----------
    image:
        The image.
    pixels:
        As the file's header has them.
    size:
        Bytes of the file.
    """

    image: Image.Image
    pixels: int
    size: int


def load(data: bytes, settings: DecodeSettings, *, edge: int = 0) -> Loaded:
    """The first half of `decode`, which boxes of one file share: from bytes to a loaded image."""
    size = len(data)
    if not size:
        raise ImageRejected(Reason.NOT_AN_IMAGE, "the file is empty", size)
    with _own_pixel_bound():
        try:
            opened = Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError:
            raise ImageRejected(Reason.NOT_AN_IMAGE, "no known image format", size) from None
        except _DAMAGED as error:
            raise _damaged(error, size) from None
        with opened:
            pixels = opened.width * opened.height
            if pixels > settings.max_pixels:
                detail = f"{opened.width} x {opened.height} is {pixels} pixels, more than {settings.max_pixels}"
                raise ImageRejected(Reason.TOO_LARGE, detail, size)
            try:
                if edge:
                    opened.draft(None, (edge, edge))
                opened.load()
                image: Image.Image = ImageOps.exif_transpose(opened) if settings.exif == "apply" else opened
                return Loaded(image, pixels, size)
            except _DAMAGED as error:
                raise _damaged(error, size) from None


def finish(loaded: Loaded, settings: DecodeSettings, box: Box | None = None) -> Decoded:
    """The second half of `decode`: cut the box out and apply the colour rules; `loaded` stays as it is."""
    image = loaded.image
    if box is not None:
        if not box.is_inside(*image.size):
            detail = f"the box {box} (x, y, width, height) is not inside the image of {image.width} x {image.height}"
            raise ImageRejected(Reason.BAD_BOX, detail, loaded.size)
        image = image.crop(box.corners)
    try:
        return Decoded(*_to_grey_or_rgb(image, settings.bit_depth), loaded.pixels)
    except _DAMAGED as error:
        raise _damaged(error, loaded.size) from None


def media_type(data: bytes) -> str:
    """The media type of the bytes of one image file, by what they are: ``image/png``.

    Raises
    ------
    ImageRejected
        When they are not an image.
    """
    with _own_pixel_bound():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                return Image.MIME[image.format or ""]
        except (UnidentifiedImageError, *_DAMAGED):
            raise ImageRejected(Reason.NOT_AN_IMAGE, "no known image format", len(data)) from None


def image_sizes(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of the bytes of one image file: as stored, and as its EXIF orientation shows it.

    Only the header is read.

    Raises
    ------
    ImageRejected
        When they are not an image.
    """
    with _own_pixel_bound():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                return image.size, image.size[::-1] if turned else image.size
        except (UnidentifiedImageError, *_DAMAGED):
            raise ImageRejected(Reason.NOT_AN_IMAGE, "no known image format", len(data)) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_grey_or_rgb(image: Image.Image, bit_depth: str) -> tuple[Image.Image, bool]:
    """Apply the colour rules of the module; return the image, and whether values were clipped."""
    if image.mode in _DEEP_MODES:
        values = np.asarray(image)
        deep = bool(values.size) and bool(values.max() > 255)
        if bit_depth == "scale" and image.mode.startswith("I"):
            # Every 16-bit image, dark ones too, so that brightness stays comparable.
            # 65535 / 257 = 255: the two ends of the 16-bit range become the two ends of the 8-bit range.
            scaled = np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
            return Image.fromarray(scaled), False
        # Floating-point images between 0 and 1 lose everything, too: Pillow truncates them to 0 and 1.
        lost = deep or (image.mode == "F" and bool(values.size) and bool(values.max() <= 1))
        return image.convert("RGB"), lost
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB"), False
    if image.mode in ("1", "L"):
        return image.convert("L"), False
    return image.convert("RGB"), False


def _damaged(error: BaseException, size: int) -> ImageRejected:
    """Tell a file that ends early from one that is damaged otherwise."""
    early = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return ImageRejected(Reason.TRUNCATED if early else Reason.UNREADABLE, str(error) or type(error).__name__, size)


_bound_lock = threading.Lock()
_bound_users = 0
_bound_before: int | None = None


@contextlib.contextmanager
def _own_pixel_bound() -> Iterator[None]:
    """Take Pillow's process-wide pixel bound away while ours, given per call, is in force.

    Pillow warns and raises by a module global. It is put back when the last thread leaves.
    """
    global _bound_users, _bound_before  # noqa: PLW0603 - it mirrors a global of Pillow's
    with _bound_lock:
        if _bound_users == 0:
            _bound_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _bound_users += 1
    try:
        yield
    finally:
        with _bound_lock:
            _bound_users -= 1
            if _bound_users == 0:
                Image.MAX_IMAGE_PIXELS = _bound_before
