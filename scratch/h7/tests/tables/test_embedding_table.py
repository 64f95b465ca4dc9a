"""Embedding tables: reading every kind of vector column, writing row group by row group, and what is refused."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.errors import TableError, VectorError
from lookalike.tables.embedding_stream import read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTableWriter
from support.embeddings import FLOATS, embedding_table, identity, write_embeddings

VECTORS = np.array([[0.5, -1.25, 3.0], [2.0, 0.125, -0.5]])


def read(path, column="embedding"):
    return read_embedding_table(str(path), column)


# Reading


@pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("shape", ["list", "large_list", "fixed_size_list"])
def test_every_kind_of_list(tmp_path, shape, value):
    """Lists, large lists and fixed-size lists of float16, float32 and float64; doubles keep their precision."""
    kind = {"list": pa.list_(value), "large_list": pa.large_list(value), "fixed_size_list": pa.list_(value, 3)}[shape]
    vectors = VECTORS + (1e-9 if value == pa.float64() else 0)
    table = read(write_embeddings(tmp_path / "e.parquet", vectors, kind=kind))
    assert table.vectors.dtype == (np.float64 if value == pa.float64() else np.float32)
    np.testing.assert_array_equal(table.vectors, vectors)


@pytest.mark.parametrize("value", [pa.int8(), pa.uint8(), pa.int64()], ids=str)
def test_lists_of_integers(tmp_path, value):
    """Quantised vectors are vectors."""
    table = read(write_embeddings(tmp_path / "e.parquet", pa.array([[1, 2], [3, 100]], pa.list_(value))))
    np.testing.assert_array_equal(table.vectors, [[1, 2], [3, 100]])


def test_what_is_read(tmp_path):
    """Paths, vectors, labels and the encoder's identity, row by row; another column may be the embedding."""
    who = identity(dimension=3)
    labels = ["x", None]
    path = write_embeddings(tmp_path / "e.parquet", VECTORS, labels=labels, column="v", who=who, filepaths=["b", "a"])
    table = read(path, "v")
    assert (table.name, len(table)) == (str(path), 2)
    assert table.filepaths.to_pylist() == ["b", "a"]
    assert table.labels.to_pylist() == labels
    assert table.identity_json == who.to_json()


def test_table_from_elsewhere(tmp_path):
    """Neither labels nor an identity are needed."""
    table = read(write_embeddings(tmp_path / "e.parquet", VECTORS))
    assert table.labels is None
    assert table.identity_json is None


def test_row_groups(tmp_path):
    """Row groups of any size make one matrix, in order."""
    vectors = np.arange(40_000, dtype=np.float32).reshape(20_000, 2)
    table = read(write_embeddings(tmp_path / "e.parquet", vectors, row_group_size=777))
    np.testing.assert_array_equal(table.vectors, vectors)
    assert table.filepaths.to_pylist() == [f"/pool/{row}.jpg" for row in range(20_000)]


@pytest.mark.parametrize("name", ["e.parquet", "e.pq", "no suffix"])
def test_file_names(tmp_path, name):
    """A file is parquet by what it holds, not by its name."""
    assert len(read(write_embeddings(tmp_path / name, VECTORS))) == 2


# Folders


