"""The words of the plots: each PNG carries its own title, caption and alternative text, so that they stay true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lookalike.tables.run_folder import RunFolder

#: The plots, in the order in which they are shown.
NAMES = ("distances", "labels", "map")
#: Keys of a PNG's text chunks (PNG specification, section 11.3.3.2).
TITLE, CAPTION, ALT = "Title", "Description", "Comment"


@dataclass(frozen=True)
class Plot:
    """A plot of a run.

    Attributes
    ----------
    name:
        ``distances``, ``labels`` or ``map``.
    path:
        The PNG.
    title, caption:
        What it shows, in a few words and in sentences.
    alt:
        What one would see, for those who do not see it.
    """

    name: str
    path: Path
    title: str
    caption: str
    alt: str


def plot_captions(folder: RunFolder) -> list[Plot]:
    """The plots that a run folder has, with their words, in the order in which they are shown."""
    found = []
    for name in NAMES:
        path = folder.plots / f"{name}.png"
        try:
            with Image.open(path) as picture:
                texts = {key: str(value) for key, value in picture.info.items() if isinstance(key, str)}
        except (FileNotFoundError, NotADirectoryError, UnidentifiedImageError):
            continue
        found.append(Plot(name, path, texts.get(TITLE, name), texts.get(CAPTION, ""), texts.get(ALT, "")))
    return found
