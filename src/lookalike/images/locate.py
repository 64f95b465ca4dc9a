"""From a path of a table to the bytes of its file: within a root, within a size, and with retries for URLs.

A path is a local path or an fsspec URL; `file://` and `local://` URLs are local paths. The box behind it, if it has
one (`tables.boxes`), is not looked at here. With a `root`, nothing
outside it is opened:

- a local root: the path is taken apart as the system does it, with every `..` and symbolic link, and must end
  inside; URLs are refused;
- a URL as root: the path must be a URL that begins with it, without `..` and without a second URL chained to it
  by `::`. A store has no links that could be followed.

A local file fails or it does not. A URL may fail for a moment: what looks like that is tried again, waiting
longer each time.
"""

from __future__ import annotations

import os
import random
import re
import stat
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO
from urllib.parse import unquote

import fsspec

from lookalike.errors import ConfigError, MissingDependency
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.tables.boxes import split_box

#: Bytes asked for at a time where the size of a file is not known beforehand.
_CHUNK = 1 << 20
#: Seconds before the first and the longest wait between tries; a wait is drawn between half of it and all of it.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
#: Answers of a server that will be the same the next time, out of 400 to 499, are all but these.
_PASSING_STATUS = frozenset({408, 425, 429})
_GONE_STATUS = frozenset({404, 410})
#: Errors of fsspec's drivers that are no OSError. Looked up by name: a driver that is not loaded raises nothing.
_DRIVER_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
#: Failures that stay: the same again however often it is tried. ValueError: a URL that cannot be understood.
_LASTING = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class ReadSettings:
    """Which files may be read, and how much of them.

    Attributes
    ----------
    root:
        A local folder or a URL. Only files inside it may be read, and relative paths start in it.
        Empty: any file may be read, and relative paths start in the working directory.
    max_bytes:
        A larger file is refused: a local one before it is read, a URL after at most one byte more.
    retries:
        How often a URL that failed is tried again.
    start:
        The folder that a relative path or root starts in; empty: the working directory.
    """

    root: str
    max_bytes: int
    retries: int
    start: str = ""

    @property
    def base(self) -> str:
        """Where relative paths start: a folder, a URL, or empty for the working directory."""
        if _is_url(self.root) or not self.start:
            return self.root
        return os.path.join(self.start, self.root) if self.root else self.start  # noqa: PTH118 - a text


def check_root(root: str) -> None:
    """Refuse, before any work, a local root that is not a folder.

    Raises
    ------
    ConfigError
        When it is none.
    """
    local = _without_file_scheme(root)
    if local and not _is_url(local) and not Path(local).is_dir():
        raise ConfigError("root is not a folder", where=root, hint="name the folder that holds the images")


def read_bytes(path: str, settings: ReadSettings, *, sleep: Callable[[float], object] = time.sleep) -> bytes:
    """Read a local file or fsspec URL.

    Parameters
    ----------
    path:
        As a table holds it.
    settings:
        Bounds and retries.
    sleep:
        Called with the seconds to wait before another try.

    Raises
    ------
    ImageRejected
        When it is missing, unreadable (after all tries), too large, or outside the root.
    MissingDependency
        When the package for its kind of URL is not installed.
    """
    try:
        place = _place(path, settings)
        if _is_url(place):
            return _read_url(place, settings, sleep)
        return _read_file(place, settings.max_bytes)
    except ImportError as error:
        raise MissingDependency(f"a package that opens it is not installed: {error}", where=path) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise _rejected(error) from None


def modified_ns(path: str, settings: ReadSettings) -> int | None:
    """Modification time of a path's local file in nanoseconds; None for a URL. Reads nothing.

    Raises
    ------
    ImageRejected
        When the file is missing, cannot be looked at, or lies outside the root.
    """
    try:
        place = _place(path, settings)
        return None if _is_url(place) else os.stat(place).st_mtime_ns  # noqa: PTH116 - a Path for each row is slow
    except (OSError, ValueError) as error:
        raise _rejected(error) from None


def local_size(path: str, settings: ReadSettings) -> int | None:
    """Bytes of a path's local file; None for a URL. Reads nothing.

    Raises
    ------
    ImageRejected
        When the file is missing, is no regular file, cannot be looked at, or lies outside the root.
    """
    try:
        place = _place(path, settings)
        status = None if _is_url(place) else os.stat(place)  # noqa: PTH116 - a Path for each row is slow
    except (OSError, ValueError) as error:
        raise _rejected(error) from None
    if status is None:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise ImageRejected(Reason.UNREADABLE, "not a regular file")
    return status.st_size


def read_part(path: str, settings: ReadSettings, first: int, count: int) -> bytes:
    """Read some bytes of a local file that `local_size` gave a size for; fewer where it ends before.

    Raises
    ------
    ImageRejected
        When it cannot be read, or lies outside the root.
    """
    try:
        place = _place(path, settings)
        with Path(place).open("rb", buffering=0) as stream:
            stream.seek(first)
            return stream.read(count)
    except (OSError, ValueError) as error:
        raise _rejected(error) from None


def is_remote(path: str, root: str) -> bool:
    """Whether a path of a table is read over a network, by itself or because the root is a URL."""
    return _is_url(_without_file_scheme(path)) or _is_url(_without_file_scheme(root))


