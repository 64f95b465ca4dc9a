"""What a run does after its checks, step by step: embed both sides, leave out, mine, record, draw, report.

`run` and `resume_run` come here with the same `Job`; a step that an earlier process finished is not done again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from lookalike.config.schemas import RunConfig
from lookalike.embedding.images import embed_with
from lookalike.encoders.base import Encoder
from lookalike.reports.summary import MiningCounts
from lookalike.tables.embedding_copy import place_embedding_table
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord, read_record, update_record
from lookalike.workflow.diagnosis import diagnose
from lookalike.workflow.mining import MiningResult, mine_with
from lookalike.workflow.packaging import is_done, package_run
from lookalike.workflow.pool_outcomes import Fates, write_pool_outcomes
from lookalike.workflow.run_extras import (
    Extras,
    bar,
    embed_avoided,
    excluded_record,
    last_iteration,
    last_yield,
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
from lookalike.workflow.run_inputs import Side
from lookalike.workflow.run_state import RunState, forget_state

if TYPE_CHECKING:
    from lookalike.reports.facts import Facts

log = logging.getLogger(__name__)


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
class Job:
    """What the steps of a run share."""

    folder: RunFolder
    config: RunConfig
    state: RunState
    encoder: Encoder | None
    steps: Steps
    notes: Sequence[str]
    extras: Extras


def write_inputs(sides: tuple[Side, Side], folder: RunFolder) -> tuple[Side, Side]:
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


def work(job: Job, sides: tuple[Side, Side]) -> RunResult:
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
    with steps.step("diagnose"):
        diagnosis = diagnose(folder, mining_settings(folder, config), mined, last_iteration(config, history))
    write_specs(folder, config, *sides, job.state.cwd)
    excluded = excluded_record(folder, bars)
    done = Done(job.state.created, config, inputs, mined, steps.seconds, excluded, job.state.cwd, diagnosis)
    write_record(folder, done)
    facts, plots, gallery = _draw(job)
    record, report = _report(job, facts, (*plots, *gallery), mined)
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


def _embed(job: Job, side: Side) -> InputRecord:
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
    else:
        assert job.encoder is not None
        log.info("embedding the %s: %d images", side.name, side.rows)
        result = embed_with(job.encoder, job.config.embedding(input_of(side, job.folder), str(output)))
        record, warnings = embedded_record(side, result), result.warnings
    job.state.finished[side.name] = record
    job.state.warnings[side.name] = list(warnings)
    job.state.write(job.folder)
    return record


def _draw(job: Job) -> tuple[Facts, tuple[Path, ...], tuple[Path, ...]]:
    """Draw the plots and the gallery; return them, and the facts that they and the report tell."""
    from lookalike.reports.facts import gather
    from lookalike.reports.gallery import write_gallery
    from lookalike.reports.plots import write_plots

    with job.steps.step("plots"):
        facts = gather(job.folder)
        plots = tuple(write_plots(job.folder, facts))
    with job.steps.step("gallery"):
        gallery = tuple(write_gallery(job.folder, every=job.config.gallery_all, facts=facts))
    return facts, plots, gallery


def _report(job: Job, facts: Facts, drawn: Sequence[Path], mined: MiningResult) -> tuple[RunRecord, Path]:
    """Complete the record, add the run to its ledger, and write the report, which comes last: the run is complete.

    The report tells what is in the record, and the record has the digest of the report: its text is made before both.
    """
    from lookalike.reports.report import report_text, store_report

    folder, steps = job.folder, job.steps
    facts = replace(facts, record=update_record(folder, drawn, seconds=steps.seconds))
    with steps.step("report"):
        text = report_text(facts)
    for line in package_run(folder):
        log.log(logging.INFO if is_done(line) else logging.WARNING, line)
    record = update_record(folder, report=text, seconds=steps.seconds)
    remember(job.config, folder, job.extras.history, mined)
    return record, store_report(folder, text)


def read_result(folder: RunFolder) -> RunResult:
    """The result of a run that ended well, from its folder."""
    record = read_record(folder)
    return RunResult(
        folder, record, MiningCounts(**record.counts), tuple(record.warnings),
        tuple(sorted(folder.plots.glob("*.png"))), tuple(sorted(folder.path.glob("gallery*.html"))), folder.report,
    )  # fmt: skip
