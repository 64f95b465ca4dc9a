"""One database of the cache: its layout, opening it, dropping it when it is damaged.

A database is made, dropped and shrunk only under the folder's lock, so that no process opens what another is
about to delete. Reading and storing need no lock: SQLite's write-ahead log keeps them apart.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lookalike.encoders.identity import EncoderIdentity

log = logging.getLogger(__name__)

#: Ends the name of a database. Long enough that `clear` cannot take somebody else's file for one.
SUFFIX = ".vectors.sqlite"
#: Raised when the tables or their meaning change; a database of another layout is dropped like a damaged one.
_LAYOUT = 2
#: In this one, a relative path below a `root` could have the stamp of another file. Its vectors are right.
_WRONG_STAMPS = 1
#: Use times stand apart from the vectors, so that a day's first use rewrites a few bytes and no vector.
_TABLES = (
    "CREATE TABLE encoder (identity BLOB NOT NULL)",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, pixels INTEGER NOT NULL, "
    "clipped INTEGER NOT NULL, checksum INTEGER NOT NULL, vector BLOB NOT NULL)",
    "CREATE TABLE uses (id INTEGER PRIMARY KEY, day INTEGER NOT NULL)",
    "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "digest BLOB NOT NULL) WITHOUT ROWID",
)
#: What SQLite appends to the name for its files: the log, its index, and the database itself. In this order they
#: are deleted, for a log must not be taken for that of a database to come.
PARTS = ("-wal", "-shm", "")
_BUSY_SECONDS = 60.0
#: What SQLite says of a damaged file. Our statements cannot cause the last three on a sound one.
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)


class OtherLayout(sqlite3.DatabaseError):
    """A database has tables that another version of lookalike made."""


@dataclass(frozen=True)
class Database:
    """An open database: one connection that writes, one that reads meanwhile, and which file they hold."""

    writer: sqlite3.Connection
    reader: sqlite3.Connection
    file: tuple[int, int] | None

    def close(self) -> None:
        """Close both connections, however damaged the file is."""
        for connection in (self.reader, self.writer):
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def open_database(path: Path, identity: EncoderIdentity, damaged: Database | None = None) -> Database:
    """Open an encoder's database, and make it where there is none or what is there is damaged.

    Parameters
    ----------
    path:
        The database file; its folder is made.
    identity:
        Kept in a new database, for people.
    damaged:
        The database that proved damaged in use; dropped if its file is still the one at `path`.

    Raises
    ------
    OSError, NotImplementedError, sqlite3.Error
        When the folder or the disk will not have it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(path.parent):
        if damaged is not None and damaged.file == file_id(path):
            drop(path, "it cannot be read")
        try:
            return _open(path, identity)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            drop(path, str(error))
            return _open(path, identity)


def _open(path: Path, identity: EncoderIdentity) -> Database:
    """Open a database for a run, and make its tables where there are none; the folder is locked."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(connect(path, "rwc")))
        layout = scalar(writer, "PRAGMA user_version")
        if layout == _WRONG_STAMPS:
            with transaction(writer):
                writer.execute("DELETE FROM files")
                writer.execute(f"PRAGMA user_version = {_LAYOUT}")
            layout = _LAYOUT
        if layout not in (0, _LAYOUT):
            raise OtherLayout(f"another version of lookalike made it: layout {layout}, not {_LAYOUT}")
        if layout == 0:
            # Of the usual page of 4096 bytes, a vector of 768 numbers would waste a quarter.
            writer.execute("PRAGMA page_size = 16384")
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        writer.execute("PRAGMA journal_mode = WAL").fetchall()
        if layout == 0:
            with transaction(writer):
                for table in _TABLES:
                    writer.execute(table)
                writer.execute("INSERT INTO encoder VALUES (?)", (identity.to_json().encode(),))
                writer.execute(f"PRAGMA user_version = {_LAYOUT}")
        reader = stack.enter_context(contextlib.closing(connect(path)))
        for table in ("encoder", "vectors", "uses", "files"):
            reader.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608
        stack.pop_all()
        return Database(writer, reader, file_id(path))


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Connect to a database file; `mode` ``rwc`` makes it where there is none, ``ro`` makes no file beside it."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    if mode == "ro" and not path.with_name(f"{path.name}-wal").exists():
        # Nobody has it open, and SQLite would leave a log and its index behind. Should somebody begin to write just
        # now, a row may read as damaged, which its checksum shows.
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes  # what damage turned into text need not be UTF-8
        # A power cut may cost the last stores, never the database.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all of a block or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
            connection.execute("ROLLBACK")
        raise


def folder_lock(folder: Path) -> FileLock:
    """Return the lock under which databases are made, dropped and shrunk; not to be taken twice."""
    return FileLock(folder / "vectors.lock", timeout=_BUSY_SECONDS)


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the database file is damaged, or not ours."""
    return isinstance(error, OtherLayout) or _code(error) in _DAMAGE


def is_busy(error: BaseException) -> bool:
    """Whether an error says that another process kept the database for too long."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for what is no error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def drop(path: Path, why: str) -> None:
    """Delete a damaged database and say so; the folder is locked."""
    log.warning("the cache database %s is damaged (%s): it is dropped and begun anew", path, why)
    unlink(path)


def unlink(path: Path) -> None:
    """Delete a database; the folder is locked."""
    for suffix in PARTS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def scalar(connection: sqlite3.Connection, query: str) -> int:
    """Return the one number that a query gives; 0 where damage made it something else."""
    ((value,),) = connection.execute(query).fetchall()
    return value if isinstance(value, int) else 0


def file_id(path: Path) -> tuple[int, int] | None:
    """Tell a file from another that took its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def today() -> int:
    """Return the day, counted from 1970: the grain of use times, so that reading does not write all the time."""
    return int(time.time() // 86_400)