def folder_of(tmp_path, **tables):
    """A folder with one parquet file for each table, by name."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_folder_in_the_order_of_names(tmp_path):
    who = identity(dimension=3)
    one = embedding_table(VECTORS, filepaths=["1", "2"], labels=["x", "y"], who=who)
    two = embedding_table(VECTORS[:1] * 2, filepaths=["3"], labels=["z"], who=who)
    table = read(folder_of(tmp_path, b=two, a=one))
    assert table.filepaths.to_pylist() == ["1", "2", "3"]
    assert table.labels.to_pylist() == ["x", "y", "z"]
    np.testing.assert_array_equal(table.vectors, [*VECTORS, VECTORS[0] * 2])
    assert table.identity_json == who.to_json()


def test_folder_with_columns_in_another_order(tmp_path):
    """Columns are matched by name; another kind of list is no other table."""
    one = embedding_table(VECTORS, labels=["x", "y"])
    two = embedding_table(VECTORS, labels=["z", "w"], kind=pa.list_(pa.float32(), 3)).select(
        ["label", "embedding", "filepath"]
    )
    table = read(folder_of(tmp_path, a=one, b=two))
    np.testing.assert_array_equal(table.vectors, [*VECTORS, *VECTORS])
    assert table.labels.to_pylist() == ["x", "y", "z", "w"]


def test_folder_where_one_file_lacks_labels(tmp_path):
    """Labels that some of the files have are not lost, whichever file comes first."""
    table = read(folder_of(tmp_path, a=embedding_table(VECTORS), b=embedding_table(VECTORS, labels=["x", "y"])))
    assert table.labels.to_pylist() == [None, None, "x", "y"]


def test_folder_where_one_file_holds_doubles(tmp_path):
    """Doubles keep their precision beside float32, whichever file comes first."""
    doubles = embedding_table(VECTORS + 1e-9, kind=pa.list_(pa.float64()))
    table = read(folder_of(tmp_path, a=embedding_table(VECTORS), b=doubles))
    np.testing.assert_array_equal(table.vectors, [*VECTORS, *(VECTORS + 1e-9)])


def test_folder_of_different_encoders(tmp_path):
    one = embedding_table(VECTORS, who=identity(weights="1" * 64))
    two = embedding_table(VECTORS, who=identity(weights="2" * 64))
    folder = folder_of(tmp_path, a=one, b=two)
    with pytest.raises(TableError, match="different encoders") as error:
        read(folder)
    assert str(folder) in str(error.value)


def test_folder_of_one_encoder_from_two_places(tmp_path):
    """The same model loaded from another path is the same encoder: fingerprints decide, not the origin."""
    one = embedding_table(VECTORS, who=identity(model_path="acme/tiny-clip"))
    two = embedding_table(VECTORS, who=identity(model_path="/models/tiny-clip"))
    assert len(read(folder_of(tmp_path, a=one, b=two))) == 4


def test_folder_leaves_hidden_files_out(tmp_path):
    """As in a folder of images: a name that begins with a dot is not the user's data."""
    folder = folder_of(tmp_path, a=embedding_table(VECTORS))
    shutil.copy(folder / "a.parquet", folder / "._a.parquet")
    assert len(read(folder)) == 2


def test_folder_leaves_our_own_side_tables_out(tmp_path):
    """A quarantine table that was written beside an embedding table is no part of the pool."""
    who = identity(dimension=3)
    quarantine = pa.table({"row": [2], "filepath": ["c.jpg"], "reason": ["missing"], "detail": ["no such file"]})
    folder = folder_of(tmp_path, part=embedding_table(VECTORS, who=who), part_quarantine=quarantine)
    table = read(folder)
    assert len(table) == 2
    assert table.identity_json == who.to_json()


