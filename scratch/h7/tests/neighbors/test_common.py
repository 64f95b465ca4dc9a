"""One suite that every metric passes with every kind of input, device and shape."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lookalike import ConfigError, TableError, VectorError, nearest_neighbors
from lookalike.neighbors import search
from lookalike.neighbors.base import Neighbors
from lookalike.neighbors.devices import DealingFinder
from lookalike.neighbors.finder import CpuFinder
from lookalike.tables.embedding_stream import read_embedding_table
from support.embeddings import write_embeddings
from support.neighbors import METRICS, all_distances, assert_neighbors

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.standard_normal((23, 24)).astype(np.float32)
SOURCE = RANDOM.standard_normal((1_500, 24)).astype(np.float32)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks and groups so small that a few rows fill many."""
    monkeypatch.setattr(search, "LEAST_MEMORY", 0)
    monkeypatch.setattr(search, "_LEAST_CHUNK", 17)


@pytest.fixture
def folder(tmp_path):
    """The sources as a folder of three files of uneven lengths and row groups."""
    place = tmp_path / "pool"
    place.mkdir()
    for number, (first, last) in enumerate([(0, 700), (700, 701), (701, 1500)]):
        write_embeddings(place / f"{number}.parquet", SOURCE[first:last], row_group_size=64)
    return place


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["array", "tensor", "bfloat16", "half", "fortran", "path", "folder", "table"])
def test_any_kind_of_side(metric, kind, folder, tmp_path):
    source = SOURCE
    if kind == "tensor":
        source = torch.from_numpy(SOURCE).requires_grad_()
    elif kind == "bfloat16":
        source = torch.from_numpy(SOURCE).bfloat16()
    elif kind == "half":
        source = SOURCE.astype(np.float16)
    elif kind == "fortran":
        source = np.asfortranarray(SOURCE)
    elif kind == "path":
        source = write_embeddings(tmp_path / "one.parquet", SOURCE)
    elif kind == "folder":
        source = str(folder)
    elif kind == "table":
        source = read_embedding_table(str(folder), "embedding")
    values = SOURCE.astype(np.float16) if kind == "half" else SOURCE
    values = source.float().numpy() if kind == "bfloat16" else values
    assert_neighbors(nearest_neighbors(TARGET, source, 7, metric), all_distances(TARGET, values, metric), 7)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("within_label", [False, True])
def test_parts_of_a_folder_with_labels_and_exclusion(metric, within_label, folder, tmp_path):
    """Both sides in many parts; everything that can be asked for at once."""
    labels = [RANDOM.choice(["ok ", "OK", "solder", "rare", None], count) for count in (len(TARGET), len(SOURCE))]
    labels[0][3], labels[1][labels[1] == "rare"] = "nowhere", "Solder"
    for number, (first, last) in enumerate([(0, 700), (700, 701), (701, 1500)]):
        write_embeddings(folder / f"{number}.parquet", SOURCE[first:last], labels=labels[1][first:last].tolist())
    target = write_embeddings(tmp_path / "target.parquet", TARGET, labels=labels[0].tolist())
    excluded = RANDOM.random(len(SOURCE)) < 0.3
    found = nearest_neighbors(
        target, folder, 400, metric, within_label=within_label, excluded=excluded, memory_limit=100_000
    )
    distances = all_distances(TARGET, SOURCE, metric)
    distances[:, excluded] = np.inf
    if within_label:
        left, right = (np.array([str(label).strip().upper() for label in side]) for side in labels)
        distances[left[:, None] != right] = np.inf
        assert (found.rows[3] == -1).all()
    assert_neighbors(found, distances, 400)


