"""`embed_images`: from an image table to an embedding table. What `embedding image_embeddings` does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.config.schemas import ImageEmbeddingsConfig, box_columns
from lookalike.embedding.card import check_card
from lookalike.embedding.engine import Stages
from lookalike.embedding.loop import Counts, DeviceShare, Work, fitting, open_sources, refuse_bad_image, run_loop
from lookalike.embedding.remembered import open_encoder
from lookalike.embedding.retry import count_quarantined
from lookalike.embedding.reuse import EarlierTable, Source
from lookalike.embedding.shards import Plan, Spans, Workplace, digest_of
from lookalike.embedding.workers import Crew
from lookalike.encoders.base import Encoder
from lookalike.encoders.families import canonical_model
from lookalike.encoders.identity import EncoderIdentity
from lookalike.encoders.load import check_model, check_runtime, choose_devices, guess_devices
from lookalike.errors import ImagesFailed
from lookalike.images.locate import check_root
from lookalike.images.outcome import QuarantinedImage, count_reasons, quarantine_table
from lookalike.progress import progress
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.boxes import with_boxes
from lookalike.tables.embedding_table import EmbeddingTableWriter
from lookalike.tables.image_table import Filepaths, may_have_more_rows, name_of, read_image_table
from lookalike.tables.pair_table import sibling, write_table

log = logging.getLogger(__name__)

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
    images:
        Images that this run worked on; fewer than the input's rows where an earlier run had finished some.
    cached:
        How many of them came from the cache.
    reused:
        How many came from the table that `reuse` names or, when quarantined images were tried again, from the earlier
        output.
    seconds:
        Time of the embedding loop, without loading the model.
    limit:
        What limited it: ``decode-bound`` or ``compute-bound``.
    warnings:
        What changes the meaning of the result.
    shares:
        What each device did.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    quarantined: tuple[QuarantinedImage, ...]
    quarantine_path: Path | None
    identity: EncoderIdentity
    images: int
    cached: int
    reused: int
    seconds: float
    limit: str
    warnings: tuple[str, ...]
    shares: tuple[DeviceShare, ...] = ()


def embed_images(
    input_parquet: Any,
    output_parquet: str | Path,
    model: str,
    model_path: str,
    *,
    model_config_path: str = _Config.model_config_path,
    batch_size: int = _Config.batch_size,
    architecture: str = _Config.architecture,
    pooling: str = _Config.pooling,
    layer: int = _Config.layer,
    normalize: str = _Config.normalize,
    image_size: int = _Config.image_size,
    augment: str = _Config.augment,
    crop: str | bool = _Config.crop,
    trust_remote_code: bool = _Config.trust_remote_code,
    device: str = _Config.device,
    precision: str = _Config.precision,
    runtime: str = _Config.runtime,
    decoder: str = _Config.decoder,
    on_error: str = _Config.on_error,
    exif: str = _Config.exif,
    bit_depth: str = _Config.bit_depth,
    max_pixels: int = _Config.max_pixels,
    shard_rows: int = _Config.shard_rows,
    max_bytes: int = _Config.max_bytes,
    root: str = _Config.root,
    retries: int = _Config.retries,
    time_limit: float = _Config.time_limit,
    cache_dir: str = _Config.cache_dir,
    cache_bytes: int = _Config.cache_bytes,
    verify: str = _Config.verify,
    reuse: str | Path = _Config.reuse,
    retry_quarantined: bool = _Config.retry_quarantined,
    embedding_dtype: str = _Config.embedding_dtype,
) -> EmbeddingResult:
    """Embed the images of a table and write an embedding table.

    One bad image does not stop the run: it goes to a quarantine table beside the output
    (`<stem>_quarantine.parquet`), with the reason. A killed run is continued by the same call: what it had finished,
    in shards of `shard_rows` rows, is not embedded again.

    Parameters
    ----------
    input_parquet:
        An image table: a path or URL (parquet, CSV, TSV, JSON Lines, text list, folder), a `pyarrow.Table` or
        a `pandas.DataFrame`, with a column `filepath`.
    output_parquet:
        The embedding table to write: `filepath`, `embedding` (list of float32 or float16), then the other columns.
    model, model_path, and every setting after them:
        As in `ImageEmbeddingsConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError
        When the input or the table to reuse cannot be read, or the output cannot be written.
    EncoderError
        When the model cannot be loaded or is not what `model` says.
    EncoderMismatch
        When the table to reuse was written by another encoder.
    ImagesFailed
        When every image failed, or one did and `on_error` is ``raise``.
    """
    settings = ImageEmbeddingsConfig(
        name_of(input_parquet), str(output_parquet), model, model_path, model_config_path, batch_size,
        architecture, pooling, layer, normalize, image_size, augment, str(crop), trust_remote_code,
        device, precision, runtime, decoder, on_error, exif, bit_depth, max_pixels, shard_rows,
        max_bytes, root, retries, time_limit, cache_dir, cache_bytes, verify,
        str(reuse), retry_quarantined, embedding_dtype,
    )  # fmt: skip
    sources = _check_settings(settings)
    output = Path(output_parquet)
    given = (settings.input_parquet,) if isinstance(input_parquet, str | Path) else ()
    large = may_have_more_rows(input_parquet, settings.shard_rows)
    with Crew(
        settings, guess_devices(settings.device, settings.runtime, canonical_model(settings.model)) if large else ()
    ) as crew:
        devices = _choose_devices(settings)
        for written in (output, sibling(output, "_quarantine")):
            check_output(written, inputs=(*given, *((settings.reuse,) if settings.reuse else ())))
        table = _read_images(input_parquet, settings)
        encoder = open_encoder(settings, devices[0], [Filepaths(table)])
        return _embed_table(table, encoder, _Devices(devices, crew), settings, sources)


def check_embedding(settings: ImageEmbeddingsConfig) -> tuple[list[str], list[Source]]:
    """Refuse settings that cannot be right, before an image table is read; loads no model (torch, to find a GPU).

    Returns
    -------
    devices, sources:
        Where to embed, and the earlier tables that vectors are taken from.
    """
    sources = _check_settings(settings)
    return _choose_devices(settings), sources


def _check_settings(settings: ImageEmbeddingsConfig) -> list[Source]:
    """Refuse what can be refused without torch; return the earlier tables that vectors are taken from."""
    settings.validate()
    check_root(settings.root)
    check_model(settings)
    check_runtime(settings.runtime, settings.device, settings.precision)
    return open_sources(settings)


def _choose_devices(settings: ImageEmbeddingsConfig) -> list[str]:
    """Where to embed."""
    devices = choose_devices(settings.device, settings.runtime, canonical_model(settings.model))
    check_card(settings, devices[0])
    return devices


def embed_with(encoder: Encoder, settings: ImageEmbeddingsConfig) -> EmbeddingResult:
    """Do what `embed_images` does with an encoder that `open_encoder` gave for these settings.

    A run that embeds two tables loads its model once.
    """
    devices, sources = check_embedding(settings)
    with Crew(settings, ()) as crew:
        table = _read_images(settings.input_parquet, settings)
        return _embed_table(table, encoder, _Devices(devices, crew), settings, sources)


def _read_images(given: Any, settings: ImageEmbeddingsConfig) -> pa.Table:
    """The image table, with the boxes of its columns in its paths where `crop` is on."""
    table = read_image_table(given)
    columns = box_columns(settings.crop)
    return with_boxes(table, columns, name_of(given)) if columns else table


@dataclass(frozen=True)
class _Devices:
    """All devices by name, and the processes of all but the first."""

    names: Sequence[str]
    crew: Crew

    def for_rows(self, rows: int, shard_rows: int) -> list[str]:
        """As many as there are whole shards to do: a device is worth its start only then."""
        return list(self.names[: max(1, math.ceil(rows / shard_rows))])


def _embed_table(
    table: pa.Table,
    encoder: Encoder,
    devices: _Devices,
    settings: ImageEmbeddingsConfig,
    sources: Sequence[Source],
) -> EmbeddingResult:
    """Embed shard by shard, taking over what an earlier run finished, and make the table of them."""
    output = Path(settings.output_parquet)
    filepaths = Filepaths(table)
    warnings = [text for source in sources for text in source.table.check(encoder.identity, settings.embedding_dtype)]
    for warning in warnings:  # now, because a long run may end otherwise for it
        log.warning(warning)
    hashes = [source.table.build_index() for source in sources]
    if settings.retry_quarantined and not count_quarantined(
        output, sources[0].table, hashes[0], filepaths, settings.input_parquet
    ):
        return _nothing_to_retry(sources[0].table, len(hashes[0]), warnings)
    del hashes
    started, clock = time.time(), time.perf_counter()
    plan = _plan(filepaths, encoder, settings, sources)
    with Workplace(output, plan, filepaths, settings.shard_rows, settings.batch_size) as workplace:
        if settings.on_error == "raise" and (bad := next(workplace.quarantined(), None)):
            refuse_bad_image(bad)
        loop = _run(Work(settings, filepaths, sources), encoder, devices, workplace, plan)
        seconds = time.perf_counter() - clock
        if sources:
            names = " and ".join(source.table.path for source in sources)
            log.info("%d vectors were reused from %s", loop.counts.reused, names)
        shares = tuple(DeviceShare.of(device, counts, started) for device, counts in loop.shares)
        result = _assemble(table, encoder, workplace, settings, loop)
    return replace(result, seconds=seconds, shares=shares, warnings=(*warnings, *result.warnings))


@dataclass(frozen=True)
class _Loop:
    """What the embedding loop did: all in all, and each device; and what limited it."""

    counts: Counts
    shares: Sequence[tuple[str, Counts]]
    limit: str


def _run(work: Work, encoder: Encoder, devices: _Devices, workplace: Workplace, plan: Plan) -> _Loop:
    """Embed what is pending: every device takes shards until none is left, the first one here."""
    pending = workplace.pending()
    total = sum(map(len, pending))
    names = devices.for_rows(total, work.settings.shard_rows)
    if len(names) > 1:
        log.info("working on %s, with a process each", ", ".join(names))
    work = replace(work, devices=len(names))
    crew, spans, stages = devices.crew, Spans(pending), Stages()
    try:
        crew.begin(names, work, plan, spans)
        with progress("embedding", total, "images", note=lambda: stages.limit) as advance:
            mine = run_loop(
                work, encoder, workplace, spans.all_for("first"), lambda done: advance(done + crew.done), stages
            )
            crew.wait(lambda done: advance(mine.images + done))
    except BaseException:
        crew.stop()  # before the lock is given back: nobody finds a folder that another process still writes into
        raise
    shares = [(names[0], mine), *crew.reports()]
    counts = Counts()
    for _, share in shares:
        counts.add(share)
    if len(shares) > 1:
        log.info("embedded: %s", ", ".join(f"{share.images} by {name}" for name, share in shares))
    return _Loop(counts, shares, stages.limit)


def _nothing_to_retry(finished: EarlierTable, rows: int, warnings: Sequence[str]) -> EmbeddingResult:
    """The earlier output as it stands."""
    log.info("%s: no image was set aside, so there is nothing to try again", finished.path)
    path = Path(finished.path)
    return EmbeddingResult(
        path, tuple(pq.read_schema(path).names), rows, (), None, finished.identity, 0, 0, 0, 0.0, Stages().limit,
        tuple(warnings),
    )  # fmt: skip


def _plan(
    filepaths: Sequence[str], encoder: Encoder, settings: ImageEmbeddingsConfig, sources: Sequence[Source]
) -> Plan:
    """What must be the same for an earlier run's shards to be taken over."""
    return Plan(
        inputs=digest_of(filepaths),
        encoder=encoder.identity.fingerprint,
        numerics=asdict(encoder.identity.numerics),
        settings={
            "batch_size": settings.batch_size,
            "shard_rows": settings.shard_rows,
            "max_pixels": settings.max_pixels,
            "max_bytes": settings.max_bytes,
            "root": settings.root,
            "time_limit": settings.time_limit,
            "reuse": [source.table.state() for source in sources],
        },
    )


def _assemble(
    table: pa.Table, encoder: Encoder, workplace: Workplace, settings: ImageEmbeddingsConfig, loop: _Loop
) -> EmbeddingResult:
    """Write the final table from the shards, a row group each, and the quarantine table beside it."""
    output, filepaths = Path(settings.output_parquet), Filepaths(table)
    rows, clipped = 0, 0
    quarantined: list[QuarantinedImage] = []
    with atomic_path(output) as temporary:
        identity_json = encoder.identity.to_json()
        with EmbeddingTableWriter(temporary, table, identity_json, settings.embedding_dtype) as writer:
            columns = tuple(writer.schema.names)
            for shard in (fitting(finished, filepaths, settings) for finished in workplace.shards()):
                if len(shard.rows):
                    writer.write(shard.rows, shard.vectors)
                rows += len(shard.rows)
                clipped += shard.clipped
                quarantined += shard.quarantined
                del shard
        if not rows:
            quarantine_path = _write_quarantine(output, quarantined)
            workplace.discard()
            start = settings.root or "the working directory"
            raise ImagesFailed(
                f"none of the {table.num_rows} images could be embedded: {count_reasons(quarantined)}; "
                f"the first: {quarantined[0]}",
                where=settings.input_parquet,
                hint=f"{quarantine_path} says why for each; relative paths start in {start}",
            )
    # Last, so that a process killed between the two never leaves a row that neither table holds.
    quarantine_path = _write_quarantine(output, quarantined)
    warnings = tuple(_warnings(quarantined, clipped))
    for warning in warnings:
        log.warning(warning)
    return EmbeddingResult(
        output, columns, rows, tuple(quarantined), quarantine_path, encoder.identity,
        loop.counts.images, loop.counts.cached, loop.counts.reused, 0.0, loop.limit, warnings,
    )  # fmt: skip


def _write_quarantine(output: Path, quarantined: Sequence[QuarantinedImage]) -> Path | None:
    """Write the quarantine table, or remove an earlier run's where there is nothing to set aside."""
    path = sibling(output, "_quarantine")
    if not quarantined:
        path.unlink(missing_ok=True)
        return None
    write_table(quarantine_table(quarantined), path)
    return path


def _warnings(quarantined: Sequence[QuarantinedImage], clipped: int) -> Iterator[str]:
    if quarantined:
        yield f"{len(quarantined)} images were set aside: {count_reasons(quarantined)}"
    if clipped:
        yield (
            f"{clipped} images have 16-bit values over 255, which were clipped to white as in the reference; "
            "bit_depth=scale keeps their contrast"
        )
