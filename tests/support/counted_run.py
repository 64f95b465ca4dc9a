"""A run of `embed_images` with a small encoder that logs every image whose forward pass it begins.

Run as a program, so that it can be killed: `python counted_run.py INPUT OUTPUT LOG SHARD_ROWS [SECONDS]`.
Only the model is replaced; reading, decoding, shards, markers and the final table are the real ones. Its small shards
are cut into parts towards the end of the input, as large ones are.
"""

import os
import sys
import time

import numpy as np

from lookalike.embedding import images, shards
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.images.preprocess import Preprocessing


class CountedEncoder:
    """Vectors are the corner pixels; the images of the tests hold their number there."""

    preprocessing = Preprocessing("squash", (4, 4), 0, None, "floor", 1.0, (0.0,) * 3, (1.0,) * 3)
    identity = EncoderIdentity(
        ModelIdentity("test", "corner", 3, "weights", "pixels", "corner", "none"),
        Numerics("fp32", "numpy", "pillow"),
        Origin("tests", {}),
    )

    def __init__(self, log, seconds):
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.seconds = seconds

    def start(self, pixels):
        vectors = np.ascontiguousarray(pixels[:, :, 0, 0])
        numbers = (vectors[:, 0] * 256 + vectors[:, 1]).astype(int)
        os.write(self.log, "".join(f"{number}\n" for number in numbers).encode())
        time.sleep(self.seconds)
        return lambda: vectors


if __name__ == "__main__":
    source, output, log, shard_rows, seconds = *sys.argv[1:5], float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
    shards._LEAST_PART = 1
    images.check_model = lambda *arguments: "test"
    images.open_encoder = lambda *arguments: CountedEncoder(log, seconds)
    images.embed_images(source, output, "CLIP", "tests", batch_size=4, shard_rows=int(shard_rows), cache_dir="off")
