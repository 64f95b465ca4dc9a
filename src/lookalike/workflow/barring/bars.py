"""What was barred of a pool: the rule of every row, and which image barred it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.neighbors.base import Rows
from lookalike.tables.embedding_stream import EmbeddingStream

Mask = npt.NDArray[np.bool_]
Singles = npt.NDArray[np.float32]


class Rule(StrEnum):
    """Why a row of the pool is barred; a row gets the first that applies."""

    NONE = "none"
    EXCLUDED = "excluded"
    PROTECTED_PATH = "protected_path"
    PROTECTED_BYTES = "protected_bytes"
    PROTECTED_PIXELS = "protected_pixels"
    PROTECTED_NEAR = "protected_near"
    PROTECTED_COMPONENT = "protected_component"
    SELF_MATCH = "self_match"
    SELF_TWIN = "self_twin"


#: Rules by their number in the arrays of this package; 0: not barred.
RULES = tuple(Rule)


@dataclass(frozen=True)
class Bars:
    """What is barred of a pool.

    Attributes
    ----------
    rule:
        Per row of the pool, an index into `RULES` (int8); 0: not barred.
    rows:
        The barred rows, ascending.
    barred_by:
        Per barred row, the path of the excluded, protected or target image that barred it.
    distances:
        Per barred row, the cosine distance to that image; NaN where no vectors were compared.
    read:
        How many pictures of the pool were compared by their pixels.
    notes:
        What could not be checked, and what changes the meaning of the result.
    """

    rule: npt.NDArray[np.int8]
    rows: Rows
    barred_by: pa.StringArray
    distances: Singles
    read: int
    notes: tuple[str, ...]

    @property
    def mask(self) -> Mask:
        """Per row of the pool, whether it is barred."""
        return np.asarray(self.rule > 0)

    @cached_property
    def by(self) -> dict[int, str]:
        """Of every barred row, the path of the image that barred it."""
        return dict(zip(self.rows.tolist(), self.barred_by.to_pylist(), strict=True))

    @cached_property
    def distance(self) -> dict[int, float]:
        """Of every barred row, the cosine distance to that image; NaN where no vectors were compared."""
        return dict(zip(self.rows.tolist(), self.distances.tolist(), strict=True))

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each rule barred, in the order of the rules; rules that barred none are left out."""
        numbers = np.bincount(self.rule, minlength=len(RULES)).tolist()
        return {
            str(rule): number for rule, number in zip(RULES, numbers, strict=True) if rule.value != "none" and number
        }

    def table(self, pool: EmbeddingStream) -> pa.Table:
        """One row for every barred row of the pool: `source_row`, `source_filepath`, `rule`, `barred_by`, `distance`.

        `distance` is null where no vectors were compared.
        """
        paths = pool.pick(self.rows, ("filepath",)).column("filepath").cast(pa.string())
        names = pa.array(map(str, RULES), pa.string())
        return pa.table(
            {
                "source_row": pa.array(self.rows, pa.int64()),
                "source_filepath": paths,
                "rule": names.take(pa.array(self.rule[self.rows])),
                "barred_by": self.barred_by,
                "distance": pa.array(self.distances, pa.float32(), from_pandas=True),
            }
        )


class Marks:
    """The bars while they are found.

    Parameters
    ----------
    rows:
        Of the pool.
    """

    def __init__(self, rows: int) -> None:
        self.rule = np.zeros(rows, np.int8)
        self.notes: list[str] = []
        self.read = 0
        self._found: list[tuple[Rows, list[str], Singles]] = []

    @property
    def mask(self) -> Mask:
        """Per row of the pool, whether it is barred so far."""
        return np.asarray(self.rule > 0)

    def free(self) -> Rows:
        """The rows that are not barred."""
        return np.flatnonzero(self.rule == 0)

    def bar(self, rows: Rows, rule: Rule, by: Sequence[str], distances: Singles | None = None) -> None:
        """Bar rows, each of which was free.

        Parameters
        ----------
        rows, rule:
            Which rows, and why.
        by:
            Per row, the path of the image that bars it.
        distances:
            Per row, the cosine distance to that image.
        """
        assert not self.rule[rows].any(), "a row gets the first rule that applies"
        self.rule[rows] = RULES.index(rule)
        known = np.full(len(rows), np.nan, np.float32) if distances is None else distances.astype(np.float32)
        self._found.append((rows, list(by), known))

    def note(self, text: str) -> None:
        """Say what changes the meaning of the result; the same only once."""
        if text not in self.notes:
            self.notes.append(text)

    def bars(self) -> Bars:
        """What was found."""
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _, _ in self._found)])
        order = np.argsort(rows, kind="stable")
        names = pa.array([name for _, by, _ in self._found for name in by], pa.string())
        distances = np.concatenate([np.empty(0, np.float32), *(one for _, _, one in self._found)])
        return Bars(self.rule, rows[order], names.take(pa.array(order)), distances[order], self.read, tuple(self.notes))