def _place(path: str, settings: ReadSettings) -> str:
    """What to open for a path of a table, without its box; refuses what lies outside the root."""
    path = _without_file_scheme(split_box(path)[0])
    if settings.root:
        return _inside(path, _without_file_scheme(settings.base))
    # A Path for each row is slow.
    return os.path.join(settings.start, path) if settings.start and not _is_url(path) else path  # noqa: PTH118


def _without_file_scheme(path: str) -> str:
    """The local path of a `file://` or `local://` URL, which is bound by the rules for local paths."""
    return fsspec.core.strip_protocol(path) if path.startswith(("file://", "local://")) else path


def _is_url(path: str) -> bool:
    return "://" in path


def _inside(path: str, root: str) -> str:
    """A path within the root; refuses one outside."""
    if _is_url(root):
        return _inside_url(path, root if root.endswith("/") else f"{root}/")
    if _is_url(path):
        raise ImageRejected(Reason.UNREADABLE, f"it is a URL, and only files inside the root {root} may be read")
    # realpath, because Path.resolve raises RuntimeError on links in a circle; opening such a path says it better.
    base = os.path.realpath(root)
    place = os.path.realpath(Path(base) / path)
    if not PurePath(place).is_relative_to(base):
        raise _outside(root)
    return place


def _inside_url(path: str, root: str) -> str:
    """The same where the root is a URL that ends in a slash."""
    if not _is_url(path) and not PurePath(path).is_absolute():
        path = root + path
    below = path.removeprefix(root)
    # A server may read %2e%2e as `..`, and on Windows a driver may take a backslash for a slash.
    if below == path or "::" in below or ".." in re.split(r"[/\\]", unquote(below)):
        raise _outside(root)
    return path


def _read_file(path: str, max_bytes: int) -> bytes:
    """Read a local file in four calls of the system: other threads may take Python's lock at each of them.

    It is opened without waiting, because opening a pipe may wait for ever; its kind and size are known before it is
    read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageRejected(Reason.UNREADABLE, "not a regular file")
        if status.st_size > max_bytes:
            raise _too_large(max_bytes, status.st_size)
        data = os.read(descriptor, status.st_size + 1)
        if len(data) == status.st_size:
            return data
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:  # a large or growing file comes in parts
            return data + _read_stream(stream, None, max_bytes - len(data))
    finally:
        os.close(descriptor)


def _read_url(url: str, settings: ReadSettings, sleep: Callable[[float], object]) -> bytes:
    """Read a URL, again and again where the failure may pass."""
    for retry in range(settings.retries + 1):
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
            with filesystem.open(path, "rb") as stream:
                size = getattr(stream, "size", None)
                return _read_stream(stream, size if isinstance(size, int) else None, settings.max_bytes)
        except _failures() as failure:
            error = _origin(failure)
            if retry == settings.retries or not _may_pass(error):
                raise _rejected(error, tries=retry + 1) from None
        wait = min(_FIRST_WAIT * 2**retry, _LONGEST_WAIT)
        sleep(random.uniform(wait / 2, wait))  # noqa: S311 - it spreads the tries of many threads, and guards nothing
    raise AssertionError("unreachable: the last try returns or raises")


def _read_stream(stream: BinaryIO, size: int | None, max_bytes: int) -> bytes:
    """Read to the end, or to one byte over the bound; `size` is what the file system says it is, if it says so."""
    if size is not None and size > max_bytes:
        raise _too_large(max_bytes, size)
    parts = []
    left = max_bytes + 1
    ask = _CHUNK if size is None else size + 1
    while left and (part := stream.read(min(left, ask))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise _too_large(max_bytes)
    return b"".join(parts)


def _failures() -> tuple[type[BaseException], ...]:
    """What reading a URL may raise; anything else is a bug and propagates."""
    drivers = (getattr(sys.modules.get(module), name, None) for module, name in _DRIVER_ERRORS)
    return (OSError, *_LASTING, *(error for error in drivers if error is not None))


def _origin(error: BaseException) -> BaseException:
    """What really happened: fsspec turns every failure to ask an HTTP server for a size into FileNotFoundError."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, _failures()) else error


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, if any."""
    status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def _may_pass(error: BaseException) -> bool:
    """Whether the next try may succeed."""
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in _PASSING_STATUS
    return not refused and not isinstance(error, _LASTING)


def _rejected(error: BaseException, tries: int = 1) -> ImageRejected:
    """The outcome of a file that cannot be read."""
    if isinstance(error, FileNotFoundError) or _status(error) in _GONE_STATUS:
        return ImageRejected(Reason.MISSING, "no such file")
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageRejected(Reason.UNREADABLE, f"{words} (tried {tries} times)" if tries > 1 else words)


def _outside(root: str) -> ImageRejected:
    return ImageRejected(Reason.UNREADABLE, f"outside the root {root}")


def _too_large(max_bytes: int, size: int | None = None) -> ImageRejected:
    seen = "it has" if size is None else f"{size} bytes,"
    return ImageRejected(Reason.TOO_LARGE, f"{seen} more than {max_bytes} bytes", size)
