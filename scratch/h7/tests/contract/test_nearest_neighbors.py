"""Sections 2 and 3 of the drop-in contract, `tmm nearest_neighbors`: the exact semantics, and section 8's repairs."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from support.embeddings import FLOATS, identity, write_embeddings

PASS, FAIL = "Execution status: PASS", "Execution status: FAIL"
EXACT = "  Exact search: 2 of 2 queries decided in fp32; 2 checked against float64 brute force: the same"
DOUBLES = pa.list_(pa.float64())
PAIR_COLUMNS = [
    "target_row", "source_row", "target_filepath", "source_filepath", "target_label", "source_label", "rank",
    "distance", "score", "outcome",
]  # fmt: skip


def brute_force(target, source, k, metric):
    """Distances and rows of the k nearest sources of every target in float64, equal distances by source row."""
    target, source = np.asarray(target, np.float64), np.asarray(source, np.float64)
    distances = np.empty((len(target), len(source)))
    for row, vector in enumerate(target):
        if metric == "cosine":
            lengths = np.sqrt((source**2).sum(axis=1)) * np.sqrt((vector**2).sum())
            distances[row] = 1 - (source * vector).sum(axis=1) / lengths
        elif metric == "euclidean":
            distances[row] = np.sqrt(((source - vector) ** 2).sum(axis=1))
        else:
            distances[row] = np.abs(source - vector).sum(axis=1)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows


@pytest.fixture
def mine(tmp_path, run_command):
    """Run `tmm nearest_neighbors` on `pool.parquet` and `targets.parquet` in the test's folder."""

    def run(*settings, env=None):
        output = tmp_path / "out" / "mined.parquet"
        words = ["source_parquet=pool.parquet", "target_parquet=targets.parquet", f"output_parquet={output}"]
        done = run_command("tmm", "nearest_neighbors", *words, *settings, cwd=tmp_path, env=env)
        assert (done.returncode, done.last_line) == (0, PASS), done.stderr
        return outputs(output, done)

    return run


@pytest.fixture
def refuse(tmp_path, run_command):
    """Run it where it must fail; returns the message. Nothing may be written."""

    def run(*settings):
        before = sorted(tmp_path.rglob("*"))
        words = ["source_parquet=pool.parquet", "target_parquet=targets.parquet", "output_parquet=mined.parquet"]
        done = run_command("tmm", "nearest_neighbors", *words, *settings, cwd=tmp_path)
        assert (done.returncode, done.last_line) == (1, FAIL), done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        assert sorted(tmp_path.rglob("*")) == before
        return done.stderr

    return run


@pytest.fixture
def refuse_call(tmp_path, monkeypatch):
    """As `refuse`, in this process, which is faster: the message is what the command prints."""
    monkeypatch.chdir(tmp_path)

    def run(**settings):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(lookalike.TableError) as refused:
            lookalike.mine("pool.parquet", "targets.parquet", "mined.parquet", **settings)
        assert sorted(tmp_path.rglob("*")) == before
        return str(refused.value)

    return run


def outputs(output, done):
    """What a run wrote."""
    mined = pq.read_table(output)
    pairs = pq.read_table(output.with_name(f"{output.stem}_pairs.parquet"))
    return SimpleNamespace(
        path=output,
        done=done,
        log=done.stderr,
        table=mined,
        files=mined.column("filepath").to_pylist(),
        pairs=pairs,
        rows=pairs.to_pylist(),
        outcomes=pairs.column("outcome").to_pylist(),
        distances=pairs.column("distance").to_pylist(),
        summary=output.with_name("mining_summary.txt").read_text(encoding="utf-8").splitlines(),
    )


@pytest.fixture
def line(tmp_path):
    """Sources on a line at 0 to 5, targets at 0 and 3: euclidean distances are whole numbers."""
    who = identity(dimension=2)
    labels = ["a", "b", "a", "b", "a", "b"]
    write_embeddings(tmp_path / "pool.parquet", [[float(x), 0.0] for x in range(6)], labels=labels, who=who)
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 0.0], [3.0, 0.0]], labels=["a", "b"], who=who)


