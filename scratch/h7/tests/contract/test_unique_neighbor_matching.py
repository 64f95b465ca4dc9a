"""Sections 2, 4 and 8 of the drop-in contract, `tmm unique_neighbor_matching`."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike
from lookalike.reports.contact_sheet import SAME_FRAME, TARGET_FRAME
from support.embeddings import identity, write_embeddings
from support.runs import make_images

PASS, FAIL = "Execution status: PASS", "Execution status: FAIL"
SUMMARY = [
    "allocation_policy", "desired_unique_count", "retrieved_unique_count", "coverage_pct", "target_queries",
    "rare_classes",
]  # fmt: skip


def circle(path, degrees, *, lengths=None, **settings):
    """A table of points on a circle: the distance of two is a matter of their angle."""
    radians = np.radians(list(degrees))
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    if lengths is not None:
        vectors *= np.array(lengths)[:, None]
    return write_embeddings(path, vectors.astype(np.float32), who=identity(dimension=2), **settings)


def chord(degrees):
    return pytest.approx(2 * math.sin(math.radians(abs(degrees)) / 2), abs=1e-6)


@pytest.fixture
def match(tmp_path, run_command):
    """Run the installed command on `pool.parquet` and `targets.parquet` in the test's folder."""

    def run(count, *settings, output="out"):
        words = ["source_path=pool.parquet", "target_path=targets.parquet", f"output_dir={output}"]
        words.append(f"desired_unique_count={count}")
        done = run_command("tmm", "unique_neighbor_matching", *words, *settings, cwd=tmp_path)
        assert (done.returncode, done.last_line) == (0, PASS), done.stderr
        return outputs(tmp_path / output, done)

    return run


@pytest.fixture
def match_here(tmp_path, monkeypatch):
    """The same in this process, which is faster."""
    monkeypatch.chdir(tmp_path)

    def run(count, output="out", **settings):
        lookalike.unique_neighbors("pool.parquet", "targets.parquet", output, count, **settings)
        return outputs(tmp_path / output)

    return run


def outputs(folder, done=None):
    final = pq.read_table(folder / "final_unique_files.parquet")
    pairs = pq.read_table(folder / "final_unique_files_pairs.parquet").to_pylist()
    return SimpleNamespace(
        done=done,
        folder=folder,
        table=final,
        files=final.column(0).to_pylist(),
        pairs=pairs,
        kept=[pair for pair in pairs if pair["outcome"] == "kept"],
        passes=sorted(file.name for file in folder.glob("*_iteration_*")),
        summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")),
    )


def names(paths):
    return [path.rsplit("/", 1)[-1].removesuffix(".png").removesuffix(".jpg") for path in paths]


# The passes


def test_two_passes(tmp_path, match):
    """Section 4: topn = ceil(4 / 2); pass i searches factor * i * topn; a target that cannot fill is asked again."""
    circle(tmp_path / "targets.parquet", [0, 1], filepaths=["/t/a.jpg", "/t/b.jpg"])
    circle(tmp_path / "pool.parquet", [2, 3, 10, 20, 40], lengths=[9, 1, 0.2, 30, 1])
    run = match(4, "candidate_expansion_factor=1")
    assert run.passes == ["global_iteration_1_topn_2.parquet", "global_iteration_2_topn_3.parquet"]
    first, second = (pq.read_table(run.folder / name) for name in run.passes)
    assert first.column_names == [
        "target_filepath", "top1_source_filepath", "top1_distance", "top2_source_filepath", "top2_distance",
    ]  # fmt: skip
    # Both targets see sources 0 and 1; the first takes both, the second is asked again among the rest.
    assert first.column("target_filepath").to_pylist() == ["/t/a.jpg", "/t/b.jpg"]
    assert first.column("top1_source_filepath").to_pylist() == ["/pool/0.jpg"] * 2
    assert second.to_pylist() == [
        {
            "target_filepath": "/t/b.jpg",
            "top1_source_filepath": "/pool/2.jpg", "top1_distance": chord(9),
            "top2_source_filepath": "/pool/3.jpg", "top2_distance": chord(19),
            "top3_source_filepath": "/pool/4.jpg", "top3_distance": chord(39),
        }
    ]  # fmt: skip
    assert names(run.files) == ["0", "1", "2", "3"]
    assert [(pair["target_row"], pair["distance"], pair["rank"]) for pair in run.kept] == [
        (0, chord(2), 1), (0, chord(3), 2), (1, chord(9), 1), (1, chord(19), 2),
    ]  # fmt: skip
    assert list(run.summary)[:6] == SUMMARY
    assert [run.summary[key] for key in SUMMARY] == ["global", 4, 4, 100.0, 2, []]
    assert "Rows: 4" in run.done.lines
    assert "Columns: ['filepath']" in run.done.lines


