"""`lookalike check`: look at a finished run with a machine's eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def check(
    run: Annotated[Path, typer.Argument(help="The run folder: the one that holds Mining_Report.md.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Check a run: its files, tables, counts, encoders, report and paths. Exit status 1 on any finding.

    Notes repeat what the run itself warned of: they are no findings, and change what the result means.
    """
    from lookalike.workflow.check import check_run, run_notes
    from lookalike.workflow.checks.finding import Severity, printable

    findings, notes = check_run(run), run_notes(run)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if as_json:
        found = [
            {
                "severity": finding.severity, "rule": finding.rule, "message": finding.message,
                "where": finding.where, "hint": finding.hint,
            }
            for finding in findings
        ]  # fmt: skip
        totals = {"errors": errors, "warnings": len(findings) - errors}
        report = {"version": 1, "run": str(run), "ok": not findings, **totals, "findings": found, "notes": notes}
        print(json.dumps(report, indent=2))
    else:
        for finding in findings:
            print(finding.lines())
        for note in notes:
            print(f"note     the run warned: {printable(note)}")
        counted = f"{errors} errors, {len(findings) - errors} warnings" + (f", {len(notes)} notes" if notes else "")
        print(f"{counted} in {printable(str(run))}")
    if findings:
        raise typer.Exit(1)
