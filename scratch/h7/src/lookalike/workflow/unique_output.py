"""The files of unique neighbour matching, and which files of an earlier run they replace."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.reports.contact_sheet import SAME_FRAME, TARGET_FRAME, Sheet, Tile, write_contact_sheet
from lookalike.selection.assignment import Assignment
from lookalike.selection.unique import Matching, Pairs, Pass, Rows
from lookalike.tables.atomic import atomic_path
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import METADATA_KEY, EmbeddingTable
from lookalike.tables.pair_table import SCHEMA, label_texts
from lookalike.tables.vectors import list_array
from lookalike.workflow.exclusion import FINAL

log = logging.getLogger(__name__)

#: Candidates that a pass table has for each target at most: a table of more columns is slow to open anywhere.
_MOST_COLUMNS = 1000
#: Targets on a contact sheet, images beside each of them, sheets of a matching.
_SHEET_TARGETS, _SHEET_IMAGES, _SHEETS = 40, 8, 10
_PASS_NAME = re.compile(r".+_iteration_\d+_topn_\d+\.parquet")
_SHEET_NAME = re.compile(r".+_matches_\d+\.png")
OUTCOMES = ("kept", "over_count", "taken", "not_needed")


@dataclass(frozen=True)
class UniqueFolder:
    """The files of one run, by what they are."""

    path: Path

    @property
    def final(self) -> Path:
        """The mined table."""
        return self.path / FINAL

    @property
    def pairs(self) -> Path:
        """The pair table."""
        return self.path / "final_unique_files_pairs.parquet"

    @property
    def embeddings(self) -> Path:
        """The embedding table of what was mined."""
        return self.path / "final_unique_embeddings.parquet"

    @property
    def summary(self) -> Path:
        """`summary.json`."""
        return self.path / "summary.json"

    def pass_table(self, one: Solved, step: Pass) -> Path:
        """The table of a pass of a matching."""
        return self.path / f"{one.stem}_iteration_{step.iteration}_topn_{step.k}.parquet"

    def sheet(self, one: Solved, page: int) -> Path:
        """A contact sheet of a matching."""
        return self.path / f"{one.stem}_matches_{page}.png"

    def remove_others(self, written: Sequence[Path]) -> None:
        """Remove what an earlier run left: files with the names of ours that this run did not write."""
        own = (self.embeddings.name, self.pairs.name)
        for file in sorted(self.path.iterdir()):
            named = file.name in own or _PASS_NAME.fullmatch(file.name) or _SHEET_NAME.fullmatch(file.name)
            if named and file not in written and file.is_file():
                file.unlink()
                log.info("%s of an earlier run is removed", file)


@dataclass(frozen=True)
class Solved:
    """One matching of a run.

    Attributes
    ----------
    name:
        ``global``, or the stratum.
    stem:
        What its files begin with.
    matching:
        The greedy one.
    assignment:
        The exact one, where it was asked for.
    """

    name: str
    stem: str
    matching: Matching
    assignment: Assignment | None

    @property
    def kept(self) -> Pairs:
        """The pairs that count."""
        return self.assignment.kept if self.assignment else self.matching.kept


@dataclass(frozen=True)
class Sides:
    """Both tables, and the paths of the whole pool."""

    target: EmbeddingTable
    source: EmbeddingStream
    paths: pa.Array
    path_order: Rows


def file_name(name: str) -> str:
    """A class as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


def pass_table(one: Pass, sides: Sides, vectors: bool) -> pa.Table:
    """One row for each target of a pass: its candidates, nearest first; with their vectors where wanted."""
    shown = min(one.k, _MOST_COLUMNS)
    targets = pa.array(one.targets)
    columns = {"target_filepath": sides.target.filepaths.take(targets)}
    wanted = np.unique(one.rows[:, :shown])
    pool = sides.source.vectors(wanted) if vectors else None
    if vectors:
        columns["target_embedding"] = list_array(sides.target.vectors[one.targets])
    for place in range(shown):
        rows = one.rows[:, place]
        columns[f"top{place + 1}_source_filepath"] = sides.paths.take(pa.array(rows))
        columns[f"top{place + 1}_distance"] = pa.array(one.distances[:, place])
        if pool is not None:
            columns[f"top{place + 1}_source_embedding"] = list_array(pool[np.searchsorted(wanted, rows)])
    return pa.table(columns)


