"""The command `lookalike mine`: its options, its output, its exit codes."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.cli.mine import speed
from lookalike.tables.run_folder import InputRecord, RunFolder, read_record


@pytest.fixture
def board(tmp_path, images):
    """A Visual ChangeNet pool of twelve images in `board/`, two of them as targets in `weak.txt`."""
    (tmp_path / "board" / "cam").mkdir(parents=True)
    rows = ["input_path,golden_path,label,object_name"]
    for number, path in enumerate(sorted(images.iterdir())):
        Image.open(path).convert("RGB").save(tmp_path / "board" / "cam" / f"C{number}_White.png")
        rows.append(f"cam,gold,{'ok' if number % 2 else 'missing'},C{number}")
    (tmp_path / "pool.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "weak.csv").write_text("\n".join([rows[0], rows[1], rows[2]]) + "\n")
    return tmp_path


def test_from_changenet_tables_to_a_run_folder(run_command, board, clip_snapshot):
    """Options by name, `key=value` and a YAML file, whose order of precedence is that of the drop-in commands."""
    (board / "run.yaml").write_text(f"model: CLIP\nmodel_path: {clip_snapshot}\ntopn: 9\nlight: Red\n")
    words = (
        "-e", "run.yaml", "--targets", "weak.csv", "--pool", "pool.csv", "--out", "results",
        "--images-root", "board", "--light", "White", "--image-ext", ".png", "--topn", "3", "--filter-by-label",
        "distance_threshold=1.5", "scoring=nearest", "self_match=keep", f"cache_dir={board / 'cache'}",
    )  # fmt: skip
    cam = sorted((board / "board" / "cam").iterdir())
    for path in cam:  # a file that has just changed is known by its content only
        os.utime(path, (1e9, 1e9))
    done = run_command("lookalike", "mine", *words, cwd=board)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(Path(done.last_line))
    assert folder.path.parent == board / "results" / "mining_results"
    assert f"Gallery:   {folder.gallery}" in done.lines
    assert f"Report:    {folder.report}" in done.lines
    record = read_record(folder)
    assert (record.pool.kind, record.pool.rows, record.pool.converted) == ("Visual ChangeNet table", 12, True)
    assert (record.settings["topn"], record.settings["light"], record.counts["topn"]) == (3, "White", 3)
    assert record.counts["label_mismatches"] > 0
    pool = pq.read_table(folder.pool)
    assert pool.column("filepath")[0].as_py() == "board/cam/C0_White.png"
    assert pool.column("object_name")[3].as_py() == "C3"
    assert f"Mined:     {record.counts['unique']} images" in done.stdout
    assert re.fullmatch(r"Targets:   2 images: 2 embedded now, in \d+\.\d s", done.lines[0])
    assert re.fullmatch(r"Pool:      12 images: 10 embedded now, 2 from the cache, in \d+\.\d s", done.lines[1])
    again = run_command("lookalike", "mine", "--resume", folder.path, "--topn", "3", cwd=board)
    assert (again.returncode, again.last_line) == (0, done.last_line)
    assert again.lines[0].startswith("Targets:   2 images: 2 embedded, in ")
    other = run_command("lookalike", "mine", "--resume", folder.path, "--topn", "4", cwd=board)
    assert other.returncode == 1
    assert "topn was 3 and is 4" in other.stderr
    os.utime(cam[-1], (1.1e9, 1.1e9))
    plan = run_command("lookalike", "mine", *words, "--dry-run", cwd=board)
    assert plan.lines[0].endswith("(Visual ChangeNet table), all of them in the cache")
    assert plan.lines[1].endswith("to embed; the cache knows 11 of them by path, and may know more by their content")
    assert "to embed at most 1 images" in plan.stdout


@pytest.mark.parametrize("level", ["ERROR", "INFO"])
def test_the_log_of_the_run_has_its_lines_whatever_is_shown(run_command, board, clip_snapshot, level):
    (board / "board" / "cam" / "broken.png").write_bytes(b"rubbish")
    words = ("--targets", "board/cam", "--pool", "board/cam", "--model", "CLIP", "--model-path", clip_snapshot)
    done = run_command(
        "lookalike", "mine", *words, "scoring=nearest", "shard_rows=4", cwd=board, env={"TAO_LOGGING_LEVEL": level}
    )
    assert done.returncode == 0, done.stderr
    log = RunFolder(Path(done.last_line)).log.read_text()
    for line in ("INFO lookalike.workflow.run_steps: embedding the pool", "WARNING lookalike.workflow.run: "):
        assert line in log
        assert (line.split(": ")[0] in done.stderr) == (level == "INFO")


def test_nothing_mined_is_not_said_to_be_the_nearest(run_command, board, clip_snapshot):
    (board / "one.txt").write_text("board/cam/C0_White.png\n")
    words = ("--targets", "one.txt", "--pool", "one.txt", "--model", "CLIP", "--model-path", clip_snapshot)
    done = run_command("lookalike", "mine", *words, cwd=board)
    assert done.returncode == 0, done.stderr
    assert "Mined:     0 images" in done.lines


def test_the_speed_is_that_of_the_images_that_were_embedded():
    side = InputRecord("pool", "folder of images", 100, False, True, 100, seconds=2.0)
    assert speed(side) == "50 images/s"
    assert speed(replace(side, cached=80)) == "20 of them now, 10 images/s"
    assert speed(replace(side, cached=60, reused=40)) == "all of them known before"
    assert speed(replace(side, cached=100, seconds=0.0)) == "all of them known before"


def test_a_dry_run_prints_a_plan_and_writes_nothing(run_command, board, clip_snapshot):
    before = sorted(board.rglob("*"))
    model = ("--model", "CLIP", "--model-path", clip_snapshot, f"cache_dir={board / 'cache'}")
    done = run_command("lookalike", "mine", "--targets", "board", "--pool", "board", *model, "--dry-run", cwd=board)
    assert done.returncode == 0, done.stderr
    words = "to embed; the cache has nothing of this encoder yet"
    assert f"Pool:      12 rows of board (folder of images), {words}" in done.lines
    assert "24 dimensions" in done.stdout
    assert "to embed 24 images, at " in done.stdout
    assert str(board / "mining_results") in done.last_line
    assert sorted(board.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--pool", "pool.csv"), 1, "Error: lookalike mine needs --targets   What to do: as in `lookalike mine --tar"),
        (("--dry-run",), 1, "Error: lookalike mine needs --targets and --pool"),
        (
            ("--targets", "a", "pool=b", "model_path=???", "knn_metric=???", "shard_rows=???"),
            1,
            "needs --model-path and --metric and shard_rows=VALUE",
        ),
        (("--targets", "weak.csv", "--pool", "pool.csv", "topm=3"), 1, "did you mean 'topn'"),
        (("--targets", "weak.csv", "--pool", "pool.csv", "topn=3", "--topn", "4"), 2, "topn is given twice"),
        (("--targets", "weak.csv", "--pool", "pool.csv", "dry"), 2, "is not KEY=VALUE"),
        (("--targets", "weak.csv", "--pool", "pool.csv", "--topn", "many"), 2, "--topn"),
        (("--targets", "weak.csv", "--pool", "pool.csv", "--light", "White"), 1, "row 0: no file cam/C0_White.jpg"),
        (("--resume", "board"), 1, "is not a run"),
        (("--resume", "board", "--dry-run"), 1, "leave out -e and --dry-run"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(arguments, code, words, board):
    """Before a model is loaded, and with nothing written."""
    program = "import sys; sys.argv = ['lookalike', 'mine', *sys.argv[1:]]; from lookalike.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=board, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert words in done.stderr.replace("│", "").replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert "Mandatory" not in done.stderr
    assert not (board / "mining_results").exists()


def test_settings_are_printed(run_command, board):
    done = run_command("lookalike", "mine", "--cfg", "job", "--topn", "7", "precision=bf16", cwd=board)
    assert done.returncode == 0, done.stderr
    assert "topn: 7" in done.lines
    assert "precision: bf16" in done.lines
    assert "knn_metric: cosine" in done.lines


def test_python_runs_it_as_a_module(board):
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", "mine"], cwd=board, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "lookalike mine needs --targets and --pool" in done.stderr
