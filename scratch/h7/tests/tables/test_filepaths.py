"""`Filepaths` is the column as a sequence of strings, whatever the chunks are; `full_paths` makes paths whole."""

import pyarrow as pa
import pytest

from lookalike.tables.filepaths import full_paths
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


def test_relative_paths_start_in_a_folder_or_a_url():
    paths = pa.array(["a.png", "./b//c.png", "../d.png", "/e/./f.png", r"C:\g\h.png", "s3://bucket/i.png"])
    whole = ["/e/f.png", "C:/g/h.png", "s3://bucket/i.png"]
    assert full_paths(paths, "/base/").to_pylist() == ["/base/a.png", "/base/b/c.png", "/d.png", *whole]
    assert full_paths(paths[:2], "s3://k/v").to_pylist() == ["s3://k/v/a.png", "s3://k/v/b/c.png"]
    assert full_paths(paths[3:], "/base").to_pylist() == whole
