"""`lookalike export atlas`: a table that holds what the run knows of every image, and the command that opens it."""

import io
import shlex

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.errors import ConfigError, TableError
from lookalike.reports import atlas as atlas_module
from lookalike.reports.atlas import write_atlas
from lookalike.reports.projection import has_umap
from lookalike.tables.run_folder import RunFolder
from support.runs import make_run

OUTCOMES = ("kept", "label_mismatch", "over_distance", "duplicate")


def names(stem, count):
    return [f"/nowhere/{stem}_{number:05d}.png" for number in range(count)]


def run_of(place, targets=6, pool=300, **settings):
    return make_run(place, target_paths=names("t", targets), pool_paths=names("p", pool), **settings)


def check_against_pairs(atlas, folder):
    """Every row of the atlas agrees with the pair table and the embedding tables."""
    pairs = pd.read_parquet(folder.pairs)
    targets, pool = pd.read_parquet(folder.targets), pd.read_parquet(folder.pool)
    count = len(targets)
    assert (atlas.side[:count] == "target").all()
    assert set(atlas.side[count:]) <= {"mined", "pool"}
    assert atlas.row[:count].tolist() == list(range(count))
    rows = atlas.row[count:]
    assert rows.is_monotonic_increasing
    assert rows.is_unique
    assert set(pairs.source_row) <= set(rows)
    assert set(rows[atlas.side == "mined"]) == set(pairs[pairs.outcome == "kept"].source_row)
    assert atlas.filepath.tolist() == [*targets.filepath, *pool.filepath[rows]]
    place = {row: number for number, row in rows.items()}
    for number, row in atlas.iterrows():
        mine = pairs[pairs.target_row == row.row] if number < count else pairs[pairs.source_row == row.row]
        mine = mine.sort_values("distance", kind="stable")
        others = mine.source_row.map(place) if number < count else mine.target_row
        assert sorted(row.neighbors["ids"]) == sorted(others)
        assert list(row.neighbors["distances"]) == mine.distance.astype(float).tolist()
        assert row.times_found == (0 if number < count else len(mine))
        assert (row.distance == mine.distance.min()) or (np.isnan(row.distance) and not len(mine))
        if number >= count:
            best = [
                name for name in ("kept", "label_mismatch", "over_distance", "duplicate") if name in set(mine.outcome)
            ]
            assert [row.outcome] == best[:1] if best else pd.isna(row.outcome)


def test_every_row_agrees_with_the_tables(tmp_path):
    folder = run_of(tmp_path / "run", topn=4, distance_threshold=0.3, target_labels=list("aabbcc"))
    written = write_atlas(folder, pictures=False)
    atlas = pd.read_parquet(written.path)
    assert written.path == folder.path / "atlas.parquet"
    assert (written.rows, written.targets, written.pool, written.pool_total) == (306, 6, 300, 300)
    assert tuple(atlas.columns) == written.columns
    assert "picture" not in atlas
    assert atlas.label[:6].tolist() == list("aabbcc")
    assert atlas.label[6:].isna().all()
    assert np.isfinite(atlas[["x", "y"]]).all(axis=None)
    check_against_pairs(atlas, folder)


def test_a_sample_keeps_what_was_found(tmp_path):
    folder = run_of(tmp_path / "run", topn=4, pool_labels=[str(number % 3) for number in range(300)])
    written = write_atlas(folder, tmp_path / "some.parquet", sample=20, pictures=False)
    atlas = pd.read_parquet(tmp_path / "some.parquet")
    found = pd.read_parquet(folder.pairs).source_row.nunique()
    assert 20 <= written.pool <= 20 + found
    assert written.rows == len(atlas) == 6 + written.pool
    assert atlas.label[6:].tolist() == [str(row % 3) for row in atlas.row[6:]]
    check_against_pairs(atlas, folder)
    again = write_atlas(folder, tmp_path / "again.parquet", sample=20, pictures=False)
    assert again.path.read_bytes() == written.path.read_bytes()


@pytest.mark.skipif(has_umap(), reason="UMAP's map of few rows is another one")
def test_a_large_pool_is_projected_part_by_part(tmp_path, monkeypatch):
    """Above the bound, the axes come from a sample; here the sample is everything, so the map is the same."""
    folder = run_of(tmp_path / "run", knn_metric="euclidean")
    whole = pd.read_parquet(write_atlas(folder, tmp_path / "whole.parquet", sample=0, pictures=False).path)
    monkeypatch.setattr(atlas_module, "MOST_UMAP", 10)
    parts = pd.read_parquet(write_atlas(folder, tmp_path / "parts.parquet", sample=0, pictures=False).path)
    np.testing.assert_allclose(parts[["x", "y"]], whole[["x", "y"]], atol=1e-9)
    pd.testing.assert_frame_equal(
        parts.drop(columns=["x", "y", "neighbors"]), whole.drop(columns=["x", "y", "neighbors"])
    )


def test_the_command_writes_pictures_and_says_how_to_open_it(tmp_path, run_command):
    folder = make_run(tmp_path / "a run", targets=2, pool=9)
    (tmp_path / "images" / "pool_003.png").unlink()
    done = run_command("lookalike", "export", "atlas", folder.path, "--sample", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 targets, 9 of 9 pool images" in done.stdout
    words = shlex.split(done.last_line)
    assert words[:2] == ["embedding-atlas", str(folder.path / "atlas.parquet")]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options == {
        "--x": "x", "--y": "y", "--neighbors": "neighbors", "--image": "picture", "--pagerank": "times_found",
    }  # fmt: skip
    table = pq.read_table(words[1])
    assert set(options.values()) <= set(table.column_names)
    pictures = table.column("picture").to_pylist()
    assert [number for number, picture in enumerate(pictures) if picture is None] == [5]
    first = Image.open(io.BytesIO(pictures[0]))
    assert (first.format, first.size) == ("JPEG", (64, 48))
    # pandas, by which embedding-atlas reads, gives dictionaries of equal lengths.
    neighbors = pd.read_parquet(words[1]).neighbors
    assert all(set(one) == {"ids", "distances"} and len(one["ids"]) == len(one["distances"]) for one in neighbors)


def test_a_run_without_pairs_has_no_neighbours_to_show(tmp_path):
    folder = run_of(tmp_path / "run", target_labels=["a"] * 6, pool_labels=["b"] * 300, within_label=True)
    written = write_atlas(folder, pictures=False)
    assert "--neighbors" not in written.command
    assert set(pd.read_parquet(written.path).side) == {"target", "pool"}


def test_wrong_calls_are_refused(tmp_path, run_command):
    folder = run_of(tmp_path / "run")
    before = folder.pool.read_bytes()
    with pytest.raises(TableError, match="would be overwritten"):
        write_atlas(folder, folder.pool)
    assert folder.pool.read_bytes() == before
    with pytest.raises(ConfigError, match="sample=-1"):
        write_atlas(folder, sample=-1)
    with pytest.raises(TableError, match=r"run\.json"):
        write_atlas(RunFolder(tmp_path))
    done = run_command("lookalike", "atlas", tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 1
    assert "What to do: name the folder of a run" in done.stderr
    assert not (tmp_path / "nothing").exists()
