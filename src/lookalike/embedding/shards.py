"""Finished work on disk: shards with a marker, so that a killed run goes on where it was.

Beside the output stands, while a run is under way, a hidden folder::

    .pool.parquet.work/
      lock                  held by the process that writes; a second one stops with an error
      plan.json             what the run does: input, encoder, settings
      shard-00000.parquet   rows and vectors of the first rows of the input
      shard-00000.json      its marker, written last: a shard without one does not exist

A shard is taken over only when the plan is the same and its files have the same size and time as then. The last
shards of an input come in parts, ``shard-00009-2560.parquet`` and so on, so that devices that share the work end
together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.embedding.engine import Shard
from lookalike.errors import TableError
from lookalike.images.outcome import QuarantinedImage, Reason
from lookalike.tables.atomic import atomic_path
from lookalike.tables.boxes import split_box
from lookalike.tables.vectors import list_array

log = logging.getLogger(__name__)

#: So many shards at the end of an input are finished in parts, each cut into so many.
_CUT_SHARDS, _PARTS = 8, 4
#: A part has at least so many rows: less would not be worth a file.
_LEAST_PART = 1024


@dataclass(frozen=True)
class Plan:
    """What must be equal for a shard of an earlier run to be taken over.

    Attributes
    ----------
    inputs:
        Digest of the paths, in order.
    encoder:
        Fingerprint of the encoder.
    numerics:
        How it computes.
    settings:
        What else a vector or a quarantine depends on: batch size, rows of a shard, bounds.
    """

    inputs: str
    encoder: str
    numerics: dict[str, Any]
    settings: dict[str, Any]


def digest_of(filepaths: Sequence[str]) -> str:
    """SHA-256 over paths in order."""
    digest = hashlib.sha256()
    for path in filepaths:
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def cut_into_spans(rows: int, shard_rows: int, batch_size: int) -> list[range]:
    """The rows that are finished together: shards, and parts of shards towards the end.

    A part is a whole number of batches. What is cut depends on nothing but the arguments, so vectors do not depend on
    how many devices there are, or on what an earlier run had finished.

    Parameters
    ----------
    rows:
        Of the input.
    shard_rows, batch_size:
        The settings.
    """
    part = math.ceil(max(math.ceil(shard_rows / _PARTS), _LEAST_PART) / batch_size) * batch_size
    uncut = rows - _CUT_SHARDS * shard_rows
    spans = []
    for first in range(0, rows, shard_rows):
        end = min(first + shard_rows, rows)
        size = shard_rows if first < uncut else part
        spans += [range(row, min(row + size, end)) for row in range(first, end, size)]
    return spans


class Spans:
    """Spans that are still to be embedded, each handed out once, to whoever comes first; from any thread."""

    def __init__(self, spans: Sequence[range]) -> None:
        self._left = iter(spans)
        self._next = next(self._left, None)
        self._takers: set[str] = set()
        self._lock = threading.Lock()

    def take(self, taker: str) -> range | None:
        """The next span, or None where none is left."""
        with self._lock:
            span, self._next = self._next, next(self._left, None)
            if span is not None:
                self._takers.add(taker)
            return span

    def all_for(self, taker: str) -> Iterator[range]:
        """The spans that one taker gets, each handed out when it is asked for."""
        return iter(lambda: self.take(taker), None)

    def is_idle(self, taker: str) -> bool:
        """Whether a taker has never got a span and never will."""
        with self._lock:
            return self._next is None and taker not in self._takers


class Workplace:
    """The hidden folder of one output; a context manager that holds its lock.

    Parameters
    ----------
    output:
        The table that is being made.
    plan:
        What this run does.
    filepaths:
        All paths of the input.
    shard_rows, batch_size:
        Of the settings; see `cut_into_spans`.

    Raises
    ------
    TableError
        On entry, when another process is writing the same output.
    """

    def __init__(self, output: Path, plan: Plan, filepaths: Sequence[str], shard_rows: int, batch_size: int) -> None:
        self.spans = cut_into_spans(len(filepaths), shard_rows, batch_size)
        self._shard_rows = shard_rows
        self._output = output
        self._folder = output.with_name(f".{output.name}.work")
        self._plan = plan
        self._filepaths = filepaths
        self._lock = filelock.FileLock(self._folder / "lock")
        self._states: dict[range, str] = {}

    def __enter__(self) -> Workplace:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise TableError(
                "another process is writing this output",
                where=str(self._output),
                hint="wait for it to end, or choose another output",
            ) from error
        self._adopt_or_discard()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What a failed run finished stays for the next one; a folder without a finished shard is of no use.
        if kind is None or not self._markers():
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            done = sum(len(span) for span in self.spans if self._file(span, "json").exists())
            text = "%s: %d of %d images are finished and stay; the same command goes on from there"
            log.info(text, self._output, done, len(self._filepaths))
        self._lock.release()

    def discard(self) -> None:
        """Forget what is finished: the next run begins anew."""
        for file in self._folder.glob("shard-*"):
            file.unlink()

    def pending(self) -> list[range]:
        """The spans that are still to be embedded."""
        return [span for span in self.spans if not self._is_finished(span)]

    def begin(self, span: range) -> None:
        """Note the state of a span's files, before the first of them is read."""
        self._states[span] = self._state_of(span)

    def commit(self, shard: Shard) -> None:
        """Write a shard, then its marker."""
        table = pa.table({"row": pa.array(shard.rows), "embedding": list_array(shard.vectors)})
        with atomic_path(self._file(shard.span, "parquet")) as temporary:
            pq.write_table(table, temporary, compression="none", use_dictionary=False)
        marker = {
            "files": self._states.pop(shard.span),
            "clipped": shard.clipped,
            "quarantined": [asdict(image) for image in shard.quarantined],
        }
        with atomic_path(self._file(shard.span, "json")) as temporary:
            temporary.write_text(json.dumps(marker), encoding="utf-8")

    def shards(self) -> Iterator[Shard]:
        """Read the finished shards back, in order, one at a time, with their parts put together."""
        for _, spans in groupby(self.spans, key=lambda span: span.start // self._shard_rows):
            yield _together([self._read(span) for span in spans])

    def quarantined(self) -> Iterator[QuarantinedImage]:
        """What the finished shards set aside, in order."""
        for span in self.spans:
            if self._is_finished(span):
                yield from _quarantined(self._marker(span) or {})

    def _read(self, span: range) -> Shard:
        marker = self._marker(span)
        assert marker is not None, f"shard {span} was not committed"
        table = pq.read_table(self._file(span, "parquet"))
        rows = table.column("row").to_numpy()
        values = table.column("embedding").combine_chunks().flatten().to_numpy()
        vectors = values.reshape(len(rows), -1) if len(rows) else np.empty((0, 0), np.float32)
        return Shard(span, rows, vectors, _quarantined(marker), marker["clipped"])

    def _adopt_or_discard(self) -> None:
        """Keep what an equal run finished; say so where an earlier run was another."""
        path = self._folder / "plan.json"
        mine = json.loads(json.dumps(asdict(self._plan)))
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        changed = [key for key in mine if earlier is not None and mine[key] != earlier.get(key)]
        if earlier is None or changed:
            if changed and self._markers():
                log.warning("%s: an unfinished run had other %s; it is discarded", self._output, ", ".join(changed))
            self.discard()
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(mine), encoding="utf-8")
            return
        if self._markers():
            total = len(self._filepaths)
            done = total - sum(map(len, self.pending()))
            log.info("%s: going on with an unfinished run, %d of %d images are finished", self._output, done, total)

    def _is_finished(self, span: range) -> bool:
        """Whether a shard of this span is there and its files are as they were."""
        marker = self._marker(span)
        return marker is not None and marker["files"] == self._state_of(span)

    def _marker(self, span: range) -> dict[str, Any] | None:
        try:
            marker: dict[str, Any] = json.loads(self._file(span, "json").read_text(encoding="utf-8"))
            return marker
        except FileNotFoundError:
            return None

    def _markers(self) -> list[Path]:
        return list(self._folder.glob("shard-*.json"))

    def _file(self, span: range, ending: str) -> Path:
        number, first = divmod(span.start, self._shard_rows)
        part = f"-{first}" if first else ""
        return self._folder / f"shard-{number:05d}{part}.{ending}"

    def _state_of(self, span: range) -> str:
        """SHA-256 over size and time of a span's local files; a missing file has a state, too."""
        digest = hashlib.sha256()
        for row in span:
            try:
                status = os.stat(split_box(self._filepaths[row])[0])  # noqa: PTH116 - ten times faster than Path, and there may be millions
                digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
            except (OSError, ValueError):  # missing, a URL, or a path with a null byte
                digest.update(b"-;")
        return digest.hexdigest()


def _quarantined(marker: dict[str, Any]) -> list[QuarantinedImage]:
    """The images that a marker says were set aside."""
    images = marker.get("quarantined", [])
    return [QuarantinedImage(**{**image, "reason": Reason(image["reason"])}) for image in images]


def _together(parts: Sequence[Shard]) -> Shard:
    """The parts of a shard as one."""
    if len(parts) == 1:
        return parts[0]
    filled = [part for part in parts if len(part.rows)] or parts[:1]
    return Shard(
        range(parts[0].span.start, parts[-1].span.stop),
        np.concatenate([part.rows for part in filled]),
        np.concatenate([part.vectors for part in filled]),
        [image for part in parts for image in part.quarantined],
        sum(part.clipped for part in parts),
    )
