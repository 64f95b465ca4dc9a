"""Section 2 of the drop-in contract, `embedding image_embeddings`, and section 8: bad images are set aside."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import lookalike

PASS, FAIL = "Execution status: PASS", "Execution status: FAIL"


def vectors(table):
    """The `embedding` column as a matrix."""
    return np.stack(table.column("embedding").to_numpy(zero_copy_only=False))


def good(images):
    """The paths of all images in the folder."""
    return sorted(map(str, images.iterdir()))


@pytest.fixture(scope="session")
def mixed_run(tmp_path_factory, run_command, clip_snapshot, images):
    """One run of the command over good, repeated and bad images with columns of many types."""
    folder = tmp_path_factory.mktemp("mixed run")
    paths = good(images)
    (folder / "empty.jpg").touch()
    (folder / "notes.jpg").write_text("these are notes, not pixels")
    (folder / "short.jpg").write_bytes((images / "board_01.jpg").read_bytes()[:400])
    (folder / "folder.jpg").mkdir()
    Image.new("RGB", (400, 300)).save(folder / "large.png")
    (folder / "here.png").write_bytes((images / "board_00.png").read_bytes())
    filepaths = [
        paths[0], "none.jpg", *paths[1:4], "empty.jpg", "notes.jpg", *paths[4:], "short.jpg", "here.png",
        paths[0], "folder.jpg", "large.png", paths[3],
    ]  # fmt: skip
    reasons = {
        "none.jpg": "missing",
        "empty.jpg": "not_an_image",
        "notes.jpg": "not_an_image",
        "short.jpg": "truncated",
        "folder.jpg": "unreadable",
        "large.png": "too_large",
    }
    rows = len(filepaths)
    table = pa.table(
        {
            "row": pa.array(range(rows), pa.int16()),
            "embedding": ["an earlier one"] * rows,
            "label": pa.array([None if row % 5 == 0 else f" Label {row % 3} " for row in range(rows)]),
            "filepath": filepaths,
            "siamese_score": np.linspace(0, 1, rows, dtype=np.float32),
            "weakness": pa.array([[row, row + 1] for row in range(rows)], pa.list_(pa.int64())),
            "line": pa.array([f"line {row % 2}" for row in range(rows)]).dictionary_encode(),
            "seen": pa.array([row * 1_000_000 for row in range(rows)], pa.timestamp("us", tz="UTC")),
            "where": pa.array([{"x": row, "y": -row} for row in range(rows)]),
            "usable": pa.array([row % 2 == 0 for row in range(rows)]),
        }
    )
    pq.write_table(table, folder / "targets.parquet", row_group_size=5)
    spec = {"input_parquet": "targets.parquet", "output_parquet": "x.parquet", "model": "CLIP", "batch_size": 4}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    before = {path.name for path in folder.iterdir()}
    done = run_command(
        "embedding", "image_embeddings", "-e", "spec.yaml", f"model_path={clip_snapshot}", "max_pixels=100000",
        "output_parquet=new folder/and one more/targets, embedded.parquet", cwd=folder,
    )  # fmt: skip
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    output = folder / "new folder" / "and one more" / "targets, embedded.parquet"
    return SimpleNamespace(
        folder=folder,
        done=done,
        input=table,
        output=output,
        table=pq.read_table(output),
        quarantine=pq.read_table(output.with_name("targets, embedded_quarantine.parquet")),
        bad=reasons,
        kept=[row for row, path in enumerate(filepaths) if path not in reasons],
        new_in_folder={path.name for path in folder.iterdir()} - before,
    )


@pytest.fixture
def embed(tmp_path, clip_snapshot, images):
    """Embed a list of paths, or all images, in this process; returns the result and the table."""

    def run(filepaths=None, **settings):
        settings = {"model": "CLIP", "model_path": str(clip_snapshot), **settings}
        table = pa.table({"filepath": good(images) if filepaths is None else filepaths})
        result = lookalike.embed_images(table, tmp_path / "out" / "e.parquet", **settings)
        return result, pq.read_table(result.path)

    return run


# The output table


def test_columns_in_order(mixed_run):
    """Section 2: the columns are `filepath`, `embedding`, then every further input column in input order."""
    assert mixed_run.table.column_names == [
        "filepath", "embedding", "row", "label", "siamese_score", "weakness", "line", "seen", "where", "usable",
    ]  # fmt: skip


def test_one_row_for_each_input_row(mixed_run):
    """Section 2: one row for each input row, in input order, less those set aside; repeated paths stay."""
    assert mixed_run.table.column("row").to_pylist() == mixed_run.kept
    expected = mixed_run.input.column("filepath").take(pa.array(mixed_run.kept)).to_pylist()
    assert mixed_run.table.column("filepath").to_pylist() == expected
    assert len(set(expected)) < len(expected)


@pytest.mark.parametrize("column", ["row", "label", "siamese_score", "weakness", "line", "seen", "where", "usable"])
def test_further_columns_are_unchanged(mixed_run, column):
    """Section 2: every further input column is carried unchanged, in value and in type, by position."""
    carried = mixed_run.table.column(column)
    assert carried.type == mixed_run.input.schema.field(column).type
    expected = mixed_run.input.column(column).take(pa.array(mixed_run.kept))
    assert carried.to_pylist() == expected.to_pylist()


def test_earlier_embedding_column_is_replaced(mixed_run):
    """Section 2: an `embedding` column in the input is replaced."""
    assert mixed_run.table.column_names.count("embedding") == 1
    assert mixed_run.table.schema.field("embedding").type == pa.list_(pa.float32())


def test_vectors_are_float32_lists(mixed_run):
    """Section 8: vectors are lists of float32, not of doubles, of the model's dimension, and finite."""
    assert pa.types.is_float32(mixed_run.table.schema.field("embedding").type.value_type)
    matrix = vectors(mixed_run.table)
    assert matrix.shape == (len(mixed_run.kept), 24)
    assert np.isfinite(matrix).all()


