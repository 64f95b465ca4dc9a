"""`reuse=TABLE`: vectors of an earlier table are taken over by path, and only where that is right."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import EncoderIdentity, EncoderMismatch, TableError, embed_images

OLD = 1_600_000_000 * 10**9


@pytest.fixture
def pool(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(10):
        write(folder / f"{number}.png", number)
    return folder


def write(path, seed, time_ns=OLD):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    os.utime(path, ns=(time_ns, time_ns))


def spoil(pool):
    """Make every image unreadable and keep its time: a run that reads one sets it aside."""
    for path in pool.iterdir():
        path.write_bytes(b"rubbish")
        os.utime(path, ns=(OLD, OLD))


@pytest.fixture
def embed(tmp_path, pool, clip_snapshot):
    """Embed the pool, or a list of paths, without a cache."""

    def run(name="old.parquet", paths=None, **settings):
        table = pa.table({"filepath": sorted(map(str, pool.iterdir())) if paths is None else paths})
        settings = {"model": "CLIP", "model_path": str(clip_snapshot), "cache_dir": "off", **settings}
        return embed_images(table, tmp_path / name, **settings)

    return run


def vectors(result):
    """The vectors of a result by file name."""
    table = pq.read_table(result.path)
    names = [Path(path).name for path in table.column("filepath").to_pylist()]
    return dict(zip(names, table.column("embedding").to_pylist(), strict=True))


def with_identity(path, change):
    """Write a table again with another identity, or with none."""
    table = pq.read_table(path)
    identity = EncoderIdentity.from_json(table.schema.metadata[b"lookalike"].decode(), str(path))
    changed = change(identity)
    metadata = {b"lookalike": changed.to_json().encode()} if changed else None
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_rows_of_the_earlier_table_are_not_read_again(embed, pool, caplog):
    caplog.set_level("INFO")
    old = embed(shard_rows=3)
    spoil(pool)
    new = embed("new.parquet", reuse=old.path, shard_rows=4)
    assert (new.rows, new.reused, new.cached, new.warnings) == (10, 10, 0, ())
    assert vectors(new) == vectors(old)
    assert "10 vectors were reused" in caplog.text


def test_new_rows_repeated_rows_and_another_order(embed, pool):
    old = embed(shard_rows=3)
    write(pool / "new.png", 77)
    paths = [str(pool / name) for name in ("7.png", "new.png", "2.png", "7.png", "0.png", "gone.png")]
    new = embed("new.parquet", paths, reuse=old.path, shard_rows=5)
    assert (new.rows, new.reused) == (5, 4)
    assert [image.filepath for image in new.quarantined] == [paths[-1]]
    assert pq.read_table(new.path).column("filepath").to_pylist() == paths[:-1]
    expected = vectors(embed("fresh.parquet", paths))
    for name, vector in vectors(new).items():
        np.testing.assert_allclose(vector, expected[name], rtol=1e-4, atol=1e-5)


def test_only_a_file_changed_after_the_table_is_embedded_again(embed, pool):
    old = embed()
    write(pool / "3.png", 33, old.path.stat().st_mtime_ns + 1)
    write(pool / "4.png", 44, old.path.stat().st_mtime_ns)
    new = embed("new.parquet", reuse=old.path)
    assert new.reused == 9
    before, after = vectors(old), vectors(new)
    assert [name for name in before if before[name] != after[name]] == ["3.png"]


def test_a_file_that_is_gone_is_set_aside_as_without_reuse(embed, pool):
    old = embed()
    paths = sorted(map(str, pool.iterdir()))
    (pool / "3.png").unlink()
    new = embed("new.parquet", paths, reuse=old.path)
    assert (new.reused, [str(image.reason) for image in new.quarantined]) == (9, ["missing"])


def test_a_path_outside_the_root_is_set_aside_as_without_reuse(embed, pool, tmp_path):
    outside = tmp_path / "outside.png"
    write(outside, 5)
    paths = [str(pool / "1.png"), str(outside)]
    old = embed(paths=paths)
    new = embed("new.parquet", paths, reuse=old.path, root=str(pool))
    assert (new.reused, [image.filepath for image in new.quarantined]) == (1, [str(outside)])


def test_urls_match_by_path_alone(embed):
    import fsspec

    with fsspec.open("memory://pool/a.png", "wb") as stream:
        Image.new("RGB", (8, 8), (9, 8, 7)).save(stream, "PNG")
    old = embed(paths=["memory://pool/a.png"])
    fsspec.filesystem("memory").rm("/pool/a.png")
    assert embed("new.parquet", ["memory://pool/a.png"], reuse=old.path).reused == 1


def test_the_first_row_of_a_path_is_taken_and_a_folder_of_parts_is_one_table(embed, pool, tmp_path):
    old = embed()
    folder = tmp_path / "parts"
    folder.mkdir()
    table = pq.read_table(old.path)
    pq.write_table(table.slice(4, 6), folder / "a.parquet", row_group_size=2)
    swapped = table.set_column(1, "embedding", table.column("embedding").take(pa.array(range(9, -1, -1))))
    pq.write_table(swapped, folder / "b.parquet", row_group_size=4)
    spoil(pool)
    new = embed("new.parquet", reuse=folder)
    first, mixed = vectors(old), vectors(new)
    assert new.reused == 10
    for number in range(10):
        assert mixed[f"{number}.png"] == first[f"{number if number >= 4 else 9 - number}.png"]


def test_reuse_comes_before_the_cache_and_fills_nothing(embed, tmp_path):
    cache = str(tmp_path / "cache")
    old = embed(cache_dir=cache)
    both = embed("new.parquet", reuse=old.path, cache_dir=cache)
    assert (both.reused, both.cached) == (10, 0)
    empty = str(tmp_path / "empty")
    embed("new.parquet", reuse=old.path, cache_dir=empty)
    assert embed("newer.parquet", cache_dir=empty).cached == 0


def test_the_rest_comes_from_the_cache(embed, pool, tmp_path):
    cache = str(tmp_path / "cache")
    embed(cache_dir=cache)
    some = embed("some.parquet", [str(pool / "1.png"), str(pool / "5.png")])
    new = embed("new.parquet", reuse=some.path, cache_dir=cache)
    assert (new.reused, new.cached) == (2, 8)


# What is refused or warned of


def test_another_encoder_is_refused_with_both_side_by_side(embed, pool, siglip_snapshot):
    old = embed()
    spoil(pool)
    with pytest.raises(EncoderMismatch, match=r"another encoder(.|\n)*\* family +CLIP +SigLIP"):
        embed("new.parquet", model="SigLIP", model_path=str(siglip_snapshot), reuse=old.path)
    assert not (old.path.parent / "new_quarantine.parquet").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a readable parquet table"),
        (lambda path: with_identity(path, lambda identity: None), "does not say which encoder"),
        (lambda path: pq.write_table(pa.table({"filepath": ["a"]}), path), "no column 'embedding'"),
    ],
    ids=["missing", "cut off", "no identity", "no vectors"],
)
def test_a_table_that_cannot_be_reused_is_refused_before_an_image_is_read(embed, pool, make, message):
    old = embed()
    make(old.path)
    spoil(pool)
    with pytest.raises(TableError, match=message):
        embed("new.parquet", reuse=old.path)
    assert not list(old.path.parent.glob("*new*"))


def test_other_numerics_are_one_warning(embed, caplog):
    old = embed()
    with_identity(old.path, lambda identity: replace(identity, numerics=replace(identity.numerics, precision="bf16")))
    new = embed("new.parquet", reuse=old.path)
    assert new.reused == 10
    (warning,) = new.warnings
    assert "precision" in warning
    assert caplog.text.count(warning) == 1


def test_writing_over_the_reused_table_is_refused(embed, tmp_path):
    old = embed()
    before = old.path.read_bytes()
    with pytest.raises(TableError, match="would be overwritten"):
        embed("old.parquet", reuse=old.path)
    with pytest.raises(TableError, match="lies in the input folder"):
        embed("new.parquet", reuse=tmp_path)
    assert old.path.read_bytes() == before


def test_the_command_says_how_many_were_reused(embed, pool, run_command, clip_snapshot, tmp_path):
    old = embed()
    spoil(pool)
    done = run_command(
        "embedding", "image_embeddings", f"input_parquet={pool}", "output_parquet=new.parquet", "model=CLIP",
        f"model_path={clip_snapshot}", f"reuse={old.path}", "cache_dir=off", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Reused: 10 images" in done.lines
    assert "10 vectors were reused" in done.stderr


KILLED = """
import sys, time
from lookalike.embedding import images

