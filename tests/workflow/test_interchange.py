"""`lookalike import` and `export numpy|lance|fiftyone --vectors`: what comes in goes out as it was."""

import base64
import io
import json
import pickle
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike import EncoderIdentity, mine
from lookalike.workflow.interchange import import_embeddings
from support.embeddings import identity, write_embeddings
from support.inprocess import call_lookalike
from support.runs import make_run

PATHS = [f"images/{number}.png" for number in range(7)]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def command(*words, fails=""):
        done = call_lookalike(monkeypatch, capsys, *words)
        assert done.returncode == (1 if fails else 0), done.stderr
        assert "Traceback" not in done.stderr
        assert fails in done.stderr
        return done

    return command


def read(path):
    table = pq.read_table(path)
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    return table, np.stack(table.column("embedding").to_numpy())


def check(path, vectors, paths=PATHS):
    table, found = read(path)
    np.testing.assert_array_equal(found, vectors)
    assert table.column("filepath").to_pylist() == list(paths)
    return table


# What comes in


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_an_array_of_sentence_transformers_with_a_list_of_paths(dtype, call, vectors, tmp_path):
    """`model.encode(images)` gives an array."""
    given = vectors.astype(dtype)
    np.save("vectors.npy", given)
    (tmp_path / "list.txt").write_text("\n".join(PATHS))
    done = call("import", "vectors.npy", "--paths", "list.txt", "--out", "table.parquet")
    check("table.parquet", given.astype(np.float32))
    assert "Written:  7 vectors of 5 dimensions" in done.stdout
    assert "0 of the first 7 paths are files here" in done.stdout
    assert "Encoder:  not known" in done.stdout


def test_a_table_of_paths_brings_its_columns(call, vectors, tmp_path):
    np.save("vectors.npy", vectors)
    pq.write_table(pa.table({"label": ["a"] * 7, "filepath": PATHS, "embedding": ["old"] * 7}), "rows.parquet")
    call("import", "vectors.npy", "--paths", "rows.parquet", "--out", "table.parquet")
    assert check("table.parquet", vectors).column_names == ["filepath", "embedding", "label"]


def test_an_archive_of_arrays(call, vectors):
    np.savez("both.npz", features=vectors, filepaths=np.array(PATHS), labels=np.arange(7))
    call("import", "both.npz", "--out", "a.parquet")
    check("a.parquet", vectors)
    np.savez("two.npz", one=vectors, two=-vectors, names=np.array(PATHS))
    call("import", "two.npz", "--out", "b.parquet", fails="does not say which is its array of vectors")
    call("import", "two.npz", "--vectors", "two", "--ids", "names", "--out", "b.parquet")
    check("b.parquet", -vectors)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 5), pa.large_list(pa.float64()), pa.list_(pa.float32())])
def test_parquet_with_ids_that_are_no_files(kind, call, vectors):
    """As Cosmos Embed writes it: ids of clips, a column of vectors."""
    ids = [f"clip-{number}" for number in range(7)]
    table = pa.table({"id": ids, "start": list(range(7)), "embedding": pa.array(vectors.tolist(), kind)})
    pq.write_table(table, "clips.parquet")
    done = call("import", "clips.parquet", "--out", "pool.parquet")
    assert check("pool.parquet", vectors, ids).column_names == ["filepath", "embedding", "start"]
    assert "ids are mined as they are" in done.stdout
    result = mine("pool.parquet", "pool.parquet", "mined.parquet", topn=1)
    assert pq.read_table(result.path).column("filepath").to_pylist() == ids
    assert any("encoder" in warning for warning in result.warnings)


def test_a_folder_of_parquet_and_numbers_as_ids(call, vectors, tmp_path):
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate((slice(0, 4), slice(4, 7))):
        part = pa.table({"uuid": list(range(7))[rows], "vector": vectors[rows].tolist()})
        pq.write_table(part, f"parts/{number}.parquet")
    call("import", "parts", "--out", "pool.parquet")
    check("pool.parquet", vectors, map(str, range(7)))


