"""Row groups of parquet files, decoded side by side where there are cores for it, and given out in their order.

Decoding is what reading vectors costs: one core unpacks about half a gigabyte a second, which a GPU (and many disks)
would wait for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

#: Threads at most; more of them wait for memory.
_MOST_THREADS = 8

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RowGroup:
    """One row group.

    Attributes
    ----------
    file, number:
        Where it is.
    first, rows:
        Its place in the whole table.
    """

    file: Path
    number: int
    first: int
    rows: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some of its columns; those that the file lacks are left out."""
        with pq.ParquetFile(self.file, pre_buffer=False) as reader:
            there = [name for name in columns if name in reader.schema_arrow.names]
            return reader.read_row_group(self.number, columns=there, use_threads=False)


def row_groups(files: Sequence[Path]) -> list[RowGroup]:
    """All row groups of some files that have rows, in order."""
    groups, first = [], 0
    for file in files:
        metadata = pq.read_metadata(file)
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            if rows:
                groups.append(RowGroup(file, number, first, rows))
            first += rows
    return groups


def threads_for(groups: Sequence[RowGroup], row_bytes: int, memory: int, cores: int) -> int:
    """How many row groups may be decoded side by side; 1 where that would not pay, or not fit.

    Parameters
    ----------
    groups:
        What is read.
    row_bytes:
        Of a decoded row.
    memory:
        Bytes that the groups may take that are being decoded: twice their values each, while they are.
    cores:
        Of this process; half of them are left to who uses what is read.
    """
    largest = max((group.rows for group in groups), default=0) * row_bytes
    return max(1, min(_MOST_THREADS, cores // 2, len(groups), memory // max(1, 2 * largest)))


def side_by_side(jobs: Iterator[Callable[[], _Item]], threads: int) -> Iterator[_Item]:
    """The results of jobs in the jobs' order; as many are under way as there are threads.

    An error comes out at its job's turn; what is under way is waited for.
    """
    waiting: deque[Future[_Item]] = deque()
    with ThreadPoolExecutor(threads, "decode") as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) == threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
