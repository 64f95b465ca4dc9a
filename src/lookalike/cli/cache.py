"""`lookalike cache`: look at the cache of embedding vectors and of pictures, make it smaller, empty it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The cache of vectors, and of pictures that tell copies: what is in it, and making it smaller.",
    no_args_is_help=True,
)

_Dir = Annotated[
    Path | None, typer.Option("--dir", help="The cache folder. Default: LOOKALIKE_CACHE, or the user's cache folder.")
]
_UNITS = "KMGT"


def _size(text: str) -> int:
    """Read a size such as ``5G`` or ``300 MiB``; units are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])i?)?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a size such as 5G, 300M or 1048576")
    number, unit = found.groups()
    return int(float(number) * (1024 ** (_UNITS.index(unit.upper()) + 1) if unit else 1))


@app.command()
def info(folder: _Dir = None) -> None:
    """Show the encoders whose vectors are cached, how many, and the room that they take; pictures have a line, too."""
    from lookalike.embedding.cache_folder import cache_info, default_cache_dir
    from lookalike.encoders.identity import PICTURES

    folder = folder or default_cache_dir()
    found = cache_info(folder)
    rows = {"vectors": 0, "pictures": 0}
    print(f"Folder:  {folder}")
    for part in found:
        print(f"{part.key[:12]}  {_shown(part.bytes):>10}  ", end="")
        if part.identity is None:
            print("cannot be read; the next run with that encoder begins it anew")
            rows["vectors"] += part.rows
            continue
        model, numerics = part.identity.model, part.identity.numerics
        what = "pictures" if model.family == PICTURES else "vectors"
        rows[what] += part.rows
        made = (
            f"to tell copies, {model.architecture}"
            if what == "pictures"
            else f"{model.family} {model.architecture}, {model.dimension} dimensions, {numerics.precision}, "
            f"{numerics.runtime}, {numerics.decoder}"
        )
        print(f"{part.rows:>9} {what}, last used {part.last_used or 'never'}  {made}")
    pictures = f"{rows['pictures']} pictures, " if rows["pictures"] else ""
    print(f"Total:   {rows['vectors']} vectors, {pictures}{_shown(sum(part.bytes for part in found))}")


@app.command()
def prune(
    folder: _Dir = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            parser=_size, metavar="SIZE", help="Remove the least recently used entries until this is left: 5G, 300M."
        ),
    ] = None,
    older_than: Annotated[
        int | None, typer.Option(min=0, help="Remove entries that were not used for more than this many days.")
    ] = None,
) -> None:
    """Remove what was not used for long. Runs may be using the cache."""
    from lookalike.embedding import cache_folder

    if max_size is None and older_than is None:
        raise typer.BadParameter("say what may stay: --max-size, --older-than or both")
    folder = folder or cache_folder.default_cache_dir()
    removed = cache_folder.prune(folder, max_bytes=max_size, older_than_days=older_than)
    print(f"Removed: {removed} entries")
    print(f"Left:    {_shown(cache_folder.folder_bytes(folder))} in {folder}")


@app.command()
def clear(folder: _Dir = None) -> None:
    """Delete all that is cached; the next run embeds every image again."""
    from lookalike.embedding import cache_folder

    folder = folder or cache_folder.default_cache_dir()
    print(f"Freed:   {_shown(cache_folder.clear(folder))} in {folder}")


def _shown(size: float) -> str:
    """A size for people: ``41.2 MiB``."""
    units = ["B", *(f"{unit}iB" for unit in _UNITS)]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
