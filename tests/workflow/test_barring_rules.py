"""Which rule bars a row, in which order, from which sources; and what happens where files are not there."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.errors import ConfigError, EncoderMismatch, TableError
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.tables.history import History, add_iteration, write_history
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.barring.looks import look
from lookalike.workflow.barring.pool import bar_pool
from lookalike.workflow.exclusion import read_all_excluded, read_excluded
from support.embeddings import identity, write_embeddings
from support.runs import make_images, make_run

DIMENSION = 16


def vectors(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A pool of eight pictures `pool/x_000.png`..., whose vectors are `vectors(8)`."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pool", 8, "x", size=(80, 60))
    write_embeddings(tmp_path / "pool.parquet", vectors(8), filepaths=names(), who=identity(dimension=DIMENSION))
    return tmp_path


def names(*rows):
    return [f"pool/x_{row:03d}.png" for row in (rows or range(8))]


def bar(targets=None, **settings):
    given = {key: settings.pop(key) for key in ("inputs", "protect", "exclude") if key in settings}
    if targets is not None:
        targets = read_embedding_table(str(targets), "embedding")
    return bar_pool(EmbeddingStream("pool.parquet", "embedding"), targets, BarringConfig(**settings), **given)


def some(path, rows, paths=None):
    """An embedding table of rows of the pool."""
    return write_embeddings(
        path, vectors(8)[rows], filepaths=paths or names(*rows), who=identity(dimension=DIMENSION)
    )  # fmt: skip


def rules(bars):
    return {row: rule for rule, rows in _by_rule(bars).items() for row in rows}


def _by_rule(bars):
    from lookalike.workflow.barring.bars import RULES

    return {str(rule): np.flatnonzero(bars.rule == number).tolist() for number, rule in enumerate(RULES[1:], 1)}


def test_a_row_gets_the_first_rule_that_applies(place):
    """Rows 0 to 4 are all protected by path, and targets, too; row 0 is excluded, row 5 is a target only."""
    shutil.copy("pool/x_003.png", "bytes.png")
    Image.open("pool/x_004.png").save("pixels.bmp")
    paths = [*names(0, 1, 2), "bytes.png", "pixels.bmp"]
    some(place / "protect.parquet", [0, 1, 2, 3, 4], paths)
    some(place / "targets.parquet", [0, 1, 2, 3, 4, 5])
    bars = bar(
        "targets.parquet", exclude=_list(place, names(0)), protect="protect.parquet"
    )  # fmt: skip
    assert rules(bars) == {
        0: "excluded", 1: "protected_path", 2: "protected_path", 3: "protected_bytes", 4: "protected_pixels",
        5: "self_match",
    }  # fmt: skip
    assert bars.by == {0: paths[0], 1: paths[1], 2: paths[2], 3: "bytes.png", 4: "pixels.bmp", 5: names(5)[0]}
    assert np.isnan([bars.distance[row] for row in (0, 1, 3, 5)]).all()
    assert bars.distance[4] == pytest.approx(0, abs=1e-6)
    assert bars.mask.tolist() == [True] * 6 + [False] * 2
    assert bars.counts == {
        "excluded": 1, "protected_path": 2, "protected_bytes": 1, "protected_pixels": 1, "self_match": 1,
    }  # fmt: skip
    kept = bar("targets.parquet", exclude=_list(place, names(0)), protect="protect.parquet", self_match="keep")
    assert kept.mask.tolist() == [True] * 5 + [False] * 3


def _list(place, paths):
    (place / "list.txt").write_text("\n".join(paths))
    return "list.txt"


def test_two_spellings_of_a_path_are_one_image(place):
    bars = bar(protect=pa.table({"filepath": ["./pool//x_001.png", r"pool\x_002.png", "pool/other/../x_003.png"]}))
    assert rules(bars) == dict.fromkeys((1, 2, 3), "protected_path")
    assert bars.by[2] == r"pool\x_002.png"
    assert rules(bar(exclude=[_list(place, [str(place / "pool" / "x_004.png")])])) == {4: "excluded"}


def test_files_of_one_size_are_told_apart_by_their_bytes(place):
    """Bitmaps of one camera all have the same size."""
    for row in range(8):
        Image.open(names(row)[0]).save(f"pool/{row}.bmp")
    paths = [f"pool/{row}.bmp" for row in range(8)]
    write_embeddings(place / "pool.parquet", vectors(8), filepaths=paths)
    shutil.copy("pool/6.bmp", "six.raw")
    bars = bar(protect=pa.table({"filepath": ["six.raw", names(2)[0]]}))
    assert rules(bars) == {6: "protected_bytes", 2: "protected_pixels"}


def test_files_that_differ_in_one_byte_are_not_the_same(place):
    Image.open(names(4)[0]).save("one.bmp")
    data = bytearray(Path("one.bmp").read_bytes())
    data[-1] ^= 0x80
    Path("pool/other.bmp").write_bytes(data)
    write_embeddings(place / "pool.parquet", vectors(2), filepaths=["pool/other.bmp", *names(1)])
    assert bar(protect=pa.table({"filepath": ["one.bmp"]})).counts == {"protected_near": 1}


def test_pictures_of_one_colour_are_compared_by_pixels_only(place):
    Image.new("L", (30, 30), 7).save("pool/x_000.png")
    Image.new("L", (31, 31), 7).save("pool/x_001.png")
    Image.new("RGB", (30, 30), (7, 7, 7)).save("seven.bmp")
    assert rules(bar(protect=pa.table({"filepath": ["seven.bmp"]}))) == {0: "protected_pixels"}


def test_several_evaluation_sets_are_one(place):
    Image.open("pool/x_004.png").save("pixels.bmp")
    some(place / "test.parquet", [1, 4], [names(1)[0], "pixels.bmp"])
    Path("val.csv").write_text("filepath\npool/x_002.png\n")
    for given in ({"protect": "test.parquet,val.csv"}, {"protect": [Path("test.parquet"), "val.csv"]}):
        bars = bar(**given)
        assert rules(bars) == {1: "protected_path", 2: "protected_path", 4: "protected_pixels"}
        assert bars.by[4] == "pixels.bmp"


def test_a_visual_changenet_table_excludes_its_images(place):
    """Such as the training set, so that it is not mined again."""
    (place / "pool" / "C1_SolderLight.png").write_bytes(Path("pool/x_000.png").read_bytes())
    write_embeddings(
        place / "pool.parquet", vectors(2), filepaths=["pool/C1_SolderLight.png", "pool/C2_SolderLight.png"]
    )
    Path("train.csv").write_text("input_path,golden_path,label,object_name\npool,gold,PASS,C1\n")
    assert rules(bar(exclude="train.csv", inputs=RunConfig("", "", image_ext=".png"))) == {0: "excluded"}


def test_the_same_component_under_another_light_is_recognised(place):
    """A Visual ChangeNet pool carries `object_name`, and its files are `<object_name>_<light>`."""
    paths = ["b1/R1_UniformLight.jpg", "b1/R2_UniformLight.jpg", "b2/R1_UniformLight.jpg", "b1/R1_7_UniformLight.jpg"]
    parts = ["R1", "R2", "R1", "R1_7"]
    write_embeddings(place / "pool.parquet", vectors(4), filepaths=paths, object_name=parts)
    write_embeddings(place / "targets.parquet", vectors(1, 5), filepaths=["b1/R1_SolderLight.jpg"])
    write_embeddings(place / "protect.parquet", vectors(1, 6), filepaths=["./b1/R2_SolderLight.jpg"])
    bars = bar("targets.parquet", protect="protect.parquet")
    assert rules(bars) == {0: "self_twin", 1: "protected_component"}
    assert bars.by == {0: "b1/R1_SolderLight.jpg", 1: "./b1/R2_SolderLight.jpg"}
    write_embeddings(place / "pool.parquet", vectors(4), filepaths=paths)
    assert not bar("targets.parquet", protect="protect.parquet").mask.any(), "nothing says that names are components"


def test_missing_files_and_urls_are_notes(place):
    (place / "pool/x_001.png").unlink()
    (place / "pool/x_002.png").write_bytes(b"no image")
    paths = [*names(0, 1, 2), "s3://bucket/3.png", *names(4, 5, 6, 7)]
    write_embeddings(place / "pool.parquet", vectors(8), filepaths=paths)
    some(place / "protect.parquet", [1, 3, 5, 0], ["a.png", "b.png", "s3://bucket/c.png", names(0)[0]])
    bars = bar(protect="protect.parquet")
    # Without pixels: the same vector.
    assert rules(bars) == {0: "protected_path", 1: "protected_near", 3: "protected_near", 5: "protected_near"}
    notes = "\n".join(bars.notes)
    assert "1 protected images are URLs" in notes
    assert "1 pool images are URLs" in notes
    assert "2 of 4 protected images have no file" in notes
    assert "1 pool images have no file" in notes
    assert "3 pool images and 3 protected images: there the distance decides" in notes


def test_without_pixels_the_limit_is_how_near_pool_images_are_to_each_other(place):
    """1 % of them have a neighbour within it; equal vectors do not count."""
    pool = np.concatenate([vectors(400), vectors(20)])
    write_embeddings(place / "pool.parquet", pool, filepaths=[f"gone/{row}" for row in range(len(pool))])
    unit = vectors(400) / np.linalg.norm(vectors(400), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    nearest = np.sort(1 - cosines.max(axis=1)[20:])  # the first 20 have an equal one
    limit = nearest[int(0.01 * (len(nearest) - 1))]

    def near(row, distance):
        """A vector at a cosine distance from one of the pool's."""
        aside = np.random.default_rng(row).standard_normal(DIMENSION)
        aside -= aside @ unit[row] * unit[row]
        return (1 - distance) * unit[row] + np.sqrt(1 - (1 - distance) ** 2) * aside / np.linalg.norm(aside)

    protected = np.array([near(100, 0.9 * limit), near(200, 1.1 * limit)], np.float32)
    write_embeddings(place / "protect.parquet", protected, filepaths=["gone/a", "gone/b"])
    bars = bar(protect="protect.parquet")
    assert rules(bars) == {100: "protected_near"}
    assert bars.distance[100] == pytest.approx(0.9 * limit, abs=1e-5)
    assert any(f"within {limit:.2g} are barred" in note for note in bars.notes)


