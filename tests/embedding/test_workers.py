"""Several devices, a process each: the CPU twice stands for two cards."""

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import ConfigError, ImagesFailed, embed_images
from lookalike.embedding import images as images_module
from lookalike.embedding import workers
from lookalike.embedding.loop import Counts
from lookalike.embedding.shards import Spans, cut_into_spans
from lookalike.encoders import load

COUNT = 40


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (40, 30), (number * 6, 255 - number, number)).save(folder / f"{number:02}.png")
    return [str(folder / f"{number:02}.png") for number in range(COUNT)]


def embed(paths, output, snapshot, **settings):
    table = pa.table({"filepath": paths, "number": range(len(paths))})
    return embed_images(
        table, output, "CLIP", str(snapshot), batch_size=4, shard_rows=8, cache_dir="off", **settings
    )  # fmt: skip


@pytest.fixture
def first_device_takes(monkeypatch):
    """Have the first device stop after some shards, and so leave the others to the second."""
    real = images_module.run_loop

    def limit(shards):
        def run_loop(work, encoder, workplace, spans, *rest):
            if not shards:
                return Counts()
            return real(work, encoder, workplace, itertools.islice(spans, shards), *rest)

        monkeypatch.setattr(images_module, "run_loop", run_loop)

    return limit


@pytest.mark.parametrize("shards", [0, 2])
def test_two_devices_make_the_table_of_one(shards, paths, clip_snapshot, tmp_path, caplog, capfd, first_device_takes):
    caplog.set_level("INFO")
    paths[11] = str(tmp_path / "missing.png")
    one = embed(paths, tmp_path / "one.parquet", clip_snapshot, device="cpu")
    first_device_takes(shards)
    two = embed(paths, tmp_path / "two.parquet", clip_snapshot, device="cpu,cpu")
    assert "working on cpu, cpu, with a process each" in caplog.text
    assert one.path.read_bytes() == two.path.read_bytes()
    assert [image.row for image in two.quarantined] == [11]
    assert (two.images, two.rows) == (COUNT, COUNT - 1)
    assert [share.images for share in two.shares] == [8 * shards, COUNT - 8 * shards]
    times = two.shares[1].times
    assert times["process"] < times["model"] < times["begun"] < times["first"] < times["last"] <= two.seconds + 0.1
    assert not list(tmp_path.glob(".*.work"))
    assert "Fatal" not in capfd.readouterr().err, "the second process ends quietly"


