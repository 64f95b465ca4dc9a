"""`crop`: a box of a file is an image of its own, and its vector that of the part cut out beforehand."""

import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import ConfigError, TableError, embed_images
from lookalike.embedding.boards import Boards
from lookalike.embedding.cache import content_digest
from lookalike.embedding.readahead import MOST_HANGING
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.tables.boxes import Box, overlap, split_box, with_boxes

DECODING = DecodeSettings("ignore", "clip", 10**7)
BOXES = [(0, 0, 40, 30), (40, 10, 33, 47), (10, 20, 90, 60), (99, 79, 1, 1)]


def picture(mode, size=(100, 80)):
    random = np.random.default_rng(3)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 60_000, size[::-1], np.uint16))
    colours = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    if mode == "P":
        colours = colours.quantize(17)
        colours.info["transparency"] = 3
        return colours
    if mode in ("RGBA", "LA"):
        colours.putalpha(Image.fromarray(random.integers(0, 256, size[::-1], np.uint8)))
    return colours.convert(mode)


@pytest.fixture
def boards(tmp_path):
    """Board images of several kinds."""
    folder = tmp_path / "boards"
    folder.mkdir()
    for mode in ("RGB", "L", "P", "RGBA", "I;16"):
        picture(mode).save(folder / f"{mode.replace(';', '')}.png")
    picture("RGB").save(folder / "photo.jpg", quality=90)
    return folder


@pytest.fixture
def table(boards):
    """Four boxes of each board."""
    rows = [(str(path), *box) for path in sorted(boards.iterdir()) for box in BOXES]
    return pa.table(
        {name: list(values) for name, values in zip(("filepath", *"xywh"), zip(*rows, strict=True), strict=True)}
    )


def cut(table, folder):
    """The same parts, cut out beforehand and stored without loss, as anyone would with Pillow."""
    folder.mkdir()
    files = []
    for number, row in enumerate(table.to_pylist()):
        with Image.open(row["filepath"]) as image:
            part = image.crop((row["x"], row["y"], row["x"] + row["w"], row["y"] + row["h"]))
            part.save(folder / f"{number:03d}.png", **({"transparency": 3} if image.mode == "P" else {}))
        files.append(str(folder / f"{number:03d}.png"))
    return pa.table({"filepath": files})


def embed(table, output, snapshot, **settings):
    result = embed_images(table, output, "SigLIP", str(snapshot), cache_dir="off", **settings)
    return result, np.stack(pq.read_table(result.path).column("embedding").to_numpy())


@pytest.mark.parametrize("settings", [{}, {"bit_depth": "scale"}, {"exif": "apply"}])
def test_a_box_has_the_vector_of_the_part_that_was_cut_out(settings, table, siglip_snapshot, tmp_path):
    ours, vectors = embed(table, tmp_path / "ours.parquet", siglip_snapshot, crop=True, **settings)
    theirs, expected = embed(cut(table, tmp_path / "cut"), tmp_path / "cut.parquet", siglip_snapshot, **settings)
    np.testing.assert_array_equal(vectors, expected)
    assert ours.identity.fingerprint == theirs.identity.fingerprint
    assert ours.warnings == theirs.warnings, "clipped values are counted in the part, not in the board"
    written = pq.read_table(ours.path)
    assert written.column_names == ["filepath", "embedding", "x", "y", "w", "h"]
    row = written.to_pylist()[1]
    assert row["filepath"] == f"{table.column('filepath')[1].as_py()}#xywh=40,10,33,47"
    assert (row["x"], row["y"], row["w"], row["h"]) == (40, 10, 33, 47)


def test_names_of_columns_and_rows_without_a_box(boards, siglip_snapshot, tmp_path):
    board = str(boards / "RGB.png")
    table = pa.table(
        {"filepath": [board, board], "left": [5.0, None], "top": [6.0, None], "wide": [20, None], "high": [30, None]}
    )
    result, _ = embed(table, tmp_path / "out.parquet", siglip_snapshot, crop="left, top,wide,high")
    assert pq.read_table(result.path).column("filepath").to_pylist() == [f"{board}#xywh=5,6,20,30", board]


