"""Section 7 of the drop-in contract: the cosine floor of `tmm nearest_neighbors`, and exclusion inside the search."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from support.embeddings import identity, write_embeddings


def circle(path, degrees, **settings):
    radians = np.radians(list(degrees))
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return write_embeddings(path, vectors, who=identity(dimension=2), **settings)


@pytest.fixture
def tables(tmp_path):
    """Targets at 0 and 90 degrees; the pool at 10, 20, 40, 60 and 200."""
    circle(tmp_path / "targets.parquet", [0, 90])
    circle(tmp_path / "pool.parquet", [10, 20, 40, 60, 200])
    return tmp_path


def mine(tables, **settings):
    output = tables / "out" / settings.pop("name", "mined.parquet")
    result = lookalike.mine(tables / "pool.parquet", tables / "targets.parquet", output, **settings)
    return result, pq.read_table(result.pairs_path).to_pylist(), pq.read_table(output).column("filepath").to_pylist()


def test_the_three_files(tables, run_command):
    """Section 7: `mined_raw.parquet` before, `mined_candidates.parquet` after, one row of counts."""
    words = ["source_parquet=pool.parquet", "target_parquet=targets.parquet", "output_parquet=out/mined.parquet"]
    done = run_command("tmm", "nearest_neighbors", *words, "topn=3", "min_similarity=0.9", cwd=tables)
    assert done.last_line == "Execution status: PASS", done.stderr
    out = tables / "out"
    raw, candidates, mined = (
        pq.read_table(out / f"{name}.parquet") for name in ("mined_raw", "mined_candidates", "mined")
    )
    # 0 has 10, 20, 40; 90 has 60, 40, 20. The cosine of 30 degrees is 0.87, that of 20 is 0.94.
    assert [path[6] for path in raw.column("filepath").to_pylist()] == ["0", "1", "2", "3"]
    assert [path[6] for path in candidates.column("filepath").to_pylist()] == ["0", "1"]
    assert mined == candidates
    assert (out / "knn_summary.csv").read_text() == (
        "candidate_count,kept_count,rejected_count,similarity_threshold\n4,2,2,0.9\n"
    )
    outcomes = pq.read_table(out / "mined_pairs.parquet").column("outcome").to_pylist()
    assert outcomes == ["kept", "kept", "under_similarity", "under_similarity", "duplicate", "duplicate"]
    summary = (out / "mining_summary.txt").read_text().splitlines()
    place = summary.index("  After similarity filtering: kept 2/4 items, dropped 2 below cosine 0.9000")
    assert summary[place - 1 : place + 2 : 2] == ["  Duplicates removed: 2", "  Unique items saved: 2"]


def test_off_by_default(tables):
    """Section 3: without the setting the files are those of the contract."""
    mine(tables)
    assert sorted(file.name for file in (tables / "out").iterdir()) == [
        "mined.parquet", "mined_pairs.parquet", "mining_summary.txt",
    ]  # fmt: skip


def test_the_best_cosine_to_any_target(tmp_path):
    """An image stays for a target among whose neighbours it is not: the metric is another one, and topn is 1."""
    who = identity(dimension=2)
    write_embeddings(tmp_path / "pool.parquet", [[5.0, 5.0], [0.9, 0.1]], who=who)
    write_embeddings(tmp_path / "targets.parquet", [[4.0, 6.5], [1.0, 0.0], [0.1, 0.1]], who=who)
    _, pairs, files = mine(tmp_path, topn=1, knn_metric="euclidean", min_similarity=0.999)
    # Source 0 is the nearest of target 0 (cosine 0.97), and has the direction of target 2, whose nearest is source 1.
    assert {pair["target_row"]: pair["source_row"] for pair in pairs} == {0: 0, 1: 1, 2: 1}
    assert files == ["/pool/0.jpg"]


@pytest.mark.parametrize(("floor", "kept"), [(1.0, 1), (0.0, 2), (0.6, 2), (0.61, 1), (-0.9, 3)])
def test_the_floor_itself_stays(tmp_path, floor, kept):
    who = identity(dimension=2)
    write_embeddings(tmp_path / "pool.parquet", [[2.0, 0.0], [3.0, 4.0], [-3.0, 4.0]], who=who)
    write_embeddings(tmp_path / "targets.parquet", [[1.0, 0.0]], who=who)
    *_, files = mine(tmp_path, min_similarity=floor)
    assert len(files) == kept


def test_the_pool_in_parts(tables):
    """The vectors of the mined images are read in blocks."""
    from lookalike.workflow import floor

    *_, expected = mine(tables, min_similarity=0.93)
    before, floor._SHARE = floor._SHARE, 1 << 26  # one vector at a time
    try:
        *_, found = mine(tables, min_similarity=0.93)
    finally:
        floor._SHARE = before
    assert found == expected == ["/pool/0.jpg", "/pool/1.jpg"]


@pytest.mark.parametrize("floor", [1.1, -1.5, float("nan")])
def test_what_is_no_cosine(tables, floor):
    with pytest.raises(lookalike.ConfigError, match="min_similarity"):
        mine(tables, min_similarity=floor)


def test_an_output_of_the_name_of_another_file(tables):
    with pytest.raises(lookalike.TableError, match="another file of this run"):
        mine(tables, min_similarity=0.5, name="mined_raw.parquet")
    *_, files = mine(tables, min_similarity=0.9, topn=3, name="mined_candidates.parquet")
    assert len(files) == 2


# Exclusion


def test_excluded_images_are_not_searched(tables):
    """Section 7: exclusion inside the search: every target still gets `topn` others."""
    result, pairs, files = mine(tables, topn=2, exclude_paths={"/pool/./0.jpg", "/pool/3.jpg", "/elsewhere/1.jpg"})
    assert [(pair["target_row"], pair["source_row"]) for pair in pairs] == [(0, 1), (0, 2), (1, 2), (1, 1)]
    assert files == ["/pool/1.jpg", "/pool/2.jpg"]
    assert result.counts.excluded == 2
    assert result.summary.splitlines()[3:5] == ["  Total pairs: 4", "  Excluded from the pool: 2 rows"]


def test_more_neighbours_than_are_left(tables):
    result, pairs, _ = mine(tables, topn=4, exclude_paths=["/pool/0.jpg", "/pool/3.jpg"])
    assert len(pairs) == 6
    assert "topn=4 is more than is left of the pool after exclusion: clamped to 3" in result.warnings


def test_everything_is_excluded(tables):
    result, pairs, files = mine(tables, exclude_paths=[f"/pool/{row}.jpg" for row in range(5)], min_similarity=0.5)
    assert (pairs, files) == ([], [])
    assert pq.read_schema(result.path).field("filepath").type == pa.string()
    assert result.warnings == ("every row of the pool is excluded: nothing is mined",)
    assert (tables / "out" / "knn_summary.csv").read_text().splitlines()[1] == "0,0,0,0.5"
