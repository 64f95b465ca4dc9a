"""The pair table of a run as arrays: what the report, the plots and the atlas count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.selection.filters import Outcome
from lookalike.tables.run_folder import RunFolder

_READ_ROWS = 65_536
_NUMBERS = {"target_row": np.int64, "source_row": np.int64, "rank": np.int32, "distance": np.float32}
#: What a pair is called that has no outcome.
_NO_OUTCOME = "unknown"


@dataclass(frozen=True)
class Pairs:
    """All pairs of a run, without their paths and labels: about 30 bytes a pair.

    Attributes
    ----------
    target_row, source_row, rank, distance:
        Columns of the pair table.
    score:
        The column, with NaN for nulls; None where nothing was scored.
    codes:
        Per pair, an index into `names`.
    names:
        The outcomes that occur or are known: kept first, in the order of the rules, then any other.
    same_path:
        Per pair, whether target and source have the same path.
    """

    target_row: npt.NDArray[np.int64]
    source_row: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32] | None
    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    same_path: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.target_row)

    def having(self, *outcomes: str) -> npt.NDArray[np.bool_]:
        """Per pair, whether it has one of the outcomes."""
        wanted = [number for number, name in enumerate(self.names) if name in outcomes]
        return np.isin(self.codes, wanted)

    @cached_property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Per pair, whether it is kept."""
        return self.having(Outcome.KEPT)

    def outcomes(self) -> dict[str, int]:
        """How many pairs had each outcome that occurs; kept is always there."""
        numbers = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return {
            name: number for name, number in zip(self.names, numbers, strict=True) if number or name == Outcome.KEPT
        }

    def nearest(self, targets: int) -> npt.NDArray[np.float64]:
        """The distance of each target to its nearest pool image; infinite where it has no pair."""
        found = np.full(targets, np.inf)
        np.minimum.at(found, self.target_row, self.distance.astype(np.float64))
        return found


def read_pairs(folder: RunFolder) -> Pairs:
    """Read the pair table of a run, part by part.

    Raises
    ------
    TableError
        When it is missing, damaged, or lacks a column.
    """
    known = {str(outcome): number for number, outcome in enumerate(Outcome)}
    parts: dict[str, list[Any]] = {name: [] for name in (*_NUMBERS, "score", "codes", "same")}
    columns = [*_NUMBERS, "score", "outcome", "target_filepath", "source_filepath"]
    try:
        with pq.ParquetFile(folder.pairs) as reader:
            lacking = sorted(set(columns) - {"score"} - set(reader.schema_arrow.names))
            if lacking:
                raise TableError(f"has no column {lacking[0]!r}", where=str(folder.pairs), hint="mine again")
            there = [name for name in columns if name in reader.schema_arrow.names]
            for batch in reader.iter_batches(_READ_ROWS, columns=there):
                for name, kind in _NUMBERS.items():
                    column = batch[name].fill_null(0) if name == "rank" else batch[name]
                    parts[name].append(column.to_numpy(zero_copy_only=False).astype(kind))
                if "score" in there:
                    parts["score"].append(batch["score"].cast(pa.float32()).to_numpy(zero_copy_only=False))
                parts["codes"].append(_codes(batch["outcome"], known))
                same = pc.equal(batch["target_filepath"], batch["source_filepath"]).fill_null(False)
                parts["same"].append(same.to_numpy(zero_copy_only=False))
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(
            f"cannot be read: {error}", where=str(folder.pairs), hint="name the folder of a finished run"
        ) from error

    def joined(name: str, kind: type) -> Any:
        return np.concatenate(parts[name]).astype(kind, copy=False) if parts[name] else np.zeros(0, kind)

    score = joined("score", np.float32)
    return Pairs(
        **{name: joined(name, kind) for name, kind in _NUMBERS.items()},
        score=score if np.isfinite(score).any() else None,
        codes=joined("codes", np.int64),
        names=tuple(known),
        same_path=joined("same", np.bool_),
    )


def _codes(column: pa.Array, known: dict[str, int]) -> npt.NDArray[np.int64]:
    """Numbers of outcomes; new ones are added to `known`."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    numbers = [known.setdefault(str(name), len(known)) for name in encoded.dictionary.to_pylist()]
    if encoded.null_count:
        numbers.append(known.setdefault(_NO_OUTCOME, len(known)))
    indices = encoded.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)
    found: npt.NDArray[np.int64] = np.array(numbers, np.int64)[indices]
    return found
