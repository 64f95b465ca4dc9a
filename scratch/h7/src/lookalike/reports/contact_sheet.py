"""The contact sheet: one PNG with every target and its mined neighbours, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lookalike.images.outcome import ImageRejected
from lookalike.reports.thumbnails import Reading, small_copy
from lookalike.tables.atomic import atomic_path

_THUMB, _GAP, _CAPTION, _BORDER, _MARGIN = 96, 8, 18, 4, 24
_INK, _PAPER = "#1b1f24", "#ffffff"
#: Frame colours, chosen to differ for colour-blind eyes too (Okabe and Ito's blue, bluish green, vermilion).
TARGET_FRAME, SAME_FRAME, OTHER_FRAME = "#0072b2", "#009e73", "#d55e00"

#: The defaults: the sheet shows what the encoder saw.
_READING = Reading.of({})


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet: the file, the line under it, the colour of its frame."""

    filepath: str
    caption: str
    frame: str


@dataclass(frozen=True)
class Sheet:
    """A contact sheet.

    Attributes
    ----------
    title, legend:
        The two lines on top.
    rows:
        Tiles of each target: itself first, then its neighbours in order.
    columns:
        How many targets stand beside each other.
    """

    title: str
    legend: str
    rows: Sequence[Sequence[Tile]]
    columns: int


def write_contact_sheet(sheet: Sheet, path: Path) -> None:
    """Draw a sheet and write it as PNG; a picture that cannot be read any more is an empty frame."""
    step = _THUMB + 2 * _BORDER + _GAP
    widest = max(len(tiles) for tiles in sheet.rows)
    block_width, block_height = widest * step + _MARGIN, step + _CAPTION
    lines = -(-len(sheet.rows) // sheet.columns)
    head = 84
    size = (2 * _MARGIN + sheet.columns * block_width - _MARGIN, head + lines * block_height + _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 16), sheet.title, _INK, font=ImageFont.load_default(24))
    pen.text((_MARGIN, 50), sheet.legend, _INK, font=ImageFont.load_default(16))
    font = ImageFont.load_default(13)
    for number, tiles in enumerate(sheet.rows):
        left = _MARGIN + (number % sheet.columns) * block_width
        top = head + (number // sheet.columns) * block_height
        for position, tile in enumerate(tiles):
            _draw(canvas, pen, tile, (left + position * step, top), font)
    with atomic_path(path) as temporary:
        canvas.save(temporary, "PNG", optimize=True)


def _draw(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw one tile with its frame and caption."""
    left, top = corner
    outer = _THUMB + 2 * _BORDER
    pen.rectangle((left, top, left + outer - 1, top + outer - 1), fill=tile.frame)
    picture = _thumbnail(tile.filepath)
    pen.rectangle((left + _BORDER, top + _BORDER, left + _BORDER + _THUMB - 1, top + _BORDER + _THUMB - 1), fill=_PAPER)
    if picture is not None:
        offset = ((_THUMB - picture.width) // 2, (_THUMB - picture.height) // 2)
        canvas.paste(picture, (left + _BORDER + offset[0], top + _BORDER + offset[1]))
    pen.text((left + outer / 2, top + outer + 2), tile.caption, _INK, font=font, anchor="ma")


def _thumbnail(filepath: str) -> Image.Image | None:
    """A small RGB copy of an image, or None where it cannot be read any more."""
    try:
        return small_copy(filepath, _THUMB, _READING)
    except ImageRejected:
        return None
