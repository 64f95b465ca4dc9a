"""One device's share of a run: load the encoder, embed some shards, commit them as they are finished."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.cores import usable_cores
from lookalike.embedding.cache import VectorCache
from lookalike.embedding.cache_folder import default_cache_dir
from lookalike.embedding.card import DECODER, CardPreparer, can_prepare_on_card
from lookalike.embedding.engine import Job, Shard, Stages, embed
from lookalike.embedding.prepare import CacheLookup, PillowPreparer, Preparer
from lookalike.embedding.retry import open_finished
from lookalike.embedding.reuse import EarlierTable, ReusingPreparer, Source
from lookalike.embedding.shards import Workplace
from lookalike.encoders.base import Encoder, LoadRequest, TorchEncoder
from lookalike.encoders.load import check_model, load_encoder
from lookalike.errors import ImagesFailed
from lookalike.images.decode import DecodeSettings
from lookalike.images.locate import ReadSettings, is_remote
from lookalike.images.outcome import QuarantinedImage

#: Threads where files come over a network: they wait most of the time.
_REMOTE_THREADS = 16


@dataclass(frozen=True)
class Work:
    """What every device of a run needs.

    Attributes
    ----------
    settings:
        Of the run.
    filepaths:
        All paths of the input.
    sources:
        Earlier tables that vectors are taken from, with their index built.
    devices:
        How many share the processor's cores.
    """

    settings: ImageEmbeddingsConfig
    filepaths: Sequence[str]
    sources: Sequence[Source]
    devices: int = 1


@dataclass
class Counts:
    """How many images a loop worked on, how many vectors of them were cached and how many reused."""

    images: int = 0
    cached: int = 0
    reused: int = 0

    def add(self, other: Counts) -> None:
        """Add those of another device."""
        self.images += other.images
        self.cached += other.cached
        self.reused += other.reused


def open_sources(settings: ImageEmbeddingsConfig) -> list[Source]:
    """The tables that vectors are taken from. Every row of an output that is completed is kept, whatever its file."""
    sources = []
    if settings.retry_quarantined:
        sources.append(Source(open_finished(Path(settings.output_parquet)), None))
    if settings.reuse:
        sources.append(Source(EarlierTable(settings.reuse, "reuse"), _reading(settings)))
    return sources


def load_model(settings: ImageEmbeddingsConfig, device: str) -> Encoder:
    """Load the encoder for one device, with the decoder of the run in its identity."""
    family = check_model(settings.model, settings.model_path, settings.model_config_path, settings.architecture)
    request = LoadRequest(
        settings.model_path, settings.architecture, device, settings.precision, _decoding(settings), settings.runtime
    )
    encoder = load_encoder(family, request)
    if not can_prepare_on_card(encoder, settings):
        return encoder
    assert isinstance(encoder, TorchEncoder)
    numerics = replace(encoder.identity.numerics, decoder=DECODER)
    return replace(encoder, identity=replace(encoder.identity, numerics=numerics))


def run_loop(
    work: Work,
    encoder: Encoder,
    workplace: Workplace,
    spans: Sequence[range],
    on_progress: Callable[[int], None],
    stages: Stages,
) -> Counts:
    """Embed some spans of the input and commit their shards.

    Parameters
    ----------
    work:
        What to do.
    encoder:
        From `load_model` or `remembered.open_encoder`.
    workplace:
        Where shards are committed.
    spans:
        Rows of the shards, ascending.
    on_progress:
        Called now and then with how many of their rows are done.
    stages:
        Filled on the way.
    """
    settings = work.settings
    with _open_cache(encoder, settings) as cache:
        preparer = _preparer(work, encoder, cache)
        if work.sources:
            preparer = ReusingPreparer(preparer, work.filepaths, work.sources)
        job = Job(
            work.filepaths, encoder, preparer, settings.batch_size, settings.time_limit,
            on_rejected=refuse_bad_image if settings.on_error == "raise" else lambda image: None,
            on_progress=on_progress, on_begin=workplace.begin,
        )  # fmt: skip
        return _commit_all(embed(job, spans, stages), workplace, cache)


def refuse_bad_image(image: QuarantinedImage) -> None:
    """End the run at the first bad image."""
    raise ImagesFailed(
        f"an image could not be embedded, and on_error=raise: {image}",
        hint="mend or remove the file, or leave on_error at quarantine to set bad images aside",
    )


def _commit_all(shards: Iterator[Shard], workplace: Workplace, cache: VectorCache | None) -> Counts:
    """Write shards on a thread, each while the next is embedded."""
    counts = Counts()

    def commit(shard: Shard) -> None:
        workplace.commit(shard)
        if cache is not None:
            cache.store(shard.entries)

    with ThreadPoolExecutor(1, "commit") as writer:
        before: Future[None] | None = None
        for shard in shards:
            counts.add(Counts(len(shard.span), shard.cached, shard.reused))
            if before is not None:
                before.result()
            before = writer.submit(commit, shard)
            del shard  # or it would stay in memory beside the next one
        if before is not None:
            before.result()
    return counts


def _decoding(settings: ImageEmbeddingsConfig) -> DecodeSettings:
    return DecodeSettings(settings.exif, settings.bit_depth, settings.max_pixels)


def _reading(settings: ImageEmbeddingsConfig) -> ReadSettings:
    return ReadSettings(settings.root, settings.max_bytes, settings.retries)


def _preparer(work: Work, encoder: Encoder, cache: VectorCache | None) -> Preparer:
    """What reads and decodes: on the card where the encoder's identity says so, otherwise Pillow."""
    settings = work.settings
    reading = _reading(settings)
    by_path = settings.verify == "quick" and not settings.root
    lookup = CacheLookup(cache, work.filepaths, settings.max_pixels, by_path=by_path)
    threads = max(1, usable_cores() // work.devices)
    if any(is_remote(path, settings.root) for path in work.filepaths[:1]):
        threads = max(threads, _REMOTE_THREADS)
    alone = PillowPreparer(work.filepaths, encoder, _decoding(settings), reading, settings.batch_size, lookup, threads)
    if isinstance(encoder, TorchEncoder) and encoder.identity.numerics.decoder == DECODER:
        return CardPreparer(alone, encoder, _decoding(settings), reading, settings.batch_size, lookup)
    return alone


def cache_folder_of(settings: ImageEmbeddingsConfig) -> Path | None:
    """The cache folder that the settings name, or None where the cache is switched off."""
    if settings.cache_dir.strip().lower() == "off":
        return None
    return Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()


def _open_cache(
    encoder: Encoder, settings: ImageEmbeddingsConfig
) -> contextlib.AbstractContextManager[VectorCache | None]:
    """The cache of the encoder's vectors, or None where it is switched off."""
    folder = cache_folder_of(settings)
    if folder is None:
        return contextlib.nullcontext()
    return VectorCache(folder, encoder.identity, settings.cache_bytes)
