"""Paths as identities: the same file under two spellings is one image."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import PurePath

import pyarrow as pa
import pyarrow.compute as pc

#: A path that is not its own normal form matches this; all others need not be looked at one by one.
_ODD = r"\\|//|(^|/)\.\.?(/|$)|./$|^$"

#: How a normalised path that is not relative begins.
_WHOLE = r"^(/|[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]*://)"


def normal_path(path: str) -> str:
    r"""The POSIX-normalised path: slashes for backslashes, without ``.``, ``..`` and doubled slashes.

    >>> normal_path(r"images\board/./a.png")
    'images/board/a.png'
    >>> normal_path("s3://bucket/b//a.png")
    's3://bucket/b/a.png'
    """
    scheme, mark, rest = path.partition("://")
    if mark and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return f"{scheme}://{posixpath.normpath(rest)}"
    return posixpath.normpath(path.replace("\\", "/"))


def normal_paths(paths: pa.Array) -> pa.Array:
    """The same for a whole column; only paths that need it are touched.

    Parameters
    ----------
    paths:
        Strings, without nulls.
    """
    odd = pc.match_substring_regex(paths, _ODD)
    if not pc.any(odd).as_py():
        return paths
    changed = [normal_path(path) for path in paths.filter(odd).to_pylist()]
    return pc.replace_with_mask(paths, odd, pa.array(changed, pa.string()))


def full_paths(paths: pa.Array, base: str) -> pa.Array:
    """Normalised paths of a whole column, each from its beginning: relative ones start in `base`.

    A folder gives absolute paths, and a list often relative ones: this way they are one image.

    Parameters
    ----------
    paths:
        Strings, without nulls.
    base:
        An absolute folder, or a URL.
    """
    plain = normal_paths(paths)
    whole = pc.match_substring_regex(plain, _WHOLE)
    if pc.all(whole).as_py():
        return plain
    start = base.replace("\\", "/").rstrip("/")
    return normal_paths(pc.if_else(whole, plain, pc.binary_join_element_wise(start, plain, "/")))


def base_name(path: str) -> str:
    """The last part of a path, of either kind of slash."""
    return posixpath.basename(path.replace("\\", "/"))


def relative_path(path: str, folder: str) -> str | None:
    """The path from a folder (or URL) to a file inside it; None where the file is outside.

    Relative paths start in the working directory. Links are not followed.

    >>> relative_path("/data/pool/a.png", "/data")
    'pool/a.png'
    >>> relative_path("s3://bucket/pool/a.png", "s3://bucket/pool/")
    'a.png'
    """
    if "://" in path or "://" in folder:
        base = normal_path(folder).rstrip("/") + "/"
        own = normal_path(path)
        return own[len(base) :] if "://" in folder and own.startswith(base) else None
    try:
        return PurePath(os.path.abspath(path)).relative_to(os.path.abspath(folder)).as_posix()  # noqa: PTH100
    except ValueError:
        return None


def distinct(paths: Iterable[str]) -> list[str]:
    """The paths that are different files, in order, each in its first spelling."""
    seen: dict[str, str] = {}
    for path in paths:
        seen.setdefault(normal_path(path), path)
    return list(seen.values())
