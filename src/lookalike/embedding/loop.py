"""One device's share of a run: load the encoder, embed some shards, commit them as they are finished."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.cores import usable_cores
from lookalike.embedding.cache import VectorCache
from lookalike.embedding.cache_folder import NoHomeError, default_cache_dir
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
from lookalike.images.outcome import QuarantinedImage, Reason
from lookalike.tables.vectors import lost_in

log = logging.getLogger(__name__)

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
    """What a loop did.

    Attributes
    ----------
    images:
        How many it worked on.
    cached, reused:
        How many vectors of them were cached, and how many reused.
    times:
        When it was how far, as in `DeviceShare`, in seconds since the epoch.
    """

    images: int = 0
    cached: int = 0
    reused: int = 0
    times: dict[str, float] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Add the numbers of another device."""
        self.images += other.images
        self.cached += other.cached
        self.reused += other.reused


@dataclass(frozen=True)
class DeviceShare:
    """What one device did of a run.

    Attributes
    ----------
    device:
        Its name.
    images:
        How many it worked on.
    times:
        When it was how far, in seconds from the beginning of the loop, negative where before it. ``process``: its own
        process ran this program; ``model``: its model was loaded there; ``begun``: it began its first shard;
        ``first``, ``last``: it had finished its first and its last shard.
    """

    device: str
    images: int
    times: dict[str, float]

    @classmethod
    def of(cls, device: str, counts: Counts, started: float) -> DeviceShare:
        """From what its loop counted; `started` is when it began, in seconds since the epoch."""
        return cls(device, counts.images, {name: round(when - started, 3) for name, when in counts.times.items()})


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
    encoder = load_encoder(check_model(settings), LoadRequest.of(settings, device, _decoding(settings)))
    if not can_prepare_on_card(encoder, settings):
        return encoder
    assert isinstance(encoder, TorchEncoder)
    numerics = replace(encoder.identity.numerics, decoder=DECODER)
    return replace(encoder, identity=replace(encoder.identity, numerics=numerics))


def run_loop(
    work: Work,
    encoder: Encoder,
    workplace: Workplace,
    spans: Iterable[range],
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
        Rows of the shards, ascending; each is asked for when there is room for it.
    on_progress:
        Called now and then with how many of their rows are done.
    stages:
        Filled on the way.
    """
    settings = work.settings
    counts = Counts()

    def begin(span: range) -> None:
        counts.times.setdefault("begun", time.time())
        workplace.begin(span)

    with _open_cache(encoder, settings) as cache:
        preparer = _preparer(work, encoder, cache)
        if work.sources:
            preparer = ReusingPreparer(preparer, work.filepaths, work.sources)
        job = Job(
            work.filepaths, encoder, preparer, settings.batch_size, settings.time_limit,
            on_rejected=refuse_bad_image if settings.on_error == "raise" else lambda image: None,
            on_progress=on_progress, on_begin=begin,
        )  # fmt: skip
        shards = embed(job, spans, stages)
        if settings.on_error == "raise":  # at once, and not when the table is made
            shards = (fitting(shard, work.filepaths, settings) for shard in shards)
        _commit_all(shards, workplace, cache, counts)
    return counts


def fitting(shard: Shard, filepaths: Sequence[str], settings: ImageEmbeddingsConfig) -> Shard:
    """The shard less the vectors that the type of the output cannot hold; their images are set aside.

    Raises
    ------
    ImagesFailed
        When there are any, and a bad image ends the run.
    """
    lost = lost_in(shard.vectors, settings.embedding_dtype)
    if not lost.any():
        return shard
    detail = f"its vector does not fit {settings.embedding_dtype}; embedding_dtype=float32 keeps it"
    aside = [
        QuarantinedImage(row, filepaths[row], Reason.BAD_VECTOR, detail, None) for row in shard.rows[lost].tolist()
    ]
    if settings.on_error == "raise":
        refuse_bad_image(aside[0])
    quarantined = sorted([*shard.quarantined, *aside], key=lambda image: image.row)
    return replace(shard, rows=shard.rows[~lost], vectors=shard.vectors[~lost], quarantined=quarantined)


def refuse_bad_image(image: QuarantinedImage) -> None:
    """End the run at the first bad image."""
    raise ImagesFailed(
        f"an image could not be embedded, and on_error=raise: {image}",
        hint="mend or remove the file, or leave on_error at quarantine to set bad images aside",
    )


def _commit_all(shards: Iterator[Shard], workplace: Workplace, cache: VectorCache | None, counts: Counts) -> None:
    """Write shards on a thread, each while the next is embedded, and count."""

    def commit(shard: Shard) -> None:
        workplace.commit(shard)
        counts.times["last"] = time.time()
        counts.times.setdefault("first", counts.times["last"])
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


def _decoding(settings: ImageEmbeddingsConfig) -> DecodeSettings:
    return DecodeSettings(settings.exif, settings.bit_depth, settings.max_pixels)


def _reading(settings: ImageEmbeddingsConfig) -> ReadSettings:
    return ReadSettings(settings.root, settings.max_bytes, settings.retries)


def _preparer(work: Work, encoder: Encoder, cache: VectorCache | None) -> Preparer:
    """What reads and decodes: on the card where the encoder's identity says so, otherwise Pillow."""
    settings = work.settings
    reading = _reading(settings)
    lookup = CacheLookup(
        cache,
        work.filepaths,
        settings.max_pixels,
        by_path=trusts_paths(settings.verify, settings.root),
        max_bytes=settings.max_bytes,
    )
    threads = max(1, usable_cores() // work.devices)
    remote = any(is_remote(path, settings.root) for path in work.filepaths[:1])
    if remote:
        threads = max(threads, _REMOTE_THREADS)
    alone = PillowPreparer(
        work.filepaths, encoder, _decoding(settings), reading, settings.batch_size, lookup, threads, settings.time_limit
    )
    if isinstance(encoder, TorchEncoder) and encoder.identity.numerics.decoder == DECODER:
        at_once = _REMOTE_THREADS if remote else 1
        return CardPreparer(alone, encoder, _decoding(settings), reading, settings.batch_size, lookup, at_once)
    return alone


def trusts_paths(verify: str, root: str) -> bool:
    """Whether path, size and time tell that a file is the cached one.

    Below a root they do not: a path says where a file is only after its links are resolved.
    """
    return verify == "quick" and not root


def cache_folder_of(settings: ImageEmbeddingsConfig) -> Path | None:
    """The cache folder that the settings name, or None where the cache is switched off or the user has no home."""
    if settings.cache_dir.strip().lower() == "off":
        return None
    if settings.cache_dir:
        return Path(settings.cache_dir)
    try:
        return default_cache_dir()
    except NoHomeError:
        _say_homeless()
        return None


@functools.cache
def _say_homeless() -> None:
    log.warning("there is no cache, for this user has no home folder; cache_dir=... or LOOKALIKE_CACHE names one")


def _open_cache(
    encoder: Encoder, settings: ImageEmbeddingsConfig
) -> contextlib.AbstractContextManager[VectorCache | None]:
    """The cache of the encoder's vectors, or None where it is switched off."""
    folder = cache_folder_of(settings)
    if folder is None:
        return contextlib.nullcontext()
    return VectorCache(folder, encoder.identity, settings.cache_bytes)
