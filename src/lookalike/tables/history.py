"""`mining_history.json`: the ledger of what each iteration mined (drop-in contract, section 7).

::

    {"version": 1, "identity": "filepath", "cumulative_unique_count": 3, "iterations": [
      {"iteration": 1, "topn": 5,
       "candidate_parquet": "...", "candidate_sha256": "...", "candidate_unique_count": 3, "already_mined_count": 0,
       "selected_count": 3, "selected_filepaths": ["...", "...", "..."],
       "output_parquet": "...", "output_sha256": "...", "summary_file": "...", "summary_sha256": "..."}]}

Iterations are numbered from 1 without a gap. A path is mined once; two spellings of it are one path (`normal_path`).
`read_history` refuses a ledger that contradicts itself; `verify_history` compares it with the files that it names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.atomic import atomic_path
from lookalike.tables.filepaths import distinct, normal_path
from lookalike.tables.run_folder import file_record

log = logging.getLogger(__name__)

VERSION = 1
IDENTITY = "filepath"
_HINT = "take the ledger from a copy, or begin a new one; a ledger is not edited by hand"


@dataclass(frozen=True)
class Iteration:
    """One iteration.

    Attributes
    ----------
    iteration:
        Its number, from 1.
    topn:
        Neighbours a target.
    candidate_parquet, candidate_sha256:
        What the search proposed: the table and its digest.
    candidate_unique_count:
        Different paths in it.
    already_mined_count:
        Those of them that an earlier iteration selected.
    selected_count, selected_filepaths:
        The others: what this iteration mined, in order.
    output_parquet, output_sha256:
        The table of them.
    summary_file, summary_sha256:
        The summary of the iteration.
    extra:
        Fields that this version does not know; they are kept.
    """

    iteration: int
    topn: int
    candidate_parquet: str
    candidate_sha256: str
    candidate_unique_count: int
    already_mined_count: int
    selected_count: int
    selected_filepaths: tuple[str, ...]
    output_parquet: str
    output_sha256: str
    summary_file: str
    summary_sha256: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[tuple[str, str, str]]:
        """What each file is, its path, its digest."""
        yield "candidate_parquet", self.candidate_parquet, self.candidate_sha256
        yield "output_parquet", self.output_parquet, self.output_sha256
        yield "summary_file", self.summary_file, self.summary_sha256


#: The fields of the format.
_KNOWN = [one for one in fields(Iteration) if one.name != "extra"]


@dataclass(frozen=True)
class History:
    """A ledger that does not contradict itself.

    Attributes
    ----------
    iterations:
        In order.
    extra:
        Fields that this version does not know; they are kept.
    """

    iterations: tuple[Iteration, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def selected(self) -> list[str]:
        """All paths that were mined, in order."""
        return [path for one in self.iterations for path in one.selected_filepaths]

    @property
    def mined(self) -> set[str]:
        """The same as normalised paths, to be asked whether a path was mined."""
        return set(map(normal_path, self.selected))


@dataclass(frozen=True)
class Problem:
    """What does not agree between a ledger and a file that it names.

    Attributes
    ----------
    iteration:
        Of the ledger.
    what:
        For people.
    missing:
        The field whose file is not there, so that nothing can be said about it; empty where all are.
    """

    iteration: int
    what: str
    missing: str = ""

    def __str__(self) -> str:
        return f"iteration {self.iteration}: {self.what}"


def read_history(path: str | Path) -> History:
    """Read a ledger, ours or another's.

    Raises
    ------
    TableError
        When it cannot be read, is of another version, or contradicts itself: a gap in the numbers, a path that was
        mined twice, a count that is not that of the paths. The message says where.
    """
    where = str(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", where=where, hint="check the path") from error
    except ValueError as error:
        raise TableError(f"is not whole, or no JSON: {error}", where=where, hint=_HINT) from error
    reason = _contradiction(content)
    if reason:
        raise TableError(reason, where=where, hint=_HINT)
    known = {"version", "identity", "iterations", "cumulative_unique_count"}
    return History(tuple(map(_iteration, content["iterations"])), _without(content, known))


def write_history(path: str | Path, history: History) -> None:
    """Write a ledger, whole or not at all.

    Raises
    ------
    TableError
        When it contradicts itself, or cannot be written.
    """
    iterations = []
    for one in history.iterations:
        entry = asdict(one)
        extra = entry.pop("extra")
        iterations.append({**entry, "selected_filepaths": list(one.selected_filepaths), **extra})
    content = {
        "version": VERSION,
        "identity": IDENTITY,
        "iterations": iterations,
        "cumulative_unique_count": len(history.mined),
        **history.extra,
    }
    reason = _contradiction(content)
    if reason:
        raise TableError(reason, where=str(path))
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_iteration(history: History, topn: int, candidates: Path, output: Path, summary: Path) -> History:
    """The ledger with one more iteration.

    Parameters
    ----------
    history:
        What was mined before.
    topn:
        Neighbours a target.
    candidates:
        The table that the search proposed.
    output:
        The table of what was mined: those candidates that are new, in order.
    summary:
        The summary of the iteration.

    Raises
    ------
    TableError
        When the output has a path that was mined before, that is no candidate, or that it has twice, or lacks a
        candidate that is new.
    """
    proposed, selected = _paths_of(candidates), _paths_of(output)
    mined, unique = history.mined, distinct(proposed)
    entry = Iteration(
        len(history.iterations) + 1,
        topn,
        str(candidates),
        file_record(candidates).sha256,
        len(unique),
        sum(normal_path(path) in mined for path in unique),
        len(selected),
        tuple(selected),
        str(output),
        file_record(output).sha256,
        str(summary),
        file_record(summary).sha256,
    )
    problems = list(_against_candidates(entry, proposed, mined))
    if problems:
        raise TableError(problems[0], where=str(output))
    return History((*history.iterations, entry), history.extra)


def verify_history(history: History, path: str | Path) -> list[Problem]:
    """Compare a ledger with the files that it names: their digests, their paths, their order, their counts.

    Parameters
    ----------
    history:
        As `read_history` gives it.
    path:
        Of the ledger. A relative path in it starts in the ledger's folder, or in the working directory; a file that
        has moved together with the ledger is found.
    """
    folder = Path(path).resolve().parent
    problems: list[Problem] = []
    mined: set[str] = set()
    for entry in history.iterations:
        found: dict[str, Path] = {}
        for name, file, digest in entry.files:
            place = _locate(file, digest, folder)
            if place is None:
                problems.append(Problem(entry.iteration, f"{name} {file} is not there", missing=name))
            elif file_record(place).sha256 != digest.lower():
                problems.append(Problem(entry.iteration, f"{name} {file} was changed: its digest is another one"))
            else:
                found[name] = place
        problems += [Problem(entry.iteration, what) for what in _against_files(entry, found, mined)]
        mined.update(map(normal_path, entry.selected_filepaths))
    return problems


def require_intact(path: str | Path) -> History:
    """Read a ledger and refuse one that does not agree with the files that it names.

    Candidates and summaries that are gone are a warning on the log: they are often not kept. The tables of what was
    mined must be there.

    Raises
    ------
    TableError
        As `read_history`, or with the first thing that does not agree.
    """
    history = read_history(path)
    tolerated = ("candidate_parquet", "summary_file")
    found = verify_history(history, path)
    problems = [problem for problem in found if problem.missing not in tolerated]
    if problems:
        raise TableError(
            str(problems[0]), where=str(path), hint=f"`lookalike history verify {path}` lists everything; {_HINT}"
        )
    for problem in found:
        log.warning("%s: %s", path, problem)
    return history


def output_of(entry: Iteration, path: str | Path) -> Path | None:
    """Where the table of what an iteration mined is, for a ledger that lies there; None where it is gone."""
    return _locate(entry.output_parquet, entry.output_sha256, Path(path).resolve().parent)


def _against_files(entry: Iteration, found: dict[str, Path], mined: set[str]) -> Iterator[str]:
    """What an entry says otherwise than its files, which have the right digests."""
    try:
        if "output_parquet" in found and _paths_of(found["output_parquet"]) != list(entry.selected_filepaths):
            yield f"selected_filepaths are not the rows of {entry.output_parquet}, in their order"
        if "candidate_parquet" in found:
            yield from _against_candidates(entry, _paths_of(found["candidate_parquet"]), mined)
    except TableError as error:
        yield str(error)


def _against_candidates(entry: Iteration, proposed: list[str], mined: set[str]) -> Iterator[str]:
    """What an entry says otherwise than the table of its candidates."""
    unique = {normal_path(path) for path in proposed}
    selected = [normal_path(path) for path in entry.selected_filepaths]
    for path, key in zip(entry.selected_filepaths, selected, strict=True):
        if key in mined:
            yield f"{path} was mined before"
            return
        if key not in unique:
            yield f"{path} was mined, and is no candidate in {entry.candidate_parquet}"
            return
    if len(unique) != entry.candidate_unique_count:
        yield f"candidate_unique_count is {entry.candidate_unique_count}, {entry.candidate_parquet} has {len(unique)}"
    if len(unique & mined) != entry.already_mined_count:
        yield f"already_mined_count is {entry.already_mined_count}, and {len(unique & mined)} candidates were mined"
    if len(set(selected)) < len(selected):
        yield "it has a path twice"
    if len(unique - mined) > len(selected):
        yield f"{len(unique - mined)} candidates are new, and {len(selected)} were mined"


def _contradiction(content: Any) -> str:
    """The first reason why a ledger cannot be right; empty where it can."""
    seen: dict[str, int] = {}
    return next(chain(_header(content), _entries(content, seen), _total(content, seen)), "")


# Each of these is asked for its first reason only: what follows may take what came before for right.


def _header(content: Any) -> Iterator[str]:
    """What is wrong with the ledger's own fields."""
    if not isinstance(content, dict):
        yield "is no ledger: it must be a JSON object"
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        yield f"has version {content.get('version')!r}, this lookalike reads {VERSION}"
    if content.get("identity") != IDENTITY:
        yield f"has identity {content.get('identity')!r}, and {IDENTITY!r} is the only one there is"
    if not isinstance(content.get("iterations"), list):
        yield "has no list 'iterations'"


