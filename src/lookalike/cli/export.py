"""`lookalike export`: the mined images of a run, or vectors, as training and other programs read them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.atlas import atlas
from lookalike.config.schemas import RunConfig

if TYPE_CHECKING:
    from lookalike.workflow.export import Export
    from lookalike.workflow.interchange import Exported

app = typer.Typer(help="Mined images, or vectors, for training and for other programs.", no_args_is_help=True)
app.command()(atlas)

_HELP = {name: field.metadata["help"] for name, field in RunConfig.__dataclass_fields__.items()}
_Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or a mined table; mined_reviewed.parquet comes first.")
]
_Source = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE", help="An embedding table (a file or a folder), or a run folder: then its mined images."
    ),
]
_File = Annotated[Path, typer.Option("--out", help="The file to write.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
_RelativeTo = Annotated[str, typer.Option("--relative-to", help="Write paths from this folder on; all must be in it.")]
_As_run = "Default: as in the run."


@app.command()
def vcn(
    run: _Run,
    out: _File,
    pool: Annotated[
        Path | None, typer.Option(help="The table that was mined, where the run's own lacks the columns.")
    ] = None,
    images_root: Annotated[str | None, typer.Option(help=f"{_HELP['images_root']}. {_As_run}")] = None,
    light: Annotated[str | None, typer.Option(help=f"{_HELP['light']}. {_As_run}")] = None,
    image_ext: Annotated[str | None, typer.Option(help=f"{_HELP['image_ext']}. {_As_run}")] = None,
    label: Annotated[str, typer.Option(help="The label of rows that have none.")] = "",
    relative_to: Annotated[
        str, typer.Option("--relative-to", help="Write input_path and golden_path from this folder on.")
    ] = "",
    force: _Force = False,
) -> None:
    """A Visual ChangeNet training CSV: input_path, golden_path, label, object_name; every row checked."""
    from lookalike.workflow.export import export_vcn

    where = {"images_root": images_root, "light": light, "image_ext": image_ext}
    _show(export_vcn(run, out, pool=pool, label=label, relative_to=relative_to, force=force, **where))


@app.command()
def csv(run: _Run, out: _File, relative_to: _RelativeTo = "", force: _Force = False) -> None:
    """A CSV: filepath, label, target, rank, distance, score."""
    from lookalike.workflow.export import export_csv

    _show(export_csv(run, out, relative_to=relative_to, force=force))


@app.command()
def coco(
    run: _Run,
    out: _File,
    annotations: Annotated[
        Path | None, typer.Option(help="The pool's COCO file: ids, annotations and categories are kept.")
    ] = None,
    relative_to: _RelativeTo = "",
    force: _Force = False,
) -> None:
    """A COCO file: the images with their sizes, what is known of each as mined_* fields, and their annotations."""
    from lookalike.workflow.export import export_coco

    _show(export_coco(run, out, annotations=annotations or "", relative_to=relative_to, force=force))


@app.command()
def fiftyone(
    run: _Run,
    out: Annotated[Path, typer.Option("--out", help="The dataset folder to write.")],
    relative_to: _RelativeTo = "",
    vectors: Annotated[bool, typer.Option("--vectors", help="Put the vectors into the field `embedding`.")] = False,
    force: _Force = False,
) -> None:
    """A dataset folder that FiftyOne imports, with tags, labels, target, rank, distance and score."""
    from lookalike.workflow.export import export_fiftyone

    _show(export_fiftyone(run, out, relative_to=relative_to, vectors=vectors, force=force))
    folder = f", rel_dir={str(Path(relative_to).absolute())!r}" if relative_to else ""
    print("Open it (pip install fiftyone):")
    code = (
        "import fiftyone as fo; "
        f"dataset = fo.Dataset.from_dir({str(out.absolute())!r}, dataset_type=fo.types.LegacyFiftyOneDataset{folder}); "
        "fo.launch_app(dataset).wait()"
    )
    print(shlex.join(["python", "-c", code]))


@app.command()
def numpy(
    table: _Source, out: Annotated[Path, typer.Option("--out", help="The folder to write.")], force: _Force = False
) -> None:
    """Vectors as a NumPy array: embeddings.npy, with rows.csv (paths and other columns) and encoder.json beside it."""
    from lookalike.workflow.interchange import export_numpy

    _show_vectors(export_numpy(table, out, force=force))


@app.command()
def lance(
    table: _Source,
    out: Annotated[Path, typer.Option("--out", help="The dataset to write; its name ends in .lance.")],
    force: _Force = False,
) -> None:
    """Vectors as a Lance dataset, which LanceDB opens as a table (pip install 'lookalike[lance]')."""
    from lookalike.workflow.interchange import export_lance

    _show_vectors(export_lance(table, out, force=force))


def _show_vectors(done: Exported) -> None:
    print(f"Written:  {done.rows} vectors of {done.dimension} dimensions to {done.path}")


def _show(export: Export) -> None:
    """Print what was written."""
    mined = export.mined
    print(f"From:     {mined.path}")
    if mined.dropped is not None:
        print(f"Reviewed: {mined.dropped} images of mined.parquet were dropped by a person, and are left out")
    for note in export.notes:
        print(f"Note:     {note}")
    if not mined.has_pairs:
        print("There is no pair table beside it: targets, ranks and distances are not known", file=sys.stderr)
    print(f"Written:  {export.rows} images to {export.path}")
