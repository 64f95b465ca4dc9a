"""`embed_images`: from an image table to an embedding table. What `embedding image_embeddings` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.engine import Batch, Outcomes, embed
from lookalike.encoders.base import Encoder, LoadRequest
from lookalike.encoders.identity import EncoderIdentity
from lookalike.encoders.load import check_model, load_encoder
from lookalike.errors import ImagesFailed
from lookalike.images.decode import DecodeSettings
from lookalike.images.locate import ReadSettings, check_root
from lookalike.images.outcome import QuarantinedImage, count_reasons, quarantine_table
from lookalike.progress import progress
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_table import EmbeddingTableWriter
from lookalike.tables.image_table import read_image_table
from lookalike.tables.pair_table import sibling, write_table

log = logging.getLogger(__name__)

#: Rows in a row group: large enough to read fast, small enough to hold while it fills.
_ROW_GROUP = 32_768
_Config = ImageEmbeddingsConfig


@dataclass(frozen=True)
class EmbeddingResult:
    """What `embed_images` made.

    Attributes
    ----------
    path:
        The embedding table.
    columns:
        Its columns, in order.
    rows:
        Images that were embedded.
    quarantined:
        Images that were set aside, in input order.
    quarantine_path:
        Their table beside the output, or None where there are none.
    identity:
        The encoder that wrote the vectors.
    seconds:
        Time of the embedding loop, without loading the model.
    warnings:
        What changes the meaning of the result.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    quarantined: tuple[QuarantinedImage, ...]
    quarantine_path: Path | None
    identity: EncoderIdentity
    seconds: float
    warnings: tuple[str, ...]


def embed_images(
    input_parquet: Any,
    output_parquet: str | Path,
    model: str,
    model_path: str,
    *,
    model_config_path: str = _Config.model_config_path,
    batch_size: int = _Config.batch_size,
    architecture: str = _Config.architecture,
    device: str = _Config.device,
    on_error: str = _Config.on_error,
    exif: str = _Config.exif,
    bit_depth: str = _Config.bit_depth,
    max_pixels: int = _Config.max_pixels,
    max_bytes: int = _Config.max_bytes,
    root: str = _Config.root,
    retries: int = _Config.retries,
    time_limit: float = _Config.time_limit,
) -> EmbeddingResult:
    """Embed the images of a table and write an embedding table.

    One bad image does not stop the run: it goes to a quarantine table beside the output
    (`<stem>_quarantine.parquet`), with the reason.

    Parameters
    ----------
    input_parquet:
        An image table: a path or URL (parquet, CSV, TSV, JSON Lines, text list, folder), a `pyarrow.Table` or
        a `pandas.DataFrame`, with a column `filepath`.
    output_parquet:
        The embedding table to write: `filepath`, `embedding` (list of float32), then the other input columns.
    model, model_path, model_config_path, batch_size, architecture, device, on_error, exif, bit_depth, max_pixels:
        As in `ImageEmbeddingsConfig`, which holds the defaults.
    max_bytes, root, retries, time_limit:
        Which files are read, and how; as there.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError
        When the input cannot be read or the output cannot be written.
    EncoderError
        When the model cannot be loaded or is not what `model` says.
    ImagesFailed
        When every image failed, or one did and `on_error` is ``raise``.
    """
    is_path = isinstance(input_parquet, str | Path)
    source = str(input_parquet) if is_path else "the given table"
    settings = ImageEmbeddingsConfig(
        source, str(output_parquet), model, model_path, model_config_path, batch_size,
        architecture, device, on_error, exif, bit_depth, max_pixels, max_bytes, root, retries, time_limit,
    )  # fmt: skip
    settings.validate()
    check_root(root)
    family = check_model(model, model_path, model_config_path, architecture)
    output = Path(output_parquet)
    check_output(output, inputs=(settings.input_parquet,) if is_path else ())
    table = read_image_table(input_parquet)
    decoding = DecodeSettings(exif, bit_depth, max_pixels)
    encoder = load_encoder(family, LoadRequest(model_path, architecture, device, decoding))
    return _embed_table(table, encoder, decoding, settings)


