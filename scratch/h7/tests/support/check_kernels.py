"""Compare the GPU's kernels with libjpeg's and Pillow's own results; run as a program, see test_card.py."""

import io
import itertools

import numpy as np
import torch
from PIL import Image

from lookalike.embedding.kernels import planes_to_rgb, preprocess
from lookalike.embedding.nvjpeg import Layout, plain_layout
from lookalike.images.preprocess import Preprocessing

RANDOM = np.random.default_rng(0)
SIZES = ((48, 64), (37, 51), (16, 17), (35, 48))
PREPROCESSINGS = (
    Preprocessing("squash", (24, 24), 3, None, "floor", 1 / 255, (0.5,) * 3, (0.5, 0.4, 0.3)),
    Preprocessing("shortest_edge", (24, 24), 3, (28, 20), "floor", 1 / 255, (0.5,) * 3, (0.5, 0.4, 0.3)),
    Preprocessing("squash", (24, 30), 2, None, "floor", 1 / 255, (0.5,) * 3, (0.5,) * 3, "torch"),
)


def blocks(height, width, edge):
    """Constant squares of random values."""
    values = RANDOM.integers(0, 256, (-(-height // edge), -(-width // edge)))
    return np.kron(values, np.ones((edge, edge)))[:height, :width].astype(np.uint8)


def check_colour(height, width, sampling):
    """Squares as large as a block of JPEG, and no quantisation: the file holds exactly these planes."""
    layout = Layout(height, width, sampling)
    luma, blue, red = blocks(height, width, 8), blocks(height, width, 16), blocks(height, width, 16)
    stream = io.BytesIO()
    picture = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (luma, blue, red)])
    picture.save(stream, "JPEG", qtables=[[1] * 64] * 2, subsampling=sampling)
    assert plain_layout(stream.getvalue(), 10**6) == layout
    across, down = 1 + (sampling != "4:4:4"), 1 + (sampling == "4:2:0")
    planes = [torch.from_numpy(plane[None]) for plane in (luma, blue[::down, ::across], red[::down, ::across])]
    rgb = planes_to_rgb(*(plane.contiguous() for plane in planes), layout)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(rgb, np.asarray(Image.open(stream).convert("RGB")))


def check_preprocessing(height, width, preprocessing):
    """Colour and grey."""
    colour = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    for pixels in (colour, colour[:, :, 0].copy()):
        channels = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)[None].contiguous()
        given = preprocess(channels, preprocessing, torch.float32)[0].numpy()
        np.testing.assert_array_equal(given, preprocessing(Image.fromarray(pixels)))


if __name__ == "__main__":
    for size, sampling in itertools.product(SIZES, ("4:4:4", "4:2:2", "4:2:0")):
        check_colour(*size, sampling)
        print("equal", size, sampling)
    for size, preprocessing in itertools.product(((48, 64), (37, 101), (24, 24), (9, 90)), PREPROCESSINGS):
        check_preprocessing(*size, preprocessing)
        print("equal", size, preprocessing)