@pytest.fixture(scope="module", params=["euclidean", "cosine", "manhattan"])
def exact_run(request, tmp_path_factory, run_command):
    """One run of each metric over random vectors of unlike lengths, some twice in the pool, some under one path."""
    metric = request.param
    folder = tmp_path_factory.mktemp(metric)
    rng = np.random.default_rng(11)
    source = (rng.normal(size=(80, 16)) * rng.uniform(0.2, 5, size=(80, 1))).astype(np.float32)
    target = (rng.normal(size=(13, 16)) * rng.uniform(0.2, 5, size=(13, 1))).astype(np.float32)
    source[40:48] = source[8:16]  # equal distances
    target[3] = source[20]  # a distance of zero
    filepaths = [f"/pool/{row % 60}.jpg" for row in range(80)]
    write_embeddings(folder / "pool.parquet", source, filepaths=filepaths, who=identity(dimension=16))
    write_embeddings(folder / "targets.parquet", target, who=identity(dimension=16))
    words = ["source_parquet=pool.parquet", "target_parquet=targets.parquet", "output_parquet=mined.parquet"]
    done = run_command("tmm", "nearest_neighbors", *words, "topn=7", f"knn_metric={metric}", cwd=folder)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    run = outputs(folder / "mined.parquet", done)
    run.metric, run.filepaths = metric, filepaths
    run.expected_distances, run.expected_rows = brute_force(target, source, 7, metric)
    return run


# The search


def test_neighbours_are_those_of_brute_force(exact_run):
    """Section 3: exact search of every target row against all source rows; equal distances by source row."""
    assert exact_run.pairs.column("source_row").to_pylist() == exact_run.expected_rows.reshape(-1).tolist()
    assert exact_run.pairs.column("target_row").to_pylist() == np.repeat(np.arange(13), 7).tolist()


def test_distances_are_those_of_brute_force(exact_run):
    """Section 3: `cosine` is 1 - cos, `euclidean` the true L2 distance, `manhattan` L1; not normalised first."""
    np.testing.assert_allclose(
        np.array(exact_run.distances), exact_run.expected_distances.reshape(-1), rtol=1e-6, atol=1e-7
    )


def test_pairs_go_target_by_target_nearest_first(exact_run):
    """Section 3: the pairs are walked target by target, nearest first; ranks count from 1."""
    distances = np.array(exact_run.distances).reshape(13, 7)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert exact_run.pairs.column("rank").to_pylist() == list(range(1, 8)) * 13


def test_first_occurrence_of_each_path(exact_run):
    """Section 3: the output is the first occurrence of each exact `filepath`, in the order of walking."""
    walked = [exact_run.filepaths[row] for row in exact_run.expected_rows.reshape(-1)]
    assert exact_run.files == list(dict.fromkeys(walked))
    assert len(exact_run.files) < len(walked)


def test_one_column_and_no_index(exact_run):
    """Section 3: the output has one column `filepath` of strings, and no index."""
    assert exact_run.table.column_names == ["filepath"]
    assert exact_run.table.schema.field("filepath").type == pa.string()
    assert b"pandas" not in (exact_run.table.schema.metadata or {})


def test_cosine_is_from_0_to_2(tmp_path, mine):
    """Section 3: `cosine` is 1 - cos, 0 to 2, whatever the lengths of the vectors."""
    write_embeddings(tmp_path / "pool.parquet", [[-9.0, 0.0], [0.0, 0.001], [7.0, 0.0]], who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[2.0, 0.0]], who=identity())
    run = mine("knn_metric=cosine")
    assert run.pairs.column("source_row").to_pylist() == [2, 1, 0]
    assert run.distances == pytest.approx([0.0, 1.0, 2.0], abs=1e-7)


def test_euclidean_is_the_true_distance(tmp_path, mine):
    """Section 3: `euclidean` is the true L2 distance, not its square, and no normalisation goes first."""
    write_embeddings(tmp_path / "pool.parquet", [[3.0, 4.0], [30.0, 40.0]], who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 0.0]], who=identity())
    assert mine("knn_metric=euclidean").distances == [5.0, 50.0]


def test_metric_is_euclidean_by_default(line, mine):
    """Section 2: `knn_metric` is `euclidean` and `topn` is 5 by default."""
    assert mine().distances == [0, 1, 2, 3, 4, 0, 1, 1, 2, 2]


def test_exact_beyond_one_block(tmp_path, mine):
    """Section 3: the search is exact for tables that are searched in several blocks."""
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(9000, 6)).astype(np.float32), rng.normal(size=(600, 6)).astype(np.float32)
    write_embeddings(tmp_path / "pool.parquet", source, who=identity())
    write_embeddings(tmp_path / "targets.parquet", target, who=identity())
    run = mine("knn_metric=cosine", "topn=3")
    distances, rows = brute_force(target, source, 3, "cosine")
    assert run.pairs.column("source_row").to_pylist() == rows.reshape(-1).tolist()
    np.testing.assert_allclose(np.array(run.distances), distances.reshape(-1), rtol=1e-6, atol=1e-7)


def test_doubles_keep_their_precision(tmp_path, mine):
    """Section 3: the search is exact in what the table says: doubles that float32 cannot tell apart."""
    source = [[1.0, 1e-10], [1.0, 2e-10], [1.0, 3e-10]]
    write_embeddings(tmp_path / "pool.parquet", source, kind=DOUBLES, who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[1.0, 2.9e-10]], kind=DOUBLES, who=identity())
    assert mine("topn=3").pairs.column("source_row").to_pylist() == [2, 1, 0]


