"""What tells copies is kept in the cache: a file that did not change is decoded once, and nothing else is different."""

import itertools
import os
import shutil
import threading
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.embedding.cache_database import SUFFIX
from lookalike.embedding.cache_folder import cache_info
from lookalike.embedding.loop import _say_homeless
from lookalike.errors import ConfigError, ImagesFailed
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.workflow.barring import looks
from lookalike.workflow.barring.bars import RULES
from lookalike.workflow.barring.looks import Looks
from lookalike.workflow.barring.pool import bar_pool
from support.embeddings import write_embeddings
from support.runs import make_images

#: Rows of the pool that are no copy, the mirrored copy of the protected image, and the same pixels in another format.
OTHERS, MIRRORED, SAME = 6, 6, 7
FOUND = {MIRRORED: "protected_near", SAME: "protected_pixels"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `pool.parquet` and `protected.png`, all files older than a moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(looks, "_WINDOW", 3)
    made = make_images(tmp_path / "made", OTHERS + 1, "x", size=(80, 60))
    with Image.open(made[-1]) as picture:
        picture.save("protected.png")
        ImageOps.mirror(picture).save("made/mirrored.png")
        picture.save("made/same.bmp")
    write_pool([*map(str, made[:OTHERS]), "made/mirrored.png", "made/same.bmp"])
    for path in [*made, *map(tmp_path.joinpath, ("protected.png", "made/mirrored.png", "made/same.bmp"))]:
        os.utime(path, (1e9, 1e9))
    return tmp_path


def write_pool(paths):
    rows = np.random.default_rng(0).standard_normal((len(paths), 8)).astype(np.float32)
    write_embeddings("pool.parquet", rows, filepaths=paths)


def bar(protect=("protected.png",), **inputs):
    """The rule of each row that is barred, and the notes."""
    bars = bar_pool(
        EmbeddingStream("pool.parquet", "embedding"),
        None,
        BarringConfig(),
        inputs=RunConfig("", "", cache_dir=inputs.pop("cache_dir", "cache"), **inputs),
        protect=pa.table({"filepath": list(protect)}),
    )
    return {row: str(RULES[bars.rule[row]]) for row in bars.rows.tolist()}, bars.notes


def spoil(path):
    """Other bytes of the same size, under the same times."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"\0" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("settings", [{}, {"verify": "content"}, {"root": "."}], ids=["quick", "content", "root"])
def test_a_second_run_finds_the_same_and_decodes_nothing(place, settings, monkeypatch):
    first = bar(**settings)
    assert first[0] == FOUND
    monkeypatch.setattr(looks, "decode", None)
    assert bar(**settings) == first


def test_without_a_cache_nothing_is_kept(place, monkeypatch):
    assert bar(cache_dir="off")[0] == FOUND
    assert not (place / "cache").exists()
    monkeypatch.setattr(looks, "decode", None)
    with pytest.raises(TypeError):
        bar(cache_dir="off")


def test_a_file_that_did_not_change_is_not_read_again(place):
    """Nothing of the spoiled files is seen, by the limit that rsync has; without a cache they cannot be read."""
    bar()
    for path in ("made/mirrored.png", "made/same.bmp"):
        spoil(place / path)
    assert bar()[0] == FOUND
    for settings in ({"cache_dir": "off"}, {"verify": "content"}, {"root": str(place)}):
        found, notes = bar(**settings)
        assert found == {}
        assert any("pixels could not be compared of 2 pool images" in note for note in notes), notes


def test_a_file_that_changed_is_looked_at_again(place):
    assert bar()[0] == FOUND
    Image.open("made/x_000.png").save("made/same.bmp")
    assert bar()[0] == {MIRRORED: "protected_near"}
    Image.open("protected.png").save("made/same.bmp")
    assert bar()[0] == FOUND


def test_the_same_content_elsewhere_is_known(place, monkeypatch):
    """Moved files are read, and not decoded: their bytes name what was seen."""
    bar()
    monkeypatch.setattr(looks, "decode", None)
    Path("made").rename("moved")
    paths = [f"moved/{path.name}" for path in sorted((place / "moved").glob("x_*.png"))[:OTHERS]]
    write_pool([*paths, "moved/mirrored.png", "moved/same.bmp"])
    assert bar()[0] == FOUND
    spoil(place / "moved" / "same.bmp")
    assert bar()[0] == FOUND, "from then on the new path is known, too"


@pytest.mark.parametrize("settings", [{"max_pixels": 80 * 60 - 1}, {"max_bytes": 100}], ids=["pixels", "bytes"])
def test_todays_bounds_hold_for_what_is_known(place, settings):
    assert bar()[0] == FOUND
    found, notes = bar(**settings)
    assert found == {}
    assert any("pixels could not be compared of 8 pool images" in note for note in notes), notes
    assert (found, notes) == bar(cache_dir="off", **settings)


def test_a_path_below_a_root_is_not_that_of_the_working_directory(place):
    """Both have `same.bmp`; what was seen below the root must not hide the copy that lies here."""
    Path("data/made").mkdir(parents=True)
    for path in ("protected.png", *Path("made").iterdir()):
        shutil.copy("made/x_000.png", Path("data", path))
        os.utime(Path("data", path), (1e9, 1e9))
    os.utime("data/protected.png", (1e9, 1e9))
    bar(root="data")
    assert bar()[0] == FOUND


def test_files_that_become_other_pixels_are_other_pictures(place):
    """The mirrored copy becomes the same pixels where its orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored
    Image.open("made/mirrored.png").save("made/mirrored.png", exif=exif)
    os.utime("made/mirrored.png", (1e9, 1e9))
    for _ in range(2):
        assert bar()[0] == FOUND
        assert bar(exif="apply")[0] == {MIRRORED: "protected_pixels", SAME: "protected_pixels"}


def test_deep_images_are_other_pictures_where_they_are_scaled(place):
    """Clipped at 255 a bright image of 16 bits is white, as any other one."""
    deep = np.random.default_rng(0).integers(300, 60_000, (60, 80)).astype(np.uint16)
    for name, values in {"protected.png": deep, "made/mirrored.png": deep[::-1].copy()}.items():
        Image.fromarray(values).save(name)
        os.utime(name, (1e9, 1e9))
    for _ in range(2):
        assert bar()[0] == {MIRRORED: "protected_pixels"}
        assert bar(bit_depth="scale")[0] == {MIRRORED: "protected_near"}


def test_parts_of_a_file_are_pictures_of_their_own(place):
    """The left half of a board is the protected part; the right half of another one is its copy."""
    with Image.open("made/x_000.png") as one, Image.open("made/x_001.png") as two:
        for name, sides in {"board": (one, two), "other": (two, one)}.items():
            board = Image.new("RGB", (160, 60))
            for place_of, side in zip((0, 80), sides, strict=True):
                board.paste(side, (place_of, 0))
            board.save(f"{name}.png")
            os.utime(f"{name}.png", (1e9, 1e9))
    write_pool(["other.png#xywh=0,0,80,60", "other.png#xywh=80,0,80,60"])
    for _ in range(2):
        assert bar(["board.png#xywh=0,0,80,60"])[0] == {1: "protected_pixels"}


def test_what_was_seen_before_a_stop_is_kept(place, monkeypatch):
    monkeypatch.setattr(looks, "_WINDOW", 512)
    paths = [str(path) for path in sorted(Path("made").iterdir())]
    with pytest.raises(KeyboardInterrupt), Looks(RunConfig("", "", cache_dir="cache")) as first:
        for number, _ in enumerate(first.each(paths, "looking")):
            if number == 4:
                raise KeyboardInterrupt
    monkeypatch.setattr(looks, "decode", None)
    with Looks(RunConfig("", "", cache_dir="cache")) as second:
        assert len(list(second.each(paths[:5], "looking"))) == 5


def test_a_disk_that_hangs_ends_the_run(place, monkeypatch):
    """More than 32 files hang, of each window one."""
    made = make_images(place / "many", 120, "x", size=(8, 8))
    wake, decode = threading.Event(), looks.decode
    numbers = itertools.count()

    def hanging(*arguments, **options):
        if next(numbers) % 3 == 0:
            wake.wait()
        return decode(*arguments, **options)

    monkeypatch.setattr(looks, "decode", hanging)
    try:
        with Looks(RunConfig("", "", cache_dir="off", time_limit=0.02)) as all_looks, pytest.raises(ImagesFailed):
            list(all_looks.each(made, "looking"))
    finally:
        wake.set()


def test_a_user_without_a_home_has_no_cache(place, monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("LOOKALIKE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    _say_homeless.cache_clear()
    for _ in range(2):
        assert bar(cache_dir="")[0] == FOUND
    assert caplog.text.count("this user has no home folder") == 1
    with pytest.raises(ConfigError, match="LOOKALIKE_CACHE=~nosuchuser/cache names no folder"):
        monkeypatch.setenv("LOOKALIKE_CACHE", "~nosuchuser/cache")
        bar(cache_dir="")


def test_a_url_is_not_read_to_be_compared(place):
    fsspec.filesystem("memory").pipe("/same.bmp", Path("made/same.bmp").read_bytes())
    write_pool(["made/x_000.png", "made/mirrored.png", "memory://same.bmp"])
    found, notes = bar()
    assert found == {1: "protected_near"}
    assert any("1 pool images are URLs" in note for note in notes), notes


def test_the_bound_of_the_cache_holds(place):
    assert bar(cache_bytes=1)[0] == FOUND
    assert [info.rows for info in cache_info(place / "cache")] == [0]


def test_a_damaged_database_is_begun_anew(place, caplog):
    assert bar()[0] == FOUND
    (database,) = (place / "cache").glob(f"*{SUFFIX}")
    database.write_bytes(b"rubbish" * 1000)
    assert bar()[0] == FOUND
    assert "begun anew" in caplog.text or "dropped" in caplog.text
    spoil(place / "made" / "same.bmp")
    assert bar()[0] == FOUND


def test_the_cache_tells_pictures_from_vectors(place, run_command):
    bar()
    shown = run_command("lookalike", "cache", "info", cwd=place, env={"LOOKALIKE_CACHE": str(place / "cache")})
    assert "9 pictures, last used" in shown.stdout
    assert "to tell copies, 64 x 64, exif=ignore, bit_depth=clip, Pillow " in shown.stdout
    assert shown.last_line.startswith("Total:   0 vectors, 9 pictures, ")
