"""What a run takes beside targets and pool: images to avoid, images that may not be mined, and the history."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.config.schemas import RunConfig
from lookalike.embedding.images import embed_with
from lookalike.encoders.base import Encoder
from lookalike.errors import ConfigError, TableError
from lookalike.tables.atomic import check_place
from lookalike.tables.embedding_copy import place_embedding_table
from lookalike.tables.embedding_stream import EmbeddingStream, plain_label, read_embedding_table
from lookalike.tables.filepaths import normal_path
from lookalike.tables.history import (
    History,
    add_iteration,
    output_of,
    read_history,
    require_intact,
    write_history,
)
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.barring.bars import Bars, Rule
from lookalike.workflow.barring.pool import bar_pool
from lookalike.workflow.comparable import compare_identities
from lookalike.workflow.drift import Iterated
from lookalike.workflow.exclusion import read_all_excluded, split_sources
from lookalike.workflow.mining import MiningResult
from lookalike.workflow.run_checks import check_dimension
from lookalike.workflow.run_files import input_of
from lookalike.workflow.run_inputs import Side, check_files, layout_of, open_side

log = logging.getLogger(__name__)

#: The rule of what an earlier iteration mined; `barring.Rule` has those of a run alone.
ALREADY_MINED = "already_mined"
#: Labels that a warning names.
_SHOWN = 5


@dataclass(frozen=True)
class Extras:
    """What was opened before the first image is read.

    Attributes
    ----------
    avoid:
        Images to stay away from; None where there are none.
    protect:
        The evaluation set.
    history:
        The ledger without this run's own entry; None where none is kept.
    """

    avoid: Side | None = None
    protect: tuple[Side, ...] = ()
    history: History | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """All images beside targets and pool."""
        return (*(() if self.avoid is None else (self.avoid,)), *self.protect)


def open_extras(config: RunConfig, sides: Sequence[Side], folder: RunFolder | None = None) -> Extras:
    """Open everything, so that what cannot be read is refused at once.

    Parameters
    ----------
    config:
        Of the run.
    sides:
        Targets and pool.
    folder:
        Of a run that goes on: its own entry in the ledger is taken back, since it will be written again.

    Raises
    ------
    ConfigError, TableError
        When something cannot be read, the iteration is not the next one, or the ledger cannot be written.
    """
    protect = tuple(open_side("protect", one, config) for one in split_sources(config.protect))
    read_all_excluded(config.exclude, "filepath", layout_of(config))
    avoid = open_side("avoid", config.avoid, config) if config.avoid else None
    if avoid is not None and not avoid.is_ready and not any(side.is_image for side in sides):
        raise ConfigError(
            "the images to avoid have no vectors, and no other images are embedded, so that there is no encoder",
            where=avoid.path,
            hint="embed them with the encoder of the pool, and name the embedding table",
        )
    return Extras(avoid, protect, _open_history(config, folder))


def check_extras(extras: Extras, config: RunConfig, sides: Sequence[Side], encoder: Encoder | None) -> None:
    """Refuse images beside the two sides that cannot be compared with the pool, or that are all missing.

    Parameters
    ----------
    extras, config, sides:
        Of the run.
    encoder:
        That of the pool; None where both sides come with vectors. Then images to protect may be names without files.

    Raises
    ------
    EncoderMismatch, VectorError
        When vectors are those of another encoder.
    ImagesFailed
        When none of the images is there.
    """
    pool = next(side for side in sides if side.name == "pool")
    for one in extras.sides:
        if one.is_ready:
            name, identity, dimension = pool.path, pool.identity, pool.dimension
            if encoder is not None:
                name, identity = f"this run ({config.model} {config.model_path})", encoder.identity
                dimension = identity.model.dimension
            list(compare_identities(one.identity, identity, (one.path, name)))  # what it warns of is said later
            check_dimension(one, dimension)
        elif encoder is not None:
            check_files(one, config if one is extras.avoid else replace(config, on_error="quarantine"))


def extra_paths(config: RunConfig) -> list[str]:
    """What the settings name beside targets and pool."""
    return [*split_sources(config.exclude), *split_sources(config.protect), config.avoid, config.history]


def _open_history(config: RunConfig, folder: RunFolder | None) -> History | None:
    """The ledger, which agrees with its files and whose next iteration this is."""
    if not config.history:
        return None
    place = Path(config.history)
    check_place(place)
    history = require_intact(place) if place.exists() else History()
    own = [one for one in history.iterations if folder is not None and Path(one.output_parquet) == folder.mined]
    if own and own[-1] is not history.iterations[-1]:
        raise ConfigError(
            "has a later iteration than this run's, so that the run cannot be done again",
            where=config.history,
            hint=f"what it mined stands in the ledger and in {own[-1].output_parquet}; only its report is missing",
        )
    if own:
        history = History(history.iterations[:-1], history.extra)
        write_history(place, history)
        log.info("%s: this run's own entry is taken back until the run has ended", place)
    following = len(history.iterations) + 1
    if config.iteration not in (0, following):
        done = "was mined already" if config.iteration < following else f"comes after {following}, which is not mined"
        raise ConfigError(
            f"iteration={config.iteration} {done}",
            where=config.history,
            hint=f"use iteration={following}, or leave it out; lookalike history show {config.history}",
        )
    return history


def embed_avoided(folder: RunFolder, config: RunConfig, encoder: Encoder | None, side: Side) -> list[str]:
    """Make the embedding table of the images to avoid; return what that gave to warn of."""
    if side.is_ready:
        place_embedding_table(side.path, side.column, folder.avoid)
        return []
    assert encoder is not None
    assert side.table is not None
    if side.converted:
        write_table(side.table, Path(input_of(side, folder)))
    result = embed_with(encoder, config.embedding(input_of(side, folder), str(folder.avoid)))
    return [f"avoid: {warning}" for warning in result.warnings]


def bar(folder: RunFolder, config: RunConfig, encoder: Encoder | None, history: History | None) -> Bars:
    """Find what may not be mined, and write it to `excluded.parquet` where there is any."""
    pool = EmbeddingStream(str(folder.pool), "embedding")
    targets = read_embedding_table(str(folder.targets), "embedding")
    sources = split_sources(config.exclude)
    if config.avoid:  # what is to be avoided may be in the pool itself
        sources.append(str(folder.avoid))
    if history is not None and history.iterations:
        sources.append(config.history)
    bars = bar_pool(pool, targets, config.barring(), inputs=config, encoder=encoder, exclude=sources)
    folder.excluded.unlink(missing_ok=True)
    if len(bars.rows):
        write_table(_excluded_table(bars, pool, history), folder.excluded)
    return bars


def _excluded_table(bars: Bars, pool: EmbeddingStream, history: History | None) -> pa.Table:
    """One row for every barred image, with the column of paths that every image table has."""
    table = bars.table(pool).rename_columns({"source_filepath": "filepath"})
    if history is None:
        return table
    iterations = {normal_path(path): one.iteration for one in history.iterations for path in one.selected_filepaths}
    columns = [table.column(name).to_pylist() for name in ("rule", "barred_by", "filepath")]
    for row, (rule, path) in enumerate(zip(columns[0], columns[2], strict=True)):
        if rule == Rule.EXCLUDED and (number := iterations.get(normal_path(path))):
            columns[0][row], columns[1][row] = ALREADY_MINED, f"iteration {number}"
    for name, values in zip(("rule", "barred_by"), columns[:2], strict=True):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def excluded_record(folder: RunFolder, bars: Bars) -> dict[str, Any] | None:
    """What was barred, as `run.json` holds it; None where nothing was."""
    if not len(bars.rows):
        return None
    counts = pq.read_table(folder.excluded, columns=["rule"]).column("rule").value_counts().to_pylist()
    rules = {str(one["values"]): int(one["counts"]) for one in counts}
    return {"rules": dict(sorted(rules.items())), "images": len(bars.rows), "read": bars.read}


def last_yield(history: History | None) -> int:
    """How many images the last iteration mined."""
    return history.iterations[-1].selected_count if history is not None and history.iterations else 0


def last_iteration(config: RunConfig, history: History | None) -> Iterated | None:
    """The iteration before this run, with the folder of the run that made it; None where there is none."""
    if history is None or not history.iterations:
        return None
    last = history.iterations[-1]
    output = output_of(last, config.history)
    return Iterated(RunFolder((output or Path(last.output_parquet)).parent), last.iteration)


def remember(config: RunConfig, folder: RunFolder, history: History | None, mined: MiningResult) -> None:
    """Add this run to its ledger. What was searched is new already, so that candidates and mined are one.

    Raises
    ------
    TableError
        When another run added an iteration meanwhile: both may have mined the same images.
    """
    if history is None:
        return
    files = (folder.mined, folder.mined, folder.summary)
    place = Path(config.history)
    if (read_history(place) if place.exists() else History()) != history:
        raise TableError(
            "another run added an iteration after this one began, and both may have mined the same images",
            where=config.history,
            hint="go on with this run: it selects again without what the other one mined",
        )
    write_history(place, add_iteration(history, mined.counts.topn, *files))
    log.info("%s: iteration %d, %d images", place, len(history.iterations) + 1, mined.counts.unique)


def label_warning(targets: Side, pool: Side) -> list[str]:
    """Target labels that the pool does not have: nothing of their kind can be found (contract, section 7)."""
    if not (targets.has_label and pool.has_label):
        return []
    own, others = _labels(targets), set(_labels(pool))
    missing = [label for label in own if label not in others]
    if not missing:
        return []
    named = ", ".join(map(repr, missing[:_SHOWN])) + (f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else "")
    return [f"the pool has no image of {len(missing)} of the targets' {len(own)} labels: {named}"]


def _labels(side: Side) -> list[str]:
    """The different labels of a side as they are compared, in order."""
    return sorted({plain_label(label) for label in pc.unique(side.labels()).to_pylist() if label is not None})