@pytest.mark.parametrize("kind", [DOUBLES, pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), None])
def test_tables_from_elsewhere(tmp_path, line, mine, kind):
    """Section 8: tables made elsewhere are read whatever their kind of list; the mix of kinds too."""
    kind = kind or pa.list_(pa.float16())
    write_embeddings(tmp_path / "pool.parquet", [[float(x), 0.0] for x in range(6)], kind=kind)
    run = mine("topn=2")
    assert run.distances == [0, 1, 0, 1]
    assert run.files == ["/pool/0.jpg", "/pool/1.jpg", "/pool/3.jpg", "/pool/2.jpg"]


def test_folder_of_tables(tmp_path, line, mine):
    """Section 2: a pool may be a folder of parquet files, read in the order of their names."""
    (tmp_path / "parts").mkdir()
    pool = pq.read_table(tmp_path / "pool.parquet")
    for name, first in (("b.parquet", 4), ("a.parquet", 0)):
        pq.write_table(pool.slice(first, 4), tmp_path / "parts" / name)
    run = mine("source_parquet=parts", "topn=6")
    assert run.pairs.column("source_filepath").to_pylist()[:6] == [f"/pool/{row}.jpg" for row in range(6)]


def test_same_inputs_same_bytes(line, mine):
    """Section 8: mining again gives the same files, byte for byte."""
    first, second = ({path.name: path.read_bytes() for path in mine().path.parent.iterdir()} for _ in range(2))
    assert set(first) == {"mined.parquet", "mined_pairs.parquet", "mining_summary.txt"}
    assert first == second


# The label filter


def test_label_filter_drops_pairs(line, mine):
    """Section 3: the label filter drops pairs whose labels differ, from the top-n already found: nothing refills."""
    run = mine("filter_by_label=true", "topn=3")
    # Target 0 (a) has sources 0 a, 1 b, 2 a; target 3 (b) has 3 b, then 2 a and 4 a at the same distance.
    assert run.files == ["/pool/0.jpg", "/pool/2.jpg", "/pool/3.jpg"]
    assert run.outcomes == ["kept", "label_mismatch", "kept", "kept", "label_mismatch", "label_mismatch"]


def test_labels_are_stripped_and_upper_cased(tmp_path, mine):
    """Section 3: labels are compared after `str(label).strip().upper()`."""
    cases = [
        (" ok ", "OK", True),
        ("Ok\n", "\toK", True),
        ("ok", "o k", False),
        ("ß", "SS", True),
        ("", "  ", True),
        ("bridge", "bridges", False),
    ]
    vectors = [[float(row)] for row in range(len(cases))]
    targets, sources, same = zip(*cases, strict=True)
    write_embeddings(tmp_path / "pool.parquet", vectors, labels=sources, who=identity())
    write_embeddings(tmp_path / "targets.parquet", vectors, labels=targets, who=identity())
    run = mine("filter_by_label=true", "topn=1")
    assert [outcome == "kept" for outcome in run.outcomes] == list(same)


@pytest.mark.parametrize(
    ("target_label", "source_label", "same"),
    [
        (1, "1", True),
        (1, 1, True),
        (1, 1.0, False),
        (True, "true", True),
        (None, "none", True),
    ],
)
def test_labels_of_other_types_are_compared_as_text(tmp_path, mine, target_label, source_label, same):
    """Section 3: labels are compared after `str(label).strip().upper()`."""
    assert (str(target_label).strip().upper() == str(source_label).strip().upper()) == same
    write_embeddings(tmp_path / "pool.parquet", [[0.0]], labels=[source_label], who=identity())
    labels = pa.array([target_label], pa.string() if target_label is None else None)
    write_embeddings(tmp_path / "targets.parquet", [[0.0]], labels=labels, who=identity())
    assert mine("filter_by_label=true").outcomes == ["kept" if same else "label_mismatch"]


@pytest.mark.parametrize(
    ("word", "on"),
    [("true", True), ("TRUE", True), ("1", True), ("Yes", True), ("false", False), ("0", False), ("on", False)],
)
def test_words_that_switch_the_label_filter_on(line, mine, word, on):
    """Section 2: `true`, `1`, `yes` in any case switch `filter_by_label` on; anything else leaves it off."""
    run = mine(f"filter_by_label={word}")
    assert ("label_mismatch" in run.outcomes) == on
    assert any("label mismatch" in line for line in run.summary) == on


