"""Preflight: everything that can be known to fail is refused before the first image is read."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lookalike.config.schemas import RunConfig
from lookalike.embedding.images import check_embedding
from lookalike.embedding.remembered import open_encoder
from lookalike.encoders.base import Encoder
from lookalike.encoders.load import check_model
from lookalike.errors import ConfigError, TableError, VectorError
from lookalike.images.locate import check_root
from lookalike.neighbors import devices
from lookalike.selection.scoring import checked_weights
from lookalike.tables.embedding_table import Parts
from lookalike.tables.image_table import Filepaths
from lookalike.workflow.comparable import compare_identities
from lookalike.workflow.run_inputs import Side, box_warnings, check_files
from lookalike.workflow.weights import numbers_of

log = logging.getLogger(__name__)

_GIB = 2**30


def check_settings(config: RunConfig) -> None:
    """Refuse settings that contradict each other or name what is not there, before an input is read."""
    config.validate()
    check_root(config.root)


def check_sides(config: RunConfig, sides: Sequence[Side], done: Collection[str] = ()) -> None:
    """Refuse inputs that cannot be embedded, compared or selected with these settings; loads no model.

    Parameters
    ----------
    config, sides:
        Of the run.
    done:
        Names of sides that an earlier process embedded: their image files are needed no more.
    """
    images = [side for side in sides if not side.is_ready]
    if images:
        check_model(config.embedding("", ""))
        _check_snapshot(config.model_path)
    box_warnings(sides, config.crop)
    for side in sides:
        if side.has_label:
            continue
        if config.within_label:
            raise ConfigError(
                f"within_label is on, and the side of the {side.name} has no column 'label'",
                where=side.path,
                hint="add the column, or leave the setting out",
            )
        if config.mining("", "", "").filters_by_label:
            log.warning("%s: filter_by_label is on, and the side of the %s has no column 'label'", side.path, side.name)
    _check_alike(*sides)
    _check_selection(config, sides[0])
    for side in images:
        if side.name not in done:
            check_files(side, config)
    if images:
        check_embedding(config.embedding("", ""))
    devices.choose_devices(config.search_device)


def _check_selection(config: RunConfig, targets: Side) -> None:
    """Refuse a selection that asks for something of the targets that they do not have."""
    if config.max_per_label and not targets.has_label:
        raise ConfigError(
            "max_per_label is on, and the side of the targets has no column 'label'",
            where=targets.path,
            hint="add the column, or leave the setting out",
        )
    name = config.target_weight_column
    if not name:
        return
    if targets.embedded is not None or targets.table is None:
        parts = Parts.open(str(targets.embedded or targets.path))
        parts.require(name)
        table = parts.read((name,))
    else:
        table = targets.table
    if name not in table.column_names:
        raise TableError(
            f"has no column {name!r}; its columns are {table.column_names}",
            where=targets.path,
            hint="name a column of numbers with target_weight_column",
        )
    checked_weights(numbers_of(table.column(name), name, targets.path), table.num_rows)


def load(config: RunConfig, sides: Sequence[Side], remember: bool = True, done: Collection[str] = ()) -> Encoder | None:
    """Load the encoder, where a side has to be embedded, and compare it with what is there already.

    Without `remember` nothing is written, not even into the cache folder. Sides that are `done` are embedded already;
    their encoder is still that of images beside the two sides.

    Raises
    ------
    EncoderError
        When the model cannot be loaded, or a ready table or `reuse` is of another encoder.
    """
    if all(side.is_ready for side in sides):
        return None
    settings = config.embedding("", "")
    places, sources = check_embedding(settings)
    paths = [Filepaths(side.table) for side in sides if side.table is not None and side.name not in done]
    encoder = open_encoder(settings, places[0], paths, remember)
    for source in sources:
        list(source.table.check(encoder.identity, settings.embedding_dtype))
    for side in sides:
        if side.is_ready:
            names = (side.path, f"this run ({config.model} {config.model_path})")
            list(compare_identities(side.identity, encoder.identity, names))  # what it warns of, the search says again
            check_dimension(side, encoder.identity.model.dimension)
    return encoder


def check_room(
    place: Path, config: RunConfig, sides: Sequence[Side], encoder: Encoder | None, avoid: Side | None = None
) -> None:
    """Refuse a disk that certainly cannot hold the vectors; warn of one that may not.

    While a table is made, its vectors lie there twice: in finished parts, uncompressed, and in the table. Of a ready
    table a copy is made.
    """
    all_sides = [*sides, *(() if avoid is None else (avoid,))]
    copied = sum(file.stat().st_size for side in all_sides if side.is_ready for file in Parts.open(side.path).files)
    counts = [side.rows for side in all_sides if not side.is_ready]
    dimension = 0 if encoder is None else encoder.identity.model.dimension
    parts = max(counts, default=0) * dimension * 4  # the parts of the larger side, in float32
    least = max(parts, copied)
    most = copied + parts + sum(counts) * dimension * np.dtype(config.embedding_dtype).itemsize
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < least:
        images = sum(side.rows for side in all_sides)
        raise TableError(
            f"the disk has {free / _GIB:.2f} GiB free, and the vectors of {images} images take at least "
            f"{least / _GIB:.2f} GiB",
            where=str(there),
            hint="make room, choose another --out, or halve the tables that are made with embedding_dtype=float16",
        )
    if free < most:
        log.warning(
            "%s: %.2f GiB are free, and the run may take %.2f GiB for its vectors", there, free / _GIB, most / _GIB
        )


def _check_snapshot(model_path: str) -> None:
    """Refuse a model folder that is not there, where the path cannot be a name of a hub."""
    path = Path(model_path)
    local = path.is_absolute() or model_path.startswith(("./", "../")) or len(path.parts) > 2
    if local and ":" not in model_path and not path.exists():
        raise ConfigError(
            "the model folder does not exist", where=f"model_path={model_path}", hint="check the path, or give a hub id"
        )


def _check_alike(targets: Side, pool: Side) -> None:
    """Refuse two ready tables that cannot be compared."""
    if not (targets.is_ready and pool.is_ready):
        return
    list(compare_identities(targets.identity, pool.identity, (targets.path, pool.path)))
    if targets.dimension != pool.dimension:
        raise VectorError(
            f"targets have {targets.dimension} dimensions ({targets.path}), the pool has {pool.dimension} "
            f"({pool.path})",
            hint="embed both with the same model and model_path",
        )


def check_dimension(side: Side, dimension: int) -> None:
    """Refuse a table made elsewhere whose vectors cannot be those of an encoder that gives so many numbers."""
    if side.dimension != dimension:
        raise VectorError(
            f"the {side.name} have vectors of {side.dimension} dimensions, and the encoder gives {dimension}",
            where=side.path,
            hint="give the model and model_path that wrote them",
        )
