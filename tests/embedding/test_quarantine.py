"""A pool with bad files of every kind: exactly those are set aside, each with the right reason."""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import embed_images
from lookalike.embedding import images as images_module
from lookalike.images.outcome import Reason
from support.counted_run import CountedEncoder

COUNT = 200
#: The corner of an image whose vector the model cannot make.
POISON = (251, 3, 9)


class PoisonedEncoder(CountedEncoder):
    """Gives NaN, infinity or minus infinity for an image with the poison in its corner."""

    def start(self, pixels):
        vectors = super().start(pixels)()
        vectors[(vectors == POISON).all(axis=1)] = [np.nan, np.inf, -np.inf]
        return lambda: vectors


def picture(path, colour=(1, 2, 3), size=(8, 8)):
    Image.new("RGB", size, colour).save(path)


def noise(path):
    """A PNG whose data is long enough to be cut off."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return path.read_bytes()


def broken_middle(path):
    data = bytearray(noise(path))
    middle = data.index(b"IDAT") + 40
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)


def bomb(path):
    picture(path, size=(200, 200))


def long_file(path):
    path.write_bytes(noise(path).ljust(20_000, b"\0"))


#: How each bad file is made, by the reason that must be given; every way is used in turn.
WAYS = {
    Reason.MISSING: [
        lambda path: None,
        lambda path: path.symlink_to("nowhere.png"),
    ],
    Reason.UNREADABLE: [
        lambda path: path.mkdir(),
        os.mkfifo,
        broken_middle,
        lambda path: path.symlink_to(path.name),
    ],
    Reason.TRUNCATED: [
        lambda path: path.write_bytes(noise(path)[:-2000]),
        lambda path: path.write_bytes(noise(path)[:400]),
    ],
    Reason.TOO_LARGE: [bomb, long_file],
    Reason.NOT_AN_IMAGE: [
        lambda path: path.touch(),
        lambda path: path.write_text("text"),
        lambda path: path.write_bytes(bytes(500)),
    ],
    Reason.BAD_VECTOR: [lambda path: picture(path, POISON)],
    Reason.BAD_BOX: [lambda path: picture(path, (1, 2, 7))],
}
#: What makes a box of a good picture a bad one.
BAD_BOX = "#xywh=1,1,900,900"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files and no free links")
@pytest.mark.parametrize("cache_dir", ["off", "on"])
def test_five_per_cent_of_every_reason(cache_dir, tmp_path, monkeypatch):
    assert set(WAYS) == set(Reason)
    rng = np.random.default_rng(7)
    bad = rng.permutation(COUNT)[: len(Reason) * COUNT // 20].reshape(len(Reason), -1)
    expected = {}
    for reason, rows in zip(Reason, bad.tolist(), strict=True):
        for turn, row in enumerate(rows):
            WAYS[reason][turn % len(WAYS[reason])](tmp_path / f"{row}.png")
            expected[row] = reason
    for row in set(range(COUNT)) - set(expected):
        picture(tmp_path / f"{row}.png", (row // 256, row % 256, 7))
    monkeypatch.setattr(images_module, "check_model", lambda *arguments: "test")
    monkeypatch.setattr(images_module, "open_encoder", lambda *arguments: PoisonedEncoder(tmp_path / "log", 0.0))
    boxes = {row: BAD_BOX for row, reason in expected.items() if reason == Reason.BAD_BOX}
    names = [f"{tmp_path / f'{row}.png'}{boxes.get(row, '')}" for row in range(COUNT)]
    table = pa.table({"filepath": names, "row": list(range(COUNT))})
    result = embed_images(
        table, tmp_path / "out.parquet", "CLIP", "tests", batch_size=8, shard_rows=64, max_pixels=10_000,
        max_bytes=10_000, cache_dir="off" if cache_dir == "off" else str(tmp_path / "cache"),
    )  # fmt: skip
    aside = pq.read_table(result.quarantine_path)
    found = dict(zip(aside.column("row").to_pylist(), aside.column("reason").to_pylist(), strict=True))
    assert found == {row: str(reason) for row, reason in sorted(expected.items())}
    assert list(found) == sorted(expected)
    assert aside.column("filepath").to_pylist() == [names[row] for row in sorted(expected)]
    written = pq.read_table(result.path)
    assert written.column("row").to_pylist() == [row for row in range(COUNT) if row not in expected]
    for row, vector in zip(written.column("row").to_pylist(), written.column("embedding").to_pylist(), strict=True):
        assert vector == [row // 256, row % 256, 7]