def test_every_row_has_the_vector_of_its_own_image(mixed_run):
    """Section 8: joined by position: equal files have equal vectors, different files have different ones."""
    files = mixed_run.table.column("filepath").to_pylist()
    files = [file.replace("here.png", files[0]) for file in files]
    matrix = vectors(mixed_run.table)
    for row, file in enumerate(files):
        for other in range(row):
            assert np.allclose(matrix[row], matrix[other], atol=1e-4) == (file == files[other])


def test_parent_folders_are_made(mixed_run):
    """Section 2: the parent folders of `output_parquet` are made."""
    assert mixed_run.output.is_file()
    assert mixed_run.new_in_folder == {"new folder"}


def test_nothing_else_is_left_behind(mixed_run):
    """Section 1: beside the output and its quarantine table nothing is written, no temporary file either."""
    assert {path.name for path in mixed_run.output.parent.iterdir()} == {
        "targets, embedded.parquet",
        "targets, embedded_quarantine.parquet",
    }


def test_encoder_identity_is_in_the_metadata(mixed_run):
    """Section 8: the encoder's identity is in the parquet metadata."""
    identity = json.loads(mixed_run.table.schema.metadata[b"lookalike"])
    assert identity["model"]["family"] == "CLIP"
    assert identity["model"]["dimension"] == 24
    assert len(identity["fingerprint"]) == 64


