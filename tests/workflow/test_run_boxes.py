"""Runs whose images are boxes of board images: two boxes of a file are two images, everywhere."""

import contextlib
import csv
import http.client
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike
from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.errors import TableError
from lookalike.reports.gallery_data import image_id, image_link
from lookalike.reports.thumbnails import Reading, small_copy
from lookalike.tables.boxes import split_box
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.workflow.barring.pool import bar_pool
from lookalike.workflow.check import check_run
from lookalike.workflow.exclusion import Barred
from lookalike.workflow.export import export_csv
from lookalike.workflow.run_inputs import Side, box_warnings
from lookalike.workflow.why import explain
from support.embeddings import write_embeddings
from support.inprocess import call_lookalike

EDGE, ACROSS = 32, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two boards of 5 x 4 components, and the tables of their boxes: `pool.csv`, and two of them as targets."""
    folder = tmp_path_factory.mktemp("boards")
    random = np.random.default_rng(0)
    rows = []
    for board in range(2):
        parts = random.integers(0, 256, (4, ACROSS, 4, 4, 3), np.uint8).repeat(8, 2).repeat(8, 3)
        picture = Image.fromarray(parts.transpose(0, 2, 1, 3, 4).reshape(4 * EDGE, ACROSS * EDGE, 3))
        picture.save(folder / f"board{board}.png")
        for number in range(4 * ACROSS):
            x, y = number % ACROSS * EDGE, number // ACROSS * EDGE
            rows.append((f"board{board}.png", x, y, EDGE, EDGE, "bad" if number % 3 else "ok"))
    table = pa.table(dict(zip(("filepath", *"xywh", "label"), map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table.slice(3, 2), folder / "targets.parquet")
    with (folder / "pool.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([table.column_names, *rows])
    return folder


@pytest.fixture
def boards(place, monkeypatch):
    """The working folder."""
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def result(place, siglip_snapshot):
    """A run with boxes on both sides."""
    with contextlib.chdir(place):
        return run(siglip_snapshot)


def run(snapshot, **settings):
    given = {"targets": "targets.parquet", "pool": "pool.csv", "run_dir": "run", "crop": True, "topn": 3}
    given |= {"model": "SigLIP", "model_path": str(snapshot), "cache_dir": "off", "scoring": "nearest"}
    return lookalike.run(**{**given, **settings})


def test_a_run_mines_boxes_and_its_report_shows_them(boards, result):
    assert check_run(result.folder.path) == []
    mined = pq.read_table(result.folder.mined).column("filepath").to_pylist()
    assert len(mined) == len(set(mined)) == result.counts.unique > 2
    assert len({split_box(path)[0] for path in mined}) <= 2
    pairs = pq.read_table(result.folder.pairs)
    assert set(mined) <= set(pairs.column("source_filepath").to_pylist())
    # The two targets themselves are left out, and nothing else of their board is.
    targets = ["board0.png#xywh=96,0,32,32", "board0.png#xywh=128,0,32,32"]
    barred = pq.read_table(result.folder.excluded)
    assert barred.column("filepath").to_pylist() == targets
    assert set(pairs.column("target_filepath").to_pylist()) == set(targets)
    (fate,) = explain(result.folder.path, [targets[0]])
    assert fate["outcome"] == "excluded"
    page = result.folder.gallery.read_text(encoding="utf-8")
    assert image_id(mined[0]) in page


def test_the_specs_of_a_run_with_boxes_do_it_again(boards, result, run_command):
    line = next(line for line in result.folder.embedding_spec.read_text().splitlines() if line.startswith("# pool: "))
    words = shlex.split(line.removeprefix("# pool: "))
    done = run_command(*words, "output_parquet=again.parquet", cwd=boards)
    assert done.returncode == 0, done.stderr
    again, first = (pq.read_table(path).column("embedding") for path in ("again.parquet", result.folder.pool))
    assert again.equals(first)


def test_a_side_without_boxes_is_taken_whole_with_a_warning(boards, siglip_snapshot):
    whole = pq.read_table("targets.parquet").select(["filepath", "label"]).slice(0, 1)
    pq.write_table(whole, "whole.parquet")
    result = run(siglip_snapshot, targets="whole.parquet", run_dir="whole")
    assert any("the targets have no columns x, y, w, h" in warning for warning in result.warnings)
    with pytest.raises(TableError, match="has none of the columns a, b, c, d"):
        run(siglip_snapshot, run_dir="other", crop="a,b,c,d")
    assert not (boards / "other").exists()


def test_a_side_whose_input_is_gone_is_not_asked_for_boxes():
    """A run goes on with what is embedded: nobody knows any more whether its input had boxes."""
    empty = pa.table({"filepath": pa.array([], pa.string())})
    gone = [Side(name, "gone", "CSV", 3, False, empty, embedded=Path("there")) for name in ("targets", "pool")]
    assert box_warnings(gone, "true") == []


def test_the_pictures_of_a_box_are_those_of_the_part(boards):
    path = "board1.png#xywh=32,64,32,32"
    with Image.open("board1.png") as board:
        part = board.crop((32, 64, 64, 96))
    drawn = small_copy(path, 32, Reading.of({}))
    assert drawn.tobytes() == part.tobytes()
    assert image_link(path, "", boards) == "board1.png"


def test_view_sends_the_part(boards, result, start_command):
    path = pq.read_table(result.folder.mined).column("filepath")[0].as_py()
    process = start_command("lookalike", "view", result.folder.path, "--no-browser", "--port", "0", cwd=boards)
    port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/.*token=(.+)\n", process.stdout.readline()).groups()
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    connection.request("GET", f"/image/{image_id(path)}", headers={"Cookie": f"lookalike-{port}={token}"})
    answer = connection.getresponse()
    sent = Image.open(io.BytesIO(answer.read()))
    file, box = split_box(path)
    with Image.open(file) as board:
        assert sent.convert("RGB").tobytes() == board.convert("RGB").crop(box.corners).tobytes()


def test_csv_has_the_file_and_the_four_numbers(boards, result, siglip_snapshot, monkeypatch, capsys):
    export_csv(result.folder.path, "mined.csv")
    with Path("mined.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["filepath", "label", "target", "rank", "distance", "score", *"xywh"]
    mined = pq.read_table(result.folder.mined).column("filepath").to_pylist()
    assert [f"{row['filepath']}#xywh={row['x']},{row['y']},{row['w']},{row['h']}" for row in rows] == mined
    # The file goes back in as it is.
    again = lookalike.embed_images(
        "mined.csv", "again.parquet", "SigLIP", str(siglip_snapshot), crop=True, cache_dir="off"
    )
    assert pq.read_table(again.path).column("filepath").to_pylist() == mined
    for kind in ("coco", "vcn"):
        done = call_lookalike(monkeypatch, capsys, "export", kind, result.folder.path, "--out", "other")
        assert done.returncode == 1
        assert "its images are boxes of files" in done.stderr


@pytest.fixture
def pool(boards):
    """An embedding table of some boxes, whose vectors are all different."""
    names = [f"board0.png#xywh={x},0,32,32" for x in (0, 32, 64)] + [
        "board0.png",
        "board1.png",
        "board1.png#xywh=0,0,9,9",
    ]
    write_embeddings("pool.parquet", np.eye(6, 8), filepaths=names)
    return EmbeddingStream("pool.parquet", "embedding")


def barred(pool, **settings):
    found = bar_pool(pool, None, BarringConfig(leak_reads=0, **settings), inputs=RunConfig("", ""))
    return found.rows.tolist()


def test_a_file_on_the_list_excludes_its_boxes_and_a_box_only_itself(pool, boards):
    (boards / "a.txt").write_text("board0.png\n")
    (boards / "b.txt").write_text("./board0.png#xywh=32,0,32,32\n")
    assert barred(pool, exclude="a.txt") == [0, 1, 2, 3]
    assert barred(pool, exclude="b.txt") == [1]
    names = pa.array([path for part in pool.filepaths() for path in part.to_pylist()])
    assert Barred(["board0.png"])(names).tolist() == [True] * 4 + [False] * 2
    assert Barred(["board0.png#xywh=0,0,32,32"])(names).tolist() == [True] + [False] * 5


def test_what_shares_a_pixel_with_a_protected_box_is_barred(pool, boards):
    (boards / "protect.txt").write_text("board0.png#xywh=20,10,20,20\n")
    # The boxes that it lies across, and the whole board; neither the third box nor another board.
    assert barred(pool, protect="protect.txt") == [0, 1, 3]


def test_the_same_box_of_a_copy_is_the_same_bytes_and_another_is_not(pool, boards):
    (boards / "copy.png").write_bytes((boards / "board0.png").read_bytes())
    (boards / "protect.txt").write_text("copy.png#xywh=64,0,32,32\n")
    assert barred(pool, protect="protect.txt") == [2]
