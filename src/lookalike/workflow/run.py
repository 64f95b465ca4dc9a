"""`run`: one mining run, from two inputs to a folder with everything about it. What `lookalike mine` does.

The recipe, top to bottom: look at both inputs, refuse what cannot work, load the encoder once, claim a folder, embed
both sides, search and select, write specs and record, draw, write the report. A run that was stopped is continued by
`resume_run`: sides that are embedded stay, and the rest is done again.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lookalike.config.schemas import RunConfig
from lookalike.embedding.images import embed_with
from lookalike.encoders.base import Encoder
from lookalike.encoders.texts import TextEncoder
from lookalike.errors import ConfigError
from lookalike.reports.summary import MiningCounts
from lookalike.tables.embedding_copy import place_embedding_table
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord, read_record, update_record
from lookalike.workflow.mining import MiningResult, mine_with
from lookalike.workflow.packaging import is_done, package_run
from lookalike.workflow.pool_outcomes import Fates, write_pool_outcomes
from lookalike.workflow.resuming import Unfinished, keep_memory, settings_paths
from lookalike.workflow.run_checks import check_room, check_settings, check_sides, load
from lookalike.workflow.run_extras import (
    Extras,
    bar,
    check_extras,
    embed_avoided,
    excluded_record,
    label_warning,
    last_yield,
    open_extras,
    remember,
)
from lookalike.workflow.run_files import (
    Done,
    embedded_record,
    input_of,
    mining_settings,
    ready_record,
    table_of,
    write_record,
    write_specs,
)
from lookalike.workflow.run_inputs import Side, open_side, overlap_warning
from lookalike.workflow.run_state import (
    RunLock,
    RunLog,
    RunState,
    check_empty,
    check_folder,
    claim_folder,
    forget_state,
    is_unfinished,
    read_settings,
    read_state,
    write_settings,
)
from lookalike.workflow.run_texts import embed_side, load_texts, settle, text_note, text_record

log = logging.getLogger(__name__)
_Config = RunConfig


@dataclass(frozen=True)
class RunResult:
    """What `run` made.

    Attributes
    ----------
    folder:
        The run folder; its properties name the files.
    record:
        What `run.json` holds.
    counts:
        The numbers of the run.
    warnings:
        What changes the meaning of the result; also in the summary and the record.
    plots, gallery:
        The files that were drawn.
    report:
        `Mining_Report.md`.
    """

    folder: RunFolder
    record: RunRecord
    counts: MiningCounts
    warnings: tuple[str, ...]
    plots: tuple[Path, ...]
    gallery: tuple[Path, ...]
    report: Path


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
        taken as they are. The targets may be texts: a table with a column `text` and none `filepath`.
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
        ready = _prepare(config, (targets, pool), steps)
        config, sides = ready.config, ready.sides
        digests = {side.name: side.digest() for side in sides}
        folder = claim_folder(config)
        with _working(folder, run_log, new=True):
            state = RunState(datetime.now().astimezone().isoformat(timespec="seconds"), str(Path.cwd()), digests)
            config = keep_memory(sides, config, folder)
            # Before anything takes long, so that a run that is stopped from here on can be continued.
            write_settings(folder, config, state.cwd)
            state.write(folder)
            return _work(_Run(folder, config, state, ready, steps, _notes(sides, config)), _written(sides, folder))


def _configured(targets: Any, pool: Any, **settings: Any) -> RunConfig:
    """The settings of a run as one object; a table in memory is named by what it is."""
    from lookalike.tables.image_table import name_of

    config = RunConfig(name_of(targets), name_of(pool), **settings)
    return replace(
        config,
        out=str(config.out),
        components=str(config.components),
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
            return _finished(place)
        with _working(place, run_log):
            state = read_state(place)
            log.info("going on with the run that began at %s", state.created)
            steps = Steps()
            ready = _prepare(config, (config.targets, config.pool), steps, Unfinished(place, state))
            config, sides = ready.config, ready.sides
            return _work(_Run(place, config, state, ready, steps, _notes(sides, config)), _written(sides, place))


@dataclass
class Steps:
    """How long each step took, in their order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a block."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True)
class _Ready:
    """What was checked and opened before anything is written: the settings as they fit the sides, and the encoders."""

    config: RunConfig
    sides: tuple[Side, Side]
    encoder: Encoder | None
    texts: TextEncoder | None
    extras: Extras


@dataclass(frozen=True)
class _Run:
    """What the steps of a run share."""

    folder: RunFolder
    config: RunConfig
    state: RunState
    ready: _Ready
    steps: Steps
    notes: Sequence[str]

    @property
    def encoder(self) -> Encoder | None:
        """That of the images."""
        return self.ready.encoder

    @property
    def extras(self) -> Extras:
        """What there is beside targets and pool."""
        return self.ready.extras


def _prepare(config: RunConfig, given: Sequence[Any], steps: Steps, begun: Unfinished | None = None) -> _Ready:
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
            begun.check_directory([path for side in sides if side.has_paths for path in side.first_paths(1000)])
        config = settle(config, targets)
        check_sides(config, sides, done)
        extras = open_extras(config, sides, None if begun is None else begun.folder)
    with steps.step("load model"):
        encoder = load(config, sides, done=done)
        texts = load_texts(config, sides, encoder, done)
        check_extras(extras, config, sides, encoder)
        if begun is None:
            check_room(Path(config.run_dir or config.out).absolute(), config, sides, encoder, extras.avoid)
        else:
            begun.state.write(begun.folder)
    return _Ready(config, sides, encoder, texts, extras)


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
    notes = [
        *text_note(config, sides[0]), *overlap_warning(*sides, config.self_match), *label_warning(*sides),
    ]  # fmt: skip
    for note in notes:
        log.warning(note)
    return notes


