"""What happens to pixels on a card, without a card: the files it may have, and the kernels in the interpreter."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lookalike import ConfigError
from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.card import can_prepare_on_card
from lookalike.embedding.nvjpeg import Layout, plain_layout
from lookalike.encoders.base import TorchEncoder
from lookalike.images.preprocess import Preprocessing

HERE = Path(__file__).parents[1]


def encoded(mode="RGB", size=(40, 30), **options):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, options.pop("format", "JPEG"), **options)
    return stream.getvalue()


PLAIN = encoded(subsampling="4:2:0")


@pytest.mark.parametrize(
    ("data", "layout"),
    [
        (PLAIN, Layout(30, 40, "4:2:0")),
        (PLAIN + bytes(3), Layout(30, 40, "4:2:0")),
        (encoded(subsampling="4:2:2"), Layout(30, 40, "4:2:2")),
        (encoded(subsampling="4:4:4"), Layout(30, 40, "4:4:4")),
        (encoded("L"), Layout(30, 40, "grey")),
        (encoded(subsampling="4:1:1"), Layout(30, 40, "4:2:0")),  # Pillow's name for it
        (encoded(keep_rgb=True), None),
        (encoded(size=(15, 40)), None),
        (encoded(progressive=True), None),
        (encoded("CMYK"), None),
        (encoded(format="PNG"), None),
        (PLAIN[: len(PLAIN) // 2], None),
        (PLAIN[:40] + b"\xff\xd9", None),
        (b"\xff\xd8\xff\xd9", None),
        (b"", None),
    ],
)
def test_only_whole_baseline_files_in_grey_or_ycbcr_go_to_the_card(data, layout):
    assert plain_layout(data, 10**6) == layout


def test_the_pixel_bound_holds_before_the_card():
    assert plain_layout(PLAIN, 1_200)
    assert plain_layout(PLAIN, 1_199) is None


@pytest.mark.parametrize(("sampling", "chroma"), [("4:4:4", (31, 41)), ("4:2:2", (31, 21)), ("4:2:0", (16, 21))])
def test_odd_sizes_round_the_colour_planes_up(sampling, chroma):
    layout = Layout(31, 41, sampling)
    assert layout.chroma == chroma
    assert layout.bytes == 31 * 41 + 2 * chroma[0] * chroma[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands for a GPU on which the kernels do not run")
def test_where_the_kernels_do_not_run_pillow_decodes_and_a_warning_says_so(caplog):
    pytest.importorskip("triton", reason="Triton is not installed")
    encoder = object.__new__(TorchEncoder)
    preprocessing = Preprocessing("squash", (8, 8), 3, None, "floor", 1.0, (0.0,) * 3, (1.0,) * 3)
    for name, value in (("device", torch.device("cuda:0")), ("preprocessing", preprocessing)):
        object.__setattr__(encoder, name, value)
    settings = ImageEmbeddingsConfig("in", "out", "SigLIP", "model")
    assert not can_prepare_on_card(encoder, settings)
    assert "JPEG path does not work here" in caplog.text
    with pytest.raises(ConfigError, match="decoder=nvjpeg is not possible here: a trial of its kernels failed"):
        can_prepare_on_card(encoder, replace(settings, decoder="nvjpeg"))


def run_interpreted(program, *arguments):
    """In a process of its own: Triton decides when it is imported whether to compile or to interpret."""
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, str(HERE / "support" / program), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_kernels_give_the_pixels_of_libjpeg_and_pillow():
    assert run_interpreted("check_kernels.py").count("equal") == 12 + 12


def test_a_group_on_the_card_has_pillows_pixels_and_survives_damage_little_memory_and_hanging(tmp_path):
    assert run_interpreted("check_card.py", str(tmp_path)) == "fine\n"
