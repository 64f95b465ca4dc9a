"""`lookalike calibrate`: what is proposed follows from the pool's own distances, and degenerate pools are told."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from support.embeddings import write_embeddings
from support.inprocess import call_lookalike
from support.runs import make_run


@pytest.fixture
def calibrate(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*options, status=0, table="pool.parquet"):
        done = call_lookalike(monkeypatch, capsys, "calibrate", "--pool", table, *options)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "--json" in options and not status else done

    return call


def pool(tmp_path, vectors, **settings):
    return write_embeddings(tmp_path / "pool.parquet", np.asarray(vectors, np.float32), **settings)


def clusters(rows=300, dimension=16, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((6, dimension))[random.integers(0, 6, rows)] + 0.2 * random.standard_normal(
        (rows, dimension)
    )


@pytest.mark.parametrize(
    ("metric", "scipy"), [("cosine", "cosine"), ("euclidean", "euclidean"), ("manhattan", "cityblock")]
)
def test_the_table_is_that_of_brute_force(metric, scipy, calibrate, tmp_path):
    vectors = clusters().astype(np.float32)
    labels = np.random.default_rng(1).choice(["a", "B", "b "], len(vectors))
    pool(tmp_path, vectors, labels=labels.tolist())
    found = calibrate("--metric", metric, "--quantile", "0.8", "--json")
    distances = cdist(vectors.astype(float), vectors.astype(float), scipy)
    np.fill_diagonal(distances, np.inf)
    nearest, place = distances.min(axis=1), distances.argmin(axis=1)
    plain = np.char.upper(np.char.strip(labels.astype(str)))
    for step in found["steps"]:
        expected = np.quantile(nearest, step["quantile"])
        assert step["distance"] == pytest.approx(expected, rel=1e-5)
        within = nearest <= expected * (1 + 1e-6)
        assert step["same_label"] == pytest.approx((plain == plain[place])[within].mean(), abs=0.01)
        off = distances[np.isfinite(distances)]
        assert step["random"] == pytest.approx((off <= expected).mean(), abs=0.02)
    assert found["distance_threshold"] == pytest.approx(np.quantile(nearest, 0.8), rel=1e-3)
    assert (found["rows"], found["sampled"], found["twins"]) == (300, 300, 0)
    counts = np.unique(plain, return_counts=True)[1]
    assert found["random_same_label"] == pytest.approx((counts * (counts - 1)).sum() / (300 * 299))


def test_near_duplicates_are_below_the_threshold_and_others_are_not(calibrate, tmp_path):
    """Copies that differ a little, and exact ones, do not move the threshold that separates them."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((400, 32))
    copies = vectors[:40] + 0.005 * random.standard_normal((40, 32))
    pool(tmp_path, np.concatenate([vectors, copies, vectors[:5]]))
    found = calibrate("--json")
    distances = cdist(vectors, np.concatenate([vectors, copies]), "cosine")
    np.fill_diagonal(distances, np.inf)
    of_copies = distances[np.arange(40), 400 + np.arange(40)]
    distances[np.arange(40), 400 + np.arange(40)] = np.inf
    assert of_copies.max() < found["dedup_threshold"] < distances.min()
    assert found["twins"] == 10
    assert "10 images have another one at distance 0" in found["notes"]


def test_a_sample_is_searched_among_the_whole_pool(calibrate, tmp_path):
    pool(tmp_path, clusters(1500))
    whole, some, again, other = (calibrate("--json", *words) for words in (
        (), ("--sample", "400"), ("--sample", "400"), ("--sample", "400", "--seed", "1")))  # fmt: skip
    assert some == again
    assert some["steps"] != other["steps"]
    assert some["sampled"] == 400
    assert any("random sample of 400 images (seed 0)" in note for note in some["notes"])
    # Among 400 images the nearest would be far farther than among 1,500.
    assert some["distance_threshold"] == pytest.approx(whole["distance_threshold"], rel=0.15)


def test_the_command_that_is_printed_can_be_used(calibrate, monkeypatch, capsys, tmp_path):
    vectors = clusters()
    pool(tmp_path, vectors)
    done = calibrate()
    write_embeddings(tmp_path / "targets.parquet", vectors[:9].astype(np.float32))
    words = done.last_line.replace("TARGETS", "targets.parquet").split()
    assert words[0] == "lookalike"
    assert call_lookalike(monkeypatch, capsys, *words[1:], "--cfg", "job").returncode == 0
    lines = dict(line.split(": ") for line in done.lines if line.startswith(("distance_threshold", "dedup_threshold")))
    assert all(f"{name}={value}" in words for name, value in lines.items())


def test_a_run_folder_stands_for_its_pool(calibrate, tmp_path):
    run = make_run(tmp_path / "run", pool=30)
    found = calibrate("--json", table=run.path)
    assert (found["pool"], found["rows"]) == (str(run.pool), 30)
    assert any("30 images are few" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((50, 4)), "random pairs of this pool are at distance 0"),
        (np.eye(40), "a threshold tells little"),
        (np.arange(8.0).reshape(4, 2) + 1, "too few images that differ"),
    ],
)
def test_degenerate_pools(vectors, words, calibrate, tmp_path):
    pool(tmp_path, vectors)
    done = calibrate()
    assert words in done.stdout
    if words.startswith("random"):
        assert "distance_threshold: none" in done.lines
        assert "distance_threshold=" not in done.last_line


def test_what_cannot_be(calibrate, tmp_path):
    pool(tmp_path, np.ones((1, 4)))
    assert "has one row" in calibrate(status=1).stderr
    pool(tmp_path, clusters())
    for words, message in (
        (("--metric", "hamming"), "knn_metric='hamming' is not possible"),
        (("--quantile", "0"), "quantile=0.0 is not possible"),
        (("--quantile", "nan"), "quantile=nan is not possible"),
        (("--sample", "3"), "sample must be at least 100"),
        (("--pool-vectors", "v"), "has no column 'v'"),
    ):
        assert message in calibrate(*words, status=1).stderr
    assert "does not exist" in calibrate(table="nowhere.parquet", status=1).stderr
    assert calibrate("--quantile", "many", status=2).returncode == 2


def test_the_installed_command(run_command, tmp_path):
    pool(tmp_path, clusters())
    done = run_command("lookalike", "calibrate", "--pool", "pool.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.last_line.startswith(
        "lookalike mine --targets TARGETS --pool pool.parquet --metric cosine distance_thr"
    )