def test_table_can_be_mined(mixed_run, run_command, tmp_path):
    """Section 8: both commands fit: mined against itself, every image's nearest is itself, without a warning."""
    sides = (f"source_parquet={mixed_run.output}", f"target_parquet={mixed_run.output}", "output_parquet=mined.parquet")
    done = run_command("tmm", "nearest_neighbors", *sides, "topn=1", "filter_by_label=true", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    pairs = pq.read_table(tmp_path / "mined_pairs.parquet")
    assert pairs.column("target_filepath").to_pylist() == mixed_run.table.column("filepath").to_pylist()
    assert set(pairs.column("distance").to_pylist()) == {0.0}
    assert "WARNING" not in done.stderr


# What is printed


def test_path_rows_and_columns_are_printed(mixed_run):
    """Section 1: after writing, the path, the row count and the column list are printed, `embedding` among them."""
    assert "new folder/and one more/targets, embedded.parquet" in mixed_run.done.body
    assert f"Rows: {len(mixed_run.kept)}" in mixed_run.done.lines
    assert f"Columns: {mixed_run.table.column_names}" in mixed_run.done.lines


def test_no_traceback(mixed_run):
    """Section 8: one unreadable image does not end the run; no traceback."""
    assert "Traceback" not in mixed_run.done.stderr


def test_count_of_bad_images_is_printed(mixed_run):
    """Section 8: the count of images set aside is in the summary, and on the log with the reasons."""
    assert f"Images set aside: {len(mixed_run.bad)}" in mixed_run.done.lines
    for reason in mixed_run.bad.values():
        assert reason in mixed_run.done.stderr


# Images set aside


def test_quarantine_says_which_and_why(mixed_run):
    """Section 8: a bad image is set aside with its reason."""
    found = dict(
        zip(
            mixed_run.quarantine.column("filepath").to_pylist(),
            mixed_run.quarantine.column("reason").to_pylist(),
            strict=True,
        )
    )
    assert found == mixed_run.bad


def test_quarantine_columns(mixed_run):
    """Section 8: the quarantine table has row, path, reason, detail and size; rows are those of the input."""
    rows = mixed_run.quarantine.to_pylist()
    assert [set(row) for row in rows] == [{"row", "filepath", "reason", "detail", "size"}] * len(mixed_run.bad)
    filepaths = mixed_run.input.column("filepath").to_pylist()
    assert [filepaths[row["row"]] for row in rows] == [row["filepath"] for row in rows]
    assert sorted(row["row"] for row in rows) == [row["row"] for row in rows]
    assert all(row["detail"] for row in rows)


def test_quarantine_sizes(mixed_run):
    """Section 8: the quarantine table has each file's size in bytes, where there is a file."""
    sizes = {row["filepath"]: row["size"] for row in mixed_run.quarantine.to_pylist()}
    assert (sizes["none.jpg"], sizes["empty.jpg"], sizes["short.jpg"]) == (None, 0, 400)


def test_no_bad_image_no_quarantine_table(embed, tmp_path):
    """Section 8: where every image is good there is no quarantine table, an earlier run's neither."""
    result, _ = embed(["none.jpg", str(_image(tmp_path / "a.png"))])
    assert result.quarantine_path.is_file()
    result, _ = embed([str(tmp_path / "a.png")])
    assert result.quarantine_path is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["e.parquet"]


def test_every_image_bad(embed, tmp_path):
    """Section 8: where no image can be embedded the run fails, says why, and writes the reasons but no output."""
    with pytest.raises(lookalike.ImagesFailed, match=r"2 images.*2 missing"):
        embed(["none.jpg", "nor this.jpg"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["e_quarantine.parquet"]


def test_strict_run(run_command, tmp_path, clip_snapshot, images):
    """Section 8: `on_error=raise` ends the run at the first bad image, names it, and leaves nothing behind."""
    (tmp_path / "list.txt").write_text("\n".join([*good(images), "none.jpg"]))
    settings = ("input_parquet=list.txt", "output_parquet=out/e.parquet", "model=CLIP", f"model_path={clip_snapshot}")
    done = run_command("embedding", "image_embeddings", *settings, "on_error=raise", "batch_size=3", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (1, FAIL)
    assert "none.jpg" in done.stderr
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_strict_run_with_good_images(embed):
    """Section 8: `on_error=raise` does not disturb a run whose images are all good."""
    result, table = embed(on_error="raise")
    assert table.num_rows == result.rows == 12


def test_failed_run_keeps_the_earlier_output(embed):
    """Section 8: finished work stays: a run that fails does not touch the output of an earlier one."""
    result, _ = embed()
    before = result.path.read_bytes()
    with pytest.raises(lookalike.ImagesFailed):
        embed(["none.jpg"])
    assert result.path.read_bytes() == before


@pytest.mark.parametrize("path", ["", "a\0b.jpg", "nosuch://bucket/a.jpg", "oss://bucket/a.jpg", "x" * 5000])
def test_path_that_cannot_be_opened(embed, tmp_path, path):
    """Section 8: a path that no file can have is set aside like any bad image; one that needs a package says so."""
    good_one = str(_image(tmp_path / "a.png"))
    try:
        result, _ = embed([good_one, path])
    except lookalike.LookalikeError as error:
        assert path.startswith("oss")
        assert "ossfs" in str(error)
    else:
        assert [image.filepath for image in result.quarantined] == [path]


# Settings


def test_batch_size_does_not_change_vectors(embed):
    """Section 2: `batch_size` is only the number of images per forward pass."""
    whole = vectors(embed()[1])
    for batch_size in (1, 5, 12):
        np.testing.assert_allclose(vectors(embed(batch_size=batch_size)[1]), whole, rtol=1e-4, atol=1e-5)


def test_same_inputs_same_bytes(embed):
    """Section 8: embedding again gives the same table, byte for byte."""
    first = embed()[0].path.read_bytes()
    assert embed()[0].path.read_bytes() == first


def test_model_config_path_is_ignored_without_a_tao_checkpoint(embed):
    """Section 2: `model_config_path` is ignored with anything but a TAO checkpoint."""
    assert embed(model_config_path="nowhere.yaml")[0].rows == 12


def test_relative_paths_start_in_the_working_directory(embed, images, monkeypatch):
    """Section 2: `filepath` may be relative; it starts in the working directory, and is kept as it was written."""
    monkeypatch.chdir(images.parent)
    _, table = embed([os.path.join(images.name, "board_00.png")])  # noqa: PTH118 - a string, as a table holds it
    assert table.column("filepath").to_pylist() == [f"{images.name}/board_00.png"]


# What is refused before a model is loaded


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["batch_size=0"], ["batch_size"]),
        (["model=CLAP"], ["CLAP", "CLIP", "SigLIP"]),
        (["on_error=ignore"], ["on_error", "quarantine", "raise"]),
        (["input_parquet=none.parquet"], ["none.parquet", "does not exist"]),
        (["input_parquet=other.parquet"], ["other.parquet", "'filepath'", "path", "label"]),
        (["input_parquet=nulls.parquet"], ["nulls.parquet", "'filepath'", "null", "[1, 2]"]),
        (["input_parquet=numbers.parquet"], ["numbers.parquet", "'filepath'", "int64"]),
        (["input_parquet=norows.parquet"], ["norows.parquet", "no rows"]),
        (["input_parquet=damaged.parquet"], ["damaged.parquet", "cannot be read"]),
        (["input_parquet=notes.docx"], ["notes.docx", ".docx"]),
        (["input_parquet=oss://bucket/pool.parquet"], ["ossfs"]),
        (["input_parquet=nosuch://bucket/pool.parquet"], ["nosuch"]),
        (["output_parquet=in.parquet"], ["in.parquet", "overwritten"]),
        (["output_parquet=sub"], ["sub", "folder"]),
        (["output_parquet=notes.docx/e.parquet"], ["notes.docx"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and len(value) == 1 else "",
)
def test_refused_before_any_work(run_command, tmp_path, words, parts):
    """Section 8: what cannot be right is refused with FAIL and a message that names it; nothing is written."""
    pq.write_table(pa.table({"filepath": ["a.jpg"]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"path": ["a.jpg"], "label": ["x"]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"filepath": ["a.jpg", None, None]}), tmp_path / "nulls.parquet")
    pq.write_table(pa.table({"filepath": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"filepath": pa.array([], pa.string())}), tmp_path / "norows.parquet")
    (tmp_path / "damaged.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:-20])
    (tmp_path / "notes.docx").write_text("notes")
    (tmp_path / "sub").mkdir()
    before = sorted(tmp_path.rglob("*"))
    settings = ["input_parquet=in.parquet", "output_parquet=e.parquet", "model=CLIP", "model_path=/no/model"]
    done = run_command("embedding", "image_embeddings", *settings, *words, cwd=tmp_path)
    assert (done.returncode, done.last_line) == (1, FAIL)
    assert [part for part in parts if part not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def _image(path):
    Image.new("RGB", (20, 30), (10, 200, 90)).save(path)
    return path
