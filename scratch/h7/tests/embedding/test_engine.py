"""The engine and `embed_images`, with a model that marks what it saw."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import ConfigError, ImagesFailed, TableError, embed_images
from lookalike.embedding import engine as engine_module
from lookalike.embedding import prepare as prepare_module
from lookalike.embedding.engine import Job, Stages, embed
from lookalike.embedding.prepare import CacheLookup, PillowPreparer
from lookalike.embedding.reuse import ReusingPreparer, Source
from lookalike.images.decode import DecodeSettings
from lookalike.images.locate import ReadSettings
from lookalike.images.outcome import Reason
from lookalike.images.preprocess import Preprocessing

DECODING = DecodeSettings("ignore", "clip", 10**6)


class MeanEncoder:
    """Three dimensions: the mean of each channel. Records the sizes of its batches."""

    preprocessing = Preprocessing("squash", (4, 4), 3, None, "floor", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __init__(self):
        self.batches = []

    def encode(self, pixels):
        self.batches.append(len(pixels))
        vectors = pixels.mean(axis=(2, 3))
        vectors[vectors[:, 0] == 66] = np.nan
        return vectors

    def start(self, pixels):
        vectors = self.encode(pixels)
        return lambda: vectors


@pytest.fixture
def files(tmp_path):
    """Eleven images whose grey value is their number; 3 is missing, 5 is text, 6 gives a vector with NaN."""
    paths = []
    for number in range(11):
        path = tmp_path / f"{number}.png"
        value = 66 if number == 6 else number
        if number == 5:
            path.write_text("text")
        elif number != 3:
            Image.new("RGB" if number % 2 else "L", (8, 8), value if number % 2 == 0 else (value,) * 3).save(path)
        paths.append(str(path))
    return paths


def job(files, encoder, batch_size=4, **changes):
    defaults = {"on_rejected": lambda image: None, "on_progress": lambda done: None, "on_begin": lambda span: None}
    preparer = PillowPreparer(
        files, encoder, DECODING, ReadSettings("", 10**6, 0), batch_size, CacheLookup(None, files, 10**6, by_path=True)
    )
    return Job(files, encoder, preparer, batch_size, **{"time_limit": 60.0, **defaults, **changes})


def test_bad_images_fall_out_before_batching_and_order_is_kept(files):
    encoder, rejected = MeanEncoder(), []
    (shard,) = embed(job(files, encoder, on_rejected=rejected.append), [range(11)], Stages())
    assert encoder.batches == [4, 4, 1]
    assert shard.rows.tolist() == [0, 1, 2, 4, 7, 8, 9, 10]
    np.testing.assert_array_equal(shard.vectors, np.repeat(shard.rows[:, None], 3, axis=1))
    reasons = [(3, Reason.MISSING), (5, Reason.NOT_AN_IMAGE), (6, Reason.BAD_VECTOR)]
    assert [(image.row, image.reason) for image in shard.quarantined] == reasons
    assert sorted((image.row, image.reason) for image in rejected) == reasons


def test_batches_stay_within_shards_and_only_the_given_spans_are_read(files):
    encoder, begun, done = MeanEncoder(), [], []
    spans = [range(0, 5), range(7, 11)]
    shards = list(embed(job(files, encoder, 3, on_begin=begun.append, on_progress=done.append), spans, Stages()))
    assert encoder.batches == [3, 1, 3, 1]
    assert [shard.span for shard in shards] == begun == spans
    assert [shard.rows.tolist() for shard in shards] == [[0, 1, 2, 4], [7, 8, 9, 10]]
    assert done == [3, 6, 9]


def test_an_image_whose_resized_form_would_be_huge_is_set_aside(tmp_path):
    """A line of pixels under the bound becomes gigapixels when its shortest edge is scaled up."""
    Image.new("L", (50_000, 1)).save(tmp_path / "line.png")
    encoder = MeanEncoder()
    encoder.preprocessing = Preprocessing(
        "shortest_edge", (224, 224), 3, (224, 224), "floor", 1.0, (0.0,) * 3, (1.0,) * 3
    )
    (shard,) = embed(job([str(tmp_path / "line.png")], encoder), [range(1)], Stages())
    assert shard.quarantined[0].reason is Reason.TOO_LARGE


def test_a_bug_in_an_encoder_is_not_an_outcome(files):
    encoder = MeanEncoder()
    encoder.encode = lambda pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(embed(job(files, encoder), [range(11)], Stages()))


def test_the_stage_that_limits_is_named():
    assert Stages(waiting=2.0, forward=1.0).limit == "decode-bound"
    assert Stages(waiting=1.0, forward=2.0).limit == "compute-bound"


def test_tables_frames_and_row_groups(clip_snapshot, images, tmp_path):
    """A DataFrame and an Arrow table are inputs; carried columns stay with their row across row groups."""
    paths = sorted(str(path) for path in images.iterdir())
    frame = pd.DataFrame({"number": range(len(paths)), "filepath": paths}, index=range(5, 5 + len(paths)))
    frame.loc[frame.index[2], "filepath"] = "missing.png"
    result = embed_images(frame, tmp_path / "one.parquet", "CLIP", str(clip_snapshot), batch_size=2, shard_rows=3)
    table = pq.read_table(result.path)
    assert table.column_names == ["filepath", "embedding", "number"] == list(result.columns)
    assert table.column("number").to_pylist() == [n for n in range(len(paths)) if n != 2]
    assert pq.ParquetFile(result.path).num_row_groups > 1
    again = embed_images(
        pa.table({"filepath": paths}), tmp_path / "two.parquet", "CLIP", str(clip_snapshot), batch_size=64
    )
    both = np.stack(pq.read_table(again.path).column("embedding").to_numpy())
    assert again.quarantine_path is None
    np.testing.assert_allclose(
        np.delete(both, 2, axis=0), np.stack(table.column("embedding").to_numpy()), rtol=1e-4, atol=1e-5
    )


def test_same_inputs_give_the_same_bytes(clip_snapshot, images, tmp_path):
    one = embed_images(images, tmp_path / "one.parquet", "CLIP", str(clip_snapshot))
    two = embed_images(images, tmp_path / "two.parquet", "CLIP", str(clip_snapshot))
    assert one.path.read_bytes() == two.path.read_bytes()


def test_when_every_image_fails_nothing_is_written_but_the_quarantine(clip_snapshot, tmp_path):
    (tmp_path / "list.txt").write_text("nowhere/a.png\nnowhere/b.png\n")
    with pytest.raises(ImagesFailed, match="none of the 2 images"):
        embed_images(tmp_path / "list.txt", tmp_path / "out.parquet", "CLIP", str(clip_snapshot))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "out_quarantine.parquet"]


def test_an_input_in_the_place_of_the_quarantine_table_is_kept(clip_snapshot, images, tmp_path):
    """Embedding the images that were set aside again: the input has the name of the new quarantine table."""
    table = tmp_path / "out_quarantine.parquet"
    pq.write_table(pa.table({"filepath": [str(next(images.iterdir()))]}), table)
    with pytest.raises(TableError, match="would be overwritten"):
        embed_images(table, tmp_path / "out.parquet", "CLIP", str(clip_snapshot))
    assert table.exists()


def test_an_output_over_the_input_is_refused(clip_snapshot, images, tmp_path):
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"filepath": [str(next(images.iterdir()))]}), table)
    with pytest.raises(TableError, match="would be overwritten"):
        embed_images(table, tmp_path / "." / "table.parquet", "CLIP", str(clip_snapshot))


def test_a_decoder_that_hangs_is_set_aside_and_the_run_goes_on(files, hanging):
    """Its image is quarantined at its turn, in its place; the images after it are embedded."""
    (shard,) = embed(job(files, MeanEncoder(), time_limit=2.0), [range(11)], Stages())
    assert shard.rows.tolist() == [0, 1, 2, 7, 8, 9, 10]
    (given_up,) = [image for image in shard.quarantined if image.row == 4]
    assert (given_up.reason, given_up.detail) == (Reason.UNREADABLE, "no result after 2 s")


def test_a_finished_shard_is_handed_over_although_the_next_one_fails(files):
    def refuse(image):
        raise ImagesFailed(str(image))

    shards = []
    with pytest.raises(ImagesFailed, match=r"3\.png"):
        for shard in embed(job(files, MeanEncoder(), on_rejected=refuse), [range(3), range(3, 6)], Stages()):
            shards.append(shard.rows.tolist())
    assert shards == [[0, 1, 2]]


class GroupPreparer:
    """Four images at a time, as a card takes them: one that hangs holds up its group."""

    group_size, threads, ahead = 4, 2, 3

    def __init__(self, alone):
        self.alone, self.begin, self.forget = alone, alone.begin, alone.forget

    def __call__(self, rows):
        return engine_module._joined(self.alone([row]) for row in rows)


@pytest.fixture
def hanging(files, monkeypatch):
    """The decoder of file 4 never returns while the test runs."""
    release, hung = threading.Event(), Path(files[4]).read_bytes()

    def decode(data, settings):
        if data == hung:
            release.wait(120)
        return real_decode(data, settings)

    real_decode = prepare_module.decode
    monkeypatch.setattr(prepare_module, "decode", decode)
    yield
    release.set()


def test_of_a_group_that_hangs_only_the_file_that_hangs_is_set_aside(files, hanging):
    given = job(files, MeanEncoder(), time_limit=1.0)
    (shard,) = embed(replace(given, preparer=GroupPreparer(given.preparer)), [range(11)], Stages())
    assert shard.rows.tolist() == [0, 1, 2, 7, 8, 9, 10]
    np.testing.assert_array_equal(shard.vectors, np.repeat(shard.rows[:, None], 3, axis=1))
    assert [image.row for image in shard.quarantined] == [3, 4, 5, 6]


def test_vectors_that_are_known_survive_a_group_that_hangs(files, hanging):
    """Rows 7 and 8 are known from an earlier table, their files are gone, and 7 is in the group of the hung row 4."""

    class Known:
        def find(self, paths, reading):
            return {number: np.full(3, 50.0, np.float32) for number, path in enumerate(paths) if path in files[7:9]}

    for row in (7, 8):
        Path(files[row]).unlink()
    given = job(files, MeanEncoder(), time_limit=1.0)
    preparer = ReusingPreparer(GroupPreparer(given.preparer), files, [Source(Known(), None)])
    (shard,) = embed(replace(given, preparer=preparer), [range(11)], Stages())
    assert shard.rows.tolist() == [0, 1, 2, 7, 8, 9, 10]
    assert shard.vectors[:, 0].tolist() == [0, 1, 2, 50, 50, 9, 10]
    assert shard.reused == 2
    assert not preparer._found


HANGING = """
import sys, threading
from lookalike.embedding import engine, prepare
from lookalike.images.decode import DecodeSettings
from lookalike.images.locate import ReadSettings
from lookalike.images.preprocess import Preprocessing

