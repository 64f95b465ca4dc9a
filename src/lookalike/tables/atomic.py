"""A file is either whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from lookalike.errors import TableError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path`.

    When the block raises, or the process dies, `path` stays as it was. Parent folders are made.

    Raises
    ------
    TableError
        When the folder cannot be made or written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        raise TableError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="check that the folder exists, is writable and has free space",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be none
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the block ends well, it takes the place of `path`.

    When the block raises, `path` stays as it was. Between the removal of an old folder and the renaming of the new one
    a killed process leaves the old one beside, under a hidden name.

    Raises
    ------
    TableError
        When it cannot be written.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{what}") for what in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _to_disk(file)
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        _to_disk(path.parent)
    except OSError as error:
        raise TableError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="check that the folder exists, is writable and has free space",
        ) from error
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def check_output(path: Path, *, inputs: tuple[str, ...] = ()) -> None:
    """Refuse, before any work, an output path that cannot be written or that is one of the inputs; makes its folder.

    Parameters
    ----------
    path:
        The file that will be written.
    inputs:
        The files that will be read; writing over one of them would lose it.
    """
    check_place(path, inputs=inputs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(
            f"the folder cannot be made: {error.strerror}",
            where=str(path.parent),
            hint="choose another folder",
        ) from error


def check_place(path: Path, *, inputs: tuple[str, ...] = ()) -> None:
    """Refuse what can be known to be wrong with an output path, and write nothing; parameters as of `check_output`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise TableError("outputs are local files, and this is a URL", where=str(path), hint="write to a local path")
    if str(path).startswith("~"):
        raise TableError("'~' is not expanded here", where=str(path), hint="write the whole path")
    if path.is_dir():
        raise TableError("is a folder, and a file is to be written", where=str(path), hint="name a file in it")
    for given in map(Path, inputs):
        if not _exists(given):
            continue
        if given.is_dir() and given.resolve() in path.resolve().parents:
            raise TableError(
                f"lies in the input folder {given}, and would be read as a part of it the next time",
                where=str(path),
                hint="choose an output outside that folder",
            )
        if path.exists() and path.samefile(given):
            raise TableError("is an input and would be overwritten", where=str(path), hint="choose another output")
    there = next((folder for folder in path.absolute().parents if _exists(folder)), path.absolute())
    if not there.is_dir():
        raise TableError("is a file, and a folder is needed there", where=str(there), hint="choose another folder")
    if not os.access(there, os.W_OK):
        raise TableError("the folder is not writable", where=str(there), hint="choose another folder")


def _exists(path: Path) -> bool:
    """Whether a path is there, as far as this user may know."""
    try:
        return path.exists()
    except OSError:
        return False


def _to_disk(path: Path) -> None:
    """Flush a file or a folder entry to the disk; folders cannot be opened for it on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
