"""Several devices, a process each: the CPU twice stands for two cards."""

import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from PIL import Image

from lookalike import ConfigError, ImagesFailed, embed_images

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


def test_two_devices_make_the_table_of_one(paths, clip_snapshot, tmp_path, caplog):
    caplog.set_level("INFO")
    paths[11] = str(tmp_path / "missing.png")
    one = embed(paths, tmp_path / "one.parquet", clip_snapshot, device="cpu")
    two = embed(paths, tmp_path / "two.parquet", clip_snapshot, device="cpu,cpu")
    assert "working on cpu, cpu, with a process each" in caplog.text
    assert one.path.read_bytes() == two.path.read_bytes()
    assert [image.row for image in two.quarantined] == [11]
    assert (two.images, two.rows) == (COUNT, COUNT - 1)
    assert not list(tmp_path.glob(".*.work"))


def test_an_error_of_another_process_ends_the_run(paths, clip_snapshot, tmp_path):
    """Row 11 is in the second shard, which the second device gets."""
    paths[11] = str(tmp_path / "missing.png")
    with pytest.raises(ImagesFailed, match=r"on_error=raise: .*missing\.png") as failure:
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu", on_error="raise")
    assert "mend or remove the file" in failure.value.hint
    assert not workers_of(psutil.Process())


def test_reuse_works_in_every_process(paths, clip_snapshot, tmp_path):
    old = embed(paths[:30], tmp_path / "old.parquet", clip_snapshot, device="cpu")
    new = embed(paths, tmp_path / "new.parquet", clip_snapshot, device="cpu,cpu", reuse=str(old.path))
    assert (new.rows, new.reused) == (COUNT, 30)


def test_a_worker_leaves_nothing_on_standard_error(paths, clip_snapshot, tmp_path, capfd):
    embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")
    assert "Fatal" not in capfd.readouterr().err


def test_a_device_that_computes_in_another_way_is_refused(paths, clip_snapshot, tmp_path, monkeypatch):
    """The first device says fp32, the worker finds a plan that says bf16."""
    from lookalike.embedding import images

    real = images._plan

    def other(*arguments):
        plan = real(*arguments)
        return replace(plan, numerics={**plan.numerics, "precision": "bf16"})

    monkeypatch.setattr(images, "_plan", other)
    with pytest.raises(ConfigError, match="cpu computes with another precision than the first device"):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")


def test_kinds_of_devices_are_not_mixed(paths, clip_snapshot, tmp_path, monkeypatch):
    from lookalike.encoders import load

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
    assert process.returncode == 1
    assert "the process of cpu ended with status -9" in errors
    assert "Traceback" not in errors
    assert embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu").rows == COUNT


def test_a_worker_that_never_reads_its_task_is_said(paths, clip_snapshot, tmp_path, monkeypatch):
    """It has ended when the task is sent, so that sending fails, and closing the pipe fails again."""
    from lookalike.embedding import workers

    def late(task):
        time.sleep(2)
        return b"task"

    monkeypatch.setattr(workers, "_PROGRAM", "import os; os._exit(3)")
    monkeypatch.setattr(workers.pickle, "dumps", late)
    with pytest.raises(ImagesFailed, match="the process of cpu ended with status 3"):
        embed(paths, tmp_path / "out.parquet", clip_snapshot, device="cpu,cpu")


def test_a_worker_does_not_outlive_a_killed_run(running, tmp_path):
    """It is killed before its worker has loaded the model; the second shard is the worker's."""
    process, worker = running
    process.kill()
    worker.wait(timeout=60)
    assert not list(tmp_path.glob(".out.parquet.work/shard-00001.*"))