def test_no_pixels_are_read_where_none_may_be(place):
    Image.open("pool/x_004.png").save("pixels.bmp")
    some(place / "protect.parquet", [4], ["pixels.bmp"])
    bars = bar(protect="protect.parquet", leak_reads=0)
    assert (bars.read, rules(bars)) == (0, {4: "protected_near"})
    assert bars.distance[4] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_right_is_refused(place):
    pq.write_table(pa.table({"filepath": pa.array([], pa.string())}), "empty.parquet")
    with pytest.raises(TableError, match="there is no image to protect"):
        bar(protect="empty.parquet")
    with pytest.raises(TableError, match=r"protect bars every row .*\(8 protected_path\)[\s\S]*not the pool itself"):
        bar(protect="pool.parquet")
    with pytest.raises(TableError, match="does not exist"):
        bar(protect="nowhere.parquet")
    with pytest.raises(TableError, match="does not exist"):
        bar(exclude="nowhere.parquet")
    other = identity(dimension=DIMENSION, weights="c" * 64)
    write_embeddings(place / "other.parquet", vectors(2), who=other)
    with pytest.raises(EncoderMismatch):
        bar(protect="other.parquet")
    for wrong in (
        {"self_match": "maybe"},
        {"protect_threshold": float("nan")},
        {"self_threshold": 3},
        {"leak_reads": -1},
    ):
        with pytest.raises(ConfigError):
            bar(**wrong)