def test_labels_of_arrays(tmp_path):
    found = nearest_neighbors(
        np.eye(2), np.array([[0.0, 1], [1, 0], [1, 1]]), 2, within_label=True, target_labels=["a", 2],
        source_labels=["2", 2.0, " A"],
    )  # fmt: skip
    assert found.rows.tolist() == [[2, -1], [0, -1]]
    assert np.isinf(found.distances[0, 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dimension", "sources", "k"), [(1, 300, 4), (8_192, 50, 3), (16, 1, 1), (8, 6_000, 4_096)])
def test_odd_shapes(metric, dimension, sources, k):
    target = RANDOM.standard_normal((5, dimension)).astype(np.float32)
    source = RANDOM.standard_normal((sources, dimension)).astype(np.float32)
    assert_neighbors(nearest_neighbors(target, source, k, metric), all_distances(target, source, metric), k)


@pytest.mark.parametrize("metric", METRICS)
def test_no_rows(metric):
    none = np.empty((0, 24), np.float32)
    assert nearest_neighbors(none, SOURCE, 5, metric).rows.shape == (0, 5)
    assert nearest_neighbors(TARGET, none, 5, metric).rows.shape == (23, 0)
    assert (nearest_neighbors(TARGET, SOURCE, 2, metric, excluded=np.ones(len(SOURCE), bool)).rows == -1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_subnormal_values(metric):
    tiny = (RANDOM.integers(-5, 6, (40, 8)) * 1e-44).astype(np.float32)
    assert_neighbors(nearest_neighbors(tiny[:5], tiny, 6, metric), all_distances(tiny[:5], tiny, metric), 6)


@pytest.mark.parametrize("metric", METRICS)
def test_ten_thousand_vectors_that_float32_scores_cannot_tell_apart(metric):
    centre = RANDOM.standard_normal(64).astype(np.float32)
    near = centre * (1 + RANDOM.integers(-8, 9, (10_000, 64)) * np.float32(2**-19)).astype(np.float32)
    target = near[::3_000]
    assert_neighbors(nearest_neighbors(target, near, 20, metric), all_distances(target, near, metric), 20)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_targets_and_chunks_does_not_matter(metric, folder):
    whole = nearest_neighbors(TARGET, SOURCE, 5, metric)
    order = RANDOM.permutation(len(TARGET))
    again = nearest_neighbors(TARGET[order], folder, 5, metric)
    np.testing.assert_array_equal(again.rows, whole.rows[order])
    np.testing.assert_array_equal(again.distances, whole.distances[order])


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"excluded": [True] * 4}, ConfigError, r"excluded has shape \(4,\)"),
        ({"memory_limit": 1000}, ConfigError, "memory_limit=1000"),
        ({"device": "tpu"}, ConfigError, "device='tpu'"),
        ({"within_label": True}, ConfigError, "target side has none"),
        ({"excluded": np.zeros(3, bool)}, ConfigError, r"excluded has shape \(3,\), and there are 1500 sources"),
        ({"excluded": np.zeros(1500, int)}, ConfigError, "excluded holds int64"),
        ({"source_labels": ["a"]}, VectorError, "1500 rows and 1 labels"),
    ],
)
def test_impossible_settings_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        nearest_neighbors(TARGET, SOURCE, 5, **settings)


def test_labels_beside_a_table_are_refused(folder):
    with pytest.raises(ConfigError, match="source_labels are for arrays"):
        nearest_neighbors(TARGET, folder, 5, source_labels=["a"])


@pytest.mark.parametrize("row", [0, 900])
def test_a_bad_vector_of_a_stream_is_named_by_its_row(folder, row):
    bad = SOURCE.copy()
    bad[row, 3] = np.nan
    for number, (first, last) in enumerate([(0, 700), (700, 701), (701, 1500)]):
        write_embeddings(folder / f"{number}.parquet", bad[first:last], row_group_size=64)
    with pytest.raises(VectorError, match=rf"NaN or infinity.*\[{row}\]"):
        nearest_neighbors(TARGET, folder, 5)


def test_a_file_that_is_damaged_in_the_middle(folder):
    path = folder / "2.parquet"
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(5).column(1).data_page_offset
    data[start : start + 40] = b"\0" * 40
    path.write_bytes(data)
    with pytest.raises(TableError, match="check that the file is whole"):
        nearest_neighbors(TARGET, folder, 5)


@pytest.mark.parametrize("metric", METRICS)
def test_sources_dealt_to_several_finders(metric):
    """As to several GPUs; twins are dealt to different ones and come back in the order of their rows."""
    source = np.concatenate([SOURCE[:40], SOURCE[:40], SOURCE])
    dealing = DealingFinder([CpuFinder(TARGET, metric, 9) for _ in range(3)])
    for first in range(0, len(source), 40):
        part = source[first : first + 40]
        dealing.see(part, first + np.arange(len(part)))
    found = dealing.finish()
    assert_neighbors(
        Neighbors(found.distances.astype(np.float32), found.rows), all_distances(TARGET, source, metric), 9
    )


def test_an_error_of_one_of_several_finders_is_raised():
    class Broken(CpuFinder):
        def see(self, vectors, rows):
            raise VectorError("broken")

    dealing = DealingFinder([CpuFinder(TARGET, "cosine", 3), Broken(TARGET, "cosine", 3)])
    with pytest.raises(VectorError, match="broken"):
        for _ in range(3):
            dealing.see(SOURCE[:10], np.arange(10))
        dealing.finish()


def test_without_a_place_for_compiled_code(tmp_path):
    """A container with a read-only disk and no home: the kernels are compiled anew, and all works."""
    code = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import numpy as np
from lookalike import nearest_neighbors
print(nearest_neighbors(np.eye(3), np.eye(3), 1).rows.ravel().tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1, 2]"