def pair_table(solved: Sequence[Solved], sides: Sides) -> pa.Table:
    """Every candidate of the search that settled its target, and what became of it; nearest first."""
    taken = Pairs.join([one.kept for one in solved]).sources
    parts, names, outcomes = [], [], []
    for one in solved:
        own, codes = _candidates(one, taken, len(sides.paths))
        parts.append(own)
        outcomes.append(codes)
        names += [one.name] * len(codes)
    pairs, codes = Pairs.join(parts), np.concatenate([np.empty(0, np.int8), *outcomes])
    order = np.lexsort((codes, pairs.targets, sides.path_order[pairs.sources], pairs.distances))
    pairs, codes = pairs.at(order), codes[order]
    wanted, places = np.unique(pairs.sources, return_inverse=True)
    left, right = pa.array(pairs.targets), pa.array(pairs.sources)
    labels = sides.source.pick(wanted, ("label",)).column("label") if sides.source.has_labels and len(wanted) else None
    columns = {
        "target_row": left,
        "source_row": right,
        "target_filepath": sides.target.filepaths.take(left),
        "source_filepath": sides.paths.take(right),
        "target_label": label_texts(sides.target.labels, len(sides.target)).take(left),
        "source_label": label_texts(labels, len(wanted)).take(pa.array(places)),
        "rank": pa.array(pairs.ranks),
        "distance": pa.array(pairs.distances),
        "score": pa.nulls(len(codes), pa.float32()),
        "outcome": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(OUTCOMES)),
        "subset": pa.array(names, pa.string()).take(pa.array(order)),
    }
    return pa.table(list(columns.values()), schema=SCHEMA.append(pa.field("subset", pa.string())))


def _candidates(one: Solved, taken: Rows, sources: int) -> tuple[Pairs, npt.NDArray[np.int8]]:
    """The candidates of a matching with their outcomes: those of each target's last search, and the kept pairs."""
    seen: Rows = np.empty(0, np.int64)
    parts = [one.kept]
    for step in reversed(one.matching.passes):
        last = ~np.isin(step.targets, seen)
        seen = np.concatenate([seen, step.targets])
        ranks = np.tile(np.arange(1, step.k + 1, dtype=np.int32), int(last.sum()))
        parts.append(
            Pairs(
                np.repeat(step.targets[last], step.k),
                step.rows[last].reshape(-1),
                step.distances[last].reshape(-1),
                ranks,
            )
        )
    pairs = Pairs.join(parts)
    keys = pairs.targets * sources + pairs.sources
    _, first = np.unique(keys, return_index=True)
    first.sort()
    pairs, keys = pairs.at(first), keys[first]
    surplus = one.matching.surplus if one.assignment is None else Pairs.join([])
    codes = np.full(len(keys), OUTCOMES.index("not_needed"), np.int8)
    codes[np.isin(pairs.sources, taken)] = OUTCOMES.index("taken")
    over = np.isin(keys, surplus.targets * sources + surplus.sources) & ~np.isin(pairs.sources, taken)
    codes[over] = OUTCOMES.index("over_count")
    codes[: len(one.kept.targets)] = OUTCOMES.index("kept")
    return pairs, codes


def embedding_table(final: Rows, sides: Sides, names: tuple[str, str]) -> pa.Table:
    """What was mined as an embedding table: path, vector as it is stored, label where there is one."""
    wanted, places = np.unique(final, return_inverse=True)
    vectors = sides.source.vectors(wanted)[places] if len(wanted) else np.empty((0, sides.source.dimension), np.float32)
    columns = {names[0]: sides.paths.take(pa.array(final)), names[1]: list_array(vectors)}
    if sides.source.has_labels and len(wanted):
        columns["label"] = sides.source.pick(wanted, ("label",)).column("label").take(pa.array(places))
    identity = sides.source.identity_json
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: identity.encode()} if identity else None)


def write_sheets(folder: UniqueFolder, one: Solved, sides: Sides, metric: str) -> list[Path]:
    """Draw the targets of a matching with their images, and return the files."""
    kept = one.kept
    order = np.lexsort((kept.distances, kept.targets))
    rows: dict[int, list[Tile]] = {}
    for target, source, distance in zip(
        kept.targets[order].tolist(), kept.sources[order].tolist(), kept.distances[order].tolist(), strict=True
    ):
        if target not in rows:
            rows[target] = [Tile(sides.target.filepaths[target].as_py(), f"target {target}", TARGET_FRAME)]
        if len(rows[target]) <= _SHEET_IMAGES:
            rows[target].append(Tile(sides.paths[source].as_py(), f"{distance:.3f}", SAME_FRAME))
    tiles = list(rows.values())
    pages = [tiles[first : first + _SHEET_TARGETS] for first in range(0, len(tiles), _SHEET_TARGETS)]
    if len(pages) > _SHEETS:
        log.info("%s: the first %d of %d contact sheets are drawn", one.name, _SHEETS, len(pages))
    files = []
    for page, shown in enumerate(pages[:_SHEETS], 1):
        files.append(folder.sheet(one, page))
        sheet = Sheet(
            title=f"{one.name}: {len(tiles)} targets, {len(kept.targets)} images",
            legend=f"Blue: target, with its row. Green: its images. Number: {metric} distance at length 1.",
            rows=shown,
            columns=max(1, min(3, len(shown) // 8)),
        )
        write_contact_sheet(sheet, files[-1])
    return files


def write_summary(summary: dict[str, Any], folder: UniqueFolder) -> None:
    """Write `summary.json`."""
    with atomic_path(folder.summary) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
