"""`lookalike`: the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lookalike import __version__
from lookalike.cli import (
    atlas,
    cache,
    calibrate,
    check,
    encoders,
    export,
    gallery,
    history,
    hook,
    import_,
    mine,
    skill,
    tune,
    why,
)
from lookalike.cli.status import end_on_sigterm, escape_foreign_letters, report_errors, set_up_logging

app = typer.Typer(
    help="Find the pool images that look like your model's failures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache.app, name="cache")
app.add_typer(encoders.app, name="encoders")
app.add_typer(history.app, name="history")
app.add_typer(export.app, name="export")
for command in (
    mine.mine,
    gallery.gallery,
    atlas.atlas,
    gallery.review,
    gallery.view,
    check.check,
    why.why,
    calibrate.calibrate,
    tune.tune,
):
    app.command()(command)
app.command("import")(import_.import_)
app.add_typer(skill.app, name="skill")
# A hook never fails: what it does not know is let pass.
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(hook.hook)


def main() -> None:
    """Entry point: exit status 0 when all went well, 1 on an error, 2 on a wrong argument."""
    escape_foreign_letters()
    set_up_logging()
    codes: list[int] = []

    def work() -> None:
        try:
            app()
        except SystemExit as stop:
            codes.append(int(stop.code or 0))

    sys.exit(codes[0] if report_errors(work) and codes else 1)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"lookalike {__version__}")
        raise typer.Exit


@app.command()
def demo(
    dataset: Annotated[
        str, typer.Option(help="solar: solar cells (CC BY-NC-SA); textile: woven textile (MIT).")
    ] = "solar",
    images: Annotated[
        int | None,
        typer.Option(
            help="Images of the dataset that are used, drawn at random; fewer are faster.", show_default="all"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path("demo"),
    targets: Annotated[
        int | None,
        typer.Option(
            help="Defective images that are drawn as targets.",
            show_default="100, or an eighth of the defective images",
        ),
    ] = None,
    topn: Annotated[int, typer.Option(help="Neighbours per target.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Mine real industrial images with a real encoder, offline: the whole job in a minute."""
    end_on_sigterm()
    if not report_errors(lambda: _demo(dataset, images, out, targets, topn, seed)):
        raise typer.Exit(1)


def _demo(dataset: str, images: int | None, out: Path, targets: int | None, topn: int, seed: int) -> None:
    """Run the demo and print what came of it."""
    from lookalike.workflow.demo import run_demo

    result = run_demo(dataset, out, images=images, targets=targets, topn=topn, seed=seed)
    run, pool = result.run, result.run.record.pool
    print(f"Images:      {result.dataset.title}; {result.dataset.licence}")
    print("Encoder:     EfficientNet-Lite0 with its ImageNet weights")
    print(f"Embedded:    {result.targets} targets, {pool.embedded} pool images, {mine.speed(pool)}")
    print(f"Mined:       {run.counts.unique} images, {mine.how_chosen(run.record)}")
    nearest = f"{result.nearest_rate:.2f} of the {topn} nearest of a target"
    print(f"Defective:   {result.mined_rate:.2f} of the mined images, {nearest}")
    print(f"By chance:   {result.base_rate:.2f}, the share of defective images in the pool")
    print("The same for your own images:")
    model = ("--model", "timm", "--model-path", out / "encoder", "--topn", topn)
    paths = ("--targets", out / "targets.parquet", "--pool", out / "pool.parquet", "--out", out)
    print(" ", shlex.join(map(str, ("lookalike", "mine", *paths, *model))))
    print(f"Sheet:       {result.contact_sheet}")
    print(f"Report:      {run.report}")
    print(f"Gallery:     {run.folder.gallery}")


@app.command()
def doctor() -> None:
    """Show versions, devices, codecs, room, the hub, and what would be used."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lookalike.workflow.doctor import examine

    table = Table(box=None, show_header=False, pad_edge=False)
    section, fine = "", True
    for fact in examine():
        heading = fact.section if fact.section != section else ""
        section, fine = fact.section, fine and fact.fine
        value = escape(fact.value)
        table.add_row(f"[bold]{heading}", escape(fact.name), value if fact.fine else f"[red]{value}")
    Console().print(table)
    if not fine:
        print("Something is missing: see the lines in red.", file=sys.stderr)
        raise typer.Exit(1)
