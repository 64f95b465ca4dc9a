"""`embed_texts`: from a text table to an embedding table. What `embedding text_embeddings` does."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.config.schemas import TextEmbeddingsConfig
from lookalike.embedding.engine import Shard
from lookalike.embedding.shards import Plan, Workplace, digest_of
from lookalike.encoders.identity import EncoderIdentity
from lookalike.encoders.texts import TextEncoder, check_text_model, load_text_encoder
from lookalike.errors import EncoderError
from lookalike.progress import progress
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_table import EmbeddingTableWriter
from lookalike.tables.image_table import name_of
from lookalike.tables.text_table import read_text_table

log = logging.getLogger(__name__)

_Config = TextEmbeddingsConfig


@dataclass(frozen=True)
class TextEmbeddingResult:
    """What `embed_texts` made.

    Attributes
    ----------
    path:
        The embedding table.
    columns:
        Its columns, in order.
    rows:
        Texts that were embedded: all of the input.
    identity:
        The encoder that wrote the vectors, and the image encoder that it belongs to.
    seconds:
        Time of the embedding loop, without loading the model.
    warnings:
        What changes the meaning of the result.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    identity: EncoderIdentity
    seconds: float
    warnings: tuple[str, ...]


def embed_texts(
    input_parquet: Any,
    output_parquet: str | Path,
    model: str,
    model_path: str,
    *,
    architecture: str = _Config.architecture,
    batch_size: int = _Config.batch_size,
    normalize: str = _Config.normalize,
    device: str = _Config.device,
    precision: str = _Config.precision,
    shard_rows: int = _Config.shard_rows,
) -> TextEmbeddingResult:
    """Embed the texts of a table and write an embedding table, whose vectors are compared with those of images.

    Equal texts are embedded once for a shard. A killed run is continued by the same call, as of `embed_images`.

    Parameters
    ----------
    input_parquet:
        A text table: a path or URL (parquet, CSV, TSV, JSON Lines, a text file with a text in every line), a
        `pyarrow.Table` or a `pandas.DataFrame`, with a column `text`.
    output_parquet:
        The embedding table to write: `text`, `embedding` (list of float32), then the other columns.
    model, model_path, and every setting after them:
        As in `TextEmbeddingsConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right, or the family has no text side.
    TableError
        When the input cannot be read or has a row without a text, or the output cannot be written.
    EncoderError
        When the model cannot be loaded, is not what `model` says, or gives no finite vector.
    MissingDependency
        When the model's tokenizer needs a package that is not installed.
    """
    settings = TextEmbeddingsConfig(
        name_of(input_parquet), str(output_parquet), model, model_path, architecture, batch_size, normalize, device,
        precision, shard_rows,
    )  # fmt: skip
    check_texts(settings)
    output = Path(output_parquet)
    check_output(output, inputs=(settings.input_parquet,) if isinstance(input_parquet, str | Path) else ())
    table = read_text_table(input_parquet)
    return embed_texts_with(load_text_encoder(settings), table, settings)


def check_texts(settings: TextEmbeddingsConfig) -> None:
    """Refuse settings that cannot be right, before a table is read; loads no model."""
    settings.validate()
    check_text_model(settings)


def embed_texts_with(encoder: TextEncoder, table: pa.Table, settings: TextEmbeddingsConfig) -> TextEmbeddingResult:
    """Do what `embed_texts` does, with an encoder and a text table that are there already."""
    texts: list[str] = table.column("text").to_pylist()
    output = Path(settings.output_parquet)
    plan = Plan(
        digest_of(texts), encoder.identity.fingerprint, asdict(encoder.identity.numerics),
        {"batch_size": settings.batch_size, "shard_rows": settings.shard_rows},
    )  # fmt: skip
    started = time.perf_counter()
    with Workplace(output, plan, texts, settings.shard_rows, settings.batch_size, has_files=False) as workplace:
        pending = workplace.pending()
        with progress("embedding", sum(map(len, pending)), "texts") as advance:
            done = 0
            for span in pending:
                workplace.begin(span)
                shown = functools.partial(_advance, advance, done, len(span))
                vectors = _vectors(encoder, texts[span.start : span.stop], settings.batch_size, shown)
                _check(vectors, span, settings)
                workplace.commit(Shard(span, np.array(span, np.int64), vectors))
                done += len(span)
        seconds = time.perf_counter() - started
        with (
            atomic_path(output) as temporary,
            EmbeddingTableWriter(temporary, table, encoder.identity.to_json(), "float32", "text") as writer,
        ):
            columns = tuple(writer.schema.names)
            for shard in workplace.shards():
                writer.write(shard.rows, shard.vectors)
    warnings = tuple(_warnings(texts, encoder))
    for warning in warnings:
        log.warning(warning)
    return TextEmbeddingResult(output, columns, len(texts), encoder.identity, seconds, warnings)


def _vectors(
    encoder: TextEncoder, texts: Sequence[str], batch_size: int, on_share: Callable[[float], None]
) -> npt.NDArray[np.float32]:
    """The vectors of some texts, batch by batch, each distinct text once; tells what share of them is done."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    distinct = list(places)
    batches = []
    for first in range(0, len(distinct), batch_size):
        batches.append(encoder.encode(distinct[first : first + batch_size]))
        on_share(min(1.0, (first + batch_size) / len(distinct)))
    return np.concatenate(batches)[[places[text] for text in texts]]


def _advance(advance: Callable[[int], None], before: int, rows: int, share: float) -> None:
    """Move the progress bar on by a share of some rows."""
    advance(before + int(rows * share))


def _check(vectors: npt.NDArray[np.float32], span: range, settings: TextEmbeddingsConfig) -> None:
    """Refuse vectors that are not finite."""
    lost = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(lost):
        raise EncoderError(
            f"the model gave NaN or infinity for {len(lost)} texts, the first in row {span[lost[0]]}",
            where=settings.model_path,
            hint="use precision=fp32" if settings.precision == "fp16" else "the weights are damaged; fetch them again",
        )


def _warnings(texts: Sequence[str], encoder: TextEncoder) -> Iterator[str]:
    """What the texts themselves change in the meaning of the result."""
    empty = sum(not text.strip() for text in texts)
    if empty:
        yield f"{empty} texts are empty: their vectors mean nothing"
    cut = sum(map(encoder.tokenizer.count_cut, _slices(texts)))
    if cut:
        yield f"{cut} texts are longer than the {encoder.tokenizer.tokens} tokens of the model, and were cut"
    capitals = sum(text != text.lower() for text in texts)
    if capitals and encoder.identity.model.family.startswith("SigLIP") and encoder.tokenizer.tells_case:
        yield (
            f"{capitals} texts have capital letters, which the tokenizer of this model tells from small ones; SigLIP2 "
            "has learned from small letters only, so write texts in them"
        )


def _slices(texts: Sequence[str], size: int = 1024) -> Iterator[Sequence[str]]:
    for first in range(0, len(texts), size):
        yield texts[first : first + size]
