"""Killed, repeated and concurrent runs: nothing finished is done again, nothing unlike is mixed in."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import ImagesFailed, TableError, embed_images
from lookalike.embedding import images as images_module
from lookalike.embedding import shards
from lookalike.embedding.shards import cut_into_spans
from support.counted_run import CountedEncoder

PROGRAM = Path(__file__).parents[1] / "support" / "counted_run.py"
COUNT, SHARD_ROWS = 120, 8


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of numbered images, a few of them bad."""
    folder = tmp_path_factory.mktemp("numbered")
    paths = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        if number % 17 == 5:
            path.write_bytes(b"rubbish")
        elif number % 17 != 9:
            Image.new("RGB", (4, 4), (number // 256, number % 256, 7)).save(path)
        paths.append(str(path))
    pq.write_table(pa.table({"filepath": paths, "number": list(range(COUNT))}), folder / "table.parquet")
    return folder / "table.parquet"


def command(table, output, log, seconds=0.0, shard_rows=SHARD_ROWS):
    return [sys.executable, str(PROGRAM), *map(str, (table, output, log, shard_rows, seconds))]


def run(table, output, log, **options):
    done = subprocess.run(command(table, output, log, **options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def committed(output):
    """The rows of the shards that have a marker."""
    spans = {name_of(span): span for span in cut_into_spans(COUNT, SHARD_ROWS, 4)}
    markers = output.with_name(f".{output.name}.work").glob("shard-*.json")
    return {row for marker in markers for row in spans[marker.stem]}


def name_of(span):
    """The name of a finished shard or part."""
    number, first = divmod(span.start, SHARD_ROWS)
    return f"shard-{number:05d}" + (f"-{first}" if first else "")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """As in `counted_run.py`: the last eight of the fifteen shards come in two parts each."""
    monkeypatch.setattr(shards, "_LEAST_PART", 1)
    assert len(cut_into_spans(COUNT, SHARD_ROWS, 4)) == 7 + 8 * 2


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(table, folder / "out.parquet", folder / "log")
    return folder


def test_twenty_kills_change_no_byte_and_repeat_no_finished_image(table, undisturbed, tmp_path):
    """Kill -9 at random moments; then the table and the quarantine are those of an undisturbed run."""
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    log.touch()
    random = np.random.default_rng(0)
    killed = 0
    for _ in range(200):
        if killed == 20:
            break
        before, length = committed(output), log.stat().st_size
        process = subprocess.Popen(command(table, output, log, seconds=0.15), stderr=subprocess.DEVNULL)
        # The moment is counted from the first forward pass, or from the start in every fourth run.
        limit = time.monotonic() + 30
        while killed % 4 and log.stat().st_size == length and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(float(random.uniform(0, 0.4)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        again = {int(line) for line in log.read_text()[length:].split()}
        assert not again & before, "an image of a finished shard was embedded again"
        assert not output.exists() or process.returncode == 0
        if process.returncode == 0:
            output.unlink()
    assert killed == 20
    run(table, output, log)
    for name in ("out.parquet", "out_quarantine.parquet"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(tmp_path.glob(".*")), "a finished run leaves nothing hidden"


def test_parts_leave_no_trace_in_the_table(table, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_CUT_SHARDS", 0)
    monkeypatch.setattr(images_module, "check_model", lambda *arguments: "test")
    monkeypatch.setattr(images_module, "open_encoder", lambda *arguments: CountedEncoder(tmp_path / "log", 0.0))
    embed_images(table, tmp_path / "out.parquet", "CLIP", "tests", batch_size=4, shard_rows=SHARD_ROWS, cache_dir="off")
    for name in ("out.parquet", "out_quarantine.parquet"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()


def test_an_undisturbed_run_embeds_every_good_image_once(undisturbed):
    numbers = sorted(int(line) for line in (undisturbed / "log").read_text().split())
    assert numbers == [number for number in range(COUNT) if number % 17 not in (5, 9)]
    assert pq.read_table(undisturbed / "out.parquet").column("number").to_pylist() == numbers


def interrupted(table, output, log, finished=2):
    """Leave a run with some finished shards behind."""
    process = subprocess.Popen(command(table, output, log, seconds=0.1), stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(committed(output)) < finished * SHARD_ROWS and time.monotonic() < limit:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert committed(output)


def test_a_changed_image_is_embedded_again(table, undisturbed, tmp_path):
    """A shard whose files have changed since it was finished is not taken over."""
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    interrupted(table, output, log)
    first = pq.read_table(table).column("filepath")[0].as_py()
    status = Path(first).stat()
    try:
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        length = log.stat().st_size
        run(table, output, log)
        assert 0 in {int(line) for line in log.read_text()[length:].split()}
    finally:
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", ["input", "settings"])
def test_a_changed_input_or_setting_is_said_and_nothing_is_mixed_in(change, table, tmp_path):
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    interrupted(table, output, log)
    other, options = table, {"shard_rows": 9}
    if change == "input":
        other, options = tmp_path / "other.parquet", {}
        pq.write_table(pq.read_table(table).slice(1), other)
    done = run(other, output, log, **options)
    change = {"input": "inputs", "settings": "settings"}[change]
    assert f"had other {change}; it is discarded" in done.stderr
    run(other, tmp_path / "fresh.parquet", tmp_path / "log2", **options)
    assert output.read_bytes() == (tmp_path / "fresh.parquet").read_bytes()


def test_a_second_process_on_one_output_stops_with_a_clear_error(table, tmp_path):
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    first = subprocess.Popen(command(table, output, log, seconds=0.2), stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while not log.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        second = subprocess.run(command(table, output, log), capture_output=True, text=True, check=False)
        assert "another process is writing this output" in second.stderr
        assert second.returncode != 0
    finally:
        first.wait()
    assert output.exists(), "the first run is not disturbed"


def test_a_full_disk_is_a_clear_error_and_what_is_finished_stays(table, tmp_path):
    """A file size limit stands in for a full disk: the same OSError from the same write."""
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    limited = ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *command(table, output, log, shard_rows=100)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search("cannot be written: .*File too large", done.stderr), done.stderr
    assert not output.exists()
    assert not list(tmp_path.glob("**/*.tmp"))
    run(table, output, log)
    assert output.exists()


#: A small disk of its own, seen by no other process: fill it, look at what is left, make it larger, run again.
DISK = """
mount -t tmpfs -o size=48k none "$0" || exit 77
"$@"
echo "status $?"
find "$0" -type f -printf "%f\\n"
mount -o remount,size=8m "$0"
echo again >> "$0/../log"
"$@" && cp "$0"/*.parquet "$0/.."
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk is made with Linux's namespaces")
def test_a_disk_that_is_full_in_the_middle(table, undisturbed, tmp_path):
    """Finished shards stay, and no half of one; with more room the same command goes on."""
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    program = ["unshare", "--map-root-user", "--mount", "sh", "-c", DISK, str(disk)]
    done = subprocess.run(
        [*program, *command(table, disk / "out.parquet", log)], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this user may not make a disk")
    status, *left = done.stdout.splitlines()
    assert status == "status 1", done.stderr
    assert re.search("cannot be written: .*No space left on device", done.stderr), done.stderr
    assert not [name for name in left if name.endswith((".tmp", "out.parquet"))]
    spans = {f"{name_of(span)}.json": span for span in cut_into_spans(COUNT, SHARD_ROWS, 4)}
    finished = {row for name in left if name in spans for row in spans[name]}
    assert 0 < len(finished) < COUNT
    again = log.read_text().partition("again")[2]
    assert not finished & set(map(int, again.split()))
    for name in ("out.parquet", "out_quarantine.parquet"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()


def test_markers_are_written_after_their_shard(table, tmp_path):
    output, log = tmp_path / "out.parquet", tmp_path / "log"
    interrupted(table, output, log, finished=3)
    work = output.with_name(f".{output.name}.work")
    for marker in work.glob("shard-*.json"):
        shard = pq.read_table(marker.with_suffix(".parquet"))
        aside = json.loads(marker.read_text())["quarantined"]
        (span,) = [span for span in cut_into_spans(COUNT, SHARD_ROWS, 4) if name_of(span) == marker.stem]
        assert shard.num_rows + len(aside) == len(span)


def test_a_failed_run_without_a_finished_shard_leaves_nothing_hidden(clip_snapshot, images, tmp_path):
    with pytest.raises(TableError):
        embed_images(images, tmp_path, "CLIP", str(clip_snapshot))
    assert not list(tmp_path.iterdir())


class Failing(CountedEncoder):
    """Fails after some batches, as long as it is told to."""

    left = 0

    def start(self, pixels):
        if not Failing.left:
            raise OSError("the machine breaks")
        Failing.left -= 1
        return super().start(pixels)


def test_on_error_may_change_while_a_run_is_unfinished(table, undisturbed, tmp_path, monkeypatch, caplog):
    """What is finished is kept, and its bad images count: rows 5 and 9 are bad."""
    caplog.set_level("INFO")
    monkeypatch.setattr(images_module, "check_model", lambda *arguments: "test")
    monkeypatch.setattr(images_module, "open_encoder", lambda *arguments: Failing(tmp_path / "log", 0.0))

    def again(on_error, batches):
        Failing.left = batches
        return embed_images(
            table, tmp_path / "out.parquet", "CLIP", "tests", batch_size=4, shard_rows=SHARD_ROWS, cache_dir="off",
            on_error=on_error,
        )  # fmt: skip

    with pytest.raises(OSError, match="breaks"):
        again("quarantine", 5)
    done = committed(tmp_path / "out.parquet")
    assert {5, 9} <= done
    assert f"{len(done)} of {COUNT} images are finished and stay; the same command goes on from there" in caplog.text
    with pytest.raises(ImagesFailed, match=r"on_error=raise: .*/5\.png"):
        again("raise", 0)  # says so before an image is embedded
    length = (tmp_path / "log").stat().st_size
    again("quarantine", 1000)
    assert not done & {int(line) for line in (tmp_path / "log").read_text()[length:].split()}
    assert (tmp_path / "out.parquet").read_bytes() == (undisturbed / "out.parquet").read_bytes()
