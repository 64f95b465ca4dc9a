"""Encoders, image files and vectors for the cache's tests; any process makes the same ones."""

import hashlib
import os
from pathlib import Path

import numpy as np

from lookalike.embedding.cache import Cached, Entry, FileStamp, VectorCache, content_digest
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin

#: A day on which test files were last changed.
LONG_AGO_NS = 1_700_000_000 * 10**9


def identity(architecture="tiny", dimension=8, precision="fp32", model_path="somewhere"):
    model = ModelIdentity("timm", architecture, dimension, "w" * 64, "p" * 64, "mean", "l2")
    return EncoderIdentity(model, Numerics(precision, "torch", "pillow"), Origin(model_path, {"torch": "2"}))


def cached_of(data, dimension=8):
    """What an encoder would make of some bytes."""
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return Cached(vector, pixels=seed % 1000, clipped=bool(seed % 2))


def same(found, data, dimension=8):
    """Whether the cache answered with exactly what was made of these bytes."""
    wanted = cached_of(data, dimension)
    return found is not None and found.vector.tobytes() == wanted.vector.tobytes() and found[1:] == wanted[1:]


def write_file(path, data, mtime_ns=LONG_AGO_NS):
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return str(path)


def entry_of(filepath, dimension=8):
    """Read a file and embed it, as the engine does."""
    stamp = FileStamp.of(filepath)
    data = Path(filepath).read_bytes()
    return Entry(filepath, content_digest(data), stamp, cached_of(data, dimension))


def numbered(numbers, dimension=8):
    """Entries without a file."""
    return [
        Entry(f"s3://pool/{number}", content_digest(b"%d" % number), None, cached_of(b"%d" % number, dimension))
        for number in numbers
    ]


def found_numbers(folder, numbers, dimension=8, encoder=None):
    """Which of `numbers` a newly opened cache holds; each must be exactly what was stored."""
    with VectorCache(folder, encoder or identity(dimension=dimension)) as cache:
        answers = {number: cache.by_content(content_digest(b"%d" % number)) for number in numbers}
    found = [number for number, answer in answers.items() if answer is not None]
    assert all(same(answers[number], b"%d" % number, dimension) for number in found)
    return found