def test_a_process_that_comes_too_late_is_not_waited_for(paths, clip_snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_PROGRAM", "import time; time.sleep(1000)")
    result = embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")
    assert [share.images for share in result.shares] == [COUNT, 0]
    assert not workers_of(psutil.Process())


def test_a_process_that_fails_when_all_is_done_loses_nothing(paths, clip_snapshot, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_PROGRAM", "import time; time.sleep(1000)  # in place of lookalike.embedding.workers")
    real = images_module.run_loop

    def run_loop(*given):
        counts = real(*given)
        for process in workers_of(psutil.Process()):
            process.kill()
        for thread in threading.enumerate():
            if "_listen" in thread.name:
                thread.join()
        return counts

    monkeypatch.setattr(images_module, "run_loop", run_loop)
    result = embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")
    assert result.rows == COUNT
    assert "cpu took no part: the process of cpu ended with status -9" in caplog.text


@pytest.mark.parametrize("count", [8, 9])
def test_a_process_is_started_before_the_table_is_read_if_there_is_work_for_it(
    count, paths, clip_snapshot, tmp_path, monkeypatch
):
    """That is, for more rows than a shard has."""
    started = []
    real_worker, real_read = workers._Worker, images_module.read_image_table

    def start(order, name):
        started.append(order.device)
        return real_worker(order, name)

    def read(table):
        assert started == ["cpu", "cpu"] * (count > 8)
        return real_read(table)

    monkeypatch.setattr(workers, "_Worker", start)
    monkeypatch.setattr(images_module, "read_image_table", read)
    listing = tmp_path / "list.parquet"
    pq.write_table(pa.table({"filepath": paths[:count]}), listing)
    result = embed_images(
        str(listing), tmp_path / "out.parquet", "CLIP", str(clip_snapshot), shard_rows=8, cache_dir="off",
        device="cpu,cpu,cpu",
    )  # fmt: skip
    assert len(result.shares) == 1 + (count > 8)  # the third has no work
    assert started == ["cpu", "cpu"] * (count > 8)


@pytest.mark.parametrize(
    ("visible", "expected"), [("0,1", ["cuda:0", "cuda:1"]), ("GPU-7", ["cuda:0"]), ("", ["cpu"]), ("-1", ["cpu"])]
)
def test_devices_are_guessed_from_the_environment(visible, expected, monkeypatch):
    monkeypatch.setattr(load, "has_no_gpu", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert load.guess_devices("auto", "torch") == expected
    assert load.guess_devices("cuda, cuda:1", "torch") == ["cuda:0", "cuda:1"]
    assert load.guess_devices("auto", "openvino") == ["cpu"]


def test_a_wrong_guess_is_put_right(paths, clip_snapshot, tmp_path, monkeypatch, first_device_takes):
    """A card that is not there was guessed; the process of it ends, and one of the right device works."""
    monkeypatch.setattr(images_module, "guess_devices", lambda *_: ["cpu", "cuda:99", "cpu", "cpu"])
    first_device_takes(0)
    result = embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")
    assert [(share.device, share.images) for share in result.shares] == [("cpu", 0), ("cpu", COUNT)]


def test_an_error_of_another_process_ends_the_run(paths, clip_snapshot, tmp_path, first_device_takes):
    first_device_takes(0)
    paths[11] = str(tmp_path / "missing.png")
    with pytest.raises(ImagesFailed, match=r"on_error=raise: .*missing\.png") as failure:
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu", on_error="raise")
    assert "mend or remove the file" in failure.value.hint
    assert not workers_of(psutil.Process())


def test_no_process_writes_any_more_when_the_lock_is_given_back(paths, clip_snapshot, tmp_path, monkeypatch):
    left = []
    leave = images_module.Workplace.__exit__

    def fail(*_):
        assert workers_of(psutil.Process()), "the second device is at work"
        raise KeyboardInterrupt

    monkeypatch.setattr(images_module, "run_loop", fail)
    monkeypatch.setattr(
        images_module.Workplace,
        "__exit__",
        lambda *given: (left.extend(workers_of(psutil.Process())), leave(*given))[1],
    )
    with pytest.raises(KeyboardInterrupt):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")
    assert not left


def test_reuse_works_in_every_process(paths, clip_snapshot, tmp_path, first_device_takes):
    old = embed(paths[:30], tmp_path / "old.parquet", clip_snapshot, device="cpu")
    first_device_takes(0)
    new = embed(paths, tmp_path / "new.parquet", clip_snapshot, device="cpu,cpu", reuse=str(old.path))
    assert (new.rows, new.reused) == (COUNT, 30)


def test_a_device_that_computes_in_another_way_is_refused(
    paths, clip_snapshot, tmp_path, monkeypatch, first_device_takes
):
    """The first device says fp32, the worker finds a plan that says bf16."""
    first_device_takes(0)
    real = images_module._plan

    def other(*arguments):
        plan = real(*arguments)
        return replace(plan, numerics={**plan.numerics, "precision": "bf16"})

    monkeypatch.setattr(images_module, "_plan", other)
    with pytest.raises(ConfigError, match="cpu computes with another precision than the first device"):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")


def test_kinds_of_devices_are_not_mixed(paths, clip_snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "choose_device", lambda name: __import__("torch").device(name))
    with pytest.raises(ConfigError, match="mixes kinds of devices"):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cuda:0")


def workers_of(process):
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # gone in the meantime
            if "lookalike.embedding.workers" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.fixture
def running(paths, clip_snapshot, tmp_path):
    """A run of the installed command, at the moment when its worker has begun."""
    program = str(Path(sys.executable).with_name("embedding"))
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(paths))
    command = [
        program, "image_embeddings", f"input_parquet={listing}", f"output_parquet={tmp_path / 'out.parquet'}",
        "model=CLIP", f"model_path={clip_snapshot}", "device=cpu,cpu", "shard_rows=8", "cache_dir=off",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    end = time.monotonic() + 120
    while not (found := workers_of(psutil.Process(process.pid))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    yield process, found[0]
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_killed_worker_is_said_and_the_next_run_finishes(running, paths, clip_snapshot, tmp_path):
    process, worker = running
    worker.kill()
    _, errors = process.communicate(timeout=120)
    assert "the process of cpu ended with status -9" in errors
    # The run has failed, or the first device had no need of it: then the table is there, and the warning says so.
    assert process.returncode in (0, 1)
    assert ("took no part" in errors) == (tmp_path / "out.parquet").exists() == (process.returncode == 0)
    assert "Traceback" not in errors
    assert embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu").rows == COUNT


def test_a_worker_that_never_reads_its_task_is_said(paths, clip_snapshot, tmp_path, monkeypatch, first_device_takes):
    """It has ended when the task is sent, so that sending fails, and closing the pipe fails again."""

    def late(task):
        time.sleep(2)
        return b"task"

    first_device_takes(0)
    monkeypatch.setattr(workers, "_PROGRAM", "import os; os._exit(3)")
    monkeypatch.setattr(workers.pickle, "dumps", late)
    with pytest.raises(ImagesFailed, match="the process of cpu ended with status 3"):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")


def test_a_worker_does_not_outlive_a_killed_run(running, tmp_path):
    """It is killed before its worker has loaded the model."""
    process, worker = running
    process.kill()
    worker.wait(timeout=60)
    assert not list(tmp_path.glob(".out.parquet.work/shard-*"))


@pytest.mark.parametrize(
    ("rows", "shard_rows", "batch_size"),
    [
        (1, 10_000, 64), (10_000, 10_000, 64), (262_144, 10_000, 256), (99_999, 9_000, 1000), (50, 8, 3),
        (30_000, 5_000, 9_999),
    ],
)  # fmt: skip
def test_shards_are_cut_towards_the_end_between_batches(rows, shard_rows, batch_size):
    spans = cut_into_spans(rows, shard_rows, batch_size)
    assert [row for span in spans for row in span] == list(range(rows))
    for span in spans:
        assert span.start // shard_rows == (span.stop - 1) // shard_rows, "a part belongs to one shard"
        assert (span.start % shard_rows) % batch_size == 0, "no batch is broken"
    last = spans[-1].start // shard_rows
    for span in spans:
        if span.start // shard_rows <= last - 8:
            assert len(span) == shard_rows
    if shard_rows >= 9_000:
        assert max(map(len, spans[-4:])) <= shard_rows / 4 + batch_size


def test_spans_are_handed_out_once_each():
    spans = Spans([range(3), range(3, 5)])
    assert spans.take("a") == range(3)
    assert not spans.is_idle("a")
    assert not spans.is_idle("b"), "it may still get one"
    assert list(spans.all_for("c")) == [range(3, 5)]
    assert spans.take("a") is None
    assert [spans.is_idle(name) for name in "abc"] == [False, True, False]