def test_the_cap_drops_the_farthest(tmp_path, match_here):
    """Section 4: claimed sources are merged by distance and path until the count is reached."""
    circle(tmp_path / "targets.parquet", [0, 90])
    circle(tmp_path / "pool.parquet", [1.5, 30, 91, 92])
    run = match_here(3)
    assert names(run.files) == ["2", "0", "3"]
    assert [pair["source_row"] for pair in run.pairs if pair["outcome"] == "over_count"] == [1]


@pytest.mark.parametrize(
    ("metric", "distance"), [("euclidean", 2 * math.sin(math.pi / 6)), ("cosine", 0.5), ("manhattan", 0.5 + 3**0.5 / 2)]
)
def test_vectors_are_normalised_whatever_the_metric(tmp_path, match_here, metric, distance):
    """Section 4: both sides are L2-normalised first."""
    circle(tmp_path / "targets.parquet", [0], lengths=[5])
    circle(tmp_path / "pool.parquet", [60, 70], lengths=[100, 5])
    run = match_here(1, distance_metric=metric)
    assert names(run.files) == ["0"]
    assert run.kept[0]["distance"] == pytest.approx(distance, abs=1e-6)


def test_a_pool_in_parts_is_a_pool_at_once(tmp_path, match_here, monkeypatch):
    """Section 8: streamed; the result does not depend on the memory."""
    random = np.random.default_rng(1)
    write_embeddings(tmp_path / "pool.parquet", random.standard_normal((400, 8)).astype("f4"), who=identity())
    write_embeddings(tmp_path / "targets.parquet", random.standard_normal((9, 8)).astype("f4"), who=identity())
    held = match_here(70)
    monkeypatch.setattr("lookalike.workflow.unique_search._HELD_SHARE", 10**9)  # nothing is held
    read = match_here(70, "read", memory_limit=128 << 20)
    assert [len(held.files), len(set(held.files))] == [70, 70]
    assert {file.name: file.read_bytes() for file in held.folder.iterdir()} == {
        file.name: file.read_bytes() for file in read.folder.iterdir()
    }


# What the reference does badly


def test_more_than_the_pool_has_is_filled(tmp_path, match):
    """Section 8: every target wants more than the pool has: all that can be filled is filled, and the rest is told."""
    circle(tmp_path / "targets.parquet", [0, 1, 2])
    circle(tmp_path / "pool.parquet", [5, 6, 7, 8, 9])
    run = match(30)
    assert sorted(names(run.files)) == ["0", "1", "2", "3", "4"]
    assert (run.summary["retrieved_unique_count"], run.summary["coverage_pct"]) == (5, 16.67)
    assert run.summary["lookalike"]["short"] == 25
    assert run.summary["lookalike"]["targets_served"] == 3
    (warning,) = run.summary["lookalike"]["warnings"]
    assert "25 are short" in warning
    assert warning in run.done.stderr


def test_crowded_targets_are_filled_after_the_passes(tmp_path, match_here):
    """Section 8: all targets want the same, eight passes do not reach the count, and it is reached."""
    circle(tmp_path / "targets.parquet", [0.001 * row for row in range(40)])
    circle(tmp_path / "pool.parquet", [10 + row for row in range(100)])
    run = match_here(40, candidate_expansion_factor=1)
    assert len(set(run.files)) == 40
    (matching,) = run.summary["lookalike"]["matchings"]
    assert matching["passes"] > 8
    assert matching["filled_after_the_passes"] > 0
    assert names(run.files) == [str(row) for row in range(40)]


