"""`lookalike tune`: every figure of the table is what mining with that setting gives; the choice needs no labels."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors import search as search_module
from lookalike.selection import sweep as sweep_module
from lookalike.selection.choice import BLEND
from lookalike.selection.knee import Knee, knee, shared_knee
from lookalike.selection.scored import select_scored
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.mining import mine
from support.embeddings import identity, write_embeddings
from support.inprocess import call_lookalike
from support.pools import planted
from support.runs import make_run

TABLES = ("--targets", "targets.parquet", "--pool", "pool.parquet")


@pytest.fixture
def tune(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words, status=0, out="out"):
        done = call_lookalike(monkeypatch, capsys, "tune", *words, "--out", out)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done if status else (pq.read_table(tmp_path / out / "tune.parquet").to_pandas(), done)

    return call


def tables(tmp_path, targets, pool, member=None, name="", who=None):
    labels = {} if member is None else {"labels": ["bad"] * len(targets)}
    write_embeddings(
        tmp_path / f"{name}targets.parquet", targets, filepaths=[f"/t/{row}.jpg" for row in range(len(targets))],
        who=who, **labels,
    )  # fmt: skip
    labels = {} if member is None else {"labels": np.where(member, "BAD ", "good").tolist()}
    write_embeddings(tmp_path / f"{name}pool.parquet", pool, who=who, **labels)


def test_every_row_is_what_mining_gives(tune, tmp_path):
    """Yield, coverage and precision against `select_scored` and `mine`, each with a search of its own."""
    targets, pool, member = planted(targets=14, pool=300)
    tables(tmp_path, targets, pool, member)
    threshold = 0.2
    table, _ = tune(*TABLES, "--topn", "2,6,30", "--components", "8,16", "--threshold", str(threshold))
    assert len(table) == 5 * 3 * 2
    for row in table.itertuples():
        limit = -1.0 if np.isnan(row.distance_threshold) else row.distance_threshold
        if row.scoring == "nearest":
            mined = mine("pool.parquet", "targets.parquet", "m.parquet", topn=row.topn, knn_metric="cosine",
                         distance_threshold=limit)  # fmt: skip
            pairs = pq.read_table(mined.pairs_path).to_pandas()
            rows = pairs[pairs.outcome == "kept"].source_row.to_numpy()
        else:
            found = select_scored(targets, pool, ScoringConfig(
                scoring=row.scoring, components=str(int(row.components)), topn=row.topn, distance_threshold=limit
            ))  # fmt: skip
            rows = found.kept_rows
            assert row.coverage == pytest.approx(found.served.mean())
        assert row._6 == len(rows)  # yield
        assert row.pool_share == pytest.approx(len(rows) / 300)
        assert row.precision == pytest.approx(member[rows].mean())
        units = pool[rows] / np.linalg.norm(pool[rows], axis=1, keepdims=True)
        cosines = units @ units.T
        np.fill_diagonal(cosines, -1)
        assert row.redundancy == pytest.approx(cosines.max(axis=1).mean(), abs=1e-5)


def test_held_out_recall_and_the_choice_are_those_of_auto(tune, tmp_path):
    targets, pool, member = planted(targets=40)
    tables(tmp_path, targets, pool, member)
    table, done = tune(*TABLES, "--topn", "1,3,5,10", "--components", "16")
    auto = select_scored(targets, pool, ScoringConfig(components="16"))
    best = auto.choice.tried[0]
    at_five = table[(table.topn == 5) & table.distance_threshold.isna()]
    for one in auto.choice.tried:
        row = at_five[(at_five.scoring == one.option.scoring)].iloc[0]
        assert row.held_out_rank == pytest.approx(one.rank)
        assert row.held_out_recall == pytest.approx(one.found)
    # Its row is what mining with scoring=auto gives, and it is recommended.
    blend = at_five[at_five.scoring == "auto"].iloc[0]
    assert auto.choice.option == BLEND
    assert blend["yield"] == len(auto.kept_rows)
    assert blend.precision == pytest.approx(member[auto.kept_rows].mean())
    assert blend.held_out_rank < best.rank * np.exp(best.spread)
    (chosen,) = table[table.recommended].to_dict("records")
    assert chosen["scoring"] == "auto"
    assert f"the best alone ({best.option})" in done.stdout
    curve = table[(table.scoring == chosen["scoring"]) & table.distance_threshold.isna()].reset_index()
    right = curve["yield"] * curve.precision
    curves = {"recall": curve.held_out_recall, "coverage": curve.coverage, "right": right / right.max()}
    place = shared_knee(curve["yield"], curves).place
    assert place is not None
    assert chosen["topn"] == curve.topn[place]
    words = dict(word.split("=") for word in done.last_line.split())
    assert words["scoring"] == chosen["scoring"]
    assert words["topn"] == str(chosen["topn"])
    # More images never find fewer hidden targets.
    for _, own in table.groupby(["scoring", table.distance_threshold.fillna(-1)]):
        assert own.sort_values("topn").held_out_recall.is_monotonic_increasing


def test_weights_count_as_they_do_in_mining(tune, tmp_path):
    """Half of the targets are of another kind and weigh nothing: figures and images are those of the others."""
    targets, pool, _ = planted(targets=40)
    others = np.random.default_rng(1).standard_normal(targets.shape).astype(np.float32) * pool.std(axis=0)
    weakness = [1.0, 2.0] * 20 + [0.0] * 40
    tables(tmp_path, np.concatenate([targets, others]), pool, None)
    table = pq.read_table("targets.parquet")
    pq.write_table(table.append_column("weakness", pa.array(weakness)), "targets.parquet")
    words = (*TABLES, "--topn", "1,3,5", "--components", "16", "--threshold", "off")
    weighted, done = tune(*words, "--target-weight-column", "weakness")
    plain, _ = tune(*words, out="plain")
    assert done.last_line.endswith(" target_weight_column=weakness")
    config = ScoringConfig(components="16")
    auto = select_scored(np.concatenate([targets, others]), pool, config, target_weights=weakness)
    at_five = weighted[weighted.topn == 5].set_index("scoring")
    for one in auto.choice.tried:
        assert at_five.held_out_rank[one.option.scoring] == pytest.approx(one.rank)
        assert at_five.held_out_recall[one.option.scoring] == pytest.approx(one.found)
    best = auto.choice.tried[0].option.scoring
    assert at_five["yield"]["auto"] == len(auto.kept_rows)
    assert at_five.held_out_rank[best] < plain[plain.topn == 5].set_index("scoring").held_out_rank[best] / 2
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for file, name in ((folder.targets, "targets.parquet"), (folder.pool, "pool.parquet")):
        file.write_bytes((tmp_path / name).read_bytes())
    made = make_run(tmp_path / "made", target_paths=["/t.jpg"], pool_paths=["/p.jpg"], topn=1)
    record = json.loads(made.record.read_text())
    record["settings"]["target_weight_column"] = "weakness"
    folder.record.write_text(json.dumps(record))
    again, done = tune("run", "--topn", "1,3,5", "--components", "16", "--threshold", "off", out="again")
    assert done.last_line.endswith(" target_weight_column=weakness"), "the run's own column"
    assert again.held_out_rank.tolist() == weighted.held_out_rank.tolist()
    assert "target_weight_column" not in tune("run", "--topn", "1", "--target-weight-column", "", out="o")[1].last_line
    assert "has no column 'age'" in tune(*words, "--target-weight-column", "age", status=1, out="p").stderr


def test_few_targets_with_a_weight_are_few_targets(tune, tmp_path):
    targets, pool, _ = planted(targets=20)
    tables(tmp_path, targets, pool)
    weights = pa.array([1] * 9 + [0] * 11)
    pq.write_table(pq.read_table("targets.parquet").append_column("w", weights), "targets.parquet")
    table, done = tune(*TABLES, "--topn", "2,4", "--target-weight-column", "w")
    assert "9 targets are too few to hide some of them" in done.stdout
    assert table.held_out_recall.isna().all()


def test_a_threshold_costs_the_hidden_targets_that_are_beyond_it(tune, tmp_path):
    targets, pool, _ = planted(targets=30)
    tables(tmp_path, targets, pool)
    table, _ = tune(*TABLES, "--topn", "20", "--components", "16", "--threshold", "0,2")
    own = table[table.scoring == "lda"].set_index(table[table.scoring == "lda"].distance_threshold.fillna(-1))
    assert own.held_out_recall[0.0] == 0
    assert own.held_out_recall[2.0] == own.held_out_recall[-1.0] > 0
    assert own["yield"][0.0] == 0
    assert table.precision.isna().all()


def test_one_search_serves_all(tune, tmp_path, monkeypatch):
    """However many settings are tried, the pool is searched once for each encoder."""
    calls = []
    real = search_module.search
    monkeypatch.setattr(sweep_module, "search", lambda *given: calls.append(given) or real(*given))
    targets, pool, _ = planted(pool=200)
    tables(tmp_path, targets, pool)
    tables(tmp_path, targets, pool, name="b_")
    tune("--with", "a=targets.parquet,pool.parquet", "--with", "b=b_targets.parquet,b_pool.parquet", "--topn", "1,5,9")
    assert len(calls) == 2


def test_the_better_encoder_is_chosen(tune, tmp_path):
    """One that sees the class against one that sees noise; the table names both."""
    targets, pool, member = planted(targets=30)
    random = np.random.default_rng(5)
    tables(tmp_path, random.standard_normal((30, 8)), random.standard_normal((600, 8)), member, name="blind_")
    tables(tmp_path, targets, pool, member, name="good_")
    both = [f"--with={name}={name}_targets.parquet,{name}_pool.parquet" for name in ("blind", "good")]
    table, done = tune(*both, "--topn", "1,3,5,10")
    assert set(table.encoder) == {"blind", "good"}
    assert table[table.recommended].encoder.tolist() == ["good"]
    assert "lookalike mine --targets good_targets.parquet --pool good_pool.parquet" in done.stdout
    picture = Image.open(tmp_path / "out" / "tune.png")
    assert picture.info["Title"] == "What more images bring"
    chosen = table[table.recommended].iloc[0]
    assert f"topn {chosen.topn}, {chosen['yield']} images" in picture.info["Comment"]


def test_precision_by_label(tune, tmp_path):
    targets, pool, member = planted(targets=20, pool=200)
    labels = ["bad", "good"] * 10
    write_embeddings(tmp_path / "targets.parquet", targets, labels=labels, filepaths=[f"t{n}" for n in range(20)])
    write_embeddings(tmp_path / "pool.parquet", pool, labels=np.where(member, "bad", "good").tolist())
    table, _ = tune(*TABLES, "--topn", "3")
    row = table[(table.scoring == "nearest") & table.distance_threshold.isna()].iloc[0]
    mined = mine("pool.parquet", "targets.parquet", "m.parquet", topn=3, knn_metric="cosine")
    pairs = pq.read_table(mined.pairs_path).to_pandas()
    pairs = pairs[pairs.outcome == "kept"]
    right = pairs.target_label == pairs.source_label
    assert row.precision == pytest.approx(right.mean())
    for label in ("bad", "good"):
        assert row[f"precision: {label.upper()}"] == pytest.approx(right[pairs.target_label == label].mean())


def test_a_run_folder_and_its_recommendation(tune, run_command, tmp_path):
    """The printed command mines as many images as the table says."""
    targets, pool, _ = planted(targets=12, pool=150)
    run = make_run(tmp_path / "run", vectors=(targets, pool), targets=12, pool=150)
    # The pictures of the first 12 pool images are those of the targets: mining leaves them out, as this table says.
    paths = pq.read_table(run.pool).column("filepath")[:12]
    pq.write_table(pa.table({"filepath": paths}), run.excluded)
    table, done = tune(run.path, "--topn", "1,4", "--components", "8")
    assert "12 pool images might not be mined in the run" in done.stdout
    assert done.last_line == done.lines[-2].split(" ", 6)[6]
    command = [*done.lines[-2].split(), "run_dir=again"]
    again = run_command(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    mined = pq.read_table(tmp_path / "again" / "mined.parquet").num_rows
    assert mined == table[table.recommended]["yield"].iloc[0]


def test_the_targets_own_images_are_left_out(tune, tmp_path):
    _, pool, _ = planted(targets=12, pool=100)
    paths = [f"/pool/{row}.jpg" for row in range(100)]
    write_embeddings(tmp_path / "targets.parquet", pool[:12], filepaths=paths[:12])
    write_embeddings(tmp_path / "pool.parquet", pool, filepaths=paths)
    table, done = tune(*TABLES, "--topn", "1")
    assert "12 pool images have the path of a target and are left out" in done.stdout
    assert (table["yield"] <= 12).all()
    write_embeddings(tmp_path / "pool.parquet", pool[:12], filepaths=paths[:12])
    assert "has only images that are left out" in tune(*TABLES, "--force", status=1).stderr


def test_few_targets_and_small_pools(tune, tmp_path):
    """No held-out recall is told, not guessed; a pool smaller than everything that is asked for."""
    random = np.random.default_rng(0)
    tables(tmp_path, random.standard_normal((3, 6)), random.standard_normal((4, 6)))
    table, done = tune(*TABLES)
    assert "3 targets are too few to hide some of them" in done.stdout
    assert "topn=20 is more than the pool has: clamped to 4" in done.stdout
    assert table.held_out_recall.isna().all()
    assert table.topn.max() == 4
    assert "near the default: there is no held-out recall" in done.stdout
    assert done.last_line.startswith("scoring=density_ratio")
    tables(tmp_path, np.ones((12, 6)), np.ones((9, 6)))
    table, done = tune(*TABLES, "--force")
    assert set(table.scoring) == {"nearest"}, "vectors that do not differ cannot be whitened"
    assert done.last_line.startswith("scoring=nearest topn=")


def test_what_cannot_be(tune, tmp_path):
    targets, pool, _ = planted(targets=12, pool=100)
    tables(tmp_path, targets, pool)
    for words, message in (
        ((), "there is nothing to tune"),
        (("--targets", "targets.parquet"), "go together"),
        (("run", *TABLES), "a run folder has both tables"),
        ((*TABLES, "--with", "b"), "is not NAME=TARGETS,POOL"),
        ((*TABLES, "--with", "encoder=a,b"), "the name 'encoder' is taken"),
        ((*TABLES, "--topn", "0,5"), "topn=0,5 is not possible"),
        ((*TABLES, "--topn", "many"), "give numbers with commas"),
        ((*TABLES, "--threshold", "-1"), "threshold=-1 is not possible"),
        ((*TABLES, "--metric", "hamming"), "knn_metric='hamming' is not possible"),
        ((".",), "holds no target_embeddings.parquet"),
    ):
        assert message in tune(*words, status=1).stderr
    assert not (tmp_path / "out").exists()
    tune(*TABLES, "--topn", "2")
    assert "is there already" in tune(*TABLES, status=1).stderr
    write_embeddings(tmp_path / "other.parquet", pool[:50])
    done = tune(*TABLES, "--with", "b=targets.parquet,other.parquet", status=1, out="o")
    assert "the pool of encoder and b are not the same images" in done.stderr
    tables(tmp_path, targets, pool, name="a_", who=identity(dimension=24))
    tables(tmp_path, targets, pool, name="b_", who=identity(dimension=24, weights="c" * 64))
    done = tune("--targets", "a_targets.parquet", "--pool", "b_pool.parquet", status=1, out="o")
    assert "written by different encoders" in done.stderr


def test_the_same_twice_gives_the_same_bytes(tune, tmp_path):
    targets, pool, _ = planted(targets=12, pool=100)
    tables(tmp_path, targets, pool)
    for out in ("a", "b"):
        tune(*TABLES, "--topn", "1,2,3", out=out)
    for name in ("tune.parquet", "tune.csv", "tune.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_knee_looks_at_right_images_too(tune, tmp_path):
    """Without labels the recall of hidden targets decides; with them, further images that are wrong hold it back."""
    targets, pool, member = planted(targets=40, members=60)
    tables(tmp_path, targets, pool, member)
    words = ("--topn", "1,2,4,8,16,30", "--components", "16", "--threshold", "off")
    table, done = tune(*TABLES, *words)
    own = table[table.scoring == table[table.recommended].scoring.iloc[0]].reset_index(drop=True)
    chosen = own[own.recommended].iloc[0]
    right = (own["yield"] * own.precision).round()
    found = shared_knee(
        own["yield"].tolist(),
        {"held-out recall": own.held_out_recall, "coverage": own.coverage, "right images": right / right.max()},
    )
    assert own.topn[found.place] == chosen.topn
    assert "together" in chosen.knee
    for name, place in found.alone.items():
        assert name in (own.knee[place] or "")
    (reason,) = [line for line in done.lines if line.startswith("Reason:   topn=")]
    assert f"right images topn={own.topn[found.alone['right images']]}" in reason
    (given,) = [line for line in done.lines if line.startswith(f"Reason:   {chosen['yield']} images: ")]
    following = own[own["yield"] > chosen["yield"]].iloc[0]
    added = following["yield"] - chosen["yield"]
    share = (following["yield"] * following.precision - chosen["yield"] * chosen.precision) / added
    assert f"topn={following.topn} would keep {added} more, of which {share:.0%} have the right label" in given
    assert f"{chosen.precision:.0%} with the right label, redundancy {chosen.redundancy:.2f}" in given
    tables(tmp_path, targets, pool, None)
    bare, done = tune(*TABLES, *words, out="bare")
    alone = bare[bare.recommended].iloc[0]
    assert "right images" not in done.stdout
    assert alone.topn >= chosen.topn
    picture = Image.open(tmp_path / "out" / "tune.png")
    assert f"topn {chosen.topn}," in picture.info["Comment"]


def test_knees_of_several_curves():
    across = [1, 2, 3, 4, 10]
    late, soon = [0, 0.1, 0.2, 0.6, 0.7], [0, 0.7, 0.72, 0.73, 0.75]
    assert shared_knee(across, {"a": late}) == Knee(3, {"a": 3})
    assert shared_knee(across, {"a": late, "b": soon}).alone == {"a": 3, "b": 1}
    assert shared_knee(across, {"a": late, "b": soon}).place in (1, 3)
    assert shared_knee(across, {"a": soon, "flat": [1] * 5, "unknown": [np.nan] * 5}) == Knee(1, {"a": 1})
    assert shared_knee(across, {"flat": [1] * 5}) == Knee(None, {})
    backwards = shared_knee(across[::-1], {"a": late[::-1], "b": soon[::-1]})
    assert backwards.place == 4 - shared_knee(across, {"a": late, "b": soon}).place, "in any order"


def test_knees():
    assert knee([0, 1, 2, 3, 10], [0, 5, 9, 9.5, 10]) == 2
    assert knee([10, 2, 0, 1], [10, 9, 0, 5]) == 1, "in any order"
    assert knee([1, 2, 3, 4], [1, 2, 3, 4]) is None, "a straight line has none"
    assert knee([1, 2, 3], [5, 5, 5]) is None
    assert knee([1, 2], [1, 2]) is None
    assert knee([1, 2, 3], [1, float("nan"), 3]) is None
    assert knee([1, 2, 3, 4], [0, 0.1, 0.2, 4]) is None, "a curve that only steepens has none"
