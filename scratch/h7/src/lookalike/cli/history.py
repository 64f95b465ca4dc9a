"""`lookalike history`: look at the ledger of what was mined, and compare it with its files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The ledger of what each iteration mined: mining_history.json.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(help="The ledger, mining_history.json.")]


@app.command()
def show(file: _File) -> None:
    """Show each iteration: candidates, how many were mined before, how many were new."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lookalike.tables.history import read_history

    history = read_history(file)
    table = Table(box=None, pad_edge=False)
    for name in ("Iteration", "topn", "Candidates", "Mined before", "New"):
        table.add_column(name, justify="right")
    table.add_column("Output", overflow="fold")
    for one in history.iterations:
        counts = (one.iteration, one.topn, one.candidate_unique_count, one.already_mined_count, one.selected_count)
        table.add_row(*map(str, counts), escape(one.output_parquet))
    Console().print(table)
    print(f"Total: {len(history.iterations)} iterations, {len(history.mined)} images")


@app.command()
def verify(file: _File) -> None:
    """Compare the ledger with the files that it names; exit status 1 where something does not agree."""
    from lookalike.tables.history import read_history, verify_history

    history = read_history(file)
    problems = verify_history(history, file)
    for one in history.iterations:
        own = [problem for problem in problems if problem.iteration == one.iteration]
        print(f"Iteration {one.iteration}: {'does not agree' if own else 'ok'}, {one.selected_count} images")
    for problem in problems:
        print(f"Problem: {problem}", file=sys.stderr)
    print(f"Total: {len(history.iterations)} iterations, {len(history.mined)} images, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
