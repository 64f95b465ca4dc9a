"""What the CUDA path does to pixels, on the CPU: the same functions, without a card."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.embedding.card import is_plain_jpeg, preprocess_on_card
from lookalike.images.preprocess import Preprocessing


@pytest.mark.parametrize("shape", [(480, 640), (37, 500), (20, 20), (225, 224)])
@pytest.mark.parametrize("kind", ["shortest_edge", "squash"])
def test_tensor_preprocessing_is_pillows_but_for_rounding(shape, kind):
    crop = (224, 224) if kind == "shortest_edge" else None
    preprocessing = Preprocessing(kind, (224, 224), 3, crop, "floor", 1 / 255, (0.0,) * 3, (1.0,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    card = preprocess_on_card(torch.from_numpy(pixels).permute(2, 0, 1)[None], preprocessing)[0].numpy()
    expected = preprocessing(Image.fromarray(pixels))
    assert card.shape == expected.shape
    # Float weights here, fixed-point ones in Pillow: now and then one level after each of the two passes.
    difference = np.abs(card - expected) * 255
    assert difference.max() < 2.01
    assert difference.mean() < 0.05


def encoded(mode="RGB", **options):
    stream = io.BytesIO()
    Image.new(mode, (40, 30)).save(stream, options.pop("format", "JPEG"), **options)
    return stream.getvalue()


PLAIN = encoded()


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (PLAIN, True),
        (PLAIN + bytes(3), True),
        (encoded("L"), True),
        (encoded(progressive=True), False),
        (encoded("CMYK"), False),
        (encoded(format="PNG"), False),
        (PLAIN[: len(PLAIN) // 2], False),
        (PLAIN[:40] + b"\xff\xd9", False),
        (b"\xff\xd8\xff\xd9", False),
        (b"", False),
    ],
)
def test_only_whole_baseline_files_of_one_or_three_components_go_to_nvjpeg(data, plain):
    assert is_plain_jpeg(data, 10**6) is plain


def test_the_pixel_bound_holds_before_nvjpeg():
    assert is_plain_jpeg(PLAIN, 1_200)
    assert not is_plain_jpeg(PLAIN, 1_199)