@pytest.mark.parametrize("side", ["source", "target"])
def test_table_without_labels(tmp_path, line, mine, side):
    """Section 3: when a table lacks `label`: a warning on the log that names the side, and no filtering."""
    file = tmp_path / ("pool.parquet" if side == "source" else "targets.parquet")
    pq.write_table(pq.read_table(file).drop_columns("label"), file)
    run = mine("filter_by_label=true", "topn=3")
    warnings = [line for line in run.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert side in warnings[0]
    assert "label" in warnings[0]
    assert "label_mismatch" not in run.outcomes
    assert not any("mismatches" in line for line in run.summary)
    assert any(warnings[0].split(": ", 1)[1] in line for line in run.summary)


def test_no_warning_without_the_label_filter(tmp_path, mine):
    """Section 3: tables without labels are no news when the filter is off."""
    for name in ("pool.parquet", "targets.parquet"):
        write_embeddings(tmp_path / name, [[0.0], [1.0]], who=identity())
    assert "WARNING" not in mine("topn=2").log


# The distance filter


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [("2", [0, 1, 2]), ("2.0", [0, 1, 2]), ("1.9999", [0, 1]), ("1e9", [0, 1, 2, 3]), ("0", [0]), ("0.0", [0])],
)
def test_distance_filter(tmp_path, line, mine, threshold, kept):
    """Section 3: pairs farther than the threshold are dropped; one at the threshold stays; 0 is active."""
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 0.0]], who=identity(dimension=2))
    run = mine(f"distance_threshold={threshold}", "topn=4")
    assert run.files == [f"/pool/{row}.jpg" for row in kept]
    assert run.outcomes == ["kept"] * len(kept) + ["over_distance"] * (4 - len(kept))


@pytest.mark.parametrize(("threshold", "warned"), [("-1", False), ("-1.0", False), ("-0.5", True), ("-2", True)])
def test_negative_threshold(line, mine, threshold, warned):
    """Section 3: a negative threshold switches the filter off; one that is not -1.0 gets a warning."""
    run = mine(f"distance_threshold={threshold}")
    assert "over_distance" not in run.outcomes
    assert not any("distance filtering" in line for line in run.summary)
    assert ("distance_threshold" in run.log) == warned


@pytest.mark.parametrize(
    ("metric", "threshold", "warned"), [("cosine", "2.0", False), ("cosine", "2.1", True), ("euclidean", "2.1", False)]
)
def test_threshold_over_two(line, mine, metric, threshold, warned):
    """Section 3: a threshold over 2.0 with `cosine` gets a warning."""
    run = mine(f"knn_metric={metric}", f"distance_threshold={threshold}", "topn=2")
    assert ("distance_threshold" in run.log) == warned


def test_label_filter_goes_before_the_distance_filter(line, mine):
    """Section 3: the label filter, then the distance filter, then duplicates: a pair falls to the first."""
    run = mine("filter_by_label=true", "distance_threshold=1", "topn=6")
    # Target at 0 with label a, then target at 3 with label b (equal distances by source row).
    assert run.pairs.column("source_row").to_pylist() == [0, 1, 2, 3, 4, 5, 3, 2, 4, 1, 5, 0]
    label, over = "label_mismatch", "over_distance"
    assert run.outcomes == ["kept", label, over, label, over, label, "kept", label, label, over, over, label]


# Duplicates, and nothing at all


def test_only_equal_paths_are_duplicates(tmp_path, mine):
    """Section 3: the first occurrence of each exact `filepath` string is kept; another spelling is another file."""
    filepaths = ["/pool/a.jpg", "/pool/a.jpg", "/pool/A.jpg", "/pool/./a.jpg", "/pool/a.jpg "]
    vectors = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    write_embeddings(tmp_path / "pool.parquet", vectors, filepaths=filepaths, who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[0.0], [9.0]], who=identity())
    run = mine()
    assert run.files == ["/pool/a.jpg", "/pool/A.jpg", "/pool/./a.jpg", "/pool/a.jpg "]
    assert run.outcomes == ["kept", "duplicate", "kept", "kept", "kept"] + ["duplicate"] * 5


def test_dropped_pair_does_not_make_a_duplicate(tmp_path, mine):
    """Section 3: first occurrence among what the filters left: a dropped pair claims no path."""
    labels, filepaths = ["x", "y"], ["/pool/a.jpg", "/pool/a.jpg"]
    write_embeddings(tmp_path / "pool.parquet", [[0.0], [1.0]], filepaths=filepaths, labels=labels, who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[0.0]], labels=["y"], who=identity())
    run = mine("filter_by_label=true")
    assert (run.files, run.outcomes) == (["/pool/a.jpg"], ["label_mismatch", "kept"])


def test_no_match(tmp_path, line, mine):
    """Section 3: no match gives a table of 0 rows whose column still has the string type, and the run passes."""
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 7.0]], who=identity(dimension=2))
    run = mine("distance_threshold=1")
    assert run.table.schema == pa.schema([("filepath", pa.string())])
    assert run.table.num_rows == 0
    assert "  Unique items saved: 0" in run.summary
    assert "Rows: 0" in run.done.lines


