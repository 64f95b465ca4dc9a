"""Packaging: the configuration that was in force and the agent's transcript, put into the run folder.

A transcript holds everything that passed through an agent's session, secrets included. It is copied with the mode of a
private file, and `LOOKALIKE_KEEP_TRANSCRIPT=0` leaves it out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from lookalike import __version__
from lookalike.errors import TableError
from lookalike.tables.atomic import atomic_path
from lookalike.tables.run_folder import RunFolder, read_record
from lookalike.workflow.skill import SKILL_NAME, skill_version

KEEP_TRANSCRIPT = "LOOKALIKE_KEEP_TRANSCRIPT"
_OFF = frozenset({"0", "false", "no", "off"})
_BLOCK = 1 << 20
#: Flags that only POSIX has: a link is not followed, and a pipe does not block.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: How the line begins that says what was packaged.
_DONE = "packaged in"
#: What of the record is configuration.
_SETTINGS = ("created", "command", "model", "model_path", "settings", "versions")


def package_run(folder: RunFolder, transcript: Path | None = None) -> list[str]:
    """Fill `mining_config/` and copy a transcript to `claude_session.jsonl`.

    Puts into `mining_config/`: both specs, ``settings.json`` (the settings of `run.json`, where there is one) and
    ``skill.json`` (versions of lookalike and of the agent skill). Every file is whole or absent. Symbolic links are
    neither followed nor replaced, neither here nor there.

    Parameters
    ----------
    folder:
        The run.
    transcript:
        The agent's transcript; None where there is no agent.

    Returns
    -------
    list of str
        What was done, and what was not and why, a line each.
    """
    if not folder.path.is_dir():
        return [f"nothing was packaged: {folder.path} is not a folder"]
    lines = list(_package_configuration(folder))
    if transcript is not None:
        lines.append(_package_transcript(folder, transcript))
    return lines


def is_done(line: str) -> bool:
    """Whether a line of `package_run` tells of something that was done."""
    return line.startswith(_DONE)


def keeps_transcript() -> bool:
    """Whether transcripts are wanted, by the environment."""
    return os.environ.get(KEEP_TRANSCRIPT, "1").strip().lower() not in _OFF


def _package_configuration(folder: RunFolder) -> Iterator[str]:
    """The specs, the settings and the versions."""
    if folder.config.is_symlink() or (folder.config.exists() and not folder.config.is_dir()):
        yield f"the configuration was not packaged: {folder.config} is a link or a file, and not a folder"
        return
    written = []
    for spec in (folder.embedding_spec, folder.mining_spec):
        try:
            _copy(spec, folder.config / spec.name, 0o644)
            written.append(spec.name)
        except (OSError, TableError) as problem:
            yield f"not packaged: {spec.name}: {_reason(problem)}"
    texts = {"skill.json": {"lookalike": __version__, "skill": SKILL_NAME, "skill_version": skill_version()}}
    try:
        if folder.record.exists() and not folder.record.is_file():
            raise TableError("is not a file", where=str(folder.record))
        settings = {key: value for key, value in asdict(read_record(folder)).items() if key in _SETTINGS}
        texts["settings.json"] = {"lookalike": __version__, **settings}
    except TableError as problem:
        if folder.record.exists():
            yield f"not packaged: settings.json: {problem.what}"
    for name, content in texts.items():
        try:
            _write_json(folder.config / name, content)
            written.append(name)
        except (OSError, TableError) as problem:
            yield f"not packaged: {name}: {_reason(problem)}"
    if written:
        yield f"{_DONE} {folder.config}: {', '.join(sorted(written))}"


def _package_transcript(folder: RunFolder, transcript: Path) -> str:
    """Copy the transcript, for its owner alone."""
    if not keeps_transcript():
        return f"the transcript was left out: {KEEP_TRANSCRIPT} is {os.environ[KEEP_TRANSCRIPT]!r}"
    try:
        _copy(transcript, folder.transcript, 0o600)
    except (OSError, TableError) as problem:
        return f"the transcript was not copied: {transcript}: {_reason(problem)}"
    return f"the transcript was copied to {folder.transcript}; it can hold secrets, and only you can read it"


def _copy(source: Path, target: Path, mode: int) -> None:
    """Copy a file as it is now, with a mode; refuse links and what is no file on either side."""
    handle = os.open(source, os.O_RDONLY | _NO_FOLLOW)
    with open(handle, "rb") as stream:  # noqa: PTH123 - an open handle, so that what was looked at is what is read
        state = os.fstat(handle)
        if source.is_symlink() or not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is a link or no plain file")
        left = state.st_size  # a transcript grows while it is copied
        with _new_file(target, mode) as writer:
            while left and (block := stream.read(min(_BLOCK, left))):
                writer.write(block)
                left -= len(block)


def _write_json(target: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with _new_file(target, 0o644) as writer:
        writer.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def _new_file(target: Path, mode: int) -> Iterator[BinaryIO]:
    """Write a file atomically; it has its mode from the first byte on, and no link that lies in wait is followed."""
    if target.is_symlink():
        raise OSError(errno.ELOOP, f"{target} is a symbolic link and is left as it is")
    with atomic_path(target) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode)
        with open(handle, "wb") as writer:  # noqa: PTH123 - the handle has the mode
            yield writer


def _reason(problem: Exception) -> str:
    """Why something was not done, without the name of the file, which the line has."""
    return problem.what if isinstance(problem, TableError) else str(getattr(problem, "strerror", "") or problem)
