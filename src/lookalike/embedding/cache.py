"""The cache of vectors: an image embedded once with an encoder is not embedded again.

`workflow.barring.looks` keeps pictures in the same way, as the vectors of an encoder of the family `PICTURES`.

A vector is found by the content of its image file, and by path, size and modification time as a quick check that
reads no image. The quick check has the limit that rsync's has: content that changed while size and modification
time did not is not noticed.

Nothing here may stop a run. A damaged database is dropped with a warning and begun anew; where the folder or the
disk will not have it, the cache is switched off with a warning, and every image is embedded.

Several threads and several processes of one machine may use a folder at once. Several machines may not: SQLite's
write-ahead log needs memory that its users share. A cache must not be carried over a fork.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.cache_database import (
    SUFFIX,
    Database,
    connect,
    file_id,
    folder_lock,
    is_busy,
    is_damage,
    open_database,
    today,
    transaction,
)
from lookalike.embedding.cache_folder import evict, folder_bytes
from lookalike.encoders.identity import EncoderIdentity
from lookalike.tables.boxes import Box, split_box

log = logging.getLogger(__name__)

#: What is left of the bound after the least recently used entries went, so that not every store must remove some.
_KEEP = 0.8

_VECTOR = "v.id, v.pixels, v.clipped, v.checksum, v.vector, u.day"
_BY_CONTENT = f"SELECT {_VECTOR} FROM vectors v LEFT JOIN uses u ON u.id = v.id WHERE v.digest = ?"  # noqa: S608
_BY_PATH = (
    f"SELECT f.path, f.size, f.mtime_ns, f.digest, {_VECTOR} FROM files f "  # noqa: S608 - both are constants
    "JOIN vectors v ON v.digest = f.digest LEFT JOIN uses u ON u.id = v.id WHERE f.path IN "
)
#: A row that is as it should be is not written again; a damaged one is mended.
_STORE_VECTOR = (
    "INSERT INTO vectors (digest, pixels, clipped, checksum, vector) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (digest) DO UPDATE SET pixels = excluded.pixels, clipped = excluded.clipped, "
    "checksum = excluded.checksum, vector = excluded.vector "
    "WHERE pixels IS NOT excluded.pixels OR clipped IS NOT excluded.clipped "
    "OR checksum IS NOT excluded.checksum OR vector IS NOT excluded.vector"
)
_USE = "ON CONFLICT (id) DO UPDATE SET day = max(day, excluded.day) WHERE day < excluded.day"
_STORE_USE = f"INSERT INTO uses SELECT id, ? FROM vectors WHERE digest = ? {_USE}"  # noqa: S608
_TOUCH = f"INSERT INTO uses VALUES (?, ?) {_USE}"  # noqa: S608
_STORE_FILE = (
    "INSERT INTO files VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
    "size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest "
    "WHERE size <> excluded.size OR mtime_ns <> excluded.mtime_ns OR digest <> excluded.digest"
)
#: Paths in one query: SQLite before 3.32 takes 999 values.
_CHUNK = 900
#: A file younger than this may change once more within the clock tick of its modification time (2 s on FAT).
_SETTLED_NS = 2 * 10**9


def cache_key(identity: EncoderIdentity) -> str:
    """Hash what decides the bits of a vector: the fingerprint and the numerics."""
    content = {"fingerprint": identity.fingerprint, **asdict(identity.numerics)}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def content_digest(data: bytes, box: Box | None = None) -> bytes:
    """Hash the bytes of an image file and, where only a part of it is the image, the part.

    The first 16 bytes of SHA-256: among a billion files the chance that any two share them is 1 in 10**21. Today's
    processors have instructions for it, which makes it 2.4 times faster than BLAKE2b.
    """
    digest = hashlib.sha256(data, usedforsecurity=False).digest()[:16]
    return digest if box is None else content_digest(digest + str(box).encode())


class FileStamp(NamedTuple):
    """Size and modification time of a local file, taken before it is read."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, filepath: str) -> FileStamp | None:
        """Stamp the file of a path; None for a URL, for what is not there, and for one changed in the last two seconds.

        Such a young file may change again and keep its stamp, so it is known by content only.
        """
        if "://" in filepath:
            return None
        try:
            found = os.stat(split_box(filepath)[0])  # noqa: PTH116 - a Path per file of a large pool costs more than its stat
        except (OSError, ValueError):  # ValueError: a null byte
            return None
        settled = 0 <= found.st_mtime_ns <= time.time_ns() - _SETTLED_NS
        return cls(found.st_size, found.st_mtime_ns) if settled else None


