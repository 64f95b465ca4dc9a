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
    """Check a run: its files, tables, counts, encoders, report and paths. Exit status 1 on any finding."""
    from lookalike.workflow.check import check_run
    from lookalike.workflow.checks.finding import Severity, printable

    findings = check_run(run)
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
        print(json.dumps({"version": 1, "run": str(run), "ok": not findings, **totals, "findings": found}, indent=2))
    else:
        for finding in findings:
            print(finding.lines())
        print(f"{errors} errors, {len(findings) - errors} warnings in {printable(str(run))}")
    if findings:
        raise typer.Exit(1)
