"""Mining within labels, and what labels may be."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike import ConfigError, TableError, mine
from support.embeddings import write_embeddings

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.standard_normal((60, 8)).astype(np.float32)


def run(tmp_path, pool, **settings):
    result = mine(pool, tmp_path / "targets.parquet", tmp_path / "mined.parquet", knn_metric="cosine", **settings)
    return result, pq.read_table(result.pairs_path).to_pylist(), pq.read_table(result.path)


def test_within_label_all_come_back(tmp_path):
    """The filter after the search leaves few of the pairs, the search within labels all of them."""
    write_embeddings(tmp_path / "pool.parquet", VECTORS, labels=["ok", "bad"] * 30)
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:4] + 0.1, labels=["BAD ", "ok", "Ok", "bad"])
    result, pairs, _ = run(tmp_path, tmp_path / "pool.parquet", topn=9, within_label=True)
    assert len(pairs) == 4 * 9
    assert all(pair["target_label"].strip().upper() == pair["source_label"].upper() for pair in pairs)
    assert [pair["rank"] for pair in pairs] == [*range(1, 10)] * 4
    assert result.counts.pairs == 36
    filtered, *_ = run(tmp_path, tmp_path / "pool.parquet", topn=9, filter_by_label="true")
    assert filtered.counts.candidates < 36


def test_a_label_that_the_pool_has_too_few_of(tmp_path):
    write_embeddings(tmp_path / "pool.parquet", VECTORS, labels=["ok"] * 57 + ["rare"] * 3)
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2], labels=["rare", "ok"])
    result, pairs, _ = run(tmp_path, tmp_path / "pool.parquet", topn=5, within_label=True)
    assert len(pairs) == result.counts.pairs == 8
    assert "within_label: 1 targets have fewer than 5 sources of their label" in result.warnings
    assert "Total pairs: 8" in result.summary


def test_no_pair_at_all_is_an_empty_list(tmp_path):
    write_embeddings(tmp_path / "pool.parquet", VECTORS, labels=["ok"] * 60)
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2], labels=["bad"] * 2)
    result, pairs, mined = run(tmp_path, tmp_path / "pool.parquet", within_label=True)
    assert (pairs, mined.num_rows, mined.schema.field("filepath").type) == ([], 0, pa.string())
    assert result.counts.unique == 0


def test_within_label_needs_labels(tmp_path):
    write_embeddings(tmp_path / "pool.parquet", VECTORS)
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2], labels=["bad"] * 2)
    with pytest.raises(ConfigError, match="source side has none"):
        run(tmp_path, tmp_path / "pool.parquet", within_label=True)


@pytest.mark.parametrize("setting", [{"within_label": True}, {"filter_by_label": "true"}])
def test_labels_of_a_folder_are_of_one_type(setting, tmp_path):
    """Whole numbers in one file, doubles in the other, none in the third: doubles everywhere, whatever is found."""
    folder = tmp_path / "pool"
    folder.mkdir()
    write_embeddings(folder / "a.parquet", VECTORS[:20], labels=pa.array([1] * 20, pa.int64()))
    write_embeddings(folder / "b.parquet", VECTORS[20:40], labels=pa.array([1.0] * 20))
    write_embeddings(folder / "c.parquet", VECTORS[40:])
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2], labels=[1.0, None])
    _, pairs, _ = run(tmp_path, folder, topn=40, **setting)
    kept = [pair for pair in pairs if pair["outcome"] != "label_mismatch" and pair["target_row"] == 0]
    assert {pair["source_label"] for pair in kept} == {"1.0"}
    assert {pair["source_row"] for pair in kept} <= set(range(40))


def test_files_of_unlike_labels_are_refused_before_the_search(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    write_embeddings(folder / "a.parquet", VECTORS[:20], labels=[1] * 20)
    write_embeddings(folder / "b.parquet", VECTORS[20:], labels=["x"] * 40)
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2], labels=["x"] * 2)
    with pytest.raises(TableError, match="cannot be read as one table"):
        run(tmp_path, folder)


def test_a_missing_path_is_named_by_its_row_in_the_whole_table(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    paths = [f"{row}.jpg" for row in range(60)]
    paths[31] = paths[55] = None
    write_embeddings(folder / "a.parquet", VECTORS[:20], filepaths=paths[:20])
    write_embeddings(folder / "b.parquet", VECTORS[20:], filepaths=pa.array(paths[20:]))
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2])
    with pytest.raises(TableError, match=r"2 nulls, first in rows \[31, 55\]"):
        run(tmp_path, folder)


def test_paths_as_dictionary_in_one_file_only(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    paths = pa.array([f"{row}.jpg" for row in range(60)])
    write_embeddings(folder / "a.parquet", VECTORS[:20], filepaths=paths[:20].dictionary_encode())
    write_embeddings(folder / "b.parquet", VECTORS[20:], filepaths=paths[20:])
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:2])
    *_, mined = run(tmp_path, folder, topn=60)
    assert sorted(mined.column("filepath").to_pylist()) == sorted(paths.to_pylist())


def test_the_same_bytes_in_parts_of_any_size(tmp_path):
    """Little memory, or a folder instead of a file, changes nothing in the mined list and its pairs."""
    folder = tmp_path / "pool"
    folder.mkdir()
    many = RANDOM.standard_normal((5_000, 8)).astype(np.float32)
    paths = [f"{row % 4_000}.jpg" for row in range(5_000)]
    write_embeddings(tmp_path / "pool.parquet", many, filepaths=paths)
    write_embeddings(folder / "a.parquet", many[:1_234], filepaths=paths[:1_234], row_group_size=100)
    write_embeddings(folder / "b.parquet", many[1_234:], filepaths=paths[1_234:])
    write_embeddings(tmp_path / "targets.parquet", VECTORS[:9])
    results = []
    for pool, limit in ((tmp_path / "pool.parquet", 2 << 30), (folder, 128 << 20)):
        result, *_ = run(tmp_path, pool, memory_limit=limit)
        results.append([path.read_bytes() for path in (result.path, result.pairs_path)])
    assert results[0] == results[1]