def test_exclusion_is_by_path(tmp_path, match_here):
    """Section 8: an image of the same name on another board stays; the old way is a setting."""
    paths = ["/a/1.jpg", "/b/1.jpg", "/a/2.jpg", "/c/3.jpg"]
    circle(tmp_path / "targets.parquet", [0])
    circle(tmp_path / "pool.parquet", [1, 2, 3, 4], filepaths=paths)
    pq.write_table(pa.table({"filepath": ["/a/./1.jpg"]}), tmp_path / "before.parquet")
    assert match_here(4, exclude_path="before.parquet").files == paths[1:]
    assert match_here(4, exclude_path="before.parquet", exclude_by="basename").files == paths[2:]
    assert match_here(4, exclude_path="before.parquet").summary["lookalike"]["excluded"] == 1


def test_exclusion_takes_an_earlier_run(tmp_path, match_here):
    """Section 7: `exclude_path` is what was mined before: the folder of that run, its table, a list of paths."""
    circle(tmp_path / "targets.parquet", [0])
    circle(tmp_path / "pool.parquet", range(10))
    first = match_here(3, "first")
    (tmp_path / "list.txt").write_text("\n".join(first.files))
    for given in ("first", "first/final_unique_files.parquet", "list.txt"):
        second = match_here(3, "second", exclude_path=given)
        assert names(second.files) == ["3", "4", "5"]
    everything = match_here(10, "third")
    assert everything.summary["retrieved_unique_count"] == 10
    nothing = match_here(2, "fourth", exclude_path="third")
    assert nothing.table.schema == pa.schema([("filepath", pa.string())])
    assert (nothing.files, nothing.passes, nothing.summary["coverage_pct"]) == ([], [], 0.0)
    assert names(match_here(2, "fifth", exclude_path="fourth").files) == ["0", "1"]


def test_exclusion_that_excludes_nothing_is_told(tmp_path, match_here):
    circle(tmp_path / "targets.parquet", [0])
    circle(tmp_path / "pool.parquet", range(3))
    (tmp_path / "list.txt").write_text("/elsewhere/1.jpg\n/elsewhere/2.jpg\n")
    (warning,) = match_here(2, exclude_path="list.txt").summary["lookalike"]["warnings"]
    assert "none of the 2 paths" in warning


def test_relevance_order_is_kept(tmp_path, match_here):
    """Section 8: nearest first, in the mined table and in the pair table, from which it can be derived."""
    random = np.random.default_rng(5)
    write_embeddings(tmp_path / "pool.parquet", random.standard_normal((60, 4)).astype("f4"), who=identity())
    write_embeddings(tmp_path / "targets.parquet", random.standard_normal((7, 4)).astype("f4"), who=identity())
    run = match_here(20)
    distances = [pair["distance"] for pair in run.pairs]
    assert distances == sorted(distances)
    assert run.files == [pair["source_filepath"] for pair in run.kept]
    taken = {pair["source_row"] for pair in run.kept}
    assert {pair["outcome"] for pair in run.pairs} <= {"kept", "taken", "not_needed", "over_count"}
    assert all((pair["source_row"] in taken) == (pair["outcome"] in ("kept", "taken")) for pair in run.pairs)


def test_files_of_an_earlier_run_are_not_read_and_do_not_stay(tmp_path, match_here):
    """Section 8: stale pass tables would be taken for this run's by whoever reads the folder."""
    circle(tmp_path / "targets.parquet", [0, 1])
    circle(tmp_path / "pool.parquet", range(30))
    match_here(20, save_embeddings=True)
    (tmp_path / "out" / "global_iteration_7_topn_9.parquet").write_text("rubbish")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    again, fresh = match_here(4), match_here(4, "fresh")
    left = {file.name: file.read_bytes() for file in again.folder.iterdir()}
    assert left.pop("notes.txt") == b"mine"
    assert left == {file.name: file.read_bytes() for file in fresh.folder.iterdir()}  # and the same bytes twice
    assert sorted(left) == again.summary["lookalike"]["files"]


def test_a_path_counts_once(tmp_path, match_here):
    circle(tmp_path / "targets.parquet", [0])
    circle(tmp_path / "pool.parquet", [1, 2, 3, 4], filepaths=["/a", "/a", "/b", "/a"])
    run = match_here(3)
    assert run.files == ["/a", "/b"]
    assert any("2 rows of the pool repeat" in warning for warning in run.summary["lookalike"]["warnings"])


def test_encoders_must_agree(tmp_path, match_here):
    """Section 8: as in the other commands."""
    circle(tmp_path / "targets.parquet", [0])
    write_embeddings(tmp_path / "pool.parquet", [[0.0, 1.0]], who=identity(family="SigLIP", dimension=2))
    with pytest.raises(lookalike.EncoderMismatch, match="different encoders"):
        match_here(1)


