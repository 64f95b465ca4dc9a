"""The cache folder: where it is, what is in it, and keeping it small. What `lookalike cache` does."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lookalike.embedding.cache_database import (
    PARTS,
    SUFFIX,
    connect,
    drop,
    folder_lock,
    is_damage,
    scalar,
    today,
    transaction,
    unlink,
)
from lookalike.encoders.identity import PICTURES, EncoderIdentity
from lookalike.errors import ConfigError, TableError

#: Ends the name of a file in which `remembered` keeps what a model is.
MEMORY_SUFFIX = ".encoder.json"


@dataclass(frozen=True)
class CacheInfo:
    """One encoder's part of a cache folder.

    Attributes
    ----------
    key:
        Its `cache_key`.
    identity:
        The encoder, or None where the database cannot be read.
    rows, bytes:
        Vectors (or pictures), and the size of the files on disk.
    last_used:
        The day of the last use, or None where nothing is in it.
    """

    key: str
    identity: EncoderIdentity | None
    rows: int
    bytes: int
    last_used: datetime.date | None


class NoHomeError(ConfigError):
    """The user has no home folder that a cache could be in, as in some containers."""


def default_cache_dir() -> Path:
    """Return the folder `LOOKALIKE_CACHE`, else `lookalike` in the user's cache folder of the platform.

    Raises
    ------
    ConfigError
        When `LOOKALIKE_CACHE` names the home folder of a user that is not there.
    NoHomeError
        When it is not set and this user has no home folder.
    """
    chosen = os.environ.get("LOOKALIKE_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else _of_platform()
    except RuntimeError as error:  # what pathlib raises
        if chosen:
            raise ConfigError(
                f"LOOKALIKE_CACHE={chosen} names no folder: {error}", hint="give the folder without ~"
            ) from error
        raise NoHomeError(
            "this user has no home folder for the cache", hint="name a folder: LOOKALIKE_CACHE=/path/to/cache"
        ) from error


def _of_platform() -> Path:
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    of_platform = {"win32": "AppData/Local", "darwin": "Library/Caches"}
    return (Path(base) if base else Path.home() / of_platform.get(sys.platform, ".cache")) / "lookalike"


def cache_info(folder: Path) -> list[CacheInfo]:
    """Look at what a cache folder holds, largest part first; changes nothing."""
    found = []
    for path in _databases(folder):
        identity, rows, last_used = None, 0, None
        unreadable = (sqlite3.Error, TableError, OverflowError)
        with contextlib.suppress(*unreadable), contextlib.closing(connect(path)) as connection:
            rows = scalar(connection, "SELECT count(*) FROM uses")
            day = scalar(connection, "SELECT max(day) FROM uses")
            last_used = datetime.date(1970, 1, 1) + datetime.timedelta(days=day) if rows else None
            identity = _identity(connection, path)
        found.append(CacheInfo(path.name.removesuffix(SUFFIX), identity, rows, _file_bytes(path), last_used))
    return sorted(found, key=lambda info: (-info.bytes, info.key))


def prune(folder: Path, *, max_bytes: int | None = None, older_than_days: int | None = None) -> int:
    """Remove the least recently used entries, of all encoders together; runs may be using the folder.

    Parameters
    ----------
    folder:
        A cache folder.
    max_bytes:
        Remove until no more than this is left.
    older_than_days:
        Remove what was last used more than this many days ago.

    Returns
    -------
    removed:
        How many vectors and pictures went.

    Raises
    ------
    ConfigError
        When the folder cannot be written.
    """
    with _changing(folder) as there:
        return evict(folder, max_bytes, older_than_days) if there else 0


def clear(folder: Path) -> int:
    """Delete the databases of a cache folder and the remembered models, and nothing else; returns the bytes freed.

    Raises
    ------
    ConfigError
        When the folder cannot be written.
    """
    with _changing(folder) as there:
        freed = folder_bytes(folder) if there else 0
        for path in _databases(folder):
            unlink(path)
        for path in folder.glob(f"*{MEMORY_SUFFIX}"):
            path.unlink(missing_ok=True)
        return freed


def evict(folder: Path, max_bytes: int | None = None, older_than_days: int | None = None, *, keep: float = 1.0) -> int:
    """Remove what is too old; then, where more than `max_bytes` are left, the least recently used.

    Of these until `keep` times `max_bytes` are left. The folder is locked. Returns how many entries went.
    """
    removed = 0
    with contextlib.ExitStack() as stack:
        connections = []
        # Of what was used on one day, pictures go first: on a CPU, a vector costs far more than a picture.
        for path in sorted(_databases(folder), key=lambda path: not _has_pictures(path)):
            try:
                connection = stack.enter_context(contextlib.closing(connect(path)))
                day = 0 if older_than_days is None else today() - older_than_days
                removed += _forget(connection, scalar(connection, f"SELECT count(*) FROM uses WHERE day < {day}"))  # noqa: S608
                connections.append(connection)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                drop(path, str(error))
        if max_bytes is not None and sum(map(_bytes_in, connections)) > max_bytes:  # without the logs
            removed += _shrink(connections, int(max_bytes * keep))
        for connection in connections:
            # Moves what was written into the database file and empties the log, if nobody is reading just now.
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return removed


def _shrink(connections: list[sqlite3.Connection], max_bytes: int) -> int:
    """Remove the least recently used rows of several databases until they hold `max_bytes` together."""
    removed = 0
    while (excess := sum(map(_bytes_in, connections)) - max_bytes) > 0:
        days = [
            (day, number, rows)
            for number, connection in enumerate(connections)
            for day, rows in connection.execute("SELECT CAST(day AS INTEGER), count(*) FROM uses GROUP BY 1").fetchall()
        ]
        if not days:  # what is left is the empty tables
            break
        row_bytes = [
            _bytes_in(connection) / max(1, sum(rows for _, owner, rows in days if owner == number))
            for number, connection in enumerate(connections)
        ]
        going = [0] * len(connections)
        for _, number, rows in sorted(days):
            if excess > 0:
                share = min(rows, math.ceil(excess / row_bytes[number]))
                going[number] += share
                excess -= math.ceil(share * row_bytes[number])
        removed += sum(map(_forget, connections, going))
    return removed


def _forget(connection: sqlite3.Connection, rows: int) -> int:
    """Remove the least recently used rows of a database and give their pages back to the disk."""
    if not rows:
        return 0
    with transaction(connection):
        for table in ("vectors", "uses"):
            query = f"DELETE FROM {table} WHERE id IN (SELECT id FROM uses ORDER BY day, id LIMIT ?)"  # noqa: S608
            connection.execute(query, (rows,))
        connection.execute("DELETE FROM files WHERE NOT EXISTS (SELECT 1 FROM vectors v WHERE v.digest = files.digest)")
    before, free = -1, scalar(connection, "PRAGMA freelist_count")
    while free != before:
        # In steps, so that the log stays small. Each row that is fetched frees a page.
        connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        before, free = free, scalar(connection, "PRAGMA freelist_count")
    return rows


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[bool]:
    """Lock a folder on behalf of the user; yields whether there is anything in it."""
    if not _databases(folder):
        yield False
        return
    try:
        with folder_lock(folder):
            yield True
    except (OSError, NotImplementedError, sqlite3.Error) as error:
        raise ConfigError(
            f"the cache cannot be changed: {error}",
            where=str(folder),
            hint="check that the folder is writable and that no run is using it",
        ) from error


def _has_pictures(path: Path) -> bool:
    """Whether a database keeps pictures, and no vectors; False for one that cannot be read."""
    with contextlib.suppress(sqlite3.Error, TableError), contextlib.closing(connect(path)) as connection:
        return _identity(connection, path).model.family == PICTURES
    return False


def _identity(connection: sqlite3.Connection, path: Path) -> EncoderIdentity:
    """The encoder of a database.

    Raises
    ------
    TableError, sqlite3.Error
        When it cannot be read.
    """
    rows = connection.execute("SELECT CAST(identity AS BLOB) FROM encoder").fetchall()
    if not rows or not isinstance(rows[0][0], bytes):  # None, where damage made it so
        raise TableError("has no identity", where=str(path))
    return EncoderIdentity.from_json(rows[0][0].decode(errors="replace"), where=str(path))


def _databases(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def folder_bytes(folder: Path) -> int:
    """Return the size of all databases of a folder on disk."""
    return sum(map(_file_bytes, _databases(folder)))


def _file_bytes(path: Path) -> int:
    """Return the size of a database on disk, with its log."""
    total = 0
    for suffix in PARTS:
        with contextlib.suppress(OSError):  # the log comes and goes
            total += path.with_name(path.name + suffix).stat().st_size
    return total


def _bytes_in(connection: sqlite3.Connection) -> int:
    """Return what the pages in use take on disk."""
    pages = scalar(connection, "PRAGMA page_count") - scalar(connection, "PRAGMA freelist_count")
    return pages * scalar(connection, "PRAGMA page_size")