def _written(sides: tuple[Side, Side], folder: RunFolder) -> tuple[Side, Side]:
    """Write what is no parquet as parquet, so that the specs name files, and let go of the tables."""
    left = []
    for side in sides:
        if side.table is None:
            left.append(side)
            continue
        if side.converted and side.embedded is None and side.kind != "table in memory":
            write_table(side.table, Path(input_of(side, folder)))
        left.append(replace(side, table=side.table.schema.empty_table()))
    return left[0], left[1]


def _work(job: _Run, sides: tuple[Side, Side]) -> RunResult:
    """Everything after the checks."""
    folder, config, steps = job.folder, job.config, job.steps
    notes = list(job.notes)
    inputs = {}
    for side in sides:
        with steps.step(f"embed {side.name}"):
            inputs[side.name] = _embed(job, side)
        notes += [f"{side.name}: {warning}" for warning in job.state.warnings.get(side.name, ())]
    avoid, history = job.extras.avoid, job.extras.history
    if avoid is not None:
        with steps.step("embed avoid"):
            notes += embed_avoided(folder, config, job.encoder, avoid)
    with steps.step("exclude"):
        bars = bar(folder, config, job.encoder, history)
    with steps.step("mine"):
        mined = mine_with(mining_settings(folder, config), [*notes, *bars.notes], last_yield=last_yield(history))
        _write_outcomes(folder, mined)
    write_specs(folder, config, *sides, job.state.cwd)
    excluded = excluded_record(folder, bars)
    write_record(folder, Done(job.state.created, config, inputs, mined, steps.seconds, excluded, cwd=job.state.cwd))
    plots, gallery = _draw(job)
    record, report = _report(job, (*plots, *gallery), mined)
    forget_state(folder)
    return RunResult(folder, record, mined.counts, mined.warnings, plots, gallery, report)


def _write_outcomes(folder: RunFolder, mined: MiningResult) -> None:
    """Write what became of every pool image."""
    barred = {}
    if folder.excluded.exists():
        table = pq.read_table(folder.excluded, columns=["source_row", "rule", "barred_by"]).to_pydict()
        rows, rules, images = table.values()
        barred = dict(zip(rows, zip(rules, images, strict=True), strict=True))
    source = EmbeddingStream(str(folder.pool), "embedding")
    targets = EmbeddingStream(str(folder.targets), "embedding").read_scalars().column("filepath").combine_chunks()
    pairs = pq.read_table(mined.pairs_path)
    write_pool_outcomes(folder.outcomes, source, Fates(pairs, targets, mined.excluded, barred, mined.scored))


def _embed(job: _Run, side: Side) -> InputRecord:
    """Make the embedding table of one side, unless an earlier process did."""
    output = table_of(side.name, job.folder)
    done = job.state.finished.get(side.name)
    if done is not None and output.is_file():
        log.info("the %s are embedded already", side.name)
        return done
    warnings: Sequence[str] = ()
    if side.is_ready:
        place_embedding_table(side.path, side.column, output)
        record = ready_record(side)
    elif side.is_text:
        assert job.ready.texts is not None
        texts = embed_side(job.ready.texts, job.config, side, input_of(side, job.folder), str(output))
        record, warnings = text_record(side, texts), texts.warnings
    else:
        assert job.encoder is not None
        log.info("embedding the %s: %d images", side.name, side.rows)
        result = embed_with(job.encoder, job.config.embedding(input_of(side, job.folder), str(output)))
        record, warnings = embedded_record(side, result), result.warnings
    job.state.finished[side.name] = record
    job.state.warnings[side.name] = list(warnings)
    job.state.write(job.folder)
    return record


def _draw(job: _Run) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Draw the plots and the gallery."""
    from lookalike.reports.gallery import write_gallery
    from lookalike.reports.plots import write_plots

    with job.steps.step("plots"):
        plots = tuple(write_plots(job.folder))
    with job.steps.step("gallery"):
        gallery = tuple(write_gallery(job.folder, every=job.config.gallery_all))
    return plots, gallery


def _report(job: _Run, drawn: Sequence[Path], mined: MiningResult) -> tuple[RunRecord, Path]:
    """Complete the record, add the run to its ledger, and write the report, which comes last: the run is complete.

    The report tells what is in the record, and the record has the digest of the report: its text is made before both.
    """
    from lookalike.reports.report import report_text, store_report

    folder, steps = job.folder, job.steps
    update_record(folder, drawn, seconds=steps.seconds)
    with steps.step("report"):
        text = report_text(folder)
    for line in package_run(folder):
        log.log(logging.INFO if is_done(line) else logging.WARNING, line)
    record = update_record(folder, report=text, seconds=steps.seconds)
    remember(job.config, folder, job.extras.history, mined)
    return record, store_report(folder, text)


def _finished(folder: RunFolder) -> RunResult:
    """The result of a run that ended well."""
    record = read_record(folder)
    return RunResult(
        folder, record, MiningCounts(**record.counts), tuple(record.warnings),
        tuple(sorted(folder.plots.glob("*.png"))), tuple(sorted(folder.path.glob("gallery*.html"))), folder.report,
    )  # fmt: skip