# Settings


def test_columns_and_folders(tmp_path, match_here):
    """Section 2: folders of tables, and columns of other names; the mined table has the name of the pool's."""
    circle(tmp_path / "whole.parquet", range(6), column="vec", labels=list("abcdef"))
    pool = pq.read_table(tmp_path / "whole.parquet").rename_columns(["image", "vec", "label"])
    (tmp_path / "pool.parquet").mkdir()
    for part in range(2):
        pq.write_table(pool.slice(3 * part, 3), tmp_path / "pool.parquet" / f"{part}.parquet")
    circle(tmp_path / "targets.parquet", [4])
    run = match_here(2, source_filepath_column="image", source_embedding_column="vec", save_embeddings=True)
    assert run.table.column_names == ["image"]
    assert names(run.files)[0] == "4"
    assert run.kept[0]["source_label"] == "e"
    saved = pq.read_table(run.folder / "final_unique_embeddings.parquet")
    assert saved.column_names == ["image", "vec", "label"]
    assert saved.column("image").to_pylist() == run.files
    expected = {row["image"]: row["vec"] for row in pool.to_pylist()}
    assert saved.column("vec").to_pylist() == [expected[file] for file in run.files]
    step = pq.read_table(run.folder / run.passes[0]).to_pylist()[0]
    assert step["top1_source_embedding"] == expected[step["top1_source_filepath"]]
    assert step["target_embedding"] == pytest.approx([math.cos(math.radians(4)), math.sin(math.radians(4))])


def test_contact_sheets_show_the_pictures(tmp_path, match_here):
    """Section 4: optional PNG grids, with the real pictures."""
    pool, targets = make_images(tmp_path / "a", 6, "pool"), make_images(tmp_path / "b", 2, "target")
    circle(tmp_path / "targets.parquet", [0, 50], filepaths=targets)
    circle(tmp_path / "pool.parquet", [1, 2, 51, 52, 90, 95], filepaths=pool)
    run = match_here(4, visualize=True)
    (file,) = run.folder.glob("*.png")
    assert file.name == "global_matches_1.png"
    colours = {colour for _, colour in Image.open(file).convert("RGB").getcolors(1 << 24)}
    frames = {tuple(bytes.fromhex(frame[1:])) for frame in (TARGET_FRAME, SAME_FRAME)}
    assert frames <= colours
    for path in (*targets, *run.files):
        with Image.open(path) as picture:
            assert picture.getpixel((5, 5)) in colours