class Cached(NamedTuple):
    """What the cache knows of an image.

    Attributes
    ----------
    vector:
        Float32, read-only.
    pixels:
        The most pixels that decoding or resizing it made: to be compared with today's bound.
    clipped:
        Whether 16-bit values were clipped: today's summary must say so too.
    """

    vector: npt.NDArray[np.float32]
    pixels: int
    clipped: bool


class Entry(NamedTuple):
    """An image to be remembered: where it was, its `content_digest`, its stamp, and what came of it."""

    filepath: str
    digest: bytes
    stamp: FileStamp | None
    cached: Cached


def count_cached(folder: Path, identity: EncoderIdentity, filepaths: Sequence[str]) -> int:
    """How many local files a run would find by path, size and modification time; changes nothing, not even use times.

    A database that cannot be read just now has none.
    """
    path = folder / f"{cache_key(identity)}{SUFFIX}"
    found = 0
    with contextlib.suppress(sqlite3.Error, OSError):
        if not path.is_file():
            return 0
        with contextlib.closing(connect(path, "ro")) as connection:
            for start in range(0, len(filepaths), _CHUNK):
                chunk = {_path_key(one): one for one in filepaths[start : start + _CHUNK] if "://" not in one}
                query = f"SELECT path, size, mtime_ns FROM files WHERE path IN ({','.join('?' * len(chunk))})"  # noqa: S608
                for key, size, mtime_ns in connection.execute(query, list(chunk)):
                    found += FileStamp.of(chunk[key]) == (size, mtime_ns)
    return found


def read_cached(
    folder: Path, identity: EncoderIdentity, filepaths: Sequence[str]
) -> dict[int, npt.NDArray[np.float32]]:
    """The vectors that a run would find by path, size and modification time; changes nothing, not even use times.

    Parameters
    ----------
    folder, identity:
        Of the cache.
    filepaths:
        All that is found is in memory at once. URLs are never found.

    Returns
    -------
    dict
        By position in `filepaths`; nothing where a database cannot be read just now.
    """
    path = folder / f"{cache_key(identity)}{SUFFIX}"
    rows_of: dict[bytes, list[int]] = {}
    for row, filepath in enumerate(filepaths):
        if "://" not in filepath:
            rows_of.setdefault(_path_key(filepath), []).append(row)
    keys = list(rows_of)
    found: dict[int, npt.NDArray[np.float32]] = {}
    with contextlib.suppress(sqlite3.Error, OSError):
        if not path.is_file():
            return found
        with contextlib.closing(connect(path, "ro")) as connection:
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                query = f"{_BY_PATH} ({','.join('?' * len(chunk))})"
                for key, size, mtime_ns, digest, *stored in connection.execute(query, chunk):
                    rows = rows_of[key]
                    if FileStamp.of(filepaths[rows[0]]) == (size, mtime_ns):
                        cached = _checked(digest, stored, identity.model.dimension * 4)
                        found.update(dict.fromkeys(rows, cached.vector) if cached else {})
    return found


