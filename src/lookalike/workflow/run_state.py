"""A run's folder while the run is under way: claiming it, its lock, its log, and what a later `--resume` needs.

Two files stand in it from the beginning: `run_settings.yaml`, which stays, and the hidden `.run_state.json`, which goes
when the run is finished. The second one says what the inputs were and which sides are embedded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock

from lookalike.config.compose import read_spec, spec_text
from lookalike.config.schemas import RunConfig
from lookalike.errors import ConfigError, TableError
from lookalike.tables.atomic import atomic_path, check_place
from lookalike.tables.run_folder import InputRecord, RunFolder

_VERSION = 1
_LOCK = ".run.lock"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Lines that are held until there is a folder.
_HELD = 10_000


@dataclass
class RunState:
    """What is known of an unfinished run.

    Attributes
    ----------
    created:
        When it began, ISO 8601 with the zone.
    cwd:
        Where it began: relative paths start there.
    digests:
        Of both inputs, by side.
    finished:
        The records of the sides that are embedded, by side.
    warnings:
        What embedding them gave to warn of, by side.
    """

    created: str
    cwd: str
    digests: dict[str, str]
    finished: dict[str, InputRecord] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: RunFolder) -> None:
        """Write it, whole or not at all."""
        with atomic_path(_state_file(folder)) as temporary:
            text = json.dumps({"version": _VERSION, **asdict(self)}, ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8")

    def forget(self, name: str) -> None:
        """Take a side for not embedded."""
        self.finished.pop(name, None)
        self.warnings.pop(name, None)


def settings_file(folder: RunFolder) -> Path:
    """`run_settings.yaml`."""
    return folder.path / "run_settings.yaml"


def _state_file(folder: RunFolder) -> Path:
    return folder.path / ".run_state.json"


def is_unfinished(folder: RunFolder) -> bool:
    """Whether a run was begun there and did not end."""
    return _state_file(folder).exists()


def check_finished(folder: RunFolder) -> None:
    """Refuse a run that did not end: what is shown or changed of a run is all there.

    Raises
    ------
    TableError
        When it did not; the hint says how to finish it.
    """
    if is_unfinished(folder):
        place = shlex.quote(str(folder.path))
        raise TableError(
            "this run is not finished", where=str(folder.path), hint=f"finish it: lookalike mine --resume {place}"
        )


def forget_state(folder: RunFolder) -> None:
    """The run is finished."""
    _state_file(folder).unlink(missing_ok=True)


def read_state(folder: RunFolder) -> RunState:
    """Read what an earlier process left.

    Raises
    ------
    TableError
        When it is damaged or of a version that is not known.
    """
    where = str(_state_file(folder))
    try:
        content = json.loads(_state_file(folder).read_text(encoding="utf-8"))
        version = content.pop("version")
        if version == _VERSION:
            finished = {name: InputRecord(**record) for name, record in content.pop("finished").items()}
            return RunState(finished=finished, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"cannot be read: {error!r}", where=where, hint="begin the run anew") from error
    raise TableError(f"has version {version}, this lookalike reads {_VERSION}", where=where, hint="begin the run anew")


def write_settings(folder: RunFolder, config: RunConfig, cwd: str) -> None:
    """Keep the settings in the folder, as a file that `lookalike mine -e` takes."""
    path = settings_file(folder)
    head = (f"Settings of this run: lookalike mine -e {path.name}", f"Relative paths start in {cwd}")
    with atomic_path(path) as temporary:
        temporary.write_text(spec_text(config, head), encoding="utf-8")


def read_settings(folder: RunFolder) -> RunConfig:
    """The settings that a run was begun with.

    Raises
    ------
    ConfigError
        When the folder is no run, or its settings cannot be read.
    """
    if not settings_file(folder).is_file():
        raise ConfigError(
            "is not a run that `lookalike mine` began", where=str(folder.path), hint="name the folder of a run"
        )
    config = read_spec(RunConfig, settings_file(folder))
    assert isinstance(config, RunConfig)
    return config


def check_same_settings(wanted: RunConfig, stored: Path) -> None:
    """Refuse to go on with a run under other settings than its own.

    Parameters
    ----------
    wanted:
        The settings that were given for going on, over those of the run.
    stored:
        The settings file of the run.

    Raises
    ------
    ConfigError
        When a value differs; names both.
    """
    before, now = asdict(read_spec(RunConfig, stored)), asdict(wanted)
    differing = [f"{key} was {before[key]!r} and is {now[key]!r}" for key in before if before[key] != now[key]]
    if differing:
        raise ConfigError(
            f"the run was begun with other settings: {'; '.join(differing)}",
            where=str(stored.parent),
            hint="leave the settings out, or begin another run",
        )


def planned_folder(config: RunConfig) -> Path:
    """Where the run folder would be, were it made now."""
    if config.run_dir:
        return Path(config.run_dir).absolute()
    return Path(config.out).absolute() / "mining_results" / datetime.now().strftime("%Y-%m-%d_%H%M%S")


def check_folder(config: RunConfig, inputs: Sequence[str]) -> None:
    """Refuse a place where no run folder can be made, and one that has something in it already; write nothing.

    Raises
    ------
    TableError
        When it cannot be written, or lies in a folder that is read.
    ConfigError
        When `run_dir` is not empty.
    """
    check_place(Path(config.run_dir or config.out) / "mined.parquet", inputs=tuple(inputs))
    if config.run_dir:
        check_empty(RunFolder(Path(config.run_dir).absolute()))


def check_empty(folder: RunFolder) -> None:
    """Refuse a run folder that has anything in it but the lock.

    Raises
    ------
    ConfigError
        When it has.
    """
    if is_unfinished(folder):
        raise ConfigError(
            "run_dir holds an unfinished run",
            where=str(folder.path),
            hint=f"lookalike mine --resume {shlex.quote(str(folder.path))} goes on with it; or choose another folder",
        )
    if folder.path.is_dir() and any(file.name != _LOCK for file in folder.path.iterdir()):
        raise ConfigError("run_dir is not empty", where=str(folder.path), hint="choose an empty or a new folder")


def claim_folder(config: RunConfig) -> RunFolder:
    """Make the run folder: exactly `run_dir`, or a new one with the time by the clock, which no other run can get.

    Raises
    ------
    TableError
        When it cannot be made.
    """
    path = planned_folder(config)
    try:
        if config.run_dir:
            path.mkdir(parents=True, exist_ok=True)
            return RunFolder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            place = path if number == 1 else path.with_name(f"{path.name}_{number}")
            try:
                place.mkdir()
            except FileExistsError:
                continue
            return RunFolder(place)
    except OSError as error:
        raise TableError(
            f"the run folder cannot be made: {error.strerror}", where=str(path), hint="choose another --out"
        ) from error
    raise AssertionError("unreachable: the numbers do not end")


class RunLog:
    """`run.log`: everything that lookalike logs while a run is under way; a context manager.

    Lines that come before there is a folder are held, and written when there is one. The file has the level INFO or
    finer, whatever is shown: handlers of lookalike and of the application get what they would have got.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("lookalike")
        self._held = logging.handlers.MemoryHandler(_HELD, logging.CRITICAL + 1, flushOnClose=False)
        self._file: _File | None = None
        self._upwards: _Upwards | None = None
        self._before: tuple[int, bool, dict[logging.Handler, int]] | None = None

    def __enter__(self) -> Self:
        shown = self._logger.getEffectiveLevel()
        if shown > logging.INFO:
            levels = {handler: handler.level for handler in self._logger.handlers}
            self._before = self._logger.level, self._logger.propagate, levels
            for handler, level in levels.items():
                handler.setLevel(max(level, shown))
            if self._logger.propagate:
                self._upwards = _Upwards(self._logger.level)
                self._logger.addHandler(self._upwards)
                self._logger.propagate = False
            self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self._held)
        return self

    def open(self, path: Path) -> None:
        """Go on in a file, at its end."""
        self._file = _File(path, encoding="utf-8", errors="backslashreplace")
        self._file.setFormatter(logging.Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%S%z"))
        self._held.setTarget(self._file)
        self._held.flush()
        self._logger.removeHandler(self._held)
        self._logger.addHandler(self._file)

    def write(self, text: str) -> None:
        """Write a line to the file only: what the command line says in its own words."""
        if self._file is not None:
            self._file.handle(logging.LogRecord(__name__, logging.ERROR, "", 0, text, None, None))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in (self._held, self._file, self._upwards):
            if handler is not None:
                self._logger.removeHandler(handler)
                handler.close()
        if self._before is not None:
            level, self._logger.propagate, levels = self._before
            self._logger.setLevel(level)
            for own, before in levels.items():
                own.setLevel(before)


class _File(logging.FileHandler):
    """A log file that stops no run: on a full disk its lines are lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say nothing: what filled the disk will."""


class _Upwards(logging.Handler):
    """Hands on to the application's handlers what they would have got without the run's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record to the root logger, where its level allows."""
        root = logging.getLogger()
        if root.isEnabledFor(record.levelno):
            root.handle(record)


class RunLock:
    """Holds a run folder for one process; a context manager."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / _LOCK
        self._lock = filelock.FileLock(self._path)

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigError(
                "another process is working on this run", where=str(self._path.parent), hint="wait for it to end"
            ) from error
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(OSError):  # Windows deletes no open file; an old lock that nobody holds is none
            self._path.unlink()
        self._lock.release()