def test_files_of_unlike_columns_are_refused_or_cut_to_what_is_common(call, vectors, tmp_path):
    (tmp_path / "parts").mkdir()
    for number, extra in enumerate(("a", "b")):
        ids = [f"{number}{row}" for row in range(7)]
        table = pa.table({"filepath": ids, "embedding": vectors.tolist(), "label": ["x"] * 7, extra: ids})
        pq.write_table(table, f"parts/{number}.parquet")
    call("import", "parts", "--out", "pool.parquet", fails="cannot be read as one table")
    assert not (tmp_path / "pool.parquet").exists()
    call("export", "numpy", "parts", "--out", "arrays")
    assert (tmp_path / "arrays" / "rows.csv").read_text().splitlines()[:2] == ['"filepath","label"', '"00","x"']
    np.testing.assert_array_equal(np.load("arrays/embeddings.npy"), np.tile(vectors, (2, 1)))


def packed(vector):
    """A NumPy array as FiftyOne puts it into JSON."""
    stream = io.BytesIO()
    np.save(stream, vector)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(stream.getvalue())).decode(), "subType": "00"}}


@pytest.mark.parametrize("store", [packed, lambda vector: vector.tolist()])
def test_a_fiftyone_dataset(store, call, vectors, tmp_path):
    samples = [
        {
            "filepath": path,
            "tags": [],
            "features": store(vector),
            "ground_truth": {"_cls": "Classification", "label": "x"},
        }
        for path, vector in zip(PATHS, vectors, strict=True)
    ]
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "samples.json").write_text(json.dumps({"samples": samples}))
    call("import", "dataset", "--out", "table.parquet")
    assert check("table.parquet", vectors).column("label").to_pylist() == ["x"] * 7
    # Exported with its images, its paths start in its own folder.
    (tmp_path / "dataset" / "images").mkdir()
    (tmp_path / "dataset" / PATHS[0]).write_text("an image")
    call("import", "dataset", "--out", "table.parquet", "--force")
    check("table.parquet", vectors, [f"dataset/{path}" for path in PATHS])


def test_what_cannot_be_is_refused_and_nothing_is_left(call, vectors, tmp_path):
    np.save("v.npy", vectors)
    np.save("cube.npy", vectors[None])
    np.save("nan.npy", np.where(np.arange(5) == 2, np.nan, vectors))
    with (tmp_path / "evil.npy").open("wb") as stream:
        np.save(stream, np.array([print, 1], object), allow_pickle=True)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1]))
    (tmp_path / "list.txt").write_text("\n".join(PATHS))
    (tmp_path / "short.txt").write_text("\n".join(PATHS[:3]))
    (tmp_path / "encoder.json").write_text(identity(dimension=4).to_json())
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), "none.parquet")
    pq.write_table(pa.table({"id": ["a", None], "vector": [[1.0], [2.0]]}), "null.parquet")
    with_list = ("--paths", "list.txt")
    for words, message in (
        (("missing.npy", *with_list), "does not exist"),
        (("v.npy",), "holds vectors without paths"),
        (("v.npy", "--paths", "short.txt"), "has 7 vectors, and short.txt has 3 rows"),
        (("cube.npy", *with_list), "not rows of numbers"),
        (("nan.npy", *with_list), "NaN or infinity"),
        (("evil.npy", *with_list), "objects are not unpickled"),
        (("pickle.npz",), "cannot be read"),
        (("none.parquet",), "does not say which is its column of vectors"),
        (("null.parquet",), "has 1 rows without a path or id"),
        (("list.txt",), "no kind of embeddings that is known here"),
        (("v.npy", *with_list, "--encoder", "encoder.json"), "of an encoder with 4"),
    ):
        call("import", *words, "--out", "out.parquet", fails=message)
        assert not (tmp_path / "out.parquet").exists()
    (tmp_path / "there.parquet").write_text("mine")
    call("import", "v.npy", *with_list, "--out", "there.parquet", fails="is there already")
    call("import", "v.npy", *with_list, "--out", "there.parquet", "--force")
    check("there.parquet", vectors)


# What goes out


