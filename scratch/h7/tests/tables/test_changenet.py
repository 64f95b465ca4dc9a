"""Visual ChangeNet tables: each row's image is found, or the rows that fail are named."""

import pyarrow as pa
import pytest

from lookalike.errors import TableError
from lookalike.tables.changenet import Layout, is_changenet, to_image_table
from lookalike.tables.image_table import read_rows

HEAD = "input_path,golden_path,label,object_name,board\n"


def images(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()


def convert(tmp_path, rows, **layout):
    path = tmp_path / "pool.csv"
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    settings = {"images_root": str(tmp_path), "light": "SolderLight", "image_ext": ".jpg", **layout}
    return to_image_table(read_rows(path), str(path), Layout(**settings))


def test_rows_become_paths_and_every_column_is_carried(tmp_path):
    images(tmp_path, "cam1/0012_SolderLight.jpg", "cam 2/C1_SolderLight.jpg", "cam1/0012_Uniform.jpg")
    table = convert(tmp_path, ["cam1,gold1,007,0012,1", "cam 2,gold2,MISSING,C1,2"])
    assert table.column_names == ["filepath", "input_path", "golden_path", "label", "object_name", "board"]
    expected = [f"{tmp_path}/cam1/0012_SolderLight.jpg", f"{tmp_path}/cam 2/C1_SolderLight.jpg"]
    assert table.column("filepath").to_pylist() == expected
    assert table.column("label").to_pylist() == ["007", "MISSING"], "labels stay text"
    assert table.column("board").to_pylist() == [1, 2]


def test_light_and_ending(tmp_path):
    images(tmp_path, "cam/C1_White.png", "cam/C1_SolderLight.jpg")
    table = convert(tmp_path, ["cam,gold,ok,C1,1"], light="White", image_ext=".png")
    assert table.column("filepath").to_pylist() == [f"{tmp_path}/cam/C1_White.png"]


def test_a_raw_pool_names_files(tmp_path):
    """Alone or beside an object name; a path that is absolute stands for itself."""
    images(tmp_path, "raw/a.jpg", "raw/b.png")
    table = convert(tmp_path, ["raw/a.jpg,,ok,,1", f"{tmp_path}/raw/b.png,,ok,C9,2"])
    assert table.column("filepath").to_pylist() == [f"{tmp_path}/raw/a.jpg", f"{tmp_path}/raw/b.png"]


def test_relative_paths_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(tmp_path, "cam/C1_SolderLight.jpg")
    assert convert(tmp_path, ["cam,g,ok,C1,1"], images_root="").column("filepath").to_pylist() == [
        "cam/C1_SolderLight.jpg"
    ]
    monkeypatch.chdir("/")
    table = convert(tmp_path, ["cam,g,ok,C1,1"], images_root="", root=str(tmp_path))
    assert table.column("filepath").to_pylist() == ["cam/C1_SolderLight.jpg"], "root is where reading starts"


def test_rows_without_exactly_one_file_are_named(tmp_path):
    """No file, no folder, an empty path: the first five are listed, and the rest counted."""
    images(tmp_path, "cam/C1_SolderLight.jpg")
    rows = ["cam,g,ok,C1,1", "cam,g,ok,C2,1", ",g,ok,C1,1", *["gone,g,ok,C3,1"] * 6]
    with pytest.raises(TableError) as error:
        convert(tmp_path, rows)
    text = str(error.value)
    assert "8 of 9 rows" in text
    assert f"row 1: no file {tmp_path}/cam/C2_SolderLight.jpg" in text
    assert "row 2: input_path is empty" in text
    assert "and 3 more" in text
    assert f"images_root='{tmp_path}'" in text


def test_two_files_for_a_row_are_no_answer(tmp_path):
    """A raw path, and an object name that leads to another file."""
    images(tmp_path, "raw/a.jpg", "cam/C1_SolderLight.jpg")
    with pytest.raises(TableError, match="row 0: there are 2 files"):
        convert(tmp_path, [f"raw/a.jpg,,ok,{tmp_path}/cam/C1,1"])


def test_images_on_a_store(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/vcn/cam/C1_SolderLight.jpg", b"jpeg")
    table = convert(tmp_path, ["cam,g,ok,C1,1"], images_root="memory://vcn")
    assert table.column("filepath").to_pylist() == ["memory://vcn/cam/C1_SolderLight.jpg"]


def test_a_table_with_paths_of_its_own_is_an_image_table():
    columns = {name: ["a"] for name in ("input_path", "golden_path", "label", "object_name")}
    assert is_changenet(pa.table(columns))
    assert not is_changenet(pa.table({**columns, "filepath": ["a.png"]}))
    assert not is_changenet(pa.table({"input_path": ["a"], "label": ["a"]}))
