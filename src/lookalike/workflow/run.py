"""`run`: one mining run, from two inputs to a folder with everything about it. What `lookalike mine` does.

The recipe: look at both inputs, refuse what cannot work, load the encoder once, claim a folder, and then the steps of
`run_steps`. A run that was stopped is continued by `resume_run`: sides that are embedded stay, and the rest is done
again.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lookalike.config.schemas import RunConfig
from lookalike.encoders.base import Encoder
from lookalike.errors import ConfigError
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.resuming import Unfinished, keep_memory, settings_paths
from lookalike.workflow.run_checks import check_room, check_settings, check_sides, load
from lookalike.workflow.run_extras import Extras, check_extras, label_warning, open_extras
from lookalike.workflow.run_inputs import Side, box_warnings, open_side, overlap_warning
from lookalike.workflow.run_state import (
    RunLock,
    RunLog,
    RunState,
    check_empty,
    check_folder,
    claim_folder,
    is_unfinished,
    read_settings,
    read_state,
    write_settings,
)
from lookalike.workflow.run_steps import Job, RunResult, Steps, read_result, work, write_inputs

log = logging.getLogger(__name__)
_Config = RunConfig


def run(
    targets: Any,
    pool: Any,
    *,
    out: str = _Config.out,
    run_dir: str = _Config.run_dir,
    model: str = _Config.model,
    model_path: str = _Config.model_path,
    topn: int = _Config.topn,
    knn_metric: str = _Config.knn_metric,
    filter_by_label: str | bool = _Config.filter_by_label,
    distance_threshold: float = _Config.distance_threshold,
    min_similarity: float = _Config.min_similarity,
    within_label: bool = _Config.within_label,
    scoring: str = _Config.scoring,
    components: str = _Config.components,
    candidates: int = _Config.candidates,
    budget: float = _Config.budget,
    min_per_target: int = _Config.min_per_target,
    max_per_target: int = _Config.max_per_target,
    max_per_label: int = _Config.max_per_label,
    target_weight_column: str = _Config.target_weight_column,
    dedup_threshold: float = _Config.dedup_threshold,
    diversity: float = _Config.diversity,
    diversity_method: str = _Config.diversity_method,
    avoid_weight: float = _Config.avoid_weight,
    avoid: str = _Config.avoid,
    exclude: str = _Config.exclude,
    protect: str = _Config.protect,
    protect_threshold: float = _Config.protect_threshold,
    self_match: str = _Config.self_match,
    self_threshold: float = _Config.self_threshold,
    leak_reads: int = _Config.leak_reads,
    history: str = _Config.history,
    iteration: int = _Config.iteration,
    splits: int = _Config.splits,
    background: int = _Config.background,
    seed: int = _Config.seed,
    images_root: str = _Config.images_root,
    light: str = _Config.light,
    image_ext: str = _Config.image_ext,
    gallery_all: bool = _Config.gallery_all,
    device: str = _Config.device,
    batch_size: int = _Config.batch_size,
    model_config_path: str = _Config.model_config_path,
    architecture: str = _Config.architecture,
    pooling: str = _Config.pooling,
    layer: int = _Config.layer,
    normalize: str = _Config.normalize,
    image_size: int = _Config.image_size,
    augment: str = _Config.augment,
    crop: str | bool = _Config.crop,
    trust_remote_code: bool = _Config.trust_remote_code,
    precision: str = _Config.precision,
    runtime: str = _Config.runtime,
    decoder: str = _Config.decoder,
    on_error: str = _Config.on_error,
    exif: str = _Config.exif,
    bit_depth: str = _Config.bit_depth,
    max_pixels: int = _Config.max_pixels,
    max_bytes: int = _Config.max_bytes,
    shard_rows: int = _Config.shard_rows,
    root: str = _Config.root,
    retries: int = _Config.retries,
    time_limit: float = _Config.time_limit,
    cache_dir: str = _Config.cache_dir,
    cache_bytes: int = _Config.cache_bytes,
    verify: str = _Config.verify,
    reuse: str = _Config.reuse,
    embedding_dtype: str = _Config.embedding_dtype,
    search_device: str = _Config.search_device,
    memory_limit: int = _Config.memory_limit,
    target_vectors: str = _Config.target_vectors,
    pool_vectors: str = _Config.pool_vectors,
) -> RunResult:
    """Mine a pool for images like the targets, and fill a run folder with the result.

    Embeds both sides with one encoder, finds for every target its nearest pool images, keeps each once, and writes
    tables, specs, record, plots, gallery and report to `<out>/mining_results/<time>/`, or to `run_dir`. Everything that
    can be known to fail is refused before the first image is read.

    Parameters
    ----------
    targets, pool:
        Image tables (a path or URL, a `pyarrow.Table` or a `pandas.DataFrame`), or paths of embedding tables, which are
        taken as they are.
    out, and every setting after it:
        As in `RunConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError, VectorError
        When an input cannot be read or has no rows, or the folder cannot be written.
    EncoderError, EncoderMismatch
        When the model cannot be loaded, or a side that comes with vectors has those of another encoder.
    ImagesFailed
        When no image of a side could be embedded.
    """
    config = _configured(**locals())  # the parameters, by the names that the settings have
    with RunLog() as run_log:
        steps = Steps()
        sides, encoder, extras = _prepare(config, (targets, pool), steps)
        digests = {side.name: side.digest() for side in sides}
        folder = claim_folder(config)
        with _working(folder, run_log, new=True):
            state = RunState(datetime.now().astimezone().isoformat(timespec="seconds"), str(Path.cwd()), digests)
            config = keep_memory(sides, config, folder)
            # Before anything takes long, so that a run that is stopped from here on can be continued.
            write_settings(folder, config, state.cwd)
            state.write(folder)
            notes = _notes(sides, config)
            sides = write_inputs(sides, folder)
            return work(Job(folder, config, state, encoder, steps, notes, extras), sides)


def _configured(targets: Any, pool: Any, **settings: Any) -> RunConfig:
    """The settings of a run as one object; a table in memory is named by what it is."""
    from lookalike.tables.image_table import name_of

    config = RunConfig(name_of(targets), name_of(pool), **settings)
    return replace(
        config,
        out=str(config.out),
        components=str(config.components),
        crop=str(config.crop),
        run_dir=str(config.run_dir),
        filter_by_label=str(config.filter_by_label),
        reuse=str(config.reuse),
    )


def resume_run(folder: str | Path) -> RunResult:
    """Go on with a run that was stopped, with the settings that it was begun with.

    A side that is embedded stays so, unless its input was changed, which is said. A run that had ended well is left as
    it is.

    Parameters
    ----------
    folder:
        The run folder.

    Raises
    ------
    ConfigError
        When it is no run, another process is working on it, or relative paths would start somewhere else.
    LookalikeError
        As `run`.
    """
    place = RunFolder(Path(folder).absolute())
    config = read_settings(place)
    with RunLog() as run_log:
        if not is_unfinished(place):
            log.info("%s: this run ended well, so there is nothing to go on with", place.path)
            return read_result(place)
        with _working(place, run_log):
            state = read_state(place)
            log.info("going on with the run that began at %s", state.created)
            steps = Steps()
            sides, encoder, extras = _prepare(config, (config.targets, config.pool), steps, Unfinished(place, state))
            notes = _notes(sides, config)
            sides = write_inputs(sides, place)
            return work(Job(place, config, state, encoder, steps, notes, extras), sides)


def _prepare(
    config: RunConfig, given: Sequence[Any], steps: Steps, begun: Unfinished | None = None
) -> tuple[tuple[Side, Side], Encoder | None, Extras]:
    """Look at everything that can be known to fail; of a new run nothing is written."""
    names = ("targets", "pool")
    with steps.step("check"):
        check_settings(config)
        if begun is None:
            check_folder(config, [str(one) for one in given if isinstance(one, str | Path)])
            targets, pool = (open_side(name, one, config) for name, one in zip(names, given, strict=True))
        else:
            begun.check_directory(settings_paths(config))
            targets, pool = (begun.open_side(name, one, config) for name, one in zip(names, given, strict=True))
        sides, done = (targets, pool), () if begun is None else begun.done
        if begun is not None:
            begun.check_directory([path for side in sides for path in side.first_paths(1000)])
        check_sides(config, sides, done)
        extras = open_extras(config, sides, None if begun is None else begun.folder)
    with steps.step("load model"):
        encoder = load(config, sides, done=done)
        check_extras(extras, config, sides, encoder)
        if begun is None:
            check_room(Path(config.run_dir or config.out).absolute(), config, sides, encoder, extras.avoid)
        else:
            begun.state.write(begun.folder)
    return sides, encoder, extras


@contextmanager
def _working(folder: RunFolder, run_log: RunLog, *, new: bool = False) -> Iterator[None]:
    """Hold the folder and log into it; whatever ends the run early takes along how to go on, as its notes.

    A folder for a new run must still be empty when it is held: another process may have been quicker.
    """
    with RunLock(folder):
        if new:
            check_empty(folder)
        run_log.open(folder.log)
        try:
            yield
        except BaseException as error:
            run_log.write(f"stopped by {type(error).__name__}: {error}")
            # Settings that cannot be right stay so: a run that goes on has those that it was begun with.
            if is_unfinished(folder) and not isinstance(error, ConfigError):
                place = shlex.quote(str(folder.path))
                error.add_note(f"Nothing is lost: what is finished is kept in {place}")
                error.add_note(f"The run is not finished; to go on: lookalike mine --resume {place}")
                for note in error.__notes__:
                    run_log.write(note)
            raise


def _notes(sides: tuple[Side, Side], config: RunConfig) -> list[str]:
    """What the inputs alone change in the meaning of the result; said now, and again in the summary."""
    notes = [*overlap_warning(*sides, config.self_match), *label_warning(*sides), *box_warnings(sides, config.crop)]
    for note in notes:
        log.warning(note)
    return notes
