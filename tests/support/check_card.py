"""The card's preparer on the CPU: kernels in the interpreter, Pillow for the JPEG engines; see test_card.py."""

import contextlib
import ctypes
import io
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from lookalike.embedding import card, kernels
from lookalike.embedding import prepare as prepare_module
from lookalike.embedding.nvjpeg import NvJpegError
from lookalike.embedding.prepare import CacheLookup, PillowPreparer
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import Reason
from lookalike.images.preprocess import Preprocessing

RANDOM = np.random.default_rng(0)
DECODING = DecodeSettings("ignore", "clip", 10**6)
SCARCE = []
ENCODER = SimpleNamespace(
    memory_ran_out=lambda: SCARCE.append(True),
    device=torch.device("cpu"),
    dtype=torch.float32,
    preprocessing=Preprocessing("squash", (8, 8), 3, None, "floor", 1 / 255, (0.5,) * 3, (0.5,) * 3),
)
STREAM = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)


class Engines:
    """Decodes grey and 4:4:4 files to their planes; refuses damaged ones, and more than `room` at a time."""

    room = 100
    calls = 0
    made = 0

    def __init__(self):
        Engines.made += 1

    def decode(self, files, images, stream):
        Engines.calls += 1
        if len(files) > self.room:
            raise torch.OutOfMemoryError
        for data, target in zip(files, images, strict=True):
            if b"damaged" in data:
                raise NvJpegError
            with Image.open(io.BytesIO(data)) as image:
                image.draft("YCbCr" if image.mode == "RGB" else "L", image.size)
                planes = np.atleast_3d(np.asarray(image))
            for address, plane in zip(target.addresses, np.moveaxis(planes, 2, 0), strict=False):
                ctypes.memmove(address, plane.tobytes(), plane.size)


def make_files(folder):
    """Files for the card and for Pillow, mixed."""
    files = []
    for number in range(10):
        size = (17 + number % 3, 21)
        picture = Image.fromarray(RANDOM.integers(0, 256, (size[1], size[0], 3), np.uint8))
        path = folder / f"{number}.jpg"
        options = {"subsampling": "4:4:4", "comment": b"damaged" if number == 4 else b"fine"}
        if number == 2:
            picture.save(path, "PNG")
        elif number == 6:
            path.write_text("text")
        elif number != 8:
            picture.convert("L" if number == 5 else "RGB").save(path, "JPEG", **options)
        files.append(str(path))
    return files


def preparer(files, reading_threads=1):
    cache = CacheLookup(None, files, 10**6, by_path=True)
    alone = PillowPreparer(files, ENCODER, DECODING, ReadSettings("", 10**6, 0), 10, cache)
    return card.CardPreparer(alone, ENCODER, DECODING, ReadSettings("", 10**6, 0), 10, cache, reading_threads)


def check_group(files, room, reading_threads=1):
    """Every good file has Pillow's pixels, in order; the bad ones have their reasons."""
    Engines.room, Engines.calls = room, 0
    group = preparer(files, reading_threads)(range(10))
    assert group.rows == [0, 1, 2, 3, 4, 5, 7, 9]
    assert sorted((row, rejected.reason) for row, rejected in group.rejected) == [
        (6, Reason.NOT_AN_IMAGE),
        (8, Reason.MISSING),
    ]
    for row, pixels in zip(group.rows, group.pixels.numpy(), strict=True):
        expected = ENCODER.preprocessing(decode(Path(files[row]).read_bytes(), DECODING).image)
        np.testing.assert_array_equal(pixels, expected)
    assert Engines.calls > 1  # the damaged file was looked for in halves


def check_little_memory(files):
    """Memory runs out while the planes of more than two files become pixels: their decoder did its work and stays."""
    real = kernels.preprocess

    def preprocess(images, *settings):
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return real(images, *settings)

    kernels.preprocess = preprocess
    good = [files[row] for row in (0, 1, 3, 7, 9)]
    Engines.room, Engines.made, Engines.calls = 100, 0, 0
    SCARCE.clear()
    assert preparer(good)(range(5)).rows == list(range(5))
    assert Engines.calls > 1
    assert Engines.made == 1
    assert SCARCE, "the encoder is told"
    kernels.preprocess = real


def check_slow_network(files):
    """Files in a network are asked for side by side: each waits here until another one is asked for, too."""
    two = threading.Barrier(2)

    def read(path, settings):
        two.wait(60)
        return read_bytes(path, settings)

    prepare_module.read_bytes = read
    check_group(files, room=100, reading_threads=2)
    prepare_module.read_bytes = read_bytes


def check_hanging(files):
    """A thread that hangs while it reads does not stop the next group."""
    card._PATIENCE = 0.2
    prepare = preparer(files)
    inside, release = threading.Event(), threading.Event()

    def hang(rows, group):
        inside.set()
        release.wait(60)
        return [], []

    real, prepare._read = prepare._read, hang
    hung = threading.Thread(target=prepare, args=([0],), daemon=True)
    hung.start()
    inside.wait()
    prepare._read = real
    assert prepare([1]).rows == [1]
    assert hung.is_alive()
    release.set()


if __name__ == "__main__":
    torch.cuda.current_stream = lambda device=None: STREAM
    torch.cuda.Stream = lambda *arguments, **settings: STREAM
    torch.cuda.device = torch.cuda.stream = lambda given: contextlib.nullcontext()
    torch.cuda.empty_cache = lambda: None
    card.Decoder = Engines
    files = make_files(Path(sys.argv[1]))
    check_group(files, room=100)
    check_group(files, room=2)
    check_little_memory(files)
    check_slow_network(files)
    check_hanging(files)
    print("fine")
