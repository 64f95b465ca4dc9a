"""`lookalike encoders`: the families, well-known models, what to pick; one model in detail; snapshots to carry away."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.mine import key_values
from lookalike.cli.status import end_on_sigterm, report_errors
from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.workflow.encoders import Overview

app = typer.Typer(help="The encoders: families, models, what to pick for inspection images; snapshots to carry away.")

_HELP = {name: field.metadata["help"] for name, field in ImageEmbeddingsConfig.__dataclass_fields__.items()}


@app.callback(invoke_without_command=True)
def encoders(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Show the families of encoders on this machine, models to begin with, and what to pick for inspection images."""
    if context.invoked_subcommand is not None:
        return
    from lookalike.workflow.encoders import overview

    found = overview()
    if as_json:
        print(json.dumps({"version": 1, **asdict(found)}, indent=2, ensure_ascii=False))
    else:
        _show(found)


@app.command()
def show(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [KEY=VALUE]...",
            help="A Hugging Face id, a snapshot folder or a file; and any other setting of the embedding step.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help=_HELP["model"])] = None,
    model_path: Annotated[str | None, typer.Option(help=_HELP["model_path"])] = None,
    device: Annotated[str | None, typer.Option(help=_HELP["device"])] = None,
) -> None:
    """Load a model and show its identity: fingerprint, dimension, preprocessing, and the settings that it takes."""
    end_on_sigterm()
    given = {"model": model, "model_path": model_path, "device": device}
    if not report_errors(lambda: _describe(_words(given, settings or []))):
        raise typer.Exit(1)


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face id, like facebook/dinov2-base.")],
    to: Annotated[Path, typer.Option(help="The folder to make; it must be new, or an unfinished fetch.")],
    revision: Annotated[str, typer.Option(help="A branch, tag or commit of the model.")] = "main",
    open_clip: Annotated[
        bool, typer.Option("--open-clip", help="Take OpenCLIP's weights where there are those of transformers, too.")
    ] = False,
) -> None:
    """Fetch a model from the hub into a folder for machines without a network, with a digest of every file."""
    from lookalike.encoders.fetch import MANIFEST, fetch_snapshot

    snapshot = fetch_snapshot(model, to, revision=revision, open_clip=open_clip)
    print(f"Model:    {snapshot.model} at {snapshot.revision}")
    print(f"Licence:  {snapshot.licence or 'not said in its model card'}")
    print(f"Files:    {', '.join(snapshot.files)}")
    print(f"Bytes:    {snapshot.size:,}")
    print(f"Digests:  {to / MANIFEST}")
    print("Copy the folder, then look at it there:")
    print(f"lookalike encoders verify {to}")


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `fetch` made.")]) -> None:
    """Compare every file of a fetched model with its digest. Exit status 1 when one is missing or changed."""
    from lookalike.encoders.fetch import verify_snapshot

    snapshot = verify_snapshot(folder)
    print(f"{len(snapshot.files)} files, {snapshot.size:,} bytes: as fetched from {snapshot.model}")
    print(f"at {snapshot.revision}")


def _words(given: dict[str, str | None], settings: list[str]) -> list[str]:
    """The settings as words KEY=VALUE; a first one without a key names the model.

    Raises
    ------
    ConfigError
        When an option names one, too.
    """
    if settings and "=" not in settings[0]:
        named, *settings = settings
        if given["model_path"] is not None:
            raise ConfigError(f"{named} and --model-path {given['model_path']} both name a model", hint="leave one out")
        given = {**given, "model": given["model"] or "auto", "model_path": named}
    return key_values(given, settings)


def _describe(words: list[str]) -> None:
    from lookalike.config.compose import CommandLine, run

    run(ImageEmbeddingsConfig, CommandLine(None, ("input_parquet=", "output_parquet=", *words), ()), _print_description)


def _print_description(config: ImageEmbeddingsConfig) -> None:
    from lookalike.workflow.encoders import describe

    for name, value in describe(config):
        print(f"{name + ':' if name else '':<15} {value}")


def _show(found: Overview) -> None:
    """Print the tables and the advice."""
    from rich.console import Console
    from rich.table import Table

    families = Table("model", "what it is", "model_path is", "installed", "settings", "text", box=None, pad_edge=False)
    for row in found.families:
        installed = row.installed if row.is_installed else f"[red]{_escaped(row.installed)}"
        settings = "\n".join(row.settings)
        families.add_row(row.model, row.what, row.needs, installed, _escaped(settings), "yes" if row.texts else "")
    models = Table("model_path", "model", "dimension", "parameters", "licence", "from", box=None, pad_edge=False)
    for one in found.models:
        model = one.model
        size = f"{model.millions:g} M" if model.millions else ""
        place = f"{one.place}; {model.note}" if model.note and one.place != "here" else one.place
        models.add_row(model.path, model.family, str(model.dimension or ""), size, model.licence, place)
    console = Console()
    for title, table in (("Families", families), ("Models to begin with", models)):
        console.print(f"[bold]{title}", table, "", sep="\n")
    console.print("[bold]For inspection images (AOI)")
    for number, line in enumerate(found.advice, 1):
        console.print(f"{number}. {_escaped(line.what)}\n   {_escaped(line.why)}")
    console.print(
        "\nEvery family loads from local files without a network: `lookalike encoders fetch ID --to FOLDER` makes such "
        "a folder.\n`lookalike encoders show PATH` says what one model is, by its config.json; `--model NAME` names "
        "the family where there is none.",
    )


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