def test_everything_excluded_is_a_note(place):
    """An iteration after which nothing is left is valid; the run says so."""
    bars = bar(exclude="pool.parquet", protect="pool.parquet")
    assert bars.counts == {"excluded": 8}
    assert "every row of the pool is barred" in bars.notes[-1]


def test_a_self_threshold_bars_what_is_near_to_a_target(place):
    some(place / "targets.parquet", [0], ["elsewhere.png"])
    first = vectors(8) / np.linalg.norm(vectors(8), axis=1, keepdims=True)
    distances = 1 - first @ first[0]
    limit = float(np.sort(distances)[3]) + 1e-6
    bars = bar("targets.parquet", self_threshold=limit)
    assert bars.rows.tolist() == sorted(np.argsort(distances)[:4].tolist())
    assert bars.counts == {"self_twin": 4}


def test_sources_of_exclusion_can_be_mixed(place):
    run = make_run(place / "mining_results" / "one", targets=2, pool=6, topn=2)
    second = make_run(place / "mining_results" / "two", targets=3, pool=9, topn=1)
    mined = [path for one in (run, second) for path in pq.read_table(one.mined).column("filepath").to_pylist()]
    assert set(mined) < set(read_embedding_table(str(second.pool), "embedding").filepaths.to_pylist())
    assert read_excluded(str(run.path), "filepath") == mined[: pq.read_metadata(run.mined).num_rows]
    assert read_excluded("mining_results", "filepath") == mined
    write_history("ledger.json", add_iteration(History(), 2, run.mined, run.mined, run.summary))
    mixed = [names(1)[0], *names(2)]
    (place / "list, of two.txt").write_text("\n".join(mixed))
    (place / "list.txt").write_text("pool//x_002.png")
    assert read_all_excluded("list, of two.txt", "filepath") == mixed
    assert read_all_excluded("ledger.json, mining_results/one ,list.txt", "filepath") == [*dict.fromkeys(
        pq.read_table(run.mined).column("filepath").to_pylist()), "pool//x_002.png"]  # fmt: skip
    bars = bar(exclude=["list, of two.txt", place / "list.txt"])
    assert rules(bars) == {1: "excluded", 2: "excluded"}
    assert not bar(exclude="").mask.any()


