"""`lookalike export`: what is written is what was mined, each row checked, whole or not at all."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from support.embeddings import identity, write_embeddings
from support.inprocess import call_lookalike
from support.runs import make_run


@pytest.fixture
def export(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(kind, run, out, *options, fails=False):
        done = call_lookalike(monkeypatch, capsys, "export", kind, run, "--out", out, *options)
        assert done.returncode == (1 if fails else 0), done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def run(tmp_path):
    return make_run(
        tmp_path / "run", targets=3, pool=9, topn=3, target_labels=["bad"] * 3, pool_labels=[*'aab,b"cc', "ü"],
    )  # fmt: skip


def kept_pairs(run):
    pairs = pq.read_table(run.pairs).to_pandas()
    return pairs[pairs.outcome == "kept"]


def review(run, dropped):
    mined = pq.read_table(run.mined)
    keep = [path not in dropped for path in mined.column("filepath").to_pylist()]
    pq.write_table(mined.filter(pa.array(keep)), run.reviewed)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# --- csv


def test_csv_has_the_kept_pair_of_each_mined_image(run, export, tmp_path):
    done = export("csv", run.path, "mined.csv")
    rows, pairs = read_csv(tmp_path / "mined.csv"), kept_pairs(run)
    assert list(rows[0]) == ["filepath", "label", "target", "rank", "distance", "score"]
    assert [row["filepath"] for row in rows] == pairs.source_filepath.tolist()
    assert [row["label"] for row in rows] == pairs.source_label.tolist()
    assert [row["target"] for row in rows] == pairs.target_filepath.tolist()
    assert [int(row["rank"]) for row in rows] == pairs["rank"].tolist()
    assert [np.float32(row["distance"]) for row in rows] == pairs.distance.tolist()
    assert {row["score"] for row in rows} == {""}
    assert done.last_line == f"Written:  {len(rows)} images to mined.csv"


def test_what_a_person_dropped_is_left_out(run, export, tmp_path):
    dropped = kept_pairs(run).source_filepath.tolist()[:2]
    review(run, dropped)
    done = export("csv", run.path, "mined.csv")
    paths = [row["filepath"] for row in read_csv(tmp_path / "mined.csv")]
    assert paths == [path for path in kept_pairs(run).source_filepath if path not in dropped]
    assert f"From:     {run.reviewed}" in done.lines
    assert any(line.startswith("Reviewed: 2 images of mined.parquet") for line in done.lines)
    # The mined table itself can be asked for by its name.
    export("csv", run.mined, "all.csv")
    assert len(read_csv(tmp_path / "all.csv")) == len(paths) + 2


def test_a_review_of_another_run_is_refused(run, export, tmp_path):
    pq.write_table(pa.table({"filepath": ["/elsewhere.png"]}), run.reviewed)
    done = export("csv", run.path, "mined.csv", fails=True)
    assert "names 1 images that mined.parquet does not have" in done.stderr
    assert not (tmp_path / "mined.csv").exists()


def test_paths_from_a_folder_on(run, export, tmp_path):
    export("csv", run.path, "mined.csv", "--relative-to", "images")
    names = [row["filepath"] for row in read_csv(tmp_path / "mined.csv")]
    assert [str(tmp_path / "images" / name) for name in names] == kept_pairs(run).source_filepath.tolist()
    done = export("csv", run.path, "other.csv", "--relative-to", "run", fails=True)
    assert f"{len(names)} of {len(names)} mined images are not inside" in done.stderr
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize("kind", ["csv", "coco", "fiftyone"])
def test_nothing_is_replaced_without_force(kind, run, export, tmp_path):
    export(kind, run.path, "out")
    before = sorted((file.name, file.stat().st_mtime_ns) for file in [tmp_path / "out", *(tmp_path / "out").rglob("*")])
    done = export(kind, run.path, "out", fails=True)
    assert "is there already" in done.stderr
    assert "--force" in done.stderr
    after = sorted((file.name, file.stat().st_mtime_ns) for file in [tmp_path / "out", *(tmp_path / "out").rglob("*")])
    assert after == before
    export(kind, run.path, "out", "--force")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".out")]


@pytest.mark.parametrize("name", ["mined.parquet", "mined_pairs.parquet", "run.json"])
def test_the_run_itself_is_never_written_over(name, run, export):
    target = run.path / name
    before = target.read_bytes()
    done = export("csv", run.path, target, "--force", fails=True)
    assert "is a file of the run" in done.stderr
    assert target.read_bytes() == before


@pytest.mark.parametrize("kind", ["csv", "coco", "fiftyone", "vcn"])
def test_an_empty_list_gives_an_empty_file(kind, run, export, tmp_path):
    review(run, kept_pairs(run).source_filepath.tolist())
    pool = tmp_path / "pool.csv"
    pool.write_text("filepath,input_path,golden_path,label,object_name\n")
    done = export(kind, run.path, "out", *(["--pool", pool] if kind == "vcn" else []))
    assert "Written:  0 images to out" in done.stdout
    if kind == "fiftyone":
        assert json.loads((tmp_path / "out" / "samples.json").read_text()) == {"samples": []}
    elif kind == "coco":
        assert json.loads((tmp_path / "out").read_text())["images"] == []
    else:
        assert len((tmp_path / "out").read_text().splitlines()) == 1


def test_a_mined_table_without_its_pairs(export, tmp_path):
    """One that another program made: its paths are all that is known."""
    pq.write_table(pa.table({"filepath": ["a.png", "b.png"]}), tmp_path / "mined.parquet")
    done = export("csv", "mined.parquet", "mined.csv")
    assert read_csv(tmp_path / "mined.csv")[1] == {
        "filepath": "b.png", "label": "", "target": "", "rank": "", "distance": "", "score": "",
    }  # fmt: skip
    assert "no pair table" in done.stderr
    pq.write_table(pa.table({"filepath": ["a.png", "./a.png"]}), tmp_path / "mined.parquet")
    done = export("csv", "mined.parquet", "twice.csv", fails=True)
    assert "names 1 of 2 images a second time (row 1: ./a.png" in done.stderr


def test_images_that_only_other_rules_dropped_have_their_nearest_pair(export, tmp_path):
    """`mined_raw.parquet` holds images without a kept pair; an image beyond the ranks has none."""
    pairs = pa.table(
        {
            "source_row": [0, 0, 1],
            "target_filepath": ["t1", "t2", "t1"],
            "source_filepath": ["a", "a", "b"],
            "source_label": ["x", "x", None],
            "rank": pa.array([2, 1, -1], pa.int32()),
            "distance": pa.array([0.5, 0.25, 0.75], pa.float32()),
            "score": pa.array([None, None, 1.5], pa.float32()),
            "outcome": ["under_similarity", "duplicate", "kept"],
        }
    )
    pq.write_table(pairs, tmp_path / "mined_pairs.parquet")
    pq.write_table(pa.table({"filepath": ["b", "a"]}), tmp_path / "mined_raw.parquet")
    export("csv", "mined_raw.parquet", "raw.csv")
    rows = [tuple(row.values()) for row in read_csv(tmp_path / "raw.csv")]
    assert rows == [("b", "", "t1", "", "0.75", "1.5"), ("a", "x", "t2", "1", "0.25", "")]


def test_what_is_no_run_is_refused(export, tmp_path, run):
    for given, words in (
        ("nowhere", "does not exist"),
        (tmp_path, f"name the run: {run.path}"),
        (run.targets, "has no pair of"),
    ):
        if given == run.targets:
            shutil.copy(run.pairs, run.targets.with_name("target_embeddings_pairs.parquet"))
        assert words in export("csv", given, "out.csv", fails=True).stderr
    run.record.unlink()
    assert (
        "name the folder of a run that `lookalike mine` finished" in export("csv", run.path, "o.csv", fails=True).stderr
    )


# --- Visual ChangeNet


HEAD = "input_path,golden_path,label,object_name\n"


def board(tmp_path, rows, **settings):
    """A Visual ChangeNet pool of `rows` with its images, and a run that mined all of it, one target each."""
    files = []
    for folder, golden, _, component in rows:
        for place in (folder, golden):
            file = tmp_path / "images" / place / f"{component}_SolderLight.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(file)
        files.append(str(tmp_path / "images" / folder / f"{component}_SolderLight.jpg"))
    (tmp_path / "pool.csv").write_text(HEAD + "".join(",".join(row) + "\n" for row in rows))
    vectors = np.eye(len(rows))
    made = make_run(
        tmp_path / "run", target_paths=files, pool_paths=files, vectors=(vectors[::-1], vectors), topn=1, **settings
    )
    columns = dict(zip(HEAD.strip().split(","), map(list, zip(*rows, strict=True)), strict=True))
    labels, who = columns.pop("label"), identity(dimension=len(rows))
    write_embeddings(made.pool, vectors, filepaths=files, labels=labels, who=who, **columns)
    record = json.loads(made.record.read_text())
    record["settings"]["images_root"] = str(tmp_path / "images")
    made.record.write_text(json.dumps(record))
    return made


ROWS = [("cam1", "gold", "MISSING", "C1"), ("cam 2", "gold", "007", "C2"), ("cam1", "gold", "SHIFT", "0012")]


def test_vcn_rows_are_those_of_the_pool_in_the_order_of_the_mined_list(export, tmp_path):
    made = board(tmp_path, ROWS)
    export("vcn", made.path, "train.csv")
    assert (tmp_path / "train.csv").read_text().splitlines()[0].replace('"', "") == HEAD.strip()
    assert [tuple(row.values()) for row in read_csv(tmp_path / "train.csv")] == ROWS[::-1]
    # The same from the pool's own CSV, for a mined table that stands alone.
    shutil.copy(made.mined, tmp_path / "alone.parquet")
    done = export("vcn", "alone.parquet", "again.csv", fails=True)
    assert "--pool" in done.stderr
    export("vcn", "alone.parquet", "again.csv", "--pool", "pool.csv", "--images-root", tmp_path / "images")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "train.csv").read_bytes()


def test_vcn_trains_as_written(export, tmp_path):
    """What a training program would open for each row is there."""
    export("vcn", board(tmp_path, ROWS).path, "train.csv", "--relative-to", tmp_path)
    for row in read_csv(tmp_path / "train.csv"):
        for folder in (row["input_path"], row["golden_path"]):
            assert (tmp_path / folder / f"{row['object_name']}_SolderLight.jpg").is_file()
            assert folder.startswith("images/")


def test_vcn_names_the_rows_that_fail(export, tmp_path):
    rows = [("cam1", "gold", "ok", f"C{number}") for number in range(7)]
    made = board(tmp_path, rows)
    for number in range(6):
        (tmp_path / "images" / "gold" / f"C{number}_SolderLight.jpg").unlink()
    (tmp_path / "images" / "cam1" / "C6_SolderLight.jpg").unlink()
    done = export("vcn", made.path, "train.csv", fails=True)
    assert "7 of 7 mined images cannot be training rows" in done.stderr
    assert "C6_SolderLight.jpg): no file" in done.stderr
    assert f"golden image: no file {tmp_path}/images/gold/C5_SolderLight.jpg" in done.stderr
    assert "and 2 more" in done.stderr
    assert "image_ext='.jpg'" in done.stderr
    assert not (tmp_path / "train.csv").exists()


def test_vcn_looks_at_the_light_that_is_asked_for(export, tmp_path):
    made = board(tmp_path, ROWS)
    assert (
        "C1_White.png"
        in export("vcn", made.path, "t.csv", "--light", "White", "--image-ext", ".png", fails=True).stderr
    )
    for file in (tmp_path / "images").rglob("*.jpg"):
        Image.new("L", (4, 4)).save(file.with_name(file.name.replace("SolderLight.jpg", "White.png")))
    export("vcn", made.path, "t.csv", "--light", "White", "--image-ext", ".png")
    assert len(read_csv(tmp_path / "t.csv")) == 3


def test_vcn_wants_labels(export, tmp_path):
    made = board(tmp_path, [("cam1", "gold", "", "C1"), ("cam1", "gold", "ok", "C2")])
    done = export("vcn", made.path, "t.csv", fails=True)
    assert "1 of 2 mined images" in done.stderr
    assert "has no label" in done.stderr
    assert "--label" in done.stderr
    done = export("vcn", made.path, "t.csv", "--label", "NO_PASS")
    assert "1 rows had no label and got 'NO_PASS'" in done.stdout
    assert [row["label"] for row in read_csv(tmp_path / "t.csv")] == ["ok", "NO_PASS"]


def test_vcn_takes_a_raw_pool_apart(export, tmp_path):
    """`input_path` is the file itself: it must be what training would look for."""
    made = board(tmp_path, [("cam1", "gold", "ok", "C1")])
    pool = tmp_path / "raw.csv"
    pool.write_text(HEAD + "cam1/C1_SolderLight.jpg,gold/C1_SolderLight.jpg,ok,\n")
    export("vcn", made.path, "t.csv", "--pool", pool)
    assert [tuple(row.values()) for row in read_csv(tmp_path / "t.csv")] == [("cam1", "gold", "ok", "C1")]
    pool.write_text(HEAD + "cam1/C1_SolderLight.jpg,gold,ok,C9\n")
    done = export("vcn", made.path, "t.csv", "--pool", pool, "--force", fails=True)
    assert "is a file of the component C1, and object_name is C9" in done.stderr


def test_vcn_refuses_an_image_twice_and_a_pool_of_other_images(export, tmp_path):
    made = board(tmp_path, ROWS)
    files = pq.read_table(made.mined).column("filepath").to_pylist()
    link = tmp_path / "images" / "cam1" / "C1_SolderLight.jpg"
    pool = tmp_path / "other.csv"
    pool.write_text(HEAD + "cam1,gold,ok,C1\n" * 2)
    done = export("vcn", made.path, "t.csv", "--pool", pool, fails=True)
    assert "3 of 3 mined images do not have exactly one row" in done.stderr
    assert f"{link}: rows [0, 1] of the pool" in done.stderr
    assert f"{files[0]}: no row of the pool" in done.stderr
    pool.write_text("filepath\na.png\n")
    assert "has no column 'input_path'" in export("vcn", made.path, "t.csv", "--pool", pool, fails=True).stderr
    # Two rows of the pool that lead to one image, each mined under a path of its own.
    other = board(tmp_path / "b", [("cam1", "gold", "ok", "C1"), ("cam1/../cam1", "gold", "ok", "C1")])
    paths = [str(tmp_path / "b" / "images" / "cam1" / "C1_SolderLight.jpg"), "/copy.jpg"]
    pq.write_table(pa.table({"filepath": paths}), other.mined)
    pairs = pq.read_table(other.pairs).to_pandas().sort_values("source_row").assign(source_filepath=paths)
    pq.write_table(pa.Table.from_pandas(pairs, preserve_index=False), other.pairs)
    table = pq.read_table(other.pool)
    pq.write_table(table.set_column(0, "filepath", pa.array(paths)), other.pool)
    done = export("vcn", other.path, "t.csv", fails=True)
    assert "row 1 (/copy.jpg): is the image of row 0, too" in done.stderr


# --- COCO


def coco_file(path, names, sizes=None):
    images = [{"id": 10 + number, "file_name": name, **(sizes or {})} for number, name in enumerate(names)]
    boxes = [
        {"id": 100 + number, "image_id": image["id"], "category_id": 7, "bbox": [1, 2, 3, 4]}
        for number, image in enumerate(images)
    ]
    categories = [{"id": 7, "name": "crack"}, {"id": 8, "name": "hole"}]
    content = {"info": {"year": 2026}, "images": images, "annotations": boxes, "categories": categories, "licenses": []}
    path.write_text(json.dumps(content))
    return content


def test_coco_has_sizes_and_what_is_known(run, export, tmp_path):
    pairs = kept_pairs(run)
    Image.new("L", (31, 17)).save(pairs.source_filepath.iloc[0])
    export("coco", run.path, "mined.json")
    content = json.loads((tmp_path / "mined.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(1, len(pairs) + 1))
    assert [image["file_name"] for image in content["images"]] == pairs.source_filepath.tolist()
    assert [(image["width"], image["height"]) for image in content["images"]] == [(31, 17)] + [(64, 48)] * (
        len(pairs) - 1
    )
    assert [image["mined_target"] for image in content["images"]] == pairs.target_filepath.tolist()
    assert [np.float32(image["mined_distance"]) for image in content["images"]] == pairs.distance.tolist()
    assert [image["mined_label"] for image in content["images"]] == pairs.source_label.tolist()
    assert content["annotations"] == content["categories"] == []


def test_coco_keeps_the_pool_s_annotations(run, export, tmp_path):
    pool = pq.read_table(run.pool).column("filepath").to_pylist()
    names = [f"set/{Path(path).name}" for path in pool]
    given = coco_file(tmp_path / "pool.json", names, {"width": 64, "height": 48})
    done = export("coco", run.path, "mined.json", "--annotations", "pool.json")
    content = json.loads((tmp_path / "mined.json").read_text())
    mined = kept_pairs(run).source_row.tolist()
    assert [image["id"] for image in content["images"]] == [10 + row for row in mined]
    assert [image["file_name"] for image in content["images"]] == [names[row] for row in mined]
    assert content["annotations"] == [one for one in given["annotations"] if one["image_id"] - 10 in mined]
    assert content["categories"] == given["categories"]
    assert content["info"] == given["info"]
    assert f"{len(mined)} annotations of 2 categories" in done.stdout


def test_coco_refuses_annotations_of_other_images(run, export, tmp_path):
    pool = [Path(path).name for path in pq.read_table(run.pool).column("filepath").to_pylist()]
    mined = [Path(path).name for path in kept_pairs(run).source_filepath]

    def refused(words):
        assert words in export("coco", run.path, "m.json", "--annotations", "pool.json", fails=True).stderr
        assert not (tmp_path / "m.json").exists()

    coco_file(tmp_path / "pool.json", [name for name in pool if name != mined[0]])
    refused(f"does not have 1 of {len(mined)} mined images")
    coco_file(tmp_path / "pool.json", pool, {"width": 48, "height": 64})
    refused("48 x 64, and the file has 64 x 48")
    coco_file(tmp_path / "pool.json", [*pool, pool[0]])
    refused("share their path")
    (tmp_path / "pool.json").write_text('{"images": [1], "annotations": [], "categories": []}')
    refused("lacks a field")
    (tmp_path / "pool.json").write_text("[]")
    refused("is no COCO file")


def test_coco_does_not_guess_between_files_of_one_name(export, tmp_path, run):
    """Annotations of `a/x.png` are not those of `b/x.png`, even where only the second one was mined."""
    first = kept_pairs(run).source_row.iloc[0]
    table = pq.read_table(run.pool)
    pool = table.column("filepath").to_pylist()
    other = next(row for row in range(len(pool)) if row not in set(kept_pairs(run).source_row))
    pool[other] = f"/other/{Path(pool[first]).name}"
    pq.write_table(table.set_column(0, "filepath", pa.array(pool)), run.pool)
    coco_file(tmp_path / "pool.json", [Path(path).name for row, path in enumerate(pool) if row != other])
    done = export("coco", run.path, "m.json", "--annotations", "pool.json", fails=True)
    assert "does not have 1 of" in done.stderr


def test_coco_knows_turned_images(export, tmp_path):
    """Boxes may be drawn on an image as its EXIF orientation shows it: both sizes are its own."""
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    pq.write_table(pa.table({"filepath": ["a.jpg"]}), tmp_path / "mined.parquet")
    for sizes in ({"width": 20, "height": 30}, {"width": 30, "height": 20}):
        coco_file(tmp_path / "pool.json", ["a.jpg"], sizes)
        export("coco", "mined.parquet", "m.json", "--annotations", "pool.json", "--force")
        image = json.loads((tmp_path / "m.json").read_text())["images"][0]
        assert {key: image[key] for key in sizes} == sizes
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert "no known image format" in export("coco", "mined.parquet", "m.json", "--force", fails=True).stderr


# --- FiftyOne


def test_fiftyone_folder(run, export, tmp_path):
    done = export("fiftyone", run.path, "dataset")
    samples = json.loads((tmp_path / "dataset" / "samples.json").read_text())["samples"]
    pairs = kept_pairs(run)
    assert [sample["filepath"] for sample in samples] == pairs.source_filepath.tolist()
    assert [sample["label"]["label"] for sample in samples] == pairs.source_label.tolist()
    assert [sample["rank"] for sample in samples] == pairs["rank"].tolist()
    assert [np.float32(sample["distance"]) for sample in samples] == pairs.distance.tolist()
    assert all(sample["tags"] == ["mined"] and sample["score"] is None for sample in samples)
    metadata = json.loads((tmp_path / "dataset" / "metadata.json").read_text())
    assert set(metadata["sample_fields"]) == set(samples[0]), "each field has its type"
    assert "version" not in metadata, "with it, FiftyOne takes the folder for a dump of its database"
    assert "LegacyFiftyOneDataset" in done.last_line
    assert str(tmp_path / "dataset") in done.last_line


def test_fiftyone_paths_from_a_folder_on_and_reviewed(run, export, tmp_path):
    review(run, kept_pairs(run).source_filepath.tolist()[:1])
    done = export("fiftyone", run.path, "dataset", "--relative-to", "images")
    samples = json.loads((tmp_path / "dataset" / "samples.json").read_text())["samples"]
    assert all((tmp_path / "images" / sample["filepath"]).is_file() for sample in samples)
    assert {tuple(sample["tags"]) for sample in samples} == {("mined", "reviewed")}
    assert f"rel_dir='{tmp_path}/images'" in done.last_line.replace("'\"'\"'", "'")


def test_fiftyone_wants_images_and_a_folder_of_its_own(run, export, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    done = export("fiftyone", run.path, "mine", "--force", fails=True)
    assert "holds other files: notes.txt" in done.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    Path(kept_pairs(run).source_filepath.iloc[0]).unlink()
    done = export("fiftyone", run.path, "dataset", fails=True)
    assert "1 of " in done.stderr
    assert "are no local files" in done.stderr
    assert not (tmp_path / "dataset").exists()


def test_the_installed_command(run_command, run, tmp_path):
    done = run_command("lookalike", "export", "csv", run.path, "--out", "sub/mined.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_csv(tmp_path / "sub" / "mined.csv")) == len(kept_pairs(run))


def test_wrong_words(monkeypatch, capsys, run, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = ("--out", "x")
    for words in (("voc", run.path, *out), ("csv", run.path), ("csv", *out), ("csv", run.path, *out, "--light", "a")):
        done = call_lookalike(monkeypatch, capsys, "export", *words)
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr


def test_damaged_tables_are_told_and_leave_nothing(run, export, tmp_path):
    for path, kind in ((run.pool, "vcn"), (run.pairs, "csv"), (run.mined, "csv")):
        path.write_bytes(path.read_bytes()[:-40])
        done = export(kind, run.path, "new/out", fails=True)
        assert f"{path}: cannot be read" in done.stderr
        assert not (tmp_path / "new").exists()
