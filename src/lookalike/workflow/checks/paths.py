"""The paths in the mined and the target table: do the files exist, and are the paths what file systems understand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.tables.boxes import split_box
from lookalike.workflow.checks.finding import Finding, Rule, error, some, warning
from lookalike.workflow.checks.tables import Shape

#: Rows whose files are looked for; a run may hold millions of paths on a slow share.
SAMPLE = 20
#: Rows whose encoding is looked at.
_ENCODED = 100_000
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
#: Stands where a byte could not be read as UTF-8.
_REPLACEMENT = "\ufffd"


def check_paths(shape: Shape, root: str) -> Iterator[Finding]:
    """Look at the first paths of a table.

    Parameters
    ----------
    shape:
        The table.
    root:
        Where relative paths start; empty for the working directory.
    """
    name = shape.path.name
    paths, broken, empty = _first_paths(shape.path)
    if empty:
        yield error(Rule.TABLE, f"{empty} rows have no path", name, "give every row a path, or remove those rows")
    if broken:
        message = f"{broken} paths are not valid UTF-8 (or were replaced by marks), and cannot be opened by their names"
        yield error(Rule.PATH_ENCODING, message, name, "rename those files, then make the table again")
    local = [path for path in paths if not _URL.match(path)]
    escaped = [path for path in local if _ESCAPE.search(path)][:SAMPLE]
    escaped = [path for path in escaped if not _exists(path, root)]  # `50%20.png` may well be a file's name
    if escaped:
        there = sum(_exists(unquote(path), root) for path in escaped)
        found = f"; {there} files are there under the plain name" if there else ""
        message = f"paths look percent-encoded, and no file has such a name: {some(escaped, 2)}{found}"
        yield warning(Rule.PATH_ENCODING, message, name, "write paths as they are: `a b.png`, not `a%20b.png`")
    looked_for = local[:SAMPLE]
    missing = [path for path in looked_for if path not in escaped and not _exists(path, root)]
    if missing:
        relative = any(not Path(path).is_absolute() for path in missing)
        start = f"; relative paths were looked for in {root or 'the working directory'}" if relative else ""
        message = f"{len(missing)} of the first {len(looked_for)} files do not exist here: {some(missing, 3)}{start}"
        hint = "mount or copy the images before training on the list; if the paths are ids, ignore this"
        yield warning(Rule.PATH_MISSING, message, name, hint)


def _first_paths(path: Path) -> tuple[list[str], int, int]:
    """The first paths that can be read as text, how many cannot, and how many are null or empty."""
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=_ENCODED, columns=["filepath"]), None)
    if batch is None:
        return [], 0, 0
    good, broken, empty = [], 0, 0
    for content in batch.column(0).cast(pa.large_binary()).to_pylist():
        if not content:
            empty += 1
            continue
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = _REPLACEMENT
        if _REPLACEMENT in text:
            broken += 1
        else:
            good.append(text)
    return good, broken, empty


def _exists(path: str, root: str) -> bool:
    """Whether a path leads to something; one that no file system takes does not."""
    try:
        return Path(root, split_box(path)[0]).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False