def test_numpy_goes_out_and_comes_back_with_its_encoder(call, vectors, tmp_path):
    write_embeddings(
        tmp_path / "pool.parquet", vectors, filepaths=['a "b",c.png', *PATHS[1:]], labels=["x", "01"] * 3 + ["ü"],
        who=identity(dimension=5), row_group_size=3,
    )  # fmt: skip
    call("export", "numpy", "pool.parquet", "--out", "arrays")
    np.testing.assert_array_equal(np.load("arrays/embeddings.npy"), vectors)
    call(
        "import", "arrays/embeddings.npy", "--paths", "arrays/rows.csv", "--encoder", "arrays/encoder.json",
        "--out", "back.parquet",
    )  # fmt: skip
    back, ours = pq.read_table("back.parquet"), pq.read_table("pool.parquet")
    assert back.equals(ours)
    stored = EncoderIdentity.from_json(back.schema.metadata[b"lookalike"].decode(), "back")
    assert stored.fingerprint == identity(dimension=5).fingerprint
    call("export", "numpy", "pool.parquet", "--out", "arrays", fails="is there already")
    call("export", "numpy", "pool.parquet", "--out", "arrays", "--force")
    (tmp_path / "arrays" / "notes.txt").write_text("mine")
    call("export", "numpy", "pool.parquet", "--out", "arrays", "--force", fails="holds other files")


def test_of_a_run_the_mined_images_go_out(call, tmp_path):
    run = make_run(tmp_path / "run", targets=3, pool=9, pool_labels=list("abcabcabc"))
    call("export", "numpy", run.path, "--out", "arrays")
    mined = pq.read_table(run.mined).column("filepath").to_pylist()
    pool = dict(
        zip(*(pq.read_table(run.pool).column(name).to_pylist() for name in ("filepath", "embedding")), strict=True)
    )
    np.testing.assert_array_equal(
        np.load("arrays/embeddings.npy"), np.array([pool[path] for path in mined], np.float32)
    )
    rows = (tmp_path / "arrays" / "rows.csv").read_text().splitlines()
    assert rows[0] == '"filepath","label","target","target_label","rank","distance","score"'
    assert len(rows) == len(mined) + 1
    alone = tmp_path / "alone.parquet"
    pq.write_table(pq.read_table(run.mined), alone)
    call("export", "numpy", alone, "--out", "other", fails="no run stands beside it")
    call("export", "fiftyone", run.path, "--out", "dataset", "--vectors")
    call("import", "dataset", "--out", "back.parquet")
    check("back.parquet", np.array([pool[path] for path in mined], np.float32), mined)


def test_lance_goes_out_and_comes_back(call, vectors, tmp_path):
    lance = pytest.importorskip("lance")
    write_embeddings(
        tmp_path / "pool.parquet", vectors, filepaths=PATHS, labels=list("abcdefg"), who=identity(dimension=5)
    )
    call("export", "lance", "pool.parquet", "--out", "pool.lance")
    schema = lance.dataset("pool.lance").schema
    assert schema.field("vector").type == pa.list_(pa.float32(), 5)
    call("import", "pool.lance", "--out", "back.parquet")
    assert check("back.parquet", vectors).column("label").to_pylist() == list("abcdefg")
    call("export", "lance", "pool.parquet", "--out", "pool.lance", fails="is there already")
    call("export", "lance", "pool.parquet", "--out", "pool.lance", "--force")
    call("export", "lance", "pool.parquet", "--out", "pool", fails="ends in .lance")
    (tmp_path / "x.lance").mkdir()
    call("import", "x.lance", "--out", "x.parquet", fails="cannot be read")


def test_without_the_package_the_extra_is_named(call, vectors, tmp_path, monkeypatch):
    write_embeddings(tmp_path / "pool.parquet", vectors, filepaths=PATHS)
    (tmp_path / "x.lance").mkdir()
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    for words in (("export", "lance", "pool.parquet", "--out", "y.lance"), ("import", "x.lance", "--out", "t.parquet")):
        call(*words, fails="pip install 'lookalike[lance]'")


def test_an_import_of_many_rows_is_written_part_by_part(tmp_path):
    vectors = np.random.default_rng(1).standard_normal((20_000, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "list.txt").write_text("\n".join(f"{number}.png" for number in range(len(vectors))))
    done = import_embeddings(tmp_path / "v.npy", tmp_path / "t.parquet", paths=tmp_path / "list.txt")
    assert done.rows == 20_000
    assert pq.ParquetFile(done.path).num_row_groups == 3
    check(done.path, vectors, [f"{number}.png" for number in range(20_000)])
