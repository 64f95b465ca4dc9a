"""`plan_run`: what a run would do and how long it may take, writing nothing. What `lookalike mine --dry-run` does."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike.config.schemas import RunConfig
from lookalike.embedding.cache import count_cached, has_vectors
from lookalike.embedding.images import check_embedding, embed_with
from lookalike.embedding.loop import cache_folder_of, trusts_paths
from lookalike.encoders.base import Encoder
from lookalike.errors import ImagesFailed
from lookalike.tables.image_table import Filepaths
from lookalike.tables.pair_table import write_table
from lookalike.workflow.run_checks import check_room, check_settings, check_sides, load
from lookalike.workflow.run_extras import check_extras, open_extras
from lookalike.workflow.run_inputs import Side, open_side
from lookalike.workflow.run_state import check_folder, planned_folder
from lookalike.workflow.run_texts import load_texts, settle
from lookalike.workflow.yield_ladder import Forecast, forecast

log = logging.getLogger(__name__)

#: Images of the two trials: one that warms up, and one that is measured, of about so many seconds.
_WARM, _MOST, _SECONDS = 8, 256, 2.0


class CacheState(StrEnum):
    """What can be said of the cache as a whole."""

    OFF = "off"
    #: It has no vector of the run's encoder.
    EMPTY = "empty"
    USED = "used"


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes
    ----------
    sides:
        The targets and the pool, as they were found.
    encoder:
        The encoder in words.
    devices:
        Where images would be embedded.
    cache:
        Whether there is a cache, and anything in it.
    cached:
        Images that the cache knows by path, by side; a side where that cannot be told by path is left out. More may be
        found by their content, when they are read: copies under another path, files that were touched since.
    estimate:
        How long embedding may take, and what that is made from.
    folder:
        Where the run folder would be.
    forecast:
        What would be mined, for a ladder of settings.
    """

    sides: tuple[Side, Side]
    encoder: str
    devices: tuple[str, ...]
    cache: CacheState
    cached: dict[str, int]
    estimate: str
    folder: Path
    forecast: Forecast


def plan_run(config: RunConfig, targets: Any = None) -> RunPlan:
    """Check everything that a run checks before it starts, and try a few images for the time.

    Parameters
    ----------
    config:
        The settings of the run.
    targets:
        A table in memory in place of the path in the settings.

    Raises
    ------
    LookalikeError
        As `run` would before its first image.
    """
    check_settings(config)
    check_folder(config, [config.targets, config.pool])
    given = config.targets if targets is None else targets
    sides = (open_side("targets", given, config), open_side("pool", config.pool, config))
    config = settle(config, sides[0])
    check_sides(config, sides)
    extras = open_extras(config, sides)
    folder = planned_folder(config)
    images = [side for side in sides if side.is_image]
    if not images:
        texts = load_texts(config, sides, None)
        check_extras(extras, config, sides, None)
        check_room(folder, config, sides, None, extras.avoid)
        words = "none: both sides come with their vectors"
        estimate = "nothing is to be embedded; the search comes at once"
        if texts is not None:
            words = f"{config.model} {config.model_path}, for texts"
            estimate = "a moment: only texts are to be embedded"
        return RunPlan(
            sides, words, (), CacheState.OFF, {}, estimate, folder, forecast(config, sides, extras)
        )  # fmt: skip
    started = time.perf_counter()
    encoder = load(config, sides, remember=False)
    loading = time.perf_counter() - started
    assert encoder is not None
    load_texts(config, sides, encoder)
    check_extras(extras, config, sides, encoder)
    check_room(folder, config, sides, encoder, extras.avoid)
    model = encoder.identity.model
    devices, _ = check_embedding(config.embedding("", ""))
    cached = {side.name: _count_cached(side, config, encoder) for side in images if _is_known_by_path(side, config)}
    cache = _cache_state(config, encoder)
    left = sum(side.rows - cached.get(side.name, 0) for side in images)
    known = cache_folder_of(config.embedding("", "")) if len(cached) == len(images) else None
    return RunPlan(
        sides,
        f"{config.model} {config.model_path}: {model.architecture}, {model.dimension} dimensions",
        tuple(devices),
        cache,
        cached,
        _estimate(
            config,
            encoder,
            images,
            left,
            loading,
            len(devices),
            exact=cache is not CacheState.USED and not config.reuse,
        ),
        folder,
        forecast(config, sides, extras, encoder.identity, known),
    )


def _cache_state(config: RunConfig, encoder: Encoder) -> CacheState:
    folder = cache_folder_of(config.embedding("", ""))
    if folder is None:
        return CacheState.OFF
    return CacheState.USED if has_vectors(folder, encoder.identity) else CacheState.EMPTY


def _is_known_by_path(side: Side, config: RunConfig) -> bool:
    """Whether the cache, where there is one, would know the files of a side without reading them."""
    local = "://" not in side.first_paths(1)[0]
    return local and trusts_paths(config.verify, config.root) and cache_folder_of(config.embedding("", "")) is not None


def _count_cached(side: Side, config: RunConfig, encoder: Encoder) -> int:
    """Images that would be found in the cache by their path."""
    folder = cache_folder_of(config.embedding("", ""))
    assert folder is not None
    assert side.table is not None
    return count_cached(folder, encoder.identity, Filepaths(side.table))


def _estimate(
    config: RunConfig, encoder: Encoder, images: Sequence[Side], left: int, loading: float, devices: int, *, exact: bool
) -> str:
    """The time of embedding, from a trial of a few images on the first device.

    `left` is how many images are to be embedded; where that is not exact, some of them may be known already.
    """
    if not left:
        return "a moment: all vectors are in the cache, so no image is embedded; search, plots and gallery come on top"
    largest = max(images, key=lambda side: side.rows)
    rate = _rate(config, encoder, largest, _WARM)
    if rate:
        rate = _rate(config, encoder, largest, max(_WARM, min(_MOST, int(rate * _SECONDS)))) or rate
    if not rate:
        return "not known: none of the images that were tried could be embedded"
    several = f", times {devices} devices" if devices > 1 else ""
    about, most = ("about", "") if exact else ("up to", "at most ")
    seconds = loading + left / (rate * devices)
    return (
        f"{about} {_shown(seconds)} to embed {most}{left} images, at {rate:.0f} images/s in a trial "
        f"of a few of the {largest.name}{several}; search, plots and gallery come on top"
    )


def _rate(config: RunConfig, encoder: Encoder, side: Side, count: int) -> float:
    """Images per second, over some that are spread over a side, embedded without the cache; 0 where none could be."""
    rows = np.unique(np.linspace(0, side.rows - 1, min(side.rows, count)).astype(np.int64))
    assert side.table is not None
    sample = side.table.select(["filepath"]).take(pa.array(rows))
    trial = replace(config, cache_dir="off", reuse="", on_error="quarantine")
    level = logging.getLogger("lookalike").level
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_table(sample, place / "trial.parquet")
        logging.getLogger("lookalike").setLevel(logging.ERROR)  # bad images are no news of the trial
        try:
            result = embed_with(
                encoder, trial.embedding(str(place / "trial.parquet"), str(place / "trial_embeddings.parquet"))
            )
        except ImagesFailed:
            return 0.0
        finally:
            logging.getLogger("lookalike").setLevel(level)
    return result.images / result.seconds if result.seconds else 0.0


def _shown(seconds: float) -> str:
    """A time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
