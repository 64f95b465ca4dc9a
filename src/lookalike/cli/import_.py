"""`lookalike import`: embeddings that another program made, as an embedding table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    given: Annotated[
        Path,
        typer.Argument(
            metavar="VECTORS", help="A .npy or .npz file, parquet, a .lance dataset, or a FiftyOne dataset folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The embedding table to write.")],
    paths: Annotated[
        str, typer.Option(help="A table or list with the paths or ids, row by row as the vectors; needed for .npy.")
    ] = "",
    vectors: Annotated[str, typer.Option(help="Name of the column, array or field of vectors.")] = "",
    ids: Annotated[str, typer.Option(help="Name of the column or array of paths or ids.")] = "",
    encoder: Annotated[
        str, typer.Option(help="What wrote the vectors: an encoder.json as `lookalike export numpy` writes it.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Bring embeddings from elsewhere (sentence-transformers, FiftyOne, LanceDB, NumPy, Cosmos Embed) into a table.

    The table goes into `lookalike mine`, `tmm` and `tune` like one that lookalike wrote; it says "encoder not known"
    unless --encoder tells.
    """
    from lookalike.workflow.interchange import import_embeddings

    done = import_embeddings(given, out, vectors=vectors, ids=ids, paths=paths, encoder=encoder, force=force)
    print(f"Written:  {done.rows} vectors of {done.dimension} dimensions to {done.path}")
    print(f"Columns:  {', '.join(done.columns)}")
    print(f"Images:   {done.there} of the first {done.looked_up} paths are files here", end="")
    print("" if done.there else "; ids are mined as they are, without pictures and without a look at pixels")
    if not encoder:
        print("Encoder:  not known: mine these vectors only with others of the same encoder")