# mining_summary.txt


def test_summary_without_filters(line, mine):
    """Section 3: the lines of `mining_summary.txt` where no filter ran."""
    run = mine("topn=3")
    assert run.summary == [
        "Summary:",
        "  Target queries: 2",
        "  Similar items per query: 3",
        "  Total pairs: 6",
        "  Total candidates: 6",
        "  Duplicates removed: 1",
        "  Unique items saved: 5",
        f"  Results saved to: {run.path}",
        EXACT,
    ]


def test_summary_with_the_label_filter(line, mine):
    """Section 3: the lines of `mining_summary.txt` where only the label filter ran; the older layout's line last."""
    run = mine("topn=3", "filter_by_label=true")
    assert run.summary == [
        "Summary:",
        "  Target queries: 2",
        "  Similar items per query: 3",
        "  Total pairs: 6",
        "  After label mismatch filtering: kept 3/6 pairs, dropped 3 mismatches",
        "  Total candidates: 3",
        "  Duplicates removed: 0",
        "  Unique items saved: 3",
        f"  Results saved to: {run.path}",
        EXACT,
        "  Label filtering: kept 3/6 pairs, dropped 3 mismatches",
    ]


def test_summary_with_the_distance_filter(line, mine):
    """Section 3: the lines of `mining_summary.txt` where only the distance filter ran; four decimals."""
    run = mine("topn=3", "distance_threshold=1")
    assert run.summary == [
        "Summary:",
        "  Target queries: 2",
        "  Similar items per query: 3",
        "  Total pairs: 6",
        "  After distance filtering: kept 5/6 pairs, dropped 1 exceeding threshold 1.0000",
        "  Total candidates: 5",
        "  Duplicates removed: 0",
        "  Unique items saved: 5",
        f"  Results saved to: {run.path}",
        EXACT,
    ]


def test_summary_with_both_filters(line, mine):
    """Section 3: the lines of `mining_summary.txt` where both filters ran: the second counts from the first."""
    run = mine("topn=6", "filter_by_label=true", "distance_threshold=2.00004")
    assert run.summary == [
        "Summary:",
        "  Target queries: 2",
        "  Similar items per query: 6",
        "  Total pairs: 12",
        "  After label mismatch filtering: kept 6/12 pairs, dropped 6 mismatches",
        "  After distance filtering: kept 5/6 pairs, dropped 1 exceeding threshold 2.0000",
        "  Total candidates: 5",
        "  Duplicates removed: 0",
        "  Unique items saved: 5",
        f"  Results saved to: {run.path}",
        EXACT,
        "  Label filtering: kept 6/12 pairs, dropped 6 mismatches",
    ]


def test_warnings_are_in_the_summary(line, mine):
    """Section 3: a warning is in the summary too, and the older layout's line stays the last."""
    run = mine("topn=99", "filter_by_label=true")
    assert any("clamped" in line for line in run.summary)
    assert run.summary[-1] == "  Label filtering: kept 6/12 pairs, dropped 6 mismatches"
    assert [line for line in run.summary if not line.startswith("  ")] == ["Summary:"]


# The pair table


def test_pair_table_has_every_pair(exact_run):
    """Section 8: a second table beside the first has one row per pair with paths, labels, rank and distance."""
    assert exact_run.pairs.column_names == PAIR_COLUMNS
    assert exact_run.pairs.num_rows == 13 * 7
    sources = [exact_run.filepaths[row] for row in exact_run.pairs.column("source_row").to_pylist()]
    assert exact_run.pairs.column("source_filepath").to_pylist() == sources
    targets = [f"/pool/{row}.jpg" for row in exact_run.pairs.column("target_row").to_pylist()]
    assert exact_run.pairs.column("target_filepath").to_pylist() == targets


def test_pair_table_types(exact_run):
    """Section 8: distances are float32, paths and outcomes text; without labels the label columns are null text."""
    types = {field.name: field.type for field in exact_run.pairs.schema}
    assert types["distance"] == pa.float32()
    assert {types[name] for name in PAIR_COLUMNS if "filepath" in name or "label" in name} == {pa.string()}
    assert exact_run.pairs.column("target_label").null_count == exact_run.pairs.num_rows
    assert set(exact_run.outcomes) == {"kept", "duplicate"}


def test_pair_table_has_the_labels(line, mine):
    """Section 8: the pair table has the labels of both sides, as the tables have them."""
    run = mine("topn=2")
    assert run.pairs.column("target_label").to_pylist() == ["a", "a", "b", "b"]
    assert run.pairs.column("source_label").to_pylist() == ["a", "b", "b", "a"]


