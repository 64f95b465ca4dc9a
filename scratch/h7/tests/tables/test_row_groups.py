"""Vectors that several threads decode are those that one thread reads, in the same chunks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.errors import TableError, VectorError
from lookalike.tables import embedding_stream
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.row_groups import row_groups, side_by_side, threads_for
from lookalike.tables.vectors import list_array


@pytest.fixture
def folder(tmp_path):
    """Three files of 700 rows in groups of 100, the second of doubles, the third without labels."""
    random = np.random.default_rng(0)
    for number in range(3):
        vectors = random.standard_normal((700, 8)).astype(np.float64 if number == 1 else np.float32)
        columns = {"filepath": [f"{number}-{row}" for row in range(700)], "embedding": list_array(vectors)}
        if number < 2:
            columns["label"] = ["pass" if row % 3 else None for row in range(700)]
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet", row_group_size=100)
    return tmp_path


def read(folder, size, cores, monkeypatch, *, labels=False):
    monkeypatch.setattr(embedding_stream, "usable_cores", lambda: cores)
    stream = EmbeddingStream(str(folder), "embedding")
    return [
        (chunk.first, chunk.vectors.tolist(), [label for piece in chunk.labels for label in piece.to_pylist()])
        for chunk in stream.chunks(size, labels=labels)
    ]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("size", [450, 800, 2100, 10_000])
def test_the_same_chunks(folder, size, labels, monkeypatch):
    alone = read(folder, size, 2, monkeypatch, labels=labels)
    calls = []
    monkeypatch.setattr(embedding_stream, "side_by_side", lambda *a: calls.append(a[1]) or side_by_side(*a))
    together = read(folder, size, 16, monkeypatch, labels=labels)
    assert calls and calls[0] > 1, "several threads were meant to read"
    assert together == alone


def test_bad_vectors_are_named_by_their_row_in_the_table(folder, monkeypatch):
    vectors = np.ones((700, 8), np.float32)
    vectors[345, 3] = np.nan
    pq.write_table(pa.table({"embedding": list_array(vectors)}), folder / "2.parquet", row_group_size=100)
    for cores in (2, 16):
        with pytest.raises(VectorError, match=r"\[1745\]"):
            read(folder, 10_000, cores, monkeypatch)


def test_a_damaged_file_is_named(folder, monkeypatch):
    stream_of = folder / "1.parquet"
    content = bytearray(stream_of.read_bytes())
    content[200:20_000] = bytes(19_800)  # values, not the footer
    stream_of.write_bytes(content)
    for cores in (2, 16):
        with pytest.raises((TableError, VectorError)):
            read(folder, 10_000, cores, monkeypatch)


def test_memory_bounds_the_threads(folder):
    groups = row_groups(sorted(folder.iterdir()))
    assert [group.first for group in groups] == list(range(0, 2100, 100))
    assert threads_for(groups, 64, 1 << 30, cores=16) == 8
    assert threads_for(groups, 64, 3 * 2 * 6400, cores=16) == 3
    assert threads_for(groups, 64, 1, cores=16) == 1
    assert threads_for(groups, 64, 1 << 30, cores=2) == 1
    assert threads_for([], 64, 1 << 30, cores=16) == 1


def test_an_error_comes_at_its_turn():
    def job(number):
        if number == 3:
            raise ValueError(number)
        return number

    given = side_by_side((lambda number=number: job(number) for number in range(6)), 3)
    assert [next(given) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(given)
