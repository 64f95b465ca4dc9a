"""Image tables: every format that is read, and every error."""

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.errors import LookalikeError, TableError
from lookalike.tables.image_table import may_have_more_rows, read_image_table

ROWS = [{"filepath": "a b.jpg", "label": "ok", "score": 0.5}, {"filepath": "ü,2.jpg", "label": "bad", "score": 1.5}]


@pytest.fixture
def memory():
    """An empty fsspec memory file system."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/", recursive=True)
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


# Formats


@pytest.mark.parametrize("name", ["in.parquet", "in.pq", "in.PARQUET"])
def test_parquet_file(tmp_path, name):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    assert read_image_table(tmp_path / name).to_pylist() == ROWS
    assert read_image_table(str(tmp_path / name)).to_pylist() == ROWS


def test_parquet_folder_in_the_order_of_names(tmp_path):
    """All parquet files below a folder, by name; hidden files and other files are left out."""
    (tmp_path / "2nd").mkdir()
    for name, path in [("2nd/a.parquet", "2"), ("3.parquet", "3"), ("1.parquet", "1"), (".hidden.parquet", "0")]:
        pq.write_table(pa.table({"filepath": [path]}), tmp_path / name)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "_SUCCESS").touch()
    assert read_image_table(tmp_path).column("filepath").to_pylist() == ["1", "2", "3"]


def test_parquet_folder_with_unlike_columns(tmp_path):
    """A column that one file lacks is null there; integers beside floats become floats."""
    pq.write_table(pa.table({"filepath": ["1"], "score": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"score": [2.5], "filepath": ["2"], "label": ["x"]}), tmp_path / "2.parquet")
    assert read_image_table(tmp_path).to_pylist() == [
        {"filepath": "1", "score": 1.0, "label": None},
        {"filepath": "2", "score": 2.5, "label": "x"},
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("in.csv", ","), ("in.tsv", "\t"), ("in.CSV", ",")])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimited(tmp_path, name, delimiter, newline, mark):
    """CSV and TSV, with or without a byte order mark, of Unix and of Windows; quoted values may hold anything."""
    lines = [["filepath", "label", "score"], ["a b.jpg", "ok", "0.5"], ['"ü,2.jpg"', "bad", "1.5"]]
    text = mark + newline.join(delimiter.join(line) for line in lines) + newline
    (tmp_path / name).write_bytes(text.encode())
    assert read_image_table(tmp_path / name).to_pylist() == ROWS


def test_csv_paths_stay_text(tmp_path):
    """A path that looks like a number or a date stays as it is written."""
    (tmp_path / "in.csv").write_text("filepath,size\n0012,1\n2024-01-01,2\ntrue,3\nNA,4\n")
    table = read_image_table(tmp_path / "in.csv")
    assert table.column("filepath").to_pylist() == ["0012", "2024-01-01", "true", "NA"]
    assert table.schema.field("size").type == pa.int64()


@pytest.mark.parametrize("labels", [["01", "02"], ["1", "1.0"], ["true", "false"], ["2024-01-01", "2024-01-02"]])
def test_csv_labels_stay_text(tmp_path, labels):
    """A label that looks like a number stays as it is written: the label filter compares it with other tables' text."""
    (tmp_path / "in.csv").write_text(
        "filepath,label\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels))
    )
    assert [str(label) for label in read_image_table(tmp_path / "in.csv").column("label").to_pylist()] == labels


@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson"])
def test_json_lines(tmp_path, name):
    (tmp_path / name).write_text(pd.DataFrame(ROWS).to_json(orient="records", lines=True), encoding="utf-8")
    assert read_image_table(tmp_path / name).to_pylist() == ROWS