def _embed_table(
    table: pa.Table, encoder: Encoder, decoding: DecodeSettings, settings: ImageEmbeddingsConfig
) -> EmbeddingResult:
    """Run the engine over a table and write what comes out."""
    output = Path(settings.output_parquet)
    filepaths = table.column("filepath").to_pylist()
    outcomes = Outcomes()
    rows = 0
    started = time.perf_counter()
    reading = ReadSettings(settings.root, settings.max_bytes, settings.retries)
    batches = embed(
        filepaths, encoder, decoding, settings.batch_size, outcomes, reading=reading, time_limit=settings.time_limit
    )
    with atomic_path(output) as temporary:
        with EmbeddingTableWriter(temporary, table, encoder.identity.to_json()) as writer:
            columns = tuple(writer.schema.names)
            for group in _row_groups(_watched(batches, outcomes, len(filepaths), settings)):
                writer.write(group.rows, group.vectors)
                rows += len(group.rows)
        seconds = time.perf_counter() - started
        quarantined = tuple(sorted(outcomes.quarantined, key=lambda image: image.row))
        quarantine_path = _write_quarantine(output, quarantined)
        if not rows:
            start = settings.root or "the working directory"
            raise ImagesFailed(
                f"none of the {len(filepaths)} images could be embedded: {count_reasons(quarantined)}; "
                f"the first: {quarantined[0]}",
                where=settings.input_parquet,
                hint=f"{quarantine_path} says why for each; relative paths start in {start}",
            )
    warnings = tuple(_warnings(outcomes))
    for warning in warnings:
        log.warning(warning)
    return EmbeddingResult(output, columns, rows, quarantined, quarantine_path, encoder.identity, seconds, warnings)


def _watched(
    batches: Iterator[Batch], outcomes: Outcomes, total: int, settings: ImageEmbeddingsConfig
) -> Iterator[Batch]:
    """Pass batches on, show the progress, and stop at the first bad image where the user wants that."""
    with progress("embedding", total, "images") as advance:
        for batch in batches:
            _refuse_bad_images(outcomes, settings)
            advance(int(batch.rows[-1]) + 1 if len(batch.rows) else 0)
            yield batch
    _refuse_bad_images(outcomes, settings)


def _refuse_bad_images(outcomes: Outcomes, settings: ImageEmbeddingsConfig) -> None:
    if settings.on_error == "raise" and outcomes.quarantined:
        raise ImagesFailed(
            f"an image could not be embedded, and on_error=raise: {outcomes.quarantined[0]}",
            where=settings.input_parquet,
            hint="mend or remove the file, or leave on_error at quarantine to set bad images aside",
        )


def _row_groups(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Gather batches into groups of about `_ROW_GROUP` rows."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch.rows)
        if count >= _ROW_GROUP:
            yield _joined(held)
            held, count = [], 0
    if count:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    vectors: npt.NDArray[np.float32] = np.concatenate([batch.vectors for batch in batches])
    return Batch(np.concatenate([batch.rows for batch in batches]), vectors)


def _write_quarantine(output: Path, quarantined: tuple[QuarantinedImage, ...]) -> Path | None:
    """Write the quarantine table, or remove an earlier run's where there is nothing to set aside."""
    path = sibling(output, "_quarantine")
    if not quarantined:
        path.unlink(missing_ok=True)
        return None
    write_table(quarantine_table(quarantined), path)
    return path


def _warnings(outcomes: Outcomes) -> Iterator[str]:
    if outcomes.quarantined:
        yield f"{len(outcomes.quarantined)} images were set aside: {count_reasons(outcomes.quarantined)}"
    if outcomes.clipped:
        yield (
            f"{outcomes.clipped} images have 16-bit values over 255, which were clipped to white as in the reference; "
            "bit_depth=scale keeps their contrast"
        )
