"""The plots: real PNGs that show what the tables hold, the same bytes each time, sensible for any run."""

import io
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.errors import TableError
from lookalike.reports import drawing
from lookalike.reports.captions import plot_captions
from lookalike.reports.plots import write_plots
from lookalike.reports.projection import Principal, has_umap
from lookalike.reports.sample import VectorRows
from lookalike.tables.run_folder import RunFolder
from support.embeddings import write_embeddings
from support.runs import make_run


def names(stem, count):
    return [f"/nowhere/{stem}_{number:05d}.png" for number in range(count)]


def run_of(place, targets=12, pool=60, **settings):
    return make_run(place, target_paths=names("t", targets), pool_paths=names("p", pool), **settings)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count_near(picture, color, limit=12):
    """Pixels of a colour."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) <= limit).sum())


SHAPES = {
    "plain": {},
    "labels": {"target_labels": ["a", "b"] * 6, "pool_labels": ["a", "b", "c"] * 20},
    "one of each": {"targets": 1, "pool": 1, "topn": 1},
    "one dimension": {"dimension": 1},
    "two targets": {"targets": 2, "pool": 2, "topn": 2, "dimension": 3, "knn_metric": "manhattan"},
    "all equal": {"vectors": (np.ones((12, 8)), np.ones((60, 8)))},
    "zero vectors": {"vectors": (np.zeros((12, 8)), np.zeros((60, 8)))},
    "many ranks": {"topn": 50, "knn_metric": "euclidean"},
    "threshold far up": {"distance_threshold": 2.0},
    "empty": {"distance_threshold": 0.0, "pool_labels": ["a"] * 60},
    "huge": {"vectors": (np.ones((12, 8)) * 1e18, np.eye(8).repeat(8, axis=0)[:60] * 1e18), "knn_metric": "euclidean"},
    "strange labels": {
        "target_labels": [None, "", "$x_", "划痕", "a\nb", "<b>"] * 2,
        "pool_labels": [None, "$x_", "划痕", "x" * 300, "\\frac{", "%s"] * 10,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_run_can_be_drawn(shape, tmp_path, recwarn):
    folder = run_of(tmp_path / "run", **SHAPES[shape])
    written = write_plots(folder)
    expected = ["distances", "labels", "map"] if shape in ("labels", "strange labels") else ["distances", "map"]
    assert [path.stem for path in written] == expected
    assert sorted(folder.plots.iterdir()) == sorted(written)
    for path in written:
        picture = Image.open(path)
        assert picture.format == "PNG"
        assert 900 <= picture.width <= 1600
        assert 250 <= picture.height <= 1600
        assert path.stat().st_size < 400_000
        assert len(np.unique(pixels(path) @ [1 << 16, 1 << 8, 1])) > 20, "blank"
    plots = plot_captions(folder)
    assert [plot.name for plot in plots] == expected
    for plot in plots:
        assert all((plot.title, plot.caption.endswith("."), plot.alt.endswith(".")))
    assert not [warning for warning in recwarn if "lookalike" in str(warning.filename)]


def test_the_same_run_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    folder = run_of(tmp_path / "run", **SHAPES["labels"])
    first = [path.read_bytes() for path in write_plots(folder)]
    with matplotlib.rc_context({"font.size": 30, "figure.dpi": 10, "axes.facecolor": "black", "savefig.dpi": 20}):
        assert [path.read_bytes() for path in write_plots(folder)] == first
        assert matplotlib.rcParams["font.size"] == 30


def test_a_run_without_pairs_has_a_map_only(tmp_path):
    folder = run_of(tmp_path / "run", target_labels=["a"] * 12, pool_labels=["b"] * 60, within_label=True)
    folder.plots.mkdir()
    (folder.plots / "distances.png").write_bytes(b"of an earlier run")
    assert [path.stem for path in write_plots(folder)] == ["map"]
    assert [plot.name for plot in plot_captions(folder)] == ["map"]


def test_the_threshold_and_the_dropped_pairs_are_drawn(tmp_path):
    free = run_of(tmp_path / "free", topn=5)
    cut = run_of(tmp_path / "cut", topn=5, distance_threshold=0.4)
    pictures = [pixels(write_plots(folder)[0]) for folder in (free, cut)]
    dropped = drawing.OUTCOMES["over_distance"]
    assert count_near(pictures[0], dropped) == 0
    assert count_near(pictures[1], dropped) > 500
    # A dashed line across both panels.
    dark = [(np.abs(picture - [0x1B, 0x1F, 0x24]).max(axis=2) < 40).sum(axis=1).max() for picture in pictures]
    assert dark[1] > dark[0] + 300
    captions = plot_captions(cut)
    assert "The threshold is 0.4." in captions[0].alt
    pairs = pd.read_parquet(cut.pairs)
    medians = pairs.groupby("rank").distance.median()
    assert f"median {medians[1]:.4g} at rank 1, {medians[5]:.4g} at rank 5" in captions[0].alt


def test_labels_are_compared_with_the_pool(tmp_path):
    rng = np.random.default_rng(0)
    pool = np.concatenate([rng.standard_normal((40, 8)) + 9, rng.standard_normal((20, 8)) - 9])
    folder = run_of(
        tmp_path / "run", vectors=(rng.standard_normal((12, 8)) - 9, pool), target_labels=["rare"] * 12,
        pool_labels=["common"] * 40 + ["Rare"] * 20,
    )  # fmt: skip
    write_plots(folder)
    plot = plot_captions(folder)[1]
    assert plot.alt == "Most mined images have the label Rare: 100% of the mined list, 33% of the pool."
    picture = pixels(plot.path)
    for color in (drawing.MINED, drawing.POOL, drawing.TARGET):
        assert count_near(picture, color) > 100


def test_of_many_labels_the_most_mined_are_drawn(tmp_path):
    folder = run_of(tmp_path / "run", pool=500, pool_labels=[f"label {number % 100}" for number in range(500)])
    write_plots(folder)
    assert "Shown: the 20 labels mined most; 80 more are left out." in plot_captions(folder)[1].caption
    assert Image.open(folder.plots / "labels.png").height < 1600


def test_the_map_shows_every_kind_and_says_what_it_left_out(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 4)), rng.standard_normal((7000, 4))
    folder = run_of(tmp_path / "run", targets=30, pool=7000, vectors=vectors)
    path = write_plots(folder)[-1]
    picture = pixels(path)
    for color in (drawing.TARGET, drawing.MINED):
        assert count_near(picture, color) > 1000
    plot = plot_captions(folder)[-1]
    mined = len(pd.read_parquet(folder.mined))
    shown = int(plot.caption.split("A fixed random sample is shown: ")[1].split(" of ")[0])
    assert 5000 - mined <= shown <= 5000
    assert plot.caption.endswith(f"{shown} of {7000 - mined} pool.")
    assert f"30 targets as triangles, {mined} mined images as dots" in plot.alt


def test_what_is_near_is_drawn_near(tmp_path):
    """Two far groups: the targets of one lie on its side of the map."""
    rng = np.random.default_rng(0)
    pool = np.concatenate([rng.standard_normal((50, 6)), rng.standard_normal((50, 6)) + 40])
    folder = run_of(
        tmp_path / "run", pool=100, vectors=(rng.standard_normal((12, 6)) + 40, pool), knn_metric="euclidean"
    )
    picture = pixels(write_plots(folder)[-1])[120:]  # below the legend
    columns = {}
    for color in (drawing.TARGET, drawing.MINED):
        wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        columns[color] = np.flatnonzero((np.abs(picture - wanted).max(axis=2) <= 12).any(axis=0))
    middle = picture.shape[1] / 2
    sides = {bool(column.mean() > middle) for column in columns.values()}
    assert len(sides) == 1
    assert all(column.min() > middle or column.max() < middle for column in columns.values())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("shape", [(40, 6), (5, 30), (3, 1), (1, 4), (300, 128), (80, 200)])
def test_principal_components_are_those_of_the_singular_values(metric, shape):
    vectors = np.random.default_rng(0).standard_normal(shape)
    points = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if metric == "cosine" else vectors
    centred = points - points.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    principal = Principal.of(vectors, metric)
    projected = principal.project(vectors)
    assert projected.shape == (shape[0], 2)
    lengths = np.zeros(2)
    lengths[: len(values[:2])] = values[:2]
    np.testing.assert_allclose(np.linalg.norm(projected, axis=0), lengths, atol=1e-9)
    if (centred**2).sum() > 1e-20:
        np.testing.assert_allclose(principal.shares, lengths**2 / (values**2).sum(), atol=1e-9)


def test_equal_vectors_are_one_point():
    for scale in (0.0, 1e-9, 1.0, 1e9):
        vectors = np.full((50, 7), 0.1) * scale
        principal = Principal.of(vectors, "euclidean")
        assert principal.shares == (0.0, 0.0)
        assert not principal.project(vectors).any()


@pytest.mark.skipif(not has_umap(), reason="umap-learn is not installed")
def test_umap_is_used_where_it_is_installed_and_stays_the_same(tmp_path):
    folder = run_of(tmp_path / "run", pool=100)
    first = write_plots(folder)[-1].read_bytes()
    assert "UMAP" in plot_captions(folder)[-1].caption
    assert write_plots(folder)[-1].read_bytes() == first


@pytest.mark.parametrize("group", [None, 1, 7, 64])
def test_a_sample_is_fixed_spread_and_read_right(group, tmp_path):
    vectors = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    path = write_embeddings(tmp_path / "t.parquet", vectors, row_group_size=group)
    table = VectorRows(path, "no such column")
    rows = table.sample(100)
    assert len(rows) == len(set(rows)) == 100
    assert (np.diff(rows) > 0).all()
    assert (rows == VectorRows(path, "embedding").sample(100)).all()
    assert rows.min() < 100
    assert rows.max() >= 900
    np.testing.assert_array_equal(table.vectors(rows), vectors[rows])
    assert table.filepaths(rows) == [f"/pool/{row}.jpg" for row in rows]
    np.testing.assert_array_equal(table.sample(5000), np.arange(1000))


def test_captions_survive_files_that_are_no_plots(tmp_path):
    folder = run_of(tmp_path / "run")
    assert plot_captions(folder) == []
    write_plots(folder)
    (folder.plots / "map.png").write_bytes(b"no picture")
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "PNG")
    (folder.plots / "labels.png").write_bytes(stream.getvalue())
    assert [plot.name for plot in plot_captions(folder)] == ["distances", "labels"]
    assert plot_captions(folder)[1].caption == ""


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"run\.json"):
        write_plots(RunFolder(tmp_path))
    folder = run_of(tmp_path / "run")
    content = json.loads(folder.record.read_text())
    folder.record.write_text(json.dumps(content)[:-9])
    with pytest.raises(TableError, match="damaged"):
        write_plots(folder)
    assert not folder.plots.exists()