def test_a_run_that_did_not_finish_is_no_source(place):
    run = make_run(place / "mining_results" / "one", targets=2, pool=6)
    run.mined.unlink()
    with pytest.raises(TableError, match="did not finish"):
        bar(exclude="mining_results/one")
    with pytest.raises(TableError, match="name mining_results for what was mined before"):
        bar(exclude=".")
    assert RunFolder(run.path).record.exists()


def test_inputs_say_where_relative_paths_start(place, monkeypatch):
    """The `root` of a run holds for the pool and for what is protected."""
    shutil.copy("pool/x_003.png", "three.png")
    (place / "away").mkdir()
    monkeypatch.chdir(place / "away")
    table = pa.table({"filepath": ["three.png"]})
    stream = EmbeddingStream("../pool.parquet", "embedding")
    bars = bar_pool(stream, None, BarringConfig(), protect=table, inputs=RunConfig("", "", root=str(place)))
    assert rules(bars) == {3: "protected_bytes"}
    assert not bar_pool(stream, None, BarringConfig(), protect=table).mask.any()


def test_pixels_are_the_same_in_whatever_mode_they_are_stored():
    """Grey saved with three channels is the same picture; one pixel of another colour makes another one."""
    values = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    grey = Image.fromarray(values)
    colours = np.repeat(values[:, :, None], 3, axis=2)
    assert look(Image.fromarray(colours)).digest == look(grey).digest
    colours[7, 9, 2] ^= 1
    assert look(Image.fromarray(colours)).digest != look(grey).digest
