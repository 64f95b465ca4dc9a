"""Exact k nearest neighbours, in bounded memory.

The sources pass by in chunks, as large as the memory limit allows; `finder` and `cuda` say how the neighbours of a
target are found on the way. Targets that do not fit go in groups, with one pass over the sources each.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import LEAST_MEMORY, NearestNeighborsConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.base import Finder, Floats, Found, Neighbors, Rows
from lookalike.neighbors.certificate import SPOT_CHECKS, Certificate, SpotCheck
from lookalike.neighbors.devices import choose_devices, first_pass, make_finder
from lookalike.neighbors.finder import CpuFinder
from lookalike.neighbors.held import HeldChunk, There
from lookalike.neighbors.metrics import METRICS
from lookalike.neighbors.sides import Side, check_values, open_side
from lookalike.progress import progress
from lookalike.tables.embedding_stream import Chunk, label_codes, plain_label

_Config = NearestNeighborsConfig

#: A chunk of sources has this share of the limit: one is used, one is read, and one holds what of it may be searched.
#: Every further device uses one more.
_CHUNK_SHARE = 6
#: The targets of a group and what is known of them have this share.
_TARGET_SHARE = 3
#: A chunk has at least so many rows.
_LEAST_CHUNK = 256
#: The largest float32.
_MOST = float(np.finfo(np.float32).max)


def nearest_neighbors(
    target: Any,
    source: Any,
    k: int,
    metric: str = _Config.knn_metric,
    *,
    within_label: bool = False,
    target_labels: Any = None,
    source_labels: Any = None,
    excluded: npt.NDArray[np.bool_] | None = None,
    target_column: str = _Config.target_embed_column_name,
    source_column: str = _Config.source_embed_column_name,
    device: str = "auto",
    memory_limit: int = _Config.memory_limit,
) -> Neighbors:
    """Find the k nearest sources of every target, exactly.

    Parameters
    ----------
    target, source:
        rows x dimension: an array or a tensor (float16, float32 or float64), an `EmbeddingTable`, or the path of an
        embedding table (a parquet file, or a folder of them), which is read chunk by chunk.
    k:
        Neighbours a target; at most the number of sources are returned.
    metric:
        ``euclidean``, ``cosine`` (1 - cos), ``manhattan``, or ``inner_product`` (minus the product: the largest is
        nearest).
    within_label:
        Search for every target among the sources of its label only. Labels are compared as text, without case.
    target_labels, source_labels:
        One a row, where a side is an array; a table's are its column ``label``.
    excluded:
        One value a source: those that are true are never returned, so that k others are.
    target_column, source_column:
        Embedding columns, where a side is a path.
    device:
        ``auto`` (the processor, or the first CUDA GPU for a large search), ``cpu``, ``cuda``, ``cuda:1``, or several
        with commas. The result is the same on all of them.
    memory_limit:
        Bytes that the search may take, beside what the caller holds. Default 2 GiB.

    Returns
    -------
    Neighbors
        Distances and rows, targets x min(k, sources). A target with fewer sources (of its label) has rows of -1 at
        infinite distance at the end.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError
        When a table cannot be read.
    VectorError
        When a side is not a matrix, dimensions differ, or values are not finite or beyond 1e34.
    """
    barred = None if excluded is None else np.asarray(excluded)
    wanted = Search(k, metric, within_label, barred, device, memory_limit)
    sides = (
        open_side(target, "target", target_column, target_labels),
        open_side(source, "source", source_column, source_labels),
    )
    return search(*sides, wanted).neighbors


@dataclass(frozen=True)
class Search:
    """What to search for; the fields are those of `nearest_neighbors`.

    Attributes
    ----------
    certified:
        Whether some targets are searched again by brute force.
    """

    k: int
    metric: str
    within_label: bool = False
    excluded: npt.NDArray[np.bool_] | None = None
    device: str = "auto"
    memory_limit: int = _Config.memory_limit
    certified: bool = False

    def check(self, target: Side, source: Side) -> None:
        """Refuse what cannot be right."""
        if self.k < 1:
            raise ConfigError(f"k={self.k} is not possible", hint="k must be at least 1")
        if self.metric not in METRICS:
            raise ConfigError(f"metric={self.metric!r} is not possible", hint=f"use one of: {', '.join(METRICS)}")
        if self.memory_limit < LEAST_MEMORY:
            raise ConfigError(f"memory_limit={self.memory_limit} is too small", hint=f"give at least {LEAST_MEMORY}")
        if target.dimension != source.dimension:
            raise VectorError(
                f"targets have {target.dimension} dimensions, sources {source.dimension}",
                hint="embed both sides with one encoder",
            )
        if self.excluded is not None and self.excluded.shape != (source.rows,):
            raise ConfigError(
                f"excluded has shape {self.excluded.shape}, and there are {source.rows} sources",
                hint="give one value a source",
            )
        if self.excluded is not None and self.excluded.dtype != np.bool_:
            raise ConfigError(f"excluded holds {self.excluded.dtype}, not true and false")
        for name, side in (("target", target), ("source", source)) if self.within_label else ():
            if not side.has_labels:
                raise ConfigError(f"within_label needs labels, and the {name} side has none", where=side.name)


class Searched(NamedTuple):
    """What a search gives.

    Attributes
    ----------
    neighbors:
        The result.
    certificate:
        How it was found.
    zeros:
        Zero vectors among the targets and among the sources.
    """

    neighbors: Neighbors
    certificate: Certificate
    zeros: tuple[int, int]


def search(target: Side, source: Side, wanted: Search) -> Searched:
    """Find the neighbours of all targets, group by group.

    Raises
    ------
    ConfigError, TableError, VectorError
        As `nearest_neighbors`.
    SearchError
        When brute force finds other neighbours for a target that is checked.
    """
    wanted.check(target, source)
    devices = choose_devices(wanted.device, float(target.rows) * source.rows * target.dimension)
    k = min(wanted.k, source.rows)
    wanted = replace(wanted, k=max(k, 1))
    found = Found.of(target.rows, k)
    checked = _spots(target.rows) if wanted.certified and k else np.empty(0, np.int64)
    codes: dict[str, int] = {}
    zero_targets = zero_sources = 0
    each = target.dimension * np.dtype(target.dtype).itemsize + CpuFinder.bytes_of_target(target.dimension, wanted.k)
    groups = target.chunks(max(1, wanted.memory_limit // _TARGET_SHARE // each), labels=wanted.within_label)
    for group in groups if k else ():
        check_values(group.vectors, target.name, group.first)
        zero_targets += _zeros(group.vectors)
        part = slice(group.first, group.first + len(group.vectors))
        spots = checked[(checked >= part.start) & (checked < part.stop)]
        routes = _routes(group, wanted, devices, codes)
        check = _spot_check(group, spots - part.start, wanted)
        zero_sources = _pass_by(source, routes, check, wanted, codes, devices)
        for route in routes:
            route.give(found.at(part))
        check.compare(found, spots)
    # Infinity stands where there is no row.
    if (np.abs(found.distances[found.rows >= 0]) > _MOST).any():
        raise VectorError("distances are beyond float32", where=source.name, hint="scale the vectors down")
    neighbors = Neighbors(found.distances.astype(np.float32), found.rows)
    certificate = Certificate(target.rows, int(found.widened.sum()), first_pass(wanted.metric, devices), len(checked))
    return Searched(neighbors, certificate, (zero_targets, zero_sources))


@dataclass
class _Route:
    """The targets of one label, or all of a group, and who searches for them.

    Attributes
    ----------
    code:
        Of the label, or None where labels do not matter.
    targets:
        Their rows in the group.
    finder:
        Finds their neighbours.
    """

    code: int | None
    targets: Rows
    finder: Finder

    def give(self, group: Found) -> None:
        """Write what was found into the arrays of the group."""
        found = self.finder.finish()
        group.distances[self.targets], group.rows[self.targets] = found.distances, found.rows
        group.widened[self.targets] = found.widened


def _routes(group: Chunk, wanted: Search, devices: list[str], codes: dict[str, int]) -> list[_Route]:
    """One route for a group of targets, or one for each of their labels, in the order of the codes."""
    members: list[tuple[int | None, Rows]] = [(None, np.arange(len(group.vectors)))]
    if wanted.within_label:
        own = np.concatenate([label_codes(piece, codes, learn=True) for piece in group.labels])
        members = [(int(code), np.flatnonzero(own == code)) for code in np.unique(own)]
    routes = []
    for code, rows in members:
        vectors = group.vectors if len(rows) == len(group.vectors) else group.vectors[rows]
        routes.append(_Route(code, rows, make_finder(vectors, wanted.metric, wanted.k, devices)))
    return routes


def _spot_check(group: Chunk, spots: Rows, wanted: Search) -> SpotCheck:
    """Who checks some targets of a group; none, where the search is not certified."""
    labels = _plain_labels(group)[spots] if wanted.within_label else None
    return SpotCheck(group.vectors[spots], labels, wanted.metric, wanted.k)


def _pass_by(
    source: Side, routes: list[_Route], check: SpotCheck, wanted: Search, codes: dict[str, int], devices: list[str]
) -> int:
    """Let all sources pass by; return how many of them are zero vectors."""
    zeros = 0
    each = source.dimension * np.dtype(source.dtype).itemsize
    size = max(_LEAST_CHUNK, wanted.memory_limit // (_CHUNK_SHARE + len(devices) - 1) // each)
    with ExitStack() as stack:
        advance = stack.enter_context(progress("searching", source.rows, "vectors"))
        # While a device searches, the processor has time for the check.
        beside = stack.enter_context(ThreadPoolExecutor(1, "check")) if devices != ["cpu"] else None
        for chunk in source.chunks(size, labels=wanted.within_label):
            part = slice(chunk.first, chunk.first + len(chunk.vectors))
            excluded = None if wanted.excluded is None else wanted.excluded[part]
            vectors: There = chunk.vectors
            if isinstance(chunk, HeldChunk):
                vectors = chunk.held if beside else vectors
            else:
                check_values(chunk.vectors, source.name, chunk.first)
            labels = _plain_labels(chunk) if wanted.certified and wanted.within_label else None
            checked = (chunk.vectors, chunk.first, excluded, labels)
            checking = beside.submit(check.see, *checked) if beside and wanted.certified else None
            zeros += _zeros(chunk.vectors)
            for route, share, rows in _shares(chunk, routes, excluded, codes, vectors):
                route.finder.see(share, rows)
            if checking:
                checking.result()
            elif wanted.certified:
                check.see(*checked)
            advance(part.stop)
    return zeros


def _shares(
    chunk: Chunk, routes: list[_Route], excluded: npt.NDArray[np.bool_] | None, codes: dict[str, int], vectors: There
) -> Iterator[tuple[_Route, There, Rows]]:
    """The sources of a chunk that each route may return: vectors, from where they lie, and rows in the pool."""
    allowed = np.arange(len(chunk.vectors)) if excluded is None else np.flatnonzero(~excluded)
    shares = [allowed] * len(routes)
    if chunk.labels:
        own = np.concatenate([label_codes(piece, codes, learn=False) for piece in chunk.labels])[allowed]
        order = np.argsort(own, kind="stable")  # sorted once, however many labels there are
        wanted = np.array([route.code for route in routes])
        begins, ends = np.searchsorted(own[order], wanted, "left"), np.searchsorted(own[order], wanted, "right")
        shares = [allowed[order[begin:end]] for begin, end in zip(begins, ends, strict=True)]
    for route, places in zip(routes, shares, strict=True):
        if len(places) == len(vectors):
            yield route, vectors, chunk.first + places
        elif len(places):
            yield route, vectors[places], chunk.first + places


def _plain_labels(chunk: Chunk) -> npt.NDArray[np.object_]:
    """The labels of a chunk as plain text, row by row."""
    return np.array([plain_label(label) for piece in chunk.labels for label in piece.to_pylist()], np.object_)


def _spots(targets: int) -> Rows:
    """Targets to check: drawn at random, the same ones every time."""
    return np.sort(np.random.default_rng(0).choice(targets, min(SPOT_CHECKS, targets), replace=False))


def _zeros(vectors: Floats) -> int:
    """How many vectors are zero: those that begin with 0 are looked at."""
    begin = np.flatnonzero(vectors[:, 0] == 0)
    return int((~vectors[begin].any(axis=1)).sum())