def test_mined_is_derivable_from_the_pair_table(line, mine):
    """Section 8: the mined table is the `source_filepath` of the kept rows of the pair table, in order."""
    run = mine("topn=6", "filter_by_label=true", "distance_threshold=2")
    assert set(run.outcomes) == {"kept", "label_mismatch", "over_distance"}
    assert run.files == [row["source_filepath"] for row in run.rows if row["outcome"] == "kept"]


def test_outcomes_add_up_to_the_summary(exact_run):
    """Section 8: the outcomes of the pair table are the counts of the summary."""
    assert f"  Total pairs: {len(exact_run.outcomes)}" in exact_run.summary
    assert f"  Duplicates removed: {exact_run.outcomes.count('duplicate')}" in exact_run.summary
    assert f"  Unique items saved: {exact_run.outcomes.count('kept')}" in exact_run.summary


# Settings


def test_topn_over_the_pool_is_clamped(line, mine):
    """Section 8: `topn` larger than the pool is clamped, with a warning that says to what."""
    run = mine("topn=7")
    assert "topn=7" in run.log
    assert "6" in run.log
    assert "  Similar items per query: 6" in run.summary
    assert "  Total pairs: 12" in run.summary
    assert len(run.rows) == 12


def test_topn_of_the_whole_pool_is_not_clamped(line, mine):
    """Section 8: `topn` as large as the pool is no reason for a warning."""
    assert "WARNING" not in mine("topn=6").log


def test_column_names(tmp_path, mine):
    """Section 2: `source_embed_column_name` and `target_embed_column_name` name the columns that are compared."""
    pool = write_embeddings(tmp_path / "pool.parquet", [[5.0], [1.0]], column="my vectors, v2", who=identity())
    table = pq.read_table(pool)
    pq.write_table(table.append_column("embedding", pa.array([[1.0], [5.0]], FLOATS)), pool)
    write_embeddings(tmp_path / "targets.parquet", [[5.0]], column="t", who=identity())
    run = mine("source_embed_column_name=my vectors, v2", "target_embed_column_name=t", "topn=1")
    assert (run.files, run.distances) == (["/pool/0.jpg"], [0.0])


def test_extra_columns_are_harmless(tmp_path, line, mine):
    """Section 2: the tables may have more columns in any order; the output has `filepath` alone."""
    pool = pq.read_table(tmp_path / "pool.parquet").append_column("meta", pa.array([{"a": 1}] * 6))
    pool = pool.append_column("weakness", pa.array([None] * 6))
    pq.write_table(pool.select(["meta", "label", "embedding", "weakness", "filepath"]), tmp_path / "pool.parquet")
    assert mine("topn=1").table.column_names == ["filepath"]


def test_filepath_may_be_an_id(tmp_path, line, mine):
    """Section 7: `filepath` may be an id that is no file; nothing is opened."""
    names = ["clip 17 @ 00:03", "http://nowhere/1", "", "a\nb", "ü", "6"]
    table = pq.read_table(tmp_path / "pool.parquet").set_column(0, "filepath", pa.array(names))
    pq.write_table(table, tmp_path / "pool.parquet")
    assert sorted(mine("topn=6").files) == sorted(names)


