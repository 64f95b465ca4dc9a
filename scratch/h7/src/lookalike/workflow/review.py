"""`review`: a person's decisions on a run's mined images become `mined_reviewed.parquet`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.reports.gallery_data import read_pairs
from lookalike.selection.filters import Outcome
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import RunFolder, read_record, update_record
from lookalike.workflow.run_state import check_finished

_WORDS = ("keep", "drop")
#: How far a distance may be from the run's, relatively: a spreadsheet may have rounded it.
_NEAR = 1e-3
#: Rows that an error names.
_NAMED = 5


@dataclass(frozen=True)
class ReviewResult:
    """What `review` wrote.

    Attributes
    ----------
    path:
        The reviewed table.
    kept, dropped, undecided:
        Mined images by what was decided; without a decision an image stays.
    rows:
        Rows of the reviewed table.
    """

    path: Path
    kept: int
    dropped: int
    undecided: int
    rows: int


@dataclass(frozen=True)
class _Decision:
    """One row of the CSV and the line on which it ends."""

    line: int
    row: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.row.get(column) or ""


def review(run: Path, decisions: Path) -> ReviewResult:
    """Write the mined table of a run less what was dropped.

    Parameters
    ----------
    run:
        The run folder.
    decisions:
        CSV with the columns `filepath` and `decision` (`keep` or `drop`), as the gallery exports it. Where it also
        has `target_filepath`, `rank` and `distance`, they must be those of the run.

    Raises
    ------
    TableError
        When the folder is no finished run, or the CSV is not about it; the rows that are wrong are named.
    """
    folder = RunFolder(run)
    check_finished(folder)
    read_record(folder)
    pairs = read_pairs(folder)
    pairs = pairs.filter(pc.equal(pairs.column("outcome").cast(pa.string()), str(Outcome.KEPT)))
    mined = {pair["source_filepath"]: pair for pair in pairs.to_pylist()}
    decided = _decided(list(_read(decisions)), mined, str(decisions))
    try:
        table = pq.read_table(folder.mined)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(
            f"cannot be read: {error}", where=str(folder.mined), hint="name the folder of a finished run"
        ) from error
    paths = table.column("filepath").to_pylist()
    kept = table.filter(pa.array([decided.get(path) != "drop" for path in paths], pa.bool_()))
    write_table(kept, folder.reviewed)
    update_record(folder, [folder.reviewed])
    counts = {word: sum(decided.get(path) == word for path in paths) for word in _WORDS}
    return ReviewResult(
        folder.reviewed, counts["keep"], counts["drop"], len(paths) - sum(counts.values()), kept.num_rows
    )


def _read(path: Path) -> Iterator[_Decision]:
    """Read the CSV, refusing what is none."""
    where = str(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [name for name in ("filepath", "decision") if name not in (reader.fieldnames or [])]
            if missing:
                raise TableError(
                    f"has no column {missing[0]!r}; its columns are {list(reader.fieldnames or [])}",
                    where=where,
                    hint="give the CSV that the gallery exports",
                )
            for row in reader:
                yield _Decision(reader.line_num, {key: value for key, value in row.items() if key and value})
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", where=where, hint="check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"is not a CSV in UTF-8: {error}", where=where, hint="give the CSV that the gallery exports"
        ) from error


def _decided(rows: list[_Decision], mined: dict[str, dict[str, object]], where: str) -> dict[str, str]:
    """The decision of each path, refusing rows that cannot be about this run."""
    decided: dict[str, str] = {}

    def check(wrong: Callable[[_Decision], bool], words: str, hint: str) -> None:
        bad = [row for row in rows if wrong(row)]
        if bad:
            named = "".join(f"\n  line {row.line}: {row['filepath']!r}, {row['decision']!r}" for row in bad[:_NAMED])
            more = f"\n  and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            raise TableError(f"{len(bad)} of {len(rows)} rows {words}:{named}{more}", where=where, hint=hint)

    other = "give the CSV that the gallery of this very run exported"
    check(lambda row: row["decision"] not in _WORDS, "have a decision that is not keep or drop", "correct them")
    check(lambda row: row["filepath"] not in mined, "name an image that this run did not mine", other)
    check(lambda row: not _same_pair(row, mined[row["filepath"]]), "are of another run: target, rank or distance "
          "is another one there", other)  # fmt: skip
    check(
        lambda row: decided.setdefault(row["filepath"], row["decision"]) != row["decision"],
        "contradict an earlier row of the same image",
        "leave one decision for each image",
    )
    return decided


def _same_pair(row: _Decision, pair: dict[str, object]) -> bool:
    """Whether what a row says beside path and decision is what the run has."""
    try:
        rank = int(float(row["rank"])) if row["rank"] else pair["rank"]
        distance = float(row["distance"]) if row["distance"] else None
    except ValueError:
        return False
    known = pair["distance"]
    near = distance is None or (isinstance(known, float) and abs(distance - known) <= _NEAR * max(abs(known), _NEAR))
    return (
        near and rank == pair["rank"] and (row["target_filepath"] or pair["target_filepath"]) == pair["target_filepath"]
    )