def test_json_lines_with_lists_and_holes(tmp_path):
    """Extra columns of any type are read; a key that a line lacks is null."""
    (tmp_path / "in.jsonl").write_text('{"filepath": "a", "weakness": [1, 2]}\n{"filepath": "b", "meta": {"x": 1}}\n')
    assert read_image_table(tmp_path / "in.jsonl").to_pylist() == [
        {"filepath": "a", "weakness": [1, 2], "meta": None},
        {"filepath": "b", "weakness": None, "meta": {"x": 1}},
    ]


def test_json_strings_stay_text(tmp_path):
    """What is a string in the file stays one, also where it looks like a date."""
    row = {"filepath": "2024-01-01", "label": "2024-01-02 03:04:05"}
    (tmp_path / "in.jsonl").write_text(pd.DataFrame([row]).to_json(orient="records", lines=True))
    assert read_image_table(tmp_path / "in.jsonl").to_pylist() == [row]


@pytest.mark.parametrize("name", ["in.txt", "in.lst"])
def test_text_list(tmp_path, name):
    """One path a line; empty lines and comments are left out."""
    (tmp_path / name).write_bytes("\ufeff# the pool\r\na b.jpg\r\n\r\n  /c/ü.png  \r\nd#1.jpg".encode())
    assert read_image_table(tmp_path / name).to_pylist() == [
        {"filepath": "a b.jpg"},
        {"filepath": "/c/ü.png"},
        {"filepath": "d#1.jpg"},
    ]


def test_folder_of_images(tmp_path):
    """Every image below the folder, in the order of paths; hidden files and folders and other files are left out."""
    for name in ("b.JPG", "a.png", "sub/deep/c.tiff", "sub/.d.jpg", ".cache/e.png", "notes.txt", "f.jpg.bak", "g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [str(tmp_path / name) for name in ("a.png", "b.JPG", "sub/deep/c.tiff")]
    assert read_image_table(tmp_path).column("filepath").to_pylist() == expected


def test_folder_below_a_hidden_folder(tmp_path):
    """Only names inside the given folder can be hidden."""
    (tmp_path / ".data" / "pool").mkdir(parents=True)
    (tmp_path / ".data" / "pool" / "a.png").touch()
    assert read_image_table(tmp_path / ".data" / "pool").num_rows == 1


def test_relative_folder(tmp_path, monkeypatch):
    """A relative folder is found from the working directory, and its images can be opened from there."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    (path,) = read_image_table("pool").column("filepath").to_pylist()
    assert (tmp_path / path).is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", b"filepath,label\na.jpg,ok\n"),
        ("in.jsonl", b'{"filepath": "a.jpg", "label": "ok"}\n'),
    ],
)
def test_url(memory, name, content):
    """Any of the formats may be an fsspec URL."""
    memory.pipe(f"/pool/{name}", content)
    assert read_image_table(f"memory://pool/{name}").to_pylist() == [{"filepath": "a.jpg", "label": "ok"}]


def test_url_of_parquet_and_list(memory):
    with memory.open("/pool/in.parquet", "wb") as stream:
        pq.write_table(pa.table({"filepath": ["a.jpg"]}), stream)
    memory.pipe("/pool/in.txt", b"b.jpg\n")
    assert read_image_table("memory://pool/in.parquet").to_pylist() == [{"filepath": "a.jpg"}]
    assert read_image_table("memory://pool/in.txt").to_pylist() == [{"filepath": "b.jpg"}]


def test_url_of_a_folder(memory):
    """The images of a folder at a URL are URLs that fsspec opens."""
    for name in ("b.png", "sub/a.jpg", ".hidden.png", "notes.txt"):
        memory.pipe(f"/pool/{name}", name.encode())
    paths = read_image_table("memory://pool").column("filepath").to_pylist()
    assert [path.rsplit("pool/", 1)[1] for path in paths] == ["b.png", "sub/a.jpg"]
    for path in paths:
        with fsspec.open(path, "rb") as stream:
            assert stream.read().decode() in ("b.png", "sub/a.jpg")


def test_table_and_data_frame():
    """A `pyarrow.Table` or a `pandas.DataFrame`, whose index is no column."""
    assert read_image_table(pa.Table.from_pylist(ROWS)).to_pylist() == ROWS
    frame = pd.DataFrame(ROWS, index=[7, 9])
    assert read_image_table(frame).to_pylist() == ROWS


# Columns


@pytest.mark.parametrize("named", [False, True])
def test_pandas_index(tmp_path, named):
    """pandas' unnamed index columns and its metadata are dropped; an index that the user named is a column."""
    index = pd.Index([3, 8], name="board" if named else None)
    pd.DataFrame(ROWS, index=index).to_parquet(tmp_path / "in.parquet")
    assert len(pq.read_schema(tmp_path / "in.parquet").names) == 4
    table = read_image_table(tmp_path / "in.parquet")
    assert table.column_names == ["filepath", "label", "score", *(["board"] if named else [])]
    assert b"pandas" not in (table.schema.metadata or {})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None], pa.int8()),
        pa.array([1.5, None], pa.float16()),
        pa.array([b"\x00", None], pa.binary()),
        pa.array([[1], None], pa.large_list(pa.int32())),
        pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        pa.array([{"a": 1}, None]),
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array([0, 1], pa.timestamp("ns", tz="Asia/Tokyo")),
        pa.array([0, 1], pa.date32()),
        pa.array(["1.25", "2.50"], pa.string()).cast(pa.decimal128(5, 2)),
        pa.array([True, None]),
        pa.nulls(2),
    ],
    ids=lambda column: str(column.type),
)
def test_extra_columns_keep_their_type(tmp_path, column):
    """Columns other than `filepath` come as they are stored."""
    pq.write_table(pa.table({"extra": column, "filepath": ["a", "b"]}), tmp_path / "in.parquet")
    table = read_image_table(tmp_path / "in.parquet")
    assert table.column_names == ["extra", "filepath"]
    assert table.column("extra").type == column.type
    assert table.column("extra").to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    "paths", [pa.array(["a", "b"], pa.large_string()), pa.array(["a", "b"]).dictionary_encode()], ids=["large", "dict"]
)
def test_filepath_becomes_a_plain_string(paths):
    table = read_image_table(pa.table({"filepath": paths}))
    assert table.schema.field("filepath").type == pa.string()
    assert table.column("filepath").to_pylist() == ["a", "b"]


