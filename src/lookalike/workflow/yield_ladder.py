"""What a run would mine, for a ladder of settings, from vectors that are there: part of `lookalike mine --dry-run`.

Nothing is embedded and nothing is written: the vectors are those of ready tables and of the cache. Where too many are
missing, the ladder says so instead, and what it takes to know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.config.schemas import NearestNeighborsConfig, RunConfig, ScoringConfig
from lookalike.embedding.cache import read_cached
from lookalike.encoders.identity import EncoderIdentity
from lookalike.neighbors.sides import ArraySide
from lookalike.neighbors.sides import Side as Vectors
from lookalike.selection.given import check_given
from lookalike.selection.ladder import Ladder, Rung, ladder
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.tables.embedding_table import Parts
from lookalike.workflow.by_score import codes_of, keys_of
from lookalike.workflow.exclusion import Barred, read_all_excluded
from lookalike.workflow.run_extras import Extras
from lookalike.workflow.run_inputs import Side, layout_of
from lookalike.workflow.weights import numbers_of

Mask = npt.NDArray[np.bool_]

#: Numbers of neighbours, shares of the pool as budgets, and shares of the pairs within a threshold, that are tried.
TOPNS = (1, 2, 3, 5, 10, 20)
BUDGETS = (0.01, 0.02, 0.05, 0.1)
SHARES = (0.9, 0.75, 0.5)
#: Such a share of a side may have no vector yet: new images, or some that cannot be read.
_MISSING = 0.1
#: Near-duplicates and variety take long for more images than this: such budgets are left out.
_MOST_VARIED = 5_000


@dataclass(frozen=True)
class Forecast:
    """What a run would mine.

    Attributes
    ----------
    ladder:
        The yields; None where they cannot be known.
    own:
        The rung that has the settings of the run.
    targets, pool:
        How many targets and pool images it is made from.
    notes:
        What is not counted in, or why nothing can be known and what it takes.
    """

    ladder: Ladder | None
    own: Rung
    targets: int
    pool: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """The vectors of one side that are there, and which of its rows have one."""

    vectors: Vectors
    rows: npt.NDArray[np.int64]
    paths: pa.Array
    labels: pa.ChunkedArray | None
    weights: pa.ChunkedArray | None
    missing: int


def forecast(
    config: RunConfig,
    sides: Sequence[Side],
    extras: Extras,
    identity: EncoderIdentity | None = None,
    cache: Path | None = None,
) -> Forecast:
    """Count what a ladder of settings would mine.

    Parameters
    ----------
    config, sides, extras:
        Of the run that is planned.
    identity:
        The encoder, where a side is to be embedded.
    cache:
        The cache folder, where it is used and knows files by their paths.
    """
    settings = config.mining("", "", "")
    scored = settings.scored()
    own = Rung(settings.selects_by_score, scored.topn, scored.budget, scored.distance_threshold)
    cannot = list(_why_not(sides, config, identity, cache))
    if cannot:
        return Forecast(None, own, 0, 0, tuple(cannot))
    targets, pool = (_known(side, config, identity, cache) for side in sides)
    lacking = [(side, one) for side, one in zip(sides, (targets, pool), strict=True) if _too_few(side, one)]
    if lacking:
        missing = " and ".join(f"{one.missing} of {side.rows} {_images(side)}" for side, one in lacking)
        return Forecast(
            None, own, 0, 0,
            (
                f"the cache has no vector of {missing}",
                "embed them first: `lookalike mine` does that and keeps the vectors, `embedding image_embeddings` "
                "makes tables of them; then this shows the yield without embedding anything",
            ),
        )  # fmt: skip
    avoid, avoid_notes = _avoided(config, extras, identity, cache)
    excluded, notes = _excluded(config, extras, targets, pool)
    notes = [*_missing_notes(sides, (targets, pool)), *avoid_notes, *notes]
    if excluded.all():
        return Forecast(None, own, targets.vectors.rows, pool.vectors.rows, (*notes, "every pool image is left out"))
    found = _climb(config, settings, own, targets, pool, excluded, avoid)
    return Forecast(found, own, targets.vectors.rows, pool.vectors.rows, (*notes, *found.notes))


def _why_not(
    sides: Sequence[Side], config: RunConfig, identity: EncoderIdentity | None, cache: Path | None
) -> Iterator[str]:
    """Why the vectors cannot be had at all."""
    if any(side.is_text and not side.is_ready for side in sides):
        yield "the texts have no vectors yet"
        yield "embed them first, with `embedding text_embeddings`, and name the table as the targets"
        return
    images = [side for side in sides if not side.is_ready]
    if not images:
        return
    if identity is None or cache is None:
        yield (
            f"the {' and '.join(side.name for side in images)} have no vectors yet, and the cache is off or knows "
            "files by their content only (cache_dir, verify and root decide)"
        )
        yield "embed them first, for example with `embedding image_embeddings`, and name the tables"
        return
    size = sum(side.rows for side in images) * identity.model.dimension * np.dtype(np.float32).itemsize
    if size > config.memory_limit:
        yield f"the cached vectors take {size / 2**30:.1f} GiB, more than memory_limit={config.memory_limit}"
        yield "raise memory_limit, or embed the images into tables, which are read part by part, and name these"


def _known(side: Side, config: RunConfig, identity: EncoderIdentity | None, cache: Path | None) -> _Known:
    """The vectors of a side, from its table or from the cache."""
    name = config.target_weight_column if side.name == "targets" else ""
    if side.is_ready:
        stream = EmbeddingStream(side.path, side.column)
        paths = pa.chunked_array([part.cast(pa.string()) for part in stream.filepaths()], pa.string()).combine_chunks()
        labels = stream.read_scalars().column("label") if stream.has_labels else None
        vectors: Vectors = stream
        if side.name != "pool":
            vectors = ArraySide(read_embedding_table(side.path, side.column).vectors, side.name)
        weights = Parts.open(side.path).read((name,)).column(name) if name else None
        return _Known(vectors, np.arange(stream.rows), paths, labels, weights, 0)
    assert side.table is not None
    assert identity is not None
    assert cache is not None
    paths = side.table.column("filepath").cast(pa.string()).combine_chunks()
    found = read_cached(cache, identity, paths.to_pylist())
    rows = np.array(sorted(found), np.int64)
    matrix = np.empty((len(rows), identity.model.dimension), np.float32)
    for place, row in enumerate(rows.tolist()):
        matrix[place] = found.pop(row)
    table = side.table.take(pa.array(rows))
    return _Known(
        ArraySide(matrix, side.name), rows, paths.take(pa.array(rows)),
        table.column("label") if side.has_label else None, table.column(name) if name else None,
        side.rows - len(rows),
    )  # fmt: skip


def _too_few(side: Side, known: _Known) -> bool:
    return not len(known.rows) or known.missing > _MISSING * side.rows


def _images(side: Side) -> str:
    return {"targets": "targets", "pool": "pool images"}.get(side.name, side.name)


def _missing_notes(sides: Sequence[Side], known: Sequence[_Known]) -> list[str]:
    return [
        f"{one.missing} of {side.rows} {_images(side)} have no vector in the cache and are not counted in: they are "
        "new, or cannot be read"
        for side, one in zip(sides, known, strict=True)
        if one.missing
    ]


def _avoided(
    config: RunConfig, extras: Extras, identity: EncoderIdentity | None, cache: Path | None
) -> tuple[Vectors | None, list[str]]:
    """The vectors of the images to avoid, where they are there."""
    side = extras.avoid
    if side is None:
        return None, []
    if side.is_ready or (identity is not None and cache is not None):
        known = _known(side, config, identity, cache)
        if not _too_few(side, known):
            return known.vectors, []
    return None, ["the images to avoid have no vectors yet: that they push others away is not counted in"]


def _excluded(config: RunConfig, extras: Extras, targets: _Known, pool: _Known) -> tuple[Mask, list[str]]:
    """Which pool images may not be mined, as far as their paths tell."""
    lists: list[Collection[str]] = [read_all_excluded(config.exclude, "filepath", layout_of(config))]
    if extras.history is not None:
        lists.append(extras.history.mined)
    lists += [[path for part in side.filepaths() for path in part.to_pylist()] for side in extras.sides]
    barred = [Barred(paths, root=config.root) for paths in lists]
    if config.self_match == "exclude":
        barred.append(Barred(targets.paths.to_pylist(), parts=False, root=config.root))
    excluded = np.logical_or.reduce([one(pool.paths) for one in barred])
    notes = [f"{int(excluded.sum())} pool images are left out by their paths"] if excluded.any() else []
    if config.self_match == "exclude" or extras.protect:
        notes.append(
            "copies under other paths are found only when files are read: a run may leave out a few images more"
        )
    return excluded, notes


def _climb(
    config: RunConfig,
    settings: NearestNeighborsConfig,
    own: Rung,
    targets: _Known,
    pool: _Known,
    excluded: Mask,
    avoid: Vectors | None,
) -> Ladder:
    """Try all rungs."""
    scored = settings.scored()
    by_label = targets.labels is not None and pool.labels is not None
    # After the search, as the drop-in contract has it, or inside it.
    after = not own.scored and settings.filters_by_label and not settings.within_label and by_label
    within = by_label and (settings.within_label or (own.scored and settings.filters_by_label))
    scored = replace(scored, filter_by_label="true" if after or within else "false")
    if not own.scored and not after and not within:
        scored = replace(scored, scoring="auto", components="auto")  # the other way to choose, to compare with
    codes: dict[str, int] = {}
    given = check_given(
        targets.vectors,
        pool.vectors,
        scored,
        _weights(config, targets),
        None if targets.labels is None else codes_of(targets.labels, codes),
        excluded if excluded.any() else None,
        codes_of(pool.labels, codes) if (after or within) and pool.labels is not None else None,
        keys_of(pa.chunked_array([pool.paths])),
        avoid,
    )
    rungs = list(dict.fromkeys(_rungs(own, scored, len(pool.paths) - int(excluded.sum()), alone=after or within)))
    return ladder(given, scored, rungs, shares=SHARES, same_label=after)


def _rungs(own: Rung, scored: ScoringConfig, allowed: int, *, alone: bool) -> Iterator[Rung]:
    """What is tried: the run's own settings first; with `alone`, only the run's own way to choose."""
    yield own
    topns = sorted({min(topn, allowed) for topn in (*TOPNS, own.topn)})
    varied = scored.dedup_threshold >= 0 or scored.diversity > 0
    if not (own.scored and own.budget):
        yield from (own._replace(topn=topn) for topn in topns)
    if own.scored:
        asked = own.budget if not 0 < own.budget < 1 else own.budget * allowed
        shares = [share * allowed for share in BUDGETS] if not asked else [asked / 2, 2 * asked]
        for budget in (max(1, round(share)) for share in shares):
            if budget <= allowed and not (varied and budget > _MOST_VARIED):
                yield own._replace(budget=budget)
    if not alone:
        yield from (Rung(not own.scored, topn, 0, own.threshold) for topn in topns)
    yield own._replace(threshold=-1.0)


def _weights(config: RunConfig, targets: _Known) -> npt.NDArray[np.float64] | None:
    """The weights of the targets that have a vector."""
    name = config.target_weight_column
    if not name:
        return None
    return None if targets.weights is None else numbers_of(targets.weights, name, config.targets)
