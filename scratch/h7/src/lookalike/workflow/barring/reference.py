"""The images that bar others: the evaluation set, or the targets, with paths and, where there are any, vectors."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from lookalike.config.schemas import RunConfig
from lookalike.embedding.images import embed_with
from lookalike.encoders.base import Encoder
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import ImagesFailed
from lookalike.images.outcome import ImageRejected
from lookalike.neighbors.base import Rows
from lookalike.neighbors.sides import check_values
from lookalike.reports.thumbnails import Reading
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.pair_table import write_table
from lookalike.tables.vectors import Matrix
from lookalike.workflow.barring.pictures import each_picture
from lookalike.workflow.comparable import compare_encoders, compare_identities
from lookalike.workflow.run_inputs import open_side

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Images that bar others.

    Attributes
    ----------
    name:
        For people: ``protected`` or ``target``.
    paths:
        Of all of them.
    vectors:
        Of those that have one; no rows where none has.
    rows:
        Per vector, its row in `paths`.
    """

    name: str
    paths: list[str]
    vectors: Matrix
    rows: Rows

    def only(self, rows: Rows) -> Reference:
        """The same with the vectors of some images only."""
        chosen = np.isin(self.rows, rows)
        return replace(self, vectors=self.vectors[chosen], rows=self.rows[chosen])


def of_targets(targets: EmbeddingTable) -> Reference:
    """The targets."""
    return Reference("target", targets.filepaths.to_pylist(), targets.vectors, np.arange(len(targets)))


def joined(references: Sequence[Reference]) -> Reference:
    """Several as one; the name is that of the first."""
    starts = np.cumsum([0, *(len(one.paths) for one in references)])
    return Reference(
        references[0].name,
        [path for one in references for path in one.paths],
        np.concatenate([one.vectors for one in references]),
        np.concatenate([one.rows + start for one, start in zip(references, starts, strict=False)]),
    )


def open_protected(
    given: Any, pool: EmbeddingStream, inputs: RunConfig, encoder: Encoder | None, note: Callable[[str], None]
) -> Reference:
    """Read the evaluation set, and embed it where it comes without vectors and an encoder is at hand.

    Parameters
    ----------
    given:
        Any input that `open_side` takes.
    pool:
        What is protected from: the encoders must agree.
    inputs:
        How inputs are read and embedded.
    encoder:
        Of the pool, as `open_encoder` gives it for `inputs`.
    note:
        Takes what changes the meaning of the result.

    Raises
    ------
    TableError
        When it cannot be read, or has no rows.
    EncoderMismatch, VectorError
        When it has vectors of another encoder.
    """
    side = open_side("protect", given, inputs)
    if side.table is None:
        table = read_embedding_table(side.path, side.column)
        for warning in compare_encoders(table, pool, (side.column, inputs.pool_vectors)):
            note(f"protect: {warning}")
        check_values(table.vectors, table.name, 0)
        return Reference("protected", table.filepaths.to_pylist(), table.vectors, np.arange(len(table)))
    paths = side.table.column("filepath").to_pylist()
    alone = Reference("protected", paths, np.empty((0, pool.dimension), np.float32), np.empty(0, np.int64))
    if encoder is None:
        return alone
    check_encoder(encoder, pool)
    return _embedded(alone, inputs, encoder, note)


def check_encoder(encoder: Encoder, pool: EmbeddingStream) -> None:
    """Refuse an encoder that is not the pool's."""
    written = EncoderIdentity.from_json(pool.identity_json, pool.name) if pool.identity_json else None
    list(compare_identities(encoder.identity, written, ("the encoder", pool.name)))


def _embedded(alone: Reference, inputs: RunConfig, encoder: Encoder, note: Callable[[str], None]) -> Reference:
    """The same images with vectors, as the engine makes them: with its cache, bad images set aside."""
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder, "protect.parquet"), Path(folder, "vectors.parquet")
        numbered = pa.table({"filepath": alone.paths, "row": np.arange(len(alone.paths))})
        write_table(numbered, images)
        settings = replace(inputs.embedding(str(images), str(output)), on_error="quarantine", reuse="")
        try:
            result = embed_with(encoder, settings)
        except ImagesFailed:
            note(f"none of the {len(alone.paths)} images of protect could be embedded: they are compared by path only")
            return alone
        table = read_embedding_table(str(output), "embedding")
        rows = EmbeddingStream(str(output), "embedding").pick(np.arange(len(table)), ("row",)).column("row").to_numpy()
    if result.quarantined:
        note(
            f"{len(result.quarantined)} of {len(alone.paths)} images of protect could not be embedded, the first: "
            f"{result.quarantined[0]}"
        )
    return replace(alone, vectors=table.vectors, rows=np.asarray(rows, np.int64))


def with_views(reference: Reference, encoder: Encoder, reading: Reading, batch: int) -> Reference:
    """The same with the vectors of four copies of every image: mirrored, turned by 180 degrees, and two smaller ones.

    Such a copy in the pool can be far from the image itself, and is near to one of these.

    Parameters
    ----------
    reference:
        Images whose files may be read; those that cannot be are left as they are.
    encoder, batch:
        What embeds them, and how many at a time.
    reading:
        How files are read.
    """
    vectors, rows = [reference.vectors], [reference.rows]
    for group, found in _batches(reference, encoder, reading, batch):
        vectors.append(encoder.encode(np.stack(group)).astype(reference.vectors.dtype, copy=False))
        rows.append(np.array(found, np.int64))
    return replace(reference, vectors=np.concatenate(vectors), rows=np.concatenate(rows))


def _batches(
    reference: Reference, encoder: Encoder, reading: Reading, batch: int
) -> Iterator[tuple[list[Any], list[int]]]:
    """Preprocessed views, some at a time, and whose they are."""

    def views(image: Image.Image) -> list[Any]:
        turned = image.transpose(Image.Transpose.ROTATE_180)
        changed = [ImageOps.mirror(image), turned, _scaled(image, 0.75), _scaled(image, 0.5)]
        return [encoder.preprocessing(one) for one in changed]

    group: list[Any] = []
    found: list[int] = []
    pictures = each_picture([reference.paths[row] for row in reference.rows], reading, views)
    for row, made in zip(reference.rows.tolist(), pictures, strict=True):
        if isinstance(made, ImageRejected):
            continue
        group += made
        found += [row] * len(made)
        if len(group) >= batch:
            yield group, found
            group, found = [], []
    if group:
        yield group, found


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)