class Encoder:
    preprocessing = Preprocessing("squash", (4, 4), 3, None, "floor", 1.0, (0.0,) * 3, (1.0,) * 3)

    def start(self, pixels):
        return lambda: pixels.mean(axis=(2, 3))

prepare.decode = lambda data, settings: threading.Event().wait()
files, encoder = sys.argv[1:], Encoder()
preparer = prepare.PillowPreparer(
    files, encoder, DecodeSettings("ignore", "clip", 100), ReadSettings("", 10**6, 0), 4,
    prepare.CacheLookup(None, files, 100, by_path=True),
)
ignore = lambda *given: None
(shard,) = engine.embed(
    engine.Job(files, encoder, preparer, 4, 0.1, ignore, ignore, ignore), [range(len(files))], engine.Stages()
)
print([str(image.reason) for image in shard.quarantined])
"""


def test_a_process_ends_while_a_decoder_still_hangs(files):
    done = subprocess.run(
        [sys.executable, "-c", HANGING, files[0], files[1]],
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['unreadable', 'unreadable']\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_reading_settings_reach_the_files(clip_snapshot, images, tmp_path):
    """Root, size bound and relative paths, from `embed_images` down; a pipe that nobody writes to blocks nothing."""
    names = sorted(path.name for path in images.iterdir())
    largest = max(names, key=lambda name: (images / name).stat().st_size)
    root = tmp_path / "root"
    root.mkdir()
    for name in names:
        (root / name).write_bytes((images / name).read_bytes())
    os.mkfifo(root / "pipe.png")
    outside = str(images / names[0])
    paths = [*names, "pipe.png", outside, f"../root/{names[1]}"]
    result = embed_images(
        pa.table({"filepath": paths}), tmp_path / "out.parquet", "CLIP", str(clip_snapshot),
        root=str(root), max_bytes=(root / largest).stat().st_size - 1,
    )  # fmt: skip
    assert {(image.filepath, image.reason, image.detail.partition(" ")[0]) for image in result.quarantined} == {
        (largest, Reason.TOO_LARGE, str((root / largest).stat().st_size)),
        ("pipe.png", Reason.UNREADABLE, "not"),
        (outside, Reason.UNREADABLE, "outside"),
    }
    assert pq.read_table(result.path).column("filepath").to_pylist() == [
        path for path in paths if path not in (largest, "pipe.png", outside)
    ]


def test_a_root_that_is_no_folder_is_refused_before_any_work(clip_snapshot, images, tmp_path):
    with pytest.raises(ConfigError, match="root is not a folder"):
        embed_images(images, tmp_path / "out.parquet", "CLIP", str(clip_snapshot), root=str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


class Together(fsspec.AbstractFileSystem):
    """A storage that answers only when eight files are asked for at the same time."""

    protocol = "together"
    cachable = False
    barrier = threading.Barrier(8, timeout=30)

    def _open(self, path, mode="rb", **options):
        self.barrier.wait()
        return Path(self._strip_protocol(path)).open("rb")


def test_many_remote_files_are_read_at_a_time(tmp_path, clip_snapshot):
    fsspec.register_implementation("together", Together, clobber=True)
    for number in range(16):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    table = pa.table({"filepath": [f"together://{tmp_path}/{number}.png" for number in range(16)]})
    result = embed_images(table, tmp_path / "out.parquet", "CLIP", str(clip_snapshot), retries=0, cache_dir="off")
    assert result.rows == 16