def test_folder_without_tables(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(TableError, match="no parquet file") as error:
        read(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_bad_vector_in_the_second_file(tmp_path):
    """Rows are counted over the whole folder."""
    bad = pa.array([[1, 2, 3], [1, 2]], FLOATS)
    with pytest.raises(VectorError, match=r"\[3\]"):
        read(folder_of(tmp_path, a=embedding_table(VECTORS), b=embedding_table(bad)))


# What is refused


def refused(path, *parts, column="embedding", kind=TableError):
    """Check that reading is refused with a message that names the file and `parts`."""
    with pytest.raises(kind) as error:
        read(path, column)
    assert [part for part in (str(path), *parts) if part not in str(error.value)] == []


def test_nothing_there(tmp_path):
    refused(tmp_path / "none.parquet", "does not exist")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"filepath,embedding\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_no_parquet(tmp_path, content):
    (tmp_path / "e.parquet").write_bytes(content)
    refused(tmp_path / "e.parquet")


def test_no_such_column(tmp_path):
    """The message names the columns that are there."""
    refused(write_embeddings(tmp_path / "e.parquet", VECTORS), "'vector'", "filepath", "embedding", column="vector")


def test_no_filepath_column(tmp_path):
    """The message names all the columns that are there, the embedding column too."""
    table = embedding_table(VECTORS, labels=["x", "y"], path=["a", "b"]).drop_columns("filepath")
    pq.write_table(table, tmp_path / "e.parquet")
    refused(tmp_path / "e.parquet", "'filepath'", "embedding", "label", "'path'")


def test_no_rows(tmp_path):
    refused(write_embeddings(tmp_path / "e.parquet", pa.array([], FLOATS)), "no rows")


@pytest.mark.parametrize(
    ("vectors", "what", "rows"),
    [
        (pa.array([[1, 2], [1], [1, 2, 3]], FLOATS), "2-dimensional", "[1, 2]"),
        (pa.array([[], [1, 2], []], FLOATS), "empty", "[0, 2]"),
        (pa.array([[], []], FLOATS), "empty", "[0, 1]"),
        (pa.array([None, [1, 2]], FLOATS), "null", "[0]"),
        (pa.array([None, None], FLOATS), "null", "[0, 1]"),
        (pa.array([[1, 2], None], pa.list_(pa.float32(), 2)), "null", "[1]"),
        (pa.array([[1, 2], [1, None]], FLOATS), "null", "[1]"),
        (pa.array([[1, 2], [np.nan, 1]], pa.list_(pa.float64())), "NaN", "[1]"),
        (pa.array([[1, 2], [1, -np.inf]], FLOATS), "infinity", "[1]"),
        (pa.array([[1.0]] * 3 + [[np.nan]] * 9, FLOATS), "NaN", "[3, 4, 5, 6, 7]"),
    ],
)
def test_bad_vectors(tmp_path, vectors, what, rows):
    """The message names file, column, fault, and the first five rows at most."""
    path = write_embeddings(tmp_path / "e.parquet", vectors)
    refused(path, "'embedding'", what, rows, kind=VectorError)


@pytest.mark.parametrize(
    "column",
    [pa.array(["a", "b"]), pa.array([1.0, 2.0]), pa.array([["a"], ["b"]]), pa.nulls(2)],
    ids=lambda c: str(c.type),
)
def test_column_that_holds_no_vectors(tmp_path, column):
    """The message names the type that was found."""
    refused(
        write_embeddings(tmp_path / "e.parquet", column),
        "'embedding'",
        str(column.type).split("<")[0],
        kind=VectorError,
    )


# Writing


def written(tmp_path, source, *groups, who=None):
    """Write groups of (rows, vectors) of an image table; returns the path."""
    path = tmp_path / "out.parquet"
    with EmbeddingTableWriter(path, source, (who or identity()).to_json(), "float32") as writer:
        for rows, vectors in groups:
            writer.write(np.array(rows, np.int64), np.array(vectors, np.float32))
    return path


def test_columns_and_rows(tmp_path):
    """`filepath`, `embedding`, then the rest in input order; only the rows that were written."""
    source = pa.table({"label": ["x", "y", "z"], "filepath": ["a", "b", "c"], "score": pa.array([1, 2, 3], pa.int8())})
    path = written(tmp_path, source, ([0, 2], [[1, 2], [3, 4]]))
    table = pq.read_table(path)
    assert table.schema.names == ["filepath", "embedding", "label", "score"]
    assert table.schema.field("embedding").type == FLOATS
    assert table.schema.field("score").type == pa.int8()
    assert table.to_pylist() == [
        {"filepath": "a", "embedding": [1, 2], "label": "x", "score": 1},
        {"filepath": "c", "embedding": [3, 4], "label": "z", "score": 3},
    ]


def test_earlier_embedding_column_is_replaced(tmp_path):
    source = pa.table({"filepath": ["a"], "embedding": pa.array([[9.0] * 5]), "label": ["x"]})
    table = pq.read_table(written(tmp_path, source, ([0], [[1, 2]])))
    assert table.to_pylist() == [{"filepath": "a", "embedding": [1, 2], "label": "x"}]


def test_each_write_is_a_row_group(tmp_path):
    """Row groups as they were written, read back in order."""
    source = pa.table({"filepath": [str(row) for row in range(5)]})
    path = written(tmp_path, source, ([0, 1, 2], [[0, 0], [1, 1], [2, 2]]), ([4], [[4, 4]]))
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 1]
    table = read(path)
    assert table.filepaths.to_pylist() == ["0", "1", "2", "4"]
    assert table.vectors[:, 0].tolist() == [0, 1, 2, 4]


def test_identity_goes_round(tmp_path):
    who = identity(dimension=2, model_path="acme/ü 'quoted'")
    path = written(tmp_path, pa.table({"filepath": ["a"]}), ([0], [[1, 2]]), who=who)
    assert read(path).identity_json == who.to_json()


def test_carried_columns_in_many_chunks(tmp_path):
    """Dictionaries that differ from chunk to chunk, and nested columns, survive."""
    parts = [
        pa.table({"filepath": [name], "line": pa.array([name]).dictionary_encode(), "meta": [{"a": [name]}]})
        for name in "xyz"
    ]
    path = written(tmp_path, pa.concat_tables(parts), ([0, 2], [[1], [2]]))
    assert pq.read_table(path).drop_columns("embedding").to_pylist() == [
        {"filepath": "x", "line": "x", "meta": {"a": ["x"]}},
        {"filepath": "z", "line": "z", "meta": {"a": ["z"]}},
    ]


def test_names_with_dots(tmp_path):
    """A carried column may have a name that looks like a path into a nested one."""
    source = pa.table({"filepath": ["a"], "embedding.list.element": ["x"], "a.b": [1]})
    path = written(tmp_path, source, ([0], [[1, 2]]))
    assert pq.read_table(path).select(["embedding.list.element", "a.b"]).to_pylist() == [
        {"embedding.list.element": "x", "a.b": 1}
    ]
