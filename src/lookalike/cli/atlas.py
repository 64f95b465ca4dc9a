"""`lookalike export atlas`: a run as a table for the program embedding-atlas."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def atlas(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="The table to write. Default: atlas.parquet in the run.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Pool images beside those that were found; 0: all. Default: 5000.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Put a small picture of every image into the table.")] = True,
) -> None:
    """Write the run as a table that embedding-atlas opens: a map of targets, mined images and pool to walk through."""
    from lookalike.reports.atlas import SAMPLE, write_atlas
    from lookalike.tables.run_folder import RunFolder
    from lookalike.workflow.run_state import check_finished

    check_finished(RunFolder(run))
    written = write_atlas(RunFolder(run), out, sample=SAMPLE if sample is None else sample, pictures=pictures)
    print(f"Table:    {written.path}")
    print(f"Rows:     {written.targets} targets, {written.pool} of {written.pool_total} pool images")
    print(f"Columns:  {', '.join(written.columns)}")
    print(f"x and y:  {written.method}")
    print("Open it (pip install embedding-atlas):")
    print(shlex.join(written.command))