def test_the_best_assignment(tmp_path, match):
    """Issue: `assignment=optimal` has the least total distance of all, and tells the greedy one's."""
    circle(tmp_path / "targets.parquet", [0, 10])
    circle(tmp_path / "pool.parquet", [8, -20, 80])
    run = match(2, "assignment=optimal")
    ours = run.summary["lookalike"]
    # Greedy: target 0 takes 8, target 10 is left with -20. Best: target 0 takes -20, target 10 takes 8.
    assert {pair["target_row"]: pair["source_row"] for pair in run.kept} == {0: 1, 1: 0}
    best, greedy = ((20, 2), (8, 30))
    for name, angles in (("total_distance", best), ("greedy_total_distance", greedy)):
        assert ours[name] == pytest.approx(sum(2 * math.sin(math.radians(angle) / 2) for angle in angles), abs=1e-6)
    assert ours["proven"] is True
    assert any(line.startswith("Total distance: ") and "greedy: " in line for line in run.done.lines)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["allocation_policy=class_stratified"], ["rare_class_list"]),
        (["allocation_policy=class_stratified", "rare_class_list=a"], ["source_detection_file"]),
        (
            ["allocation_policy=class_stratified", "rare_class_list=a", "source_detection_file=x"],
            ["target_detection_file"],
        ),
        (["source_detection_file=x"], ["detection_format", "coco, kitti"]),
        (["detection_format=yolo"], ["detection_format", "coco, kitti"]),
        (["desired_unique_count=0"], ["desired_unique_count"]),
        (["distance_metric=hamming"], ["distance_metric"]),
        (["assignment=best"], ["assignment", "greedy, optimal"]),
        (["source_path=none.parquet"], ["none.parquet", "does not exist"]),
        (["source_filepath_column=image"], ["pool.parquet", "'image'"]),
        (["exclude_path=none.parquet"], ["none.parquet", "does not exist"]),
        (["exclude_path=out/final_unique_files.parquet"], ["final_unique_files.parquet", "overwritten"]),
        (["allocation_policy=class_stratified", "rare_class_list=common", "source_detection_file=x",
          "target_detection_file=x", "detection_format=coco"], ["'common'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(tmp_path, monkeypatch, words, parts):
    """Sections 2 and 4: an error that names the field; no result."""
    monkeypatch.chdir(tmp_path)
    circle(tmp_path / "targets.parquet", [0])
    circle(tmp_path / "pool.parquet", [0])
    if "exclude_path=out/final_unique_files.parquet" in words:
        (tmp_path / "out").mkdir()
        pq.write_table(pa.table({"filepath": ["/pool/0.jpg"]}), tmp_path / "out" / "final_unique_files.parquet")
    settings = {"source_path": "pool.parquet", "target_path": "targets.parquet", "output_dir": "out"}
    settings |= {"desired_unique_count": 1, **dict(word.split("=") for word in words)}
    settings["desired_unique_count"] = int(settings["desired_unique_count"])
    with pytest.raises(lookalike.LookalikeError) as refused:
        lookalike.unique_neighbors(**settings)
    assert [part for part in parts if part not in str(refused.value)] == []
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_missing_setting_is_named(tmp_path, run_command):
    """Sections 1 and 2: `???`, the status line, `--cfg=job` with nulls."""
    done = run_command("tmm", "unique_neighbor_matching", "source_path=a", "target_path=b", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (1, FAIL)
    assert "output_dir" in done.stderr
    shown = run_command("tmm", "unique_neighbor_matching", "--cfg=job", "exclude_path=my, file=1", cwd=tmp_path)
    assert "exclude_path: my, file=1" in shown.stdout
    assert "detection_format: null" in shown.stdout


# Classes


def write_coco(path, images, files=None):
    """A COCO file: `images` are lists of classes by path."""
    kinds = sorted({name for classes in images.values() for name in classes})
    content = {
        "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(kinds)],
        "images": [{"id": 100 + row, "file_name": (files or {}).get(path, path)} for row, path in enumerate(images)],
        "annotations": [
            {"id": 1, "image_id": 100 + row, "category_id": 10 + kinds.index(name), "bbox": [0, 0, 5, 5]}
            for row, classes in enumerate(images.values())
            for name in classes
        ],
    }
    path.write_text(json.dumps(content))
    return path


def write_kitti(folder, images):
    """A folder of KITTI labels, with a line to be skipped in each."""
    folder.mkdir()
    for path, classes in images.items():
        stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        lines = [f"{name} 0.00 0 -1.57 10 10 50 50 1.6 1.5 3.2 1 2 3 0.1" for name in classes]
        lines.append("DontCare -1 -1 -10 1 1 2 2 -1 -1 -1 -1000 -1000 -1000 -10")
        (folder / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    return folder


TARGETS = {"/t/t0.png": ["Person", "person"], "/t/t1.png": ["person", "Bicycle"], "/t/t2.png": ["car"], "/t/t3.png": []}
POOL = {
    "/p/p0.png": ["person"], "/p/p1.png": ["PERSON", "car"], "/p/b0.png": ["bicycle"],
    **{f"/p/c{number}.png": ["car"] * (number % 2) for number in range(6)},
}  # fmt: skip
STRATIFIED = ["allocation_policy=class_stratified", "rare_class_list= Person ,bicycle"]


@pytest.fixture
def street(tmp_path):
    """Four targets at 0, 10, 90 and 100 degrees; two persons, one bicycle and six others in the pool."""
    circle(tmp_path / "targets.parquet", [0, 10, 90, 100], filepaths=list(TARGETS))
    circle(tmp_path / "pool.parquet", [300, 310, 320, 91, 95, 99, 110, 50, 5], filepaths=list(POOL))


@pytest.mark.parametrize("kind", ["coco", "kitti"])
def test_class_stratified(tmp_path, street, match, kind):
    """Section 4: quotas 3, 1, 3 by largest remainder; a class that is short falls back to the common pool."""
    if kind == "coco":
        write_coco(tmp_path / "t", TARGETS)
        # By full path, by base name, by stem.
        write_coco(tmp_path / "p", POOL, {"/p/p1.png": "p1.png", "/p/b0.png": "elsewhere/b0.jpg"})
    else:
        write_kitti(tmp_path / "t", TARGETS)
        write_kitti(tmp_path / "p", POOL)
    files = ["source_detection_file=p", "target_detection_file=t", f"detection_format={kind}"]
    run = match(7, *STRATIFIED, *files)
    # Common: target 90 takes c0 and c1, target 100 takes c2 and c3: c3 is the farthest, over the quota of 3.
    # Person has two images of its own, and the third comes from what is left: c5 at 5 degrees, for the target at 0.
    assert sorted(names(run.files)) == ["b0", "c0", "c1", "c2", "c5", "p0", "p1"]
    by_subset = {}
    for pair in run.kept:
        by_subset.setdefault(pair["subset"], []).append(*names([pair["source_filepath"]]))
    assert {name: sorted(files) for name, files in by_subset.items()} == {
        "person": ["p0", "p1"], "bicycle": ["b0"], "common": ["c0", "c1", "c2"], "person_fallback": ["c5"],
    }  # fmt: skip
    assert run.summary["rare_classes"] == ["person", "bicycle"]
    assert run.summary["allocation"] == {"person": 3, "bicycle": 1, "common": 3}
    assert run.summary["target_dataset"] == {
        "total_images": 4, "rare_images": 2, "common_images": 2, "rare_instances": 4,
        "per_class": {
            "bicycle": {"image_count": 1, "instance_count": 1},
            "car": {"image_count": 1, "instance_count": 1},
            "person": {"image_count": 2, "instance_count": 3},
        },
    }  # fmt: skip
    found = run.summary["resultant_dataset"]
    assert [found[key] for key in ("total_images", "rare_images", "common_images", "rare_instances")] == [7, 3, 4, 3]
    assert found["per_class"]["car"] == {"image_count": 3, "instance_count": 3}
    stats = run.summary["distance_stats"]
    nearest = [2 * math.sin(math.radians(angle) / 2) for angle in (50, 60, 50, 1, 1)]
    assert stats["count"] == 5  # target 1 is asked as a person and as a bicycle
    assert [stats["min"], stats["max"], stats["mean"], stats["median"], stats["std"]] == pytest.approx(
        [min(nearest), max(nearest), np.mean(nearest), np.median(nearest), np.std(nearest)], abs=1e-6
    )
    assert [stats["p25"], stats["p75"]] == pytest.approx(np.percentile(nearest, [25, 75]).tolist(), abs=1e-6)
    assert any("person: 2 of the 3" in warning for warning in run.summary["lookalike"]["warnings"])


def test_a_short_pool_takes_from_any(tmp_path, street, match_here):
    """The wanted number comes before the shares: where the common pool is short too, rare images fill it."""
    write_kitti(tmp_path / "t", {path: [] if "3" in path else ["person"] for path in TARGETS})
    write_kitti(tmp_path / "p", {path: ["person"] for path in POOL})
    files = {"source_detection_file": "p", "target_detection_file": "t", "detection_format": "kitti"}
    run = match_here(9, allocation_policy="class_stratified", rare_class_list="person,dog", **files)
    assert len(run.files) == 9
    assert run.summary["allocation"] == {"person": 7, "dog": 0, "common": 2}
    assert [pair["subset"] for pair in run.kept].count("any") == 2
    assert any("no target shows the rare class 'dog'" in text for text in run.summary["lookalike"]["warnings"])


def test_annotations_of_other_images_are_refused(tmp_path, street, match_here):
    write_kitti(tmp_path / "t", {"/x/9.png": ["person"]})
    with pytest.raises(lookalike.TableError, match="none of the 4 images is annotated"):
        match_here(2, target_detection_file="t", detection_format="kitti")


def test_annotations_without_strata_are_counted(tmp_path, street, match_here):
    """Section 4: with detection files the summary has both data sets, whatever the policy."""
    write_coco(tmp_path / "t", TARGETS)
    write_coco(tmp_path / "p", POOL)
    files = {"source_detection_file": "p", "target_detection_file": "t", "detection_format": "coco"}
    run = match_here(9, **files)
    assert run.summary["resultant_dataset"]["per_class"]["person"] == {"image_count": 2, "instance_count": 2}
    assert run.summary["target_dataset"]["common_images"] == 4
    assert "allocation" not in run.summary