def test_a_path_with_a_box_is_understood_without_the_setting(table, siglip_snapshot, tmp_path):
    """What a run has mined is a list of such paths."""
    boxed = with_boxes(table, tuple("xywh"), "here")
    (tmp_path / "list.txt").write_text("\n".join(boxed.column("filepath").to_pylist()))
    _, vectors = embed(tmp_path / "list.txt", tmp_path / "a.parquet", siglip_snapshot)
    _, expected = embed(table, tmp_path / "b.parquet", siglip_snapshot, crop="true")
    np.testing.assert_array_equal(vectors, expected)
    # With the setting, a table that has its boxes in its paths already stays as it is.
    assert with_boxes(boxed, tuple("xywh"), "here").equals(boxed)


@pytest.mark.parametrize(
    "box", [(90, 0, 11, 5), (0, 70, 5, 11), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, -5), (500, 0, 5, 5)]
)
def test_a_box_that_is_not_inside_is_set_aside(box, boards, siglip_snapshot, tmp_path):
    board = str(boards / "RGB.png")
    columns = {name: [value, good] for name, value, good in zip("xywh", box, (1, 2, 3, 4), strict=True)}
    result, _ = embed(
        pa.table({"filepath": [board, board], **columns}), tmp_path / "out.parquet", siglip_snapshot, crop=True
    )
    (image,) = result.quarantined
    assert (image.row, str(image.reason)) == (0, "bad_box")
    assert "not inside the image of 100 x 80" in image.detail
    assert pq.read_table(result.quarantine_path).column("reason").to_pylist() == ["bad_box"]