def _entries(content: dict[str, Any], seen: dict[str, int]) -> Iterator[str]:
    """What is wrong with the entries; fills `seen` with the iteration of every path."""
    for number, entry in enumerate(content["iterations"], 1):
        for reason in chain(_fields(entry), _numbers(entry, number), _repeats(entry, number, seen)):
            yield f"iteration {number}: {reason}"


def _total(content: dict[str, Any], seen: dict[str, int]) -> Iterator[str]:
    """Whether the sum is that of the paths."""
    if content.get("cumulative_unique_count") != len(seen):
        yield f"cumulative_unique_count is {content.get('cumulative_unique_count')!r}, its paths are {len(seen)}"


def _fields(entry: Any) -> Iterator[str]:
    """Fields of an entry that are missing or of another type."""
    if not isinstance(entry, dict):
        yield "must be a JSON object"
    for one in _KNOWN:
        if one.name not in entry:
            yield f"has no {one.name!r}"
        value = entry[one.name]
        if one.type == "int" and (type(value) is not int or value < 0):
            yield f"{one.name} is {value!r}, and must be a number from 0"
        if one.type == "str" and not isinstance(value, str):
            yield f"{one.name} is {value!r}, and must be text"
    paths = entry["selected_filepaths"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        yield "selected_filepaths must be a list of texts"


def _numbers(entry: dict[str, Any], number: int) -> Iterator[str]:
    """Numbers of an entry that do not fit."""
    selected = len(entry["selected_filepaths"])
    if entry["iteration"] != number:
        yield f"is numbered {entry['iteration']}: iterations are numbered from 1, without a gap or a repeat"
    if entry["selected_count"] != selected:
        yield f"selected_count is {entry['selected_count']}, and {selected} paths are listed"
    if entry["candidate_unique_count"] != entry["already_mined_count"] + selected:
        yield "candidate_unique_count is not already_mined_count plus selected_count"


def _repeats(entry: dict[str, Any], number: int, seen: dict[str, int]) -> Iterator[str]:
    """Paths that were mined before; adds the others to `seen`."""
    for path in entry["selected_filepaths"]:
        key = normal_path(path)
        if key in seen:
            yield f"{path} is there twice" if seen[key] == number else f"{path} was mined in iteration {seen[key]}"
        seen[key] = number


def _iteration(entry: dict[str, Any]) -> Iteration:
    """An entry that was checked."""
    names = {one.name for one in _KNOWN}
    known = {name: entry[name] for name in names}
    return Iteration(
        **{**known, "selected_filepaths": tuple(known["selected_filepaths"])}, extra=_without(entry, names)
    )


def _without(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _locate(file: str, digest: str, folder: Path) -> Path | None:
    """Where a file of the ledger is: as written, or, with the right digest, where it moved together with the ledger."""
    written = PureWindowsPath(file) if "\\" in file else PurePosixPath(file)
    parts = written.parts[1:] if written.is_absolute() else written.parts
    # A relative path starts in the folder first: the working directory may hold another run's file of that name.
    places = [Path(file)] if written.is_absolute() else [folder.joinpath(*parts), Path(file)]
    moved = (folder.joinpath(*parts[first:]) for first in range(len(parts)))
    same = (place for place in moved if place.is_file() and file_record(place).sha256 == digest.lower())
    return next((place for place in places if place.is_file()), None) or next(same, None)


def _paths_of(table: Path) -> list[str]:
    """The column `filepath` of a table."""
    try:
        column = pq.read_table(table, columns=["filepath"], partitioning=None).column("filepath")
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=str(table)) from error
    if column.null_count:
        raise TableError("column 'filepath' has nulls", where=str(table))
    return [str(path) for path in column.to_pylist()]
