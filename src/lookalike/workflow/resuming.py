"""A run that was stopped and goes on: what is done already, what was changed meanwhile, and what may be gone by now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lookalike.config.schemas import RunConfig
from lookalike.errors import ConfigError, LookalikeError
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import InputRecord, RunFolder
from lookalike.workflow import run_inputs
from lookalike.workflow.run_extras import extra_paths
from lookalike.workflow.run_files import input_of, table_of
from lookalike.workflow.run_inputs import Side
from lookalike.workflow.run_state import RunState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """A run that was begun.

    Attributes
    ----------
    folder:
        Where it is.
    state:
        What is known of it; a side that was changed meanwhile is taken out of it, and is written with it.
    """

    folder: RunFolder
    state: RunState

    @property
    def done(self) -> tuple[str, ...]:
        """The sides that are embedded, by their names."""
        return tuple(name for name in self.state.finished if table_of(name, self.folder).is_file())

    def open_side(self, name: str, given: Any, config: RunConfig) -> Side:
        """Read one side as `run_inputs.open_side` does, and say where it is not what it was: it is embedded again.

        An input that cannot be read any more is not needed where the side is embedded: its images may be on a share
        that is gone.

        Raises
        ------
        LookalikeError
            When it cannot be read, and is not embedded.
        """
        done = self.state.finished.get(name) if name in self.done else None
        try:
            side = run_inputs.open_side(name, given, config)
        except (LookalikeError, OSError) as error:  # OSError: of a share that is gone in a way of its own
            if done is None:
                raise
            log.warning("the %s cannot be read any more, and their vectors are there already: %s", name, error)
            return _gone(name, done, table_of(name, self.folder), config)
        digest = side.digest()
        if digest != self.state.digests.get(name) and Path(side.path).parent != self.folder.path:
            log.warning("%s: the %s were changed after this run began; today's are taken", side.path, name)
            self.state.forget(name)
            self.state.digests[name] = digest
        return side

    def check_directory(self, paths: Sequence[str]) -> None:
        """Refuse to go on from another working directory, where a relative path would mean something else.

        Raises
        ------
        ConfigError
            When one of the paths is relative, and this is another one.
        """
        if self.state.cwd == str(Path.cwd()):
            return
        if any(path and not Path(path).is_absolute() and "://" not in path and path != "off" for path in paths):
            raise ConfigError(
                "the run has relative paths, which start where it was begun",
                where=f"the working directory {Path.cwd()}",
                hint=f"go to {self.state.cwd} and give the same command there",
            )


def settings_paths(config: RunConfig) -> tuple[str, ...]:
    """What the settings name that may be a relative path."""
    named = (config.targets, config.pool, config.images_root, config.root, config.reuse, config.cache_dir)
    return (*named, *extra_paths(config))


def _gone(name: str, record: InputRecord, table: Path, config: RunConfig) -> Side:
    """A side of which only its embedding table is left."""
    if record.kind == "embedding table":
        placed = replace(config, target_vectors="embedding", pool_vectors="embedding")
        side = run_inputs.open_side(name, str(table), placed)
        return replace(side, path=record.path, sha256=record.sha256, embedded=table)
    key = "text" if record.texts else "filepath"
    columns = (key, "label") if record.has_label else (key,)
    return Side(
        name, record.path, record.kind, record.rows, record.has_label,
        pa.table({column: pa.array([], pa.string()) for column in columns}),
        record.converted, sha256=record.sha256, embedded=table, is_text=record.texts, has_paths=not record.texts,
    )  # fmt: skip


def keep_memory(sides: tuple[Side, Side], config: RunConfig, folder: RunFolder) -> RunConfig:
    """Write what is a table in memory, and name the files in the settings: the run can be continued, and done again."""
    for side in sides:
        if side.kind == "table in memory":
            path = input_of(side, folder)
            assert side.table is not None
            write_table(side.table, Path(path))
            named: dict[str, Any] = {side.name: path}
            config = replace(config, **named)
    return config