encode = images.open_encoder

def slow(*arguments):
    encoder = encode(*arguments)
    forward = encoder.forward
    def wait(batch):
        time.sleep(0.3)
        return forward(batch)
    object.__setattr__(encoder, "forward", wait)
    return encoder

images.open_encoder = slow
images.embed_images(*sys.argv[1:3], "CLIP", sys.argv[3], reuse=sys.argv[4], shard_rows=2, cache_dir="off")
"""


def test_a_killed_run_goes_on_with_the_same_table_and_begins_anew_with_another(embed, pool, clip_snapshot, tmp_path):
    some = embed("some.parquet", [str(pool / "0.png"), str(pool / "1.png")])
    arguments = [str(pool), str(tmp_path / "new.parquet"), str(clip_snapshot), str(some.path)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    work = tmp_path / ".new.parquet.work"
    limit = time.monotonic() + 240
    while len(list(work.glob("shard-*.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    on = embed("new.parquet", reuse=some.path, shard_rows=2)
    assert on.images < 10
    assert (on.rows, on.reused) == (10, 0)  # the first shard was finished before
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    while len(list(work.glob("shard-*.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.utime(some.path, ns=(OLD + 10, OLD + 10))
    assert embed("new.parquet", reuse=some.path, shard_rows=2).images == 10


PEAK = """
import resource, sys
from lookalike.embedding.reuse import EarlierTable

earlier = EarlierTable(sys.argv[1], "reuse")
assert len(earlier.build_index()) == 1_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = earlier.find(["/pool/900000.png", "/pool/none.png", "/pool/3.png"], None)
assert {position: vector[0] for position, vector in found.items()} == {0: 900_000 * 24 % 1000, 2: 72}, found
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak differs")
def test_the_vectors_of_the_old_table_are_not_held_in_memory(embed, tmp_path):
    """96 MB of vectors in one row group, of which two are wanted."""
    metadata = pq.read_schema(embed().path).metadata
    rows, dimension = 1_000_000, 24
    values = pa.array(np.arange(rows * dimension, dtype=np.float32) % 1000)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * dimension)
    paths = [f"/pool/{row}.png" for row in range(rows)]
    table = pa.table({"filepath": paths, "embedding": pa.ListArray.from_arrays(offsets, values)})
    pq.write_table(
        table.replace_schema_metadata(metadata), tmp_path / "big.parquet",
        row_group_size=rows, use_dictionary=False, compression="none",
    )  # fmt: skip
    command = [sys.executable, "-c", PEAK, str(tmp_path / "big.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024