def test_dictionaries_that_differ_from_file_to_file(tmp_path):
    """A folder whose files hold the same column with other dictionaries is one table."""
    for name in ("1", "2"):
        column = pa.array([name]).dictionary_encode()
        pq.write_table(pa.table({"filepath": column, "line": column}), tmp_path / f"{name}.parquet")
    table = read_image_table(tmp_path)
    assert table.column("filepath").to_pylist() == table.column("line").to_pylist() == ["1", "2"]


# Errors


def refused(name, *parts):
    """Check that reading is refused with a message that holds the file's name and `parts`."""
    with pytest.raises(TableError) as error:
        read_image_table(name)
    assert [part for part in parts if part not in str(error.value)] == []


@pytest.mark.parametrize("name", ["none.parquet", "none.csv", "none", "none/", "memory://none.csv"])
def test_nothing_there(tmp_path, monkeypatch, memory, name):
    monkeypatch.chdir(tmp_path)
    refused(name, name, "does not exist")


@pytest.mark.parametrize("name", ["in.xlsx", "in.parquet.gz", "in", "in.jpg"])
def test_unknown_format(tmp_path, name):
    """The message names what is known."""
    (tmp_path / name).touch()
    refused(tmp_path / name, name, ".parquet", ".csv", ".jsonl", ".txt", "folder")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.parquet", b""),
        ("in.parquet", b"PAR1 and then nothing"),
        ("in.csv", b""),
        ("in.csv", b"filepath,label\na\nb,c,d\n"),
        ("in.csv", b"filepath\n\xff\xfe\n"),
        ("in.jsonl", b'{"filepath": "a"\n'),
        ("in.jsonl", b""),
        ("in.txt", b"\xff\xfe\x00"),
    ],
)
def test_damaged_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name, "cannot be read")