@pytest.mark.parametrize(
    ("columns", "crop", "words"),
    [
        ({"x": [1.5], "y": [0], "w": [2], "h": [2]}, True, "whole numbers"),
        ({"x": ["left"], "y": [0], "w": [2], "h": [2]}, True, "whole numbers"),
        ({"x": [1], "y": [0], "w": [2]}, True, "no column 'h'"),
        ({"x": [1], "y": [None], "w": [2], "h": [2]}, True, "have some of x, y, w, h and not all"),
        ({}, "a,b,c", "four columns"),
        ({}, "a,b,c,", "four columns"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused_before_work(columns, crop, words, boards, siglip_snapshot, tmp_path):
    table = pa.table({"filepath": [str(boards / "RGB.png")], **columns})
    with pytest.raises((ConfigError, TableError), match=words):
        embed(table, tmp_path / "out.parquet", siglip_snapshot, crop=crop)
    assert not (tmp_path / "out.parquet").exists()


def test_another_box_in_the_path_is_refused(boards, siglip_snapshot, tmp_path):
    table = pa.table({"filepath": [f"{boards / 'RGB.png'}#xywh=0,0,5,5"], "x": [1], "y": [0], "w": [5], "h": [5]})
    with pytest.raises(TableError, match="another box in their path"):
        embed(table, tmp_path / "out.parquet", siglip_snapshot, crop=True)


def test_the_cache_tells_boxes_of_one_file_apart(table, siglip_snapshot, tmp_path):
    """By path, by content (a copy of the board elsewhere), and never the board for its part."""
    for path in set(table.column("filepath").to_pylist()):
        os.utime(path, ns=(10**18, 10**18))
    settings = {"cache_dir": str(tmp_path / "cache"), "crop": True}

    def run(rows, name, **more):
        result = embed_images(rows, tmp_path / name, "SigLIP", str(siglip_snapshot), **{**settings, **more})
        return result, np.stack(pq.read_table(result.path).column("embedding").to_numpy())

    first, expected = run(table, "a.parquet")
    assert first.cached == 0
    for verify in ("quick", "content"):
        again, vectors = run(table, "b.parquet", verify=verify)
        assert again.cached == len(vectors)
        np.testing.assert_array_equal(vectors, expected)
    copies = []
    for number, path in enumerate(table.column("filepath").to_pylist()):
        copy = tmp_path / f"copy{number // len(BOXES)}.bin"
        copy.write_bytes(Path(path).read_bytes())
        copies.append(str(copy))
    moved, vectors = run(table.set_column(0, "filepath", [copies]), "c.parquet")
    assert moved.cached == len(vectors)
    np.testing.assert_array_equal(vectors, expected)
    whole, _ = run(table.select(["filepath"]), "d.parquet", crop=False)
    assert whole.cached == 0
    other = table.set_column(1, "x", [pa.array([max(0, x - 1) if x else x for x in table.column("x").to_pylist()])])
    changed, _ = run(other, "e.parquet")
    assert changed.cached == sum(
        x == y for x, y in zip(table.column("x").to_pylist(), other.column("x").to_pylist(), strict=True)
    )


def test_reuse_and_another_try_go_by_the_box(table, siglip_snapshot, tmp_path):
    half = table.slice(0, 10)
    earlier, _ = embed(half, tmp_path / "half.parquet", siglip_snapshot, crop=True)
    result, vectors = embed(table, tmp_path / "all.parquet", siglip_snapshot, crop=True, reuse=str(earlier.path))
    assert result.reused == 10
    _, expected = embed(table, tmp_path / "fresh.parquet", siglip_snapshot, crop=True)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)  # other batches, other rounding
    wider = [*table.column("w").to_pylist()[:-1], 2]
    broken = table.set_column(3, "w", [pa.array(wider)])
    aside, _ = embed(broken, tmp_path / "again.parquet", siglip_snapshot, crop=True)
    assert [image.row for image in aside.quarantined] == [table.num_rows - 1]
    again, _ = embed(broken, tmp_path / "again.parquet", siglip_snapshot, crop=True, retry_quarantined=True)
    assert (again.rows, again.reused) == (table.num_rows - 1, table.num_rows - 1)


def test_a_board_is_decoded_once_for_boxes_that_come_together(boards, monkeypatch):
    from lookalike.embedding import boards as module

    loads = []
    real = module.load
    monkeypatch.setattr(module, "load", lambda data, settings: loads.append(1) or real(data, settings))
    keeper = Boards(DECODING)
    files = [path.read_bytes() for path in sorted(boards.iterdir())]
    for data in files[:3]:
        for box in map(Box._make, BOXES):
            found = keeper.decode(data, box)
            alone = decode(data, DECODING, box=box)
            assert (found.image.mode, found.image.tobytes()) == (alone.image.mode, alone.image.tobytes())
            assert found.pixels == 8000, "the bound counts the pixels of the file"
    assert len(loads) == 3
    keeper.decode(files[0], Box(0, 0, 1, 1))
    assert len(loads) == 4, "only the last two are kept"
    for _ in range(2):
        with pytest.raises(ImageRejected, match="not_an_image"):
            keeper.decode(b"no image", Box(0, 0, 1, 1))


def test_a_board_that_hangs_is_set_aside_with_all_its_boxes(boards, siglip_snapshot, tmp_path, monkeypatch):
    """Between other boards, and with more boxes than there may be threads that hang."""
    from lookalike.embedding import boards as module

    bad, good = str(boards / "L.png"), [str(boards / "RGB.png"), str(boards / "photo.jpg")]
    hanging, real, never = Path(bad).read_bytes(), module.load, threading.Event()

    def load(data, settings):
        if data == hanging:
            never.wait()
        return real(data, settings)

    monkeypatch.setattr(module, "load", load)
    rows = [(path, number, 0, 20, 20) for number in range(MOST_HANGING + 8) for path in (bad, *good)]
    table = pa.table(
        {name: list(values) for name, values in zip(("filepath", *"xywh"), zip(*rows, strict=True), strict=True)}
    )
    result = embed_images(
        table, tmp_path / "out.parquet", "SigLIP", str(siglip_snapshot), crop=True, time_limit=2.0, cache_dir="off"
    )
    never.set()
    assert result.rows == 2 * (MOST_HANGING + 8)
    assert {split_box(image.filepath)[0] for image in result.quarantined} == {bad}
    assert {image.reason for image in result.quarantined} == {Reason.UNREADABLE}


def test_boxes_in_paths():
    assert split_box("a/b#xywh=1,2,3,4.png") == ("a/b#xywh=1,2,3,4.png", None)
    assert split_box("s3://a/b.png#xywh=1,2,3,4") == ("s3://a/b.png", Box(1, 2, 3, 4))
    assert split_box("a#b.png") == ("a#b.png", None)
    assert overlap(Box(0, 0, 2, 2), Box(1, 1, 5, 5))
    assert not overlap(Box(0, 0, 2, 2), Box(2, 0, 5, 5))
    assert overlap(None, Box(2, 0, 5, 5))
    assert content_digest(b"a", Box(1, 2, 3, 4)) not in (content_digest(b"a"), content_digest(b"a", Box(1, 2, 3, 5)))
