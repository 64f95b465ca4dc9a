"""`Filepaths` is the column as a sequence of strings, whatever the chunks are."""

import pyarrow as pa
import pytest

from lookalike.tables.image_table import Filepaths, read_image_table


@pytest.mark.parametrize("chunks", [[["a"]], [["a", "ü"], [], ["c"], ["d", "e", "f"]], [[], ["x"] * 40_000, ["y"]]])
def test_paths_are_those_of_the_column(chunks):
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks])
    expected = column.to_pylist()
    paths = Filepaths(read_image_table(pa.table({"filepath": column})))
    assert len(paths) == len(expected)
    assert list(paths) == expected
    assert [paths[row] for row in range(len(paths))] == expected
    assert (paths[-1], paths[1:3]) == (expected[-1], expected[1:3])
    with pytest.raises(IndexError):
        paths[len(expected)]