def has_vectors(folder: Path, identity: EncoderIdentity) -> bool:
    """Whether the cache has any vector of an encoder; changes nothing. A database that cannot be read has none."""
    path = folder / f"{cache_key(identity)}{SUFFIX}"
    with contextlib.suppress(sqlite3.Error, OSError):
        if path.is_file():
            with contextlib.closing(connect(path, "ro")) as connection:
                return connection.execute("SELECT 1 FROM vectors LIMIT 1").fetchone() is not None
    return False


class VectorCache:
    """The vectors of one encoder.

    Parameters
    ----------
    folder:
        The cache folder; made where there is none.
    identity:
        The encoder. Its fingerprint and numerics choose the database.
    size_bound:
        Bytes that the folder may hold, all encoders together. When a store exceeds it, the least recently used
        entries of all of them go until 80 % are left. Use times are days.
    """

    def __init__(
        self, folder: Path, identity: EncoderIdentity, size_bound: int = ImageEmbeddingsConfig.cache_bytes
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._size_bound = size_bound
        self._path = folder / f"{cache_key(identity)}{SUFFIX}"
        self._bytes = identity.model.dimension * 4
        # Each guards its connection; who needs both takes the writing one first.
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._touched: set[int] = set()
        self._database: Database | None = None
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def active(self) -> bool:
        """Whether the cache is in use; when it is not, every look-up misses and nothing is kept."""
        return self._database is not None

    def by_path(self, filepaths: Sequence[str], max_bytes: int | None = None) -> dict[int, Cached]:
        """Find local files by path, size and modification time, without reading them.

        Parameters
        ----------
        filepaths:
            A window of the pool: all that is found is in memory at once. URLs are never found.
        max_bytes:
            Larger files are not found; None: no bound.

        Returns
        -------
        found:
            By position in `filepaths`.
        """
        rows_of: dict[bytes, list[int]] = {}
        for row, filepath in enumerate(filepaths):
            if "://" not in filepath:
                rows_of.setdefault(_path_key(filepath), []).append(row)
        keys = list(rows_of)
        found: dict[int, Cached] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            query = f"{_BY_PATH} ({','.join('?' * len(chunk))})"
            for path, size, mtime_ns, digest, *stored in self._select(query, chunk):
                rows = rows_of.get(path)
                if max_bytes is not None and size > max_bytes:
                    continue
                if rows and FileStamp.of(filepaths[rows[0]]) == (size, mtime_ns):
                    cached = self._cached(digest, stored)
                    found.update(dict.fromkeys(rows, cached) if cached else {})
        if self._touched:
            self.store(())
        return found

    def by_content(self, digest: bytes) -> Cached | None:
        """Find an image by its `content_digest`, wherever it lies; from any thread."""
        rows = self._select(_BY_CONTENT, (digest,))
        return self._cached(digest, rows[0]) if rows else None

    def store(self, entries: Iterable[Entry]) -> None:
        """Remember images, all of them or (where the process dies, or the disk is full) none."""
        batch = list(entries)  # before the lock: the iterable may take its time
        if not self._try_store(batch):
            self._try_store(batch)  # into the database that was begun anew

    def close(self) -> None:
        """Close the database; from then on the cache is not active."""
        with self._writing, self._reading:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error):  # today's uses are lost, and nothing else
                    self._write(self._database.writer, [], self._touched)
            self._close()

    def _select(self, query: str, values: Sequence[bytes]) -> list[tuple[Any, ...]]:
        with self._reading:
            database = self._database
            if database is None:
                return []
            try:
                return database.reader.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                met = error
        self._meet(met, database)
        return []

    def _cached(self, digest: bytes, stored: Sequence[Any]) -> Cached | None:
        """What a row holds, which counts as used today; None for a damaged one."""
        cached = _checked(digest, stored, self._bytes)
        number, day = stored[0], stored[-1]
        if cached and (not isinstance(day, int) or day < today()):
            with self._reading:
                self._touched.add(number)
        return cached

    def _try_store(self, batch: list[Entry]) -> bool:
        """Store a batch; False where the database was damaged and another is in its place."""
        with self._writing:
            with self._reading:
                if self._database is not None and self._database.file != file_id(self._path):
                    self._close()  # another process cleared or dropped it
                    self._open()
                touched, self._touched = self._touched, set()
            database = self._database
            if database is None:
                return True
            try:
                self._write(database.writer, batch, touched)
                if folder_bytes(self._folder) > self._size_bound:
                    with folder_lock(self._folder):
                        evict(self._folder, self._size_bound, keep=_KEEP)
                return True
            except (sqlite3.DatabaseError, OSError) as error:
                met = error
        return self._meet(met, database)

    def _write(self, writer: sqlite3.Connection, batch: list[Entry], touched: set[int]) -> None:
        """Write entries and today's uses in one transaction."""
        if not batch and not touched:
            return
        day = today()
        with transaction(writer):
            writer.executemany(_TOUCH, ((number, day) for number in touched))
            writer.executemany(_STORE_VECTOR, map(self._row, batch))
            writer.executemany(_STORE_USE, ((day, entry.digest) for entry in batch))
            stamped = ((entry, entry.stamp) for entry in batch if entry.stamp is not None)
            writer.executemany(
                _STORE_FILE, ((_path_key(entry.filepath), *stamp, entry.digest) for entry, stamp in stamped)
            )

    def _row(self, entry: Entry) -> tuple[bytes, int, int, int, bytes]:
        vector = np.ascontiguousarray(entry.cached.vector, "<f4").tobytes()
        assert len(vector) == self._bytes
        pixels, clipped = int(entry.cached.pixels), int(entry.cached.clipped)
        return entry.digest, pixels, clipped, _checksum(entry.digest, pixels, clipped, vector), vector

    def _meet(self, error: sqlite3.DatabaseError | OSError, met: Database) -> bool:
        """Deal with an error of a database; False where another is in its place and may be tried."""
        if isinstance(error, sqlite3.DatabaseError) and not hasattr(error, "sqlite_errorcode"):
            raise error  # Python's own, not SQLite's: a bug
        if is_busy(error) or isinstance(error, TimeoutError):
            log.warning(
                "the cache %s is busy with another process: some of what was computed is not kept", self._folder
            )
            return True
        with self._writing, self._reading:
            if self._database is not met:  # another thread was here first
                return False
            self._close()
            if not is_damage(error):
                self._say_off(error)
                return True
            self._open(damaged=met)
            return False

    def _open(self, damaged: Database | None = None) -> None:
        """Open the database, or switch the cache off where that fails."""
        try:
            self._database = open_database(self._path, self._identity, damaged)
        except (OSError, NotImplementedError, sqlite3.Error) as error:  # NotImplementedError: no file locks there
            self._say_off(error)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None
        self._touched = set()

    def _say_off(self, error: Exception) -> None:
        log.warning("the cache is off, nothing is taken from it or kept: %s: %s", self._folder, error)


def _path_key(filepath: str) -> bytes:
    """Return the absolute path as bytes; whatever a file system has for a name can be encoded."""
    return os.path.abspath(filepath).encode("utf-8", "surrogatepass")  # noqa: PTH100 - a Path per file costs more


def _checked(digest: bytes, stored: Sequence[Any], size: int) -> Cached | None:
    """What a row of `_VECTOR` holds; None for a damaged one, which the next store of that content mends."""
    _, pixels, clipped, checksum, vector, _ = stored
    if not isinstance(vector, bytes) or len(vector) != size:
        return None
    if checksum != _checksum(digest, pixels, clipped, vector):
        return None
    return Cached(np.frombuffer(vector, "<f4"), pixels, bool(clipped))


def _checksum(digest: bytes, pixels: int, clipped: int, vector: bytes) -> int:
    """Notice a flipped bit: SQLite's pages have no checksums."""
    return zlib.crc32(vector, zlib.crc32(f"{digest!r} {pixels!r} {clipped!r}".encode()))