def test_output_replaces_an_earlier_one(line, mine):
    """Section 2: the parent folders of the output are made; an earlier output is replaced."""
    assert len(mine("topn=6").files) == 6
    run = mine("topn=1")
    assert len(run.files) == len(run.rows) == 2
    assert "  Unique items saved: 2" in run.summary


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("knn_metric=chebyshev", ["knn_metric", "chebyshev", "euclidean", "cosine", "manhattan"]),
        ("topn=0", ["topn"]),
        ("topn=-1", ["topn"]),
        ("distance_threshold=nan", ["distance_threshold"]),
        ("source_parquet=none.parquet", ["none.parquet", "does not exist"]),
        ("target_parquet=none.parquet", ["none.parquet", "does not exist"]),
        ("source_parquet=empty", ["empty", "parquet"]),
        ("source_parquet=notes.parquet", ["notes.parquet"]),
        ("source_parquet=pool", ["pool", "does not exist"]),
        ("source_embed_column_name=vector", ["pool.parquet", "'vector'", "filepath", "embedding"]),
        ("target_embed_column_name=vector", ["targets.parquet", "'vector'", "filepath", "embedding"]),
        ("source_embed_column_name=filepath", ["pool.parquet", "'filepath'", "string"]),
        ("output_parquet=pool.parquet", ["pool.parquet", "overwritten"]),
        ("output_parquet=./targets.parquet", ["targets.parquet", "overwritten"]),
        ("output_parquet=empty", ["empty", "folder"]),
        ("output_parquet=notes.parquet/mined.parquet", ["notes.parquet"]),
    ],
)
def test_setting_that_cannot_be_right(tmp_path, line, refuse, word, parts):
    """Section 2: a setting that cannot be right is refused with a message that names it and what is possible."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.parquet").write_text("notes")
    message = refuse(word)
    assert [part for part in parts if part not in message] == []


# Encoders


def test_different_encoders(tmp_path, refuse):
    """Section 8: a mismatch of encoders is an error that names both sides, what differs, and what to do."""
    clip = identity(dimension=2, weights="1" * 64, model_path="acme/tiny-clip")
    siglip = identity(family="SigLIP", dimension=2, weights="2" * 64, model_path="acme/tiny-siglip")
    write_embeddings(tmp_path / "pool.parquet", [[0.0, 1.0]], who=clip)
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 1.0]], who=siglip)
    message = refuse()
    for part in ("pool.parquet", "targets.parquet", "CLIP", "SigLIP", "acme/tiny-clip", "acme/tiny-siglip", "weights"):
        assert part in message
    assert "What to do" in message


def test_tables_of_real_encoders(tmp_path, refuse, clip_snapshot, siglip_snapshot, images):
    """Section 8: tables that `embed_images` wrote with CLIP and with SigLIP cannot be mined against each other."""
    lookalike.embed_images(images, tmp_path / "pool.parquet", "CLIP", str(clip_snapshot))
    lookalike.embed_images(images, tmp_path / "targets.parquet", "SigLIP", str(siglip_snapshot))
    message = refuse()
    assert [part for part in ("tiny-clip", "tiny-siglip", "What to do") if part not in message] == []


@pytest.mark.parametrize("without", [["pool.parquet"], ["targets.parquet"], ["pool.parquet", "targets.parquet"]])
def test_tables_without_identity(tmp_path, line, mine, without):
    """Section 8: tables from elsewhere, without an encoder identity, are accepted with a warning that names them."""
    for name in without:
        pq.write_table(pq.read_table(tmp_path / name).replace_schema_metadata(None), tmp_path / name)
    run = mine("topn=1")
    (warning,) = (line for line in run.log.splitlines() if "WARNING" in line)
    assert "encoder" in warning
    assert [name for name in ("pool.parquet", "targets.parquet") if name in warning] == without
    assert any(warning.split(": ", 1)[1] in line for line in run.summary)


def test_same_model_from_another_place(tmp_path, line, mine):
    """Section 8: the same model loaded from another path is the same encoder: no warning."""
    table = pq.read_table(tmp_path / "pool.parquet")
    other = identity(dimension=2, model_path="/models/a copy")
    pq.write_table(table.replace_schema_metadata({"lookalike": other.to_json()}), tmp_path / "pool.parquet")
    assert "WARNING" not in mine("topn=1").log


def test_same_model_on_another_device(tmp_path, line, mine):
    """Section 8: where only the rounding can differ, a warning is enough."""
    table = pq.read_table(tmp_path / "pool.parquet")
    other = identity(dimension=2, runtime="torch-cuda")
    pq.write_table(table.replace_schema_metadata({"lookalike": other.to_json()}), tmp_path / "pool.parquet")
    run = mine("topn=1")
    assert "runtime" in run.log
    assert len(run.files) == 2


def test_damaged_identity(tmp_path, line, refuse):
    """Section 8: an encoder identity that cannot be read is an error that names the file."""
    table = pq.read_table(tmp_path / "pool.parquet")
    pq.write_table(table.replace_schema_metadata({"lookalike": "{"}), tmp_path / "pool.parquet")
    assert "pool.parquet" in refuse()


# Tables that hold no vectors


@pytest.mark.parametrize("name", ["pool.parquet", "targets.parquet"])
@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (pa.array([[1, 2], [3], [4], [5, 6]], FLOATS), "dimensional"),
        (pa.array([[1, 2], [], [], [5, 6]], FLOATS), "empty"),
        (pa.array([[1, 2], [np.nan, 1], [1, np.nan], [5, 6]], FLOATS), "NaN"),
        (pa.array([[1, 2], [np.inf, 1], [1, -np.inf], [5, 6]], FLOATS), "infinity"),
        (pa.array([[1, 2], None, None, [5, 6]], FLOATS), "null"),
        (pa.array([[1, 2], [None, 1], [2, None], [5, 6]], FLOATS), "null"),
        (pa.array([[1, 2], None, None, [5, 6]], pa.list_(pa.float32(), 2)), "null"),
    ],
    ids=["ragged", "empty", "NaN", "infinity", "null", "null values", "null of fixed size"],
)
def test_bad_vectors(tmp_path, line, refuse_call, name, vectors, what):
    """Section 3: what is not a vector is refused; the message names file, column, fault and the first rows."""
    write_embeddings(tmp_path / name, vectors, column="bad vectors", who=identity(dimension=2))
    side = "source" if name == "pool.parquet" else "target"
    message = refuse_call(**{f"{side}_embed_column_name": "bad vectors"})
    assert [part for part in (name, "'bad vectors'", what, "[1, 2]") if part not in message] == []


@pytest.mark.parametrize("name", ["pool.parquet", "targets.parquet"])
def test_bad_vectors_on_the_command_line(tmp_path, line, refuse, name):
    """Section 3: what is not a vector ends the command with FAIL, exit status 1, a message and no traceback."""
    write_embeddings(tmp_path / name, pa.array([[1, 2], [np.nan, 1]], FLOATS), who=identity(dimension=2))
    message = refuse()
    assert [part for part in (name, "'embedding'", "NaN", "[1]") if part not in message] == []


def test_bad_vector_late_in_a_large_table(tmp_path, line, refuse):
    """Section 3: rows in a message are counted over the whole table, whatever its row groups."""
    vectors = np.zeros((40_000, 2), np.float32)
    vectors[33_333, 1] = np.nan
    write_embeddings(tmp_path / "pool.parquet", vectors, who=identity(dimension=2), row_group_size=7000)
    assert "[33333]" in refuse()


def test_different_dimensions(tmp_path, line, refuse):
    """Section 3: tables of different dimensions are refused; the message names both files, columns and sizes."""
    write_embeddings(tmp_path / "pool.parquet", [[0.0, 1.0, 2.0]], column="v")
    message = refuse("source_embed_column_name=v")
    expected = ("pool.parquet", "targets.parquet", "'v'", "'embedding'", "2 dimensions", "3")
    assert [part for part in expected if part not in message] == []


@pytest.mark.parametrize("name", ["pool.parquet", "targets.parquet"])
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda table: table.drop_columns("filepath"), ["'filepath'", "embedding"]),
        (lambda table: table.drop_columns("embedding"), ["'embedding'", "filepath"]),
        (lambda table: table.slice(0, 0), ["no rows"]),
        (
            lambda table: table.set_column(0, "filepath", pa.array([None] + ["x"] * (len(table) - 1), pa.string())),
            ["'filepath'", "null", "[0]"],
        ),
        (lambda table: table.set_column(0, "filepath", pa.array(range(len(table)))), ["'filepath'", "int64"]),
        (lambda table: table.set_column(1, "embedding", pa.array(["[1, 2]"] * len(table))), ["'embedding'", "string"]),
        (lambda table: table.set_column(1, "embedding", pa.array([["1"]] * len(table))), ["'embedding'", "string"]),
        (lambda table: table.set_column(1, "embedding", pa.nulls(len(table))), ["'embedding'", "null"]),
        (lambda table: table.set_column(1, "embedding", pa.array([1.0] * len(table))), ["'embedding'", "double"]),
    ],
    ids=["no filepath", "no embedding", "no rows", "null path", "numbers", "text", "list of text", "nulls", "scalars"],
)
def test_bad_table(tmp_path, line, refuse_call, name, change, parts):
    """Section 3: a table that lacks or breaks a column is refused; the message names the file and the column."""
    pq.write_table(change(pq.read_table(tmp_path / name)), tmp_path / name)
    message = refuse_call()
    assert [part for part in (name, *parts) if part not in message] == []


@pytest.mark.parametrize("name", ["pool.parquet", "targets.parquet"])
def test_truncated_table(tmp_path, line, refuse, name):
    """Section 3: a parquet file that is not whole is refused; the message names it."""
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert name in refuse()


@pytest.mark.parametrize(("side", "name"), [("source", "pool.parquet"), ("target", "targets.parquet")])
def test_zero_vectors_under_cosine(tmp_path, line, mine, side, name):
    """Section 3: a zero vector has no direction: its cosine distance is 1 to everything, and a warning says so."""
    vectors = [[0.0, 0.0], [0.0, 2.0]]
    write_embeddings(tmp_path / "pool.parquet", [[0.0, 1.0], [0.0, -1.0]], who=identity(dimension=2))
    write_embeddings(tmp_path / "targets.parquet", [[0.0, 1.0], [0.0, 3.0]], who=identity(dimension=2))
    write_embeddings(tmp_path / name, vectors, who=identity(dimension=2))
    run = mine("knn_metric=cosine", "topn=2")
    (warning,) = (line for line in run.log.splitlines() if "WARNING" in line)
    assert "zero" in warning
    assert side in warning
    found = {(row["target_row"], row["source_row"]): row["distance"] for row in run.rows}
    if side == "source":
        assert found == {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 1.0, (1, 1): 0.0}
    else:
        assert found == {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.0, (1, 1): 2.0}


def test_zero_vectors_under_euclidean(tmp_path, line, mine):
    """Section 3: under `euclidean` a zero vector is a vector like any other."""
    assert "WARNING" not in mine("topn=1").log  # the first source and the first target of `line` are zero
