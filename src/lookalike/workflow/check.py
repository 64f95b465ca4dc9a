"""`check_run`: everything about a run folder that a machine can check."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.errors import TableError
from lookalike.tables.embedding_table import key_of
from lookalike.tables.run_folder import RunFolder, RunRecord, read_record
from lookalike.workflow.checks import artifacts, specs
from lookalike.workflow.checks.finding import Finding, Rule, error, some, warning
from lookalike.workflow.checks.report import check_report, linked_files, read_report
from lookalike.workflow.checks.summary import DROPPED_BY, Summary, check_sums, dropped_by, read_summary
from lookalike.workflow.run_state import is_unfinished

if TYPE_CHECKING:
    from lookalike.workflow.checks.pairs import Pairs
    from lookalike.workflow.checks.tables import Shapes


def check_run(path: str | Path) -> list[Finding]:
    """Check a run folder: its files, tables, counts, encoders, report and paths.

    A folder made by NVIDIA TAO's own workflow has no record and no pair table: one finding says so, and the rest is
    checked. The folder may have been moved since the run.

    Parameters
    ----------
    path:
        The run folder: the one that holds `Mining_Report.md`.

    Returns
    -------
    list of Finding
        What is not as it should be, the files first; empty for a run in order.

    Raises
    ------
    TableError
        When there is no such folder, or it holds no file of a run.
    """
    folder = _open(path)
    if not folder.record.exists() and not folder.report.exists():
        there = [file.name for file in _known_files(folder) if file.exists()]
        message = f"has no run.json and no Mining_Report.md: the run did not end; it holds {some(there)}"
        return [error(Rule.UNFINISHED, message, str(folder.path), _go_on(folder))]
    record, findings = _read_record(folder)
    if is_unfinished(folder):
        message = "the run did not end: its state is still there, and files of it may be missing or of an earlier try"
        findings.insert(0, error(Rule.UNFINISHED, message, str(folder.path), _go_on(folder)))
    report, unreadable = read_report(folder.report) if folder.report.is_file() else ("", [])
    if record:
        findings += artifacts.check_own_files(folder, (*linked_files(report), *record.files))
        findings += artifacts.check_digests(folder, record)
    else:
        findings += artifacts.check_contract_files(folder)
    findings += artifacts.check_package(folder)
    findings += specs.check_specs(folder, record)
    summary, unread = read_summary(folder.summary)
    findings += unread
    if summary:
        findings += check_sums(summary)
    findings += _check_contents(folder, record, summary)
    findings += unreadable
    if report:
        numbers = summary.numbers if summary else {}
        findings += check_report(report, targets=numbers.get("targets"), mined=numbers.get("unique"))
    return findings


def _go_on(folder: RunFolder) -> str:
    return f"go on with it: lookalike mine --resume {shlex.quote(str(folder.path))}"


def run_notes(path: str | Path) -> list[str]:
    """What the run itself warned of, from its record: each changes what the result means, and none is a finding.

    Parameters
    ----------
    path:
        The run folder, as `check_run` takes it.

    Returns
    -------
    list of str
        The warnings in the words of the run; empty where there are none, and where no record can be read, which
        `check_run` tells.
    """
    record, _ = _read_record(RunFolder(Path(path)))
    return record.warnings if record else []


def _open(path: str | Path) -> RunFolder:
    """The run folder, if it is one; otherwise an error that names one that is near."""
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        what = "is not a folder" if folder.path.exists() else "does not exist"
        raise TableError(what, where=str(path), hint="name a run folder, the one that holds Mining_Report.md")
    if not os.access(folder.path, os.R_OK | os.X_OK):
        raise TableError("may not be read", where=str(path), hint="ask its owner for the right to read it")
    if not any(file.exists() for file in _known_files(folder)):
        inside = sorted([*folder.path.glob("*/run.json"), *folder.path.glob("mining_results/*/run.json")])
        hint = f"check {inside[-1].parent}" if inside else "name the folder that holds Mining_Report.md"
        raise TableError("holds no file of a mining run", where=str(path), hint=hint)
    return folder


def _known_files(folder: RunFolder) -> tuple[Path, ...]:
    """Files that make a folder the folder of a run, finished or not."""
    return (*artifacts.contract_files(folder), folder.record, folder.pairs, folder.log)


def _read_record(folder: RunFolder) -> tuple[RunRecord | None, list[Finding]]:
    """`run.json`; None, with a finding, where there is none or it cannot be used."""
    name = folder.record.name
    if not folder.record.exists():
        if folder.pairs.exists() or folder.log.exists():
            message = "is missing, and other files show that lookalike made the run: digests and counts are not checked"
            return None, [error(Rule.RECORD, message, name, "copy the whole run folder")]
        message = (
            "no run.json and no pair table: made elsewhere. Not checked: digests, the record, outcomes, and that one "
            "encoder wrote both tables"
        )
        hint = "`lookalike mine` keeps a record of all that"
        return None, [warning(Rule.MADE_ELSEWHERE, message, str(folder.path), hint)]
    if not folder.record.is_file():  # a pipe would be waited for
        return None, [error(Rule.RECORD, "is not a file", name)]
    try:
        record = read_record(folder)
    except TableError as problem:
        return None, [error(Rule.RECORD, problem.what, name, problem.hint)]
    wrong = _wrong_fields(record)
    if wrong:
        return None, [error(Rule.RECORD, f"is damaged: {some(wrong)} of a wrong kind", name, "copy it again")]
    return record, []


def _wrong_fields(record: RunRecord) -> list[str]:
    """Fields of another type than they should have: the file may be edited or hostile."""
    sides = {"targets": record.targets, "pool": record.pool}
    wrong = [name for name in ("settings", "counts", "certificate") if not isinstance(getattr(record, name), dict)]
    listed = isinstance(record.warnings, list) and all(isinstance(text, str) for text in record.warnings)
    wrong += [] if listed else ["warnings"]
    wrong += (
        [] if isinstance(record.counts, dict) and isinstance(record.counts.get("dropped", {}), dict) else ["counts"]
    )
    wrong += [name for name in ("model", "model_path", "cwd") if not isinstance(getattr(record, name), str)]
    for name, side in sides.items():
        wrong += [f"{name}.{field}" for field in ("rows", "embedded") if not isinstance(getattr(side, field), int)]
        counted = isinstance(side.quarantined, dict) and all(isinstance(n, int) for n in side.quarantined.values())
        wrong += [] if counted else [f"{name}.quarantined"]
        wrong += [] if side.identity is None or isinstance(side.identity, dict) else [f"{name}.identity"]
    return wrong


def _check_contents(folder: RunFolder, record: RunRecord | None, summary: Summary | None) -> list[Finding]:
    """What is in the tables."""
    from lookalike.reports.thumbnails import Reading
    from lookalike.workflow.checks import pairs as pairs_check
    from lookalike.workflow.checks import tables
    from lookalike.workflow.checks.paths import check_paths

    settings = record.settings if record else {}
    base = Reading.of(settings, record.start if record else "").files.base
    columns = tables.embedding_columns(settings)
    shapes, findings = tables.check_tables(folder, columns)
    findings += tables.check_vectors(shapes, columns)
    findings += tables.check_encoders(shapes, record)
    if record:
        findings += tables.check_rows(folder, shapes, record)
    try:
        pairs = pairs_check.Pairs.read(shapes.pairs) if shapes.pairs else None
        if pairs is not None:
            findings += pairs_check.check_pairs(pairs, shapes, folder.pairs.name, settings)
        findings += pairs_check.check_mined(pairs, shapes, folder.reviewed)
        for shape in (shapes.mined, shapes.targets):
            if shape and key_of(shape.schema.names) == "filepath":
                findings += check_paths(shape, base)
    except tables.READ_ERRORS as problem:  # a footer can be right where the data behind it are damaged
        message = f"a table cannot be read to its end: {' '.join(str(problem).split())[:200]}"
        return [*findings, error(Rule.TABLE, message, str(folder.path), "copy the tables again, or mine again")]
    findings += _check_counts(record, summary, shapes, pairs)
    return findings


def _recorded(record: RunRecord) -> dict[str, Any]:
    """The counts of the record, with those of further rules among them."""
    counts = dict(record.counts)
    dropped = counts.pop("dropped", {})
    return {**counts, **{dropped_by(rule): number for rule, number in dropped.items()}}


def _check_counts(
    record: RunRecord | None, summary: Summary | None, shapes: Shapes, pairs: Pairs | None
) -> Iterator[Finding]:
    """Compare the numbers of the summary with those of the record, and both with the tables."""
    tables: dict[str, int] = {}
    if shapes.targets:
        tables["targets"] = shapes.targets.rows
    if pairs is not None:
        tables |= pairs.counts()
    if shapes.mined:
        tables["unique"] = shapes.mined.rows
    sources: dict[str, dict[str, Any]] = {
        "mining_summary.txt": summary.counts() if summary else {},
        "run.json": _recorded(record) if record else {},
        "the tables": tables,
    }
    for name in (
        "targets",
        "topn",
        "pairs",
        "label_mismatches",
        "over_distance",
        "duplicates",
        "under_similarity",
        "unique",
        *sorted({name for numbers in sources.values() for name in numbers if name.startswith(DROPPED_BY)}),
    ):
        said = {source: numbers[name] for source, numbers in sources.items() if name in numbers}
        # A filter that did not run is None in the record and the summary, and no outcome in the pair table.
        if len({number or 0 for number in said.values()}) > 1:
            message = f"{name}: " + ", ".join(f"{number} in {source}" for source, number in said.items())
            yield error(Rule.COUNTS, message, " and ".join(said), "a file is not the one of this run: mine again")
    topn = record.settings.get("topn") if record else None
    clamped = summary.numbers["topn"] if summary else 0
    if isinstance(topn, int) and clamped > topn:
        message = f"topn: {clamped} in mining_summary.txt, and the run's setting is {topn}"
        yield error(Rule.COUNTS, message, "mining_summary.txt and run.json", "mine again")
