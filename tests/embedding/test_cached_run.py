"""Runs with a cache: nothing that is known is embedded again, and what is not the same is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import embed_images

OLD = 1_600_000_000 * 10**9  # long ago: a file that is changed now is known by its content only


@pytest.fixture
def pool(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        os.utime(folder / f"{number}.png", ns=(OLD, OLD))
    return folder


@pytest.fixture
def embed(tmp_path, pool, clip_snapshot):
    """Embed the pool with one cache; returns how many came from it, and the table by file name."""

    def run(model="CLIP", snapshot=clip_snapshot, **settings):
        settings = {"cache_dir": str(tmp_path / "cache"), **settings}
        table = pa.table({"filepath": sorted(map(str, pool.iterdir()))})
        result = embed_images(table, tmp_path / "out.parquet", model, str(snapshot), **settings)
        written = pq.read_table(result.path)
        names = [Path(path).name for path in written.column("filepath").to_pylist()]
        return result.cached, dict(zip(names, np.stack(written.column("embedding").to_numpy()), strict=True))

    return run


def test_a_repeated_run_embeds_nothing_and_gives_the_same_vectors(embed):
    first, vectors = embed()
    again, same = embed()
    assert (first, again) == (0, 10)
    for name, vector in vectors.items():
        np.testing.assert_array_equal(vector, same[name])


def test_a_grown_pool_embeds_what_is_new_in_its_place(embed, pool):
    embed()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(pool / "45.png")  # sorts into the middle
    cached, vectors = embed(batch_size=4)
    assert cached == 10
    assert list(vectors) == sorted(path.name for path in pool.iterdir())
    alone, fresh = embed(cache_dir="off", batch_size=4)
    assert alone == 0
    np.testing.assert_allclose(vectors["45.png"], fresh["45.png"], rtol=1e-4, atol=1e-5)


def test_renamed_and_touched_files_are_found_by_content(embed, pool):
    embed()
    (pool / "3.png").rename(pool / "renamed.png")
    os.utime(pool / "4.png", ns=(OLD + 10**9, OLD + 10**9))
    assert embed()[0] == 10


def test_changed_content_with_the_same_size_and_time_needs_verify_content(embed, pool):
    embed()
    changed, other = pool / "3.png", pool / "5.png"
    size = max(changed.stat().st_size, other.stat().st_size)
    for path in (changed, other):  # PNG ignores what follows its end
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, ns=(OLD, OLD))
    _, before = embed()
    shutil.copyfile(other, changed)
    os.utime(changed, ns=(OLD, OLD))
    _, quick = embed()
    np.testing.assert_array_equal(quick["3.png"], before["3.png"])
    _, checked = embed(verify="content")
    np.testing.assert_array_equal(checked["3.png"], before["5.png"])


def test_two_encoders_do_not_meet(embed, siglip_snapshot):
    embed()
    cached, vectors = embed(model="SigLIP", snapshot=siglip_snapshot)
    assert cached == 0
    assert len(vectors["1.png"]) == 32
    assert embed()[0] == 10


def test_off_keeps_nothing(embed, tmp_path):
    embed(cache_dir="off")
    assert embed(cache_dir="off")[0] == 0
    assert not (tmp_path / "cache").exists()


def test_a_lower_pixel_bound_holds_for_cached_images(embed):
    embed()
    with pytest.raises(Exception, match="none of the 10 images"):
        embed(max_pixels=100)


def test_a_damaged_cache_is_dropped_with_a_warning(embed, tmp_path, caplog):
    embed()
    for file in (tmp_path / "cache").iterdir():
        if file.suffix == ".sqlite":
            file.write_bytes(b"rubbish" * 1000)
    cached, vectors = embed()
    assert (cached, len(vectors)) == (0, 10)
    assert embed()[0] == 10


def test_two_runs_at_once_share_a_cache(pool, clip_snapshot, tmp_path):
    script = "import sys, lookalike; print(lookalike.embed_images(*sys.argv[1:5], cache_dir=sys.argv[5]).rows)"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(pool), str(tmp_path / f"{number}.parquet"), "CLIP",
             str(clip_snapshot), str(tmp_path / "cache")],
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    assert [run.communicate()[0].strip() for run in runs] == ["10", "10"]


def test_a_path_below_a_root_is_not_that_of_the_working_directory(tmp_path, clip_snapshot, monkeypatch):
    """Both have `0.png`: the vector of the file below the root must not become that of the file that lies here."""
    monkeypatch.chdir(tmp_path)
    for folder, colour in ((Path(), (1, 2, 3)), (Path("data"), (250, 100, 3))):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), colour).save(folder / "0.png")
        os.utime(folder / "0.png", ns=(OLD, OLD))

    def vector(**settings):
        result = embed_images(pa.table({"filepath": ["0.png"]}), "out.parquet", "CLIP", str(clip_snapshot), **settings)
        return pq.read_table(result.path).column("embedding").to_pylist()[0]

    below = vector(cache_dir="cache", root="data")
    here = vector(cache_dir="cache")
    assert here == vector(cache_dir="off") != below


def test_a_file_beyond_todays_bound_of_bytes_is_set_aside_though_it_is_known(embed, pool):
    Image.new("RGB", (400, 400), (1, 2, 3)).save(pool / "large.bmp")
    os.utime(pool / "large.bmp", ns=(OLD, OLD))
    embed()
    assert embed()[0] == 11
    cached, vectors = embed(max_bytes=400 * 400)
    assert cached == 10
    assert "large.bmp" not in vectors