def test_damaged_file_in_a_folder(tmp_path):
    pq.write_table(pa.table({"filepath": ["a"]}), tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(b"nothing")
    refused(tmp_path, str(tmp_path), "parquet")


def test_files_that_are_not_one_table(tmp_path):
    pq.write_table(pa.table({"filepath": ["a"], "label": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"filepath": ["b"], "label": ["x"]}), tmp_path / "2.parquet")
    refused(tmp_path, str(tmp_path), "label")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.md").touch()
    refused(tmp_path, str(tmp_path), "no image")


@pytest.mark.parametrize("columns", [{"path": ["a"], "label": ["x"]}, {"FilePath": ["a"], "label": ["x"]}])
def test_no_filepath_column(columns):
    """The message names the columns that are there."""
    refused(pa.table(columns), "'filepath'", *columns)


def test_null_paths():
    """The message counts them and names the first rows."""
    paths = [None if row % 3 == 1 else "a" for row in range(30)]
    refused(pa.table({"filepath": paths}), "'filepath'", "10 nulls", "[1, 4, 7, 10, 13]")


def test_only_null_paths():
    refused(pa.table({"filepath": pa.nulls(2)}), "'filepath'", "null", "[0, 1]")


@pytest.mark.parametrize("paths", [[1, 2], [1.5], [b"a"], [["a"]], [True]], ids=str)
def test_paths_that_are_not_text(paths):
    refused(pa.table({"filepath": paths}), "'filepath'", "not text")


@pytest.mark.parametrize("content", ["filepath,label\n", "filepath\n"])
def test_no_rows(tmp_path, content):
    (tmp_path / "in.csv").write_text(content)
    refused(tmp_path / "in.csv", "in.csv", "no rows")


def test_no_line_in_a_list(tmp_path):
    (tmp_path / "in.txt").write_text("# nothing\n\n")
    refused(tmp_path / "in.txt", "in.txt", "no rows")


@pytest.mark.parametrize(
    ("url", "part"), [("nosuch://bucket/in.csv", "nosuch"), ("oss://bucket/in.csv", "ossfs"), ("oss://bucket", "ossfs")]
)
def test_url_that_nothing_here_opens(url, part):
    """An unknown protocol, or one whose package is not installed, is the user's mistake, not a bug."""
    with pytest.raises(LookalikeError, match=part):
        read_image_table(url)


@pytest.mark.parametrize("kind", ["table", "frame", "table.parquet", "list.txt", "folder", "folder of parquet", "url"])
def test_whether_a_table_may_be_large_is_told_without_reading_it(kind, tmp_path):
    """Never no for one that is; for those that can be counted quickly, never yes for one that is not."""
    table = pa.table({"filepath": [f"{row}.png" for row in range(5)]})
    given = tmp_path / kind
    if kind in ("table", "frame"):
        given = table if kind == "table" else table.to_pandas()
    elif kind == "url":
        given = "memory://nowhere.parquet"
    elif kind == "table.parquet":
        pq.write_table(table, given)
    elif kind == "list.txt":
        given.write_text("\n".join(table.column("filepath").to_pylist()) + "\n")
    else:
        (given / "below").mkdir(parents=True)
        for path in table.column("filepath").to_pylist():
            (given / "below" / path).touch()
        if kind == "folder of parquet":
            pq.write_table(table, given / "below" / "part.parquet")
    assert may_have_more_rows(given, 4)
    counted = kind in ("table", "frame", "table.parquet", "folder")
    assert may_have_more_rows(given, 5) == (not counted)
    assert may_have_more_rows(given, 100) == (kind in ("folder of parquet", "url"))
    assert not may_have_more_rows(str(tmp_path / "nowhere"), 0)
