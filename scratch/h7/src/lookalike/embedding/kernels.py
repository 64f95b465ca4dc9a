"""What libjpeg and Pillow do to pixels, on a GPU and byte for byte: colour, resize, normalisation. Triton kernels.

Everything is whole numbers until the last table lookup, as there, so nothing is "almost equal". Without a GPU the
kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested everywhere.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from lookalike.embedding.nvjpeg import Layout
from lookalike.images.preprocess import Preprocessing

#: Pillow's numbers of the filters that are known here: bilinear, bicubic.
FILTERS = (2, 3)
#: Bits after the binary point of Pillow's weights (its Resample.c: 32 - 8 - 2).
_BITS = 22


def planes_to_rgb(luma: torch.Tensor, blue: torch.Tensor, red: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Spread the colour planes and turn YCbCr into RGB, as libjpeg does by default.

    "Fancy upsampling" (jdsample.c: a triangle filter, rounded up and down by turns) and the conversion of jdcolor.c
    with 16 bits after the binary point.

    Parameters
    ----------
    luma:
        n x height x width, uint8.
    blue, red:
        n x chroma height x chroma width, uint8.
    layout:
        Of each of the images; not ``grey``.

    Returns
    -------
    torch.Tensor
        n x 3 x height x width, uint8.
    """
    count, height, width = luma.shape
    rgb = torch.empty((count, 3, height, width), dtype=torch.uint8, device=luma.device)
    block = 1024
    _planes_to_rgb[(height * triton.cdiv(width, block), count)](
        luma, blue, red, rgb, height, width, *layout.chroma,
        half_width=layout.sampling != "4:4:4", half_height=layout.sampling == "4:2:0", block=block,
    )  # fmt: skip
    return rgb


def preprocess(images: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> torch.Tensor:
    """What a `Preprocessing` does to one Pillow image, for several of one size.

    Parameters
    ----------
    images:
        n x channels x height x width, uint8; one channel for grey.
    preprocessing:
        With a filter of `FILTERS`.
    dtype:
        Of the result.

    Returns
    -------
    torch.Tensor
        n x 3 x height x width.
    """
    wide, high = preprocessing.resized(images.shape[-1], images.shape[-2])
    if wide != images.shape[-1]:
        images = _resize(images, wide, preprocessing.resample, across=True)
    if high != images.shape[-2]:
        images = _resize(images, high, preprocessing.resample, across=False)
    if preprocessing.crop is not None:
        images = _crop(images, preprocessing)
    return _look_up(images.contiguous(), preprocessing, dtype)


def _resize(images: torch.Tensor, wanted: int, resample: int, *, across: bool) -> torch.Tensor:
    """Change the width (across) or the height of images."""
    count, channels, height, width = images.shape
    starts, weights = _weights(width if across else height, wanted, resample, images.device, _stream(images.device))
    size = (height, wanted) if across else (wanted, width)
    resized = torch.empty((count, channels, *size), dtype=torch.uint8, device=images.device)
    if across:
        rows, rows_at_once, block = count * channels * height, 8, 128
        _resize_across[(triton.cdiv(rows, rows_at_once), triton.cdiv(wanted, block))](
            images,
            resized,
            starts,
            weights,
            rows,
            width,
            wanted,
            len(weights),
            bits=_BITS,
            rows_at_once=rows_at_once,
            block=block,
        )
    else:
        block = 256
        _resize_down[(count * channels * wanted, triton.cdiv(width, block))](
            images, resized, starts, weights, height, width, wanted, len(weights), bits=_BITS, block=block
        )
    return resized


def _crop(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """The centre crop, with zeros around images that are smaller."""
    assert preprocessing.crop is not None
    height, width = images.shape[-2:]
    (top, left), (above, before) = preprocessing.crop_window(height, width)
    crop_height, crop_width = preprocessing.crop
    if height < crop_height or width < crop_width:
        after, below = max(0, crop_width - width - before), max(0, crop_height - height - above)
        images = torch.nn.functional.pad(images, (before, after, above, below))
    return images[..., top : top + crop_height, left : left + crop_width]


def _look_up(images: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> torch.Tensor:
    """The model's input for every 8-bit value; grey is repeated for three channels."""
    count, channels, height, width = images.shape
    table = _table(preprocessing, images.device, dtype, _stream(images.device))
    out = torch.empty((count, 3, height, width), dtype=dtype, device=images.device)
    block = 1024
    _look_up_values[(triton.cdiv(height * width, block), count * 3)](
        images, out, table, height * width, grey=channels == 1, block=block
    )
    return out


def _stream(device: torch.device) -> int:
    """The current stream.

    What is kept for later is kept for one stream: its memory, once given back, is used again in the order of the stream
    that it was made on.
    """
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.lru_cache(maxsize=32)
def _table(preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype, stream: int) -> torch.Tensor:
    """The lookup table on a device. Kept there, because copying it would wait for everything before it."""
    del stream  # see `_stream`
    return torch.from_numpy(preprocessing.lookup).to(device, dtype)


@functools.lru_cache(maxsize=256)
def _weights(
    length: int, wanted: int, resample: int, device: torch.device, stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every output pixel the first input pixel and the weights, on a device; see `resize_weights`."""
    del stream  # see `_stream`
    starts, weights = resize_weights(length, wanted, resample)
    return torch.from_numpy(starts).to(device), torch.from_numpy(weights).to(device)


def resize_weights(length: int, wanted: int, resample: int) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's weights for resizing one axis (precompute_coeffs and normalize_coeffs_8bpc in its Resample.c).

    Parameters
    ----------
    length, wanted:
        Pixels before and after.
    resample:
        A filter of `FILTERS`.

    Returns
    -------
    starts : numpy.ndarray
        int32, wanted: the first input pixel of each output pixel.
    weights : numpy.ndarray
        int32, taps x wanted, with 22 bits after the binary point.
    """
    scale = length / wanted
    widened = max(scale, 1.0)
    support = (1.0 if resample == 2 else 2.0) * widened
    centre = (np.arange(wanted) + 0.5) * scale
    starts = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centre + support + 0.5).astype(np.int64), length)
    tap = np.arange((ends - starts).max())[:, None]
    distance = np.abs((tap + starts - centre + 0.5) * (1.0 / widened))
    weights = np.where(tap < ends - starts, _filter(distance, resample), 0.0)
    weights /= np.cumsum(weights, axis=0)[-1]  # summed in order, as there
    fixed = weights * (1 << _BITS)
    return starts.astype(np.int32), np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)


def _filter(x: np.ndarray, resample: int) -> np.ndarray:
    """The value of Pillow's filter at a distance."""
    if resample == 2:
        return np.maximum(1.0 - x, 0.0)
    a = -0.5
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


@triton.jit
def _spread(plane, row, column, inside, height, width, half_width: tl.constexpr, half_height: tl.constexpr):
    """One colour plane at the pixels of one row, less 128. At the edges a pixel is its own neighbour."""
    if not half_width:
        return tl.load(plane + row * width + column, mask=inside, other=0).to(tl.int32) - 128
    odd = column & 1
    here = column >> 1
    near = tl.minimum(tl.maximum(here + 2 * odd - 1, 0), width - 1)
    if not half_height:
        own = tl.load(plane + row * width + here, mask=inside, other=0).to(tl.int32)
        other = tl.load(plane + row * width + near, mask=inside, other=0).to(tl.int32)
        return ((3 * own + other + 1 + odd) >> 2) - 128
    line = plane + (row >> 1) * width
    next_line = plane + tl.minimum(tl.maximum((row >> 1) + 2 * (row & 1) - 1, 0), height - 1) * width
    own = 3 * tl.load(line + here, mask=inside, other=0).to(tl.int32)
    own += tl.load(next_line + here, mask=inside, other=0).to(tl.int32)
    other = 3 * tl.load(line + near, mask=inside, other=0).to(tl.int32)
    other += tl.load(next_line + near, mask=inside, other=0).to(tl.int32)
    return ((3 * own + other + 8 - odd) >> 4) - 128


@triton.jit
def _planes_to_rgb(
    luma, blue, red, rgb, height, width, chroma_height, chroma_width,
    half_width: tl.constexpr, half_height: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A part of one row of one image."""
    blocks = tl.cdiv(width, block)
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    image = tl.program_id(1).to(tl.int64)
    inside = column < width
    y = tl.load(luma + (image * height + row) * width + column, mask=inside, other=0).to(tl.int32)
    chroma = image * chroma_height * chroma_width
    cb = _spread(blue + chroma, row, column, inside, chroma_height, chroma_width, half_width, half_height)
    cr = _spread(red + chroma, row, column, inside, chroma_height, chroma_width, half_width, half_height)
    # jdcolor.c: 1.40200, 0.34414, 0.71414 and 1.77200 times 65536.
    r = y + ((91881 * cr + 32768) >> 16)
    g = y + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    b = y + ((116130 * cb + 32768) >> 16)
    at = rgb + (image * 3 * height + row) * width + column
    plane = height * width
    tl.store(at, tl.minimum(tl.maximum(r, 0), 255).to(tl.uint8), mask=inside)
    tl.store(at + plane, tl.minimum(tl.maximum(g, 0), 255).to(tl.uint8), mask=inside)
    tl.store(at + 2 * plane, tl.minimum(tl.maximum(b, 0), 255).to(tl.uint8), mask=inside)


@triton.jit
def _resize_across(
    pixels,
    resized,
    starts,
    weights,
    rows,
    width,
    wanted,
    taps,
    bits: tl.constexpr,
    rows_at_once: tl.constexpr,
    block: tl.constexpr,
):
    """Some rows of all images, a part of their output columns."""
    first = tl.program_id(0).to(tl.int64) * rows_at_once
    row = tl.arange(0, rows_at_once)[:, None]
    column = (tl.program_id(1) * block + tl.arange(0, block))[None, :]
    inside = (first + row < rows) & (column < wanted)
    start = tl.load(starts + column, mask=column < wanted, other=0)
    total = tl.zeros((rows_at_once, block), tl.int32) + (1 << (bits - 1))
    lines = pixels + first * width  # the large offset once, so that the others fit 32 bits
    for tap in range(taps):
        weight = tl.load(weights + tap * wanted + column, mask=column < wanted, other=0)
        at = tl.minimum(start + tap, width - 1)  # taps beyond the edge have no weight
        total += weight * tl.load(lines + row * width + at, mask=inside, other=0).to(tl.int32)
    value = tl.minimum(tl.maximum(total >> bits, 0), 255).to(tl.uint8)
    tl.store(resized + first * wanted + row * wanted + column, value, mask=inside)


@triton.jit
def _resize_down(
    pixels, resized, starts, weights, height, width, wanted, taps, bits: tl.constexpr, block: tl.constexpr
):
    """A part of one output row of one channel."""
    plane = (tl.program_id(0) // wanted).to(tl.int64)
    row = tl.program_id(0) % wanted
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    start = tl.load(starts + row)
    total = tl.zeros((block,), tl.int32) + (1 << (bits - 1))
    for tap in range(taps):
        weight = tl.load(weights + tap * wanted + row)
        line = plane * height + tl.minimum(start + tap, height - 1)
        total += weight * tl.load(pixels + line * width + column, mask=inside, other=0).to(tl.int32)
    value = tl.minimum(tl.maximum(total >> bits, 0), 255).to(tl.uint8)
    tl.store(resized + (plane * wanted + row) * width + column, value, mask=inside)


@triton.jit
def _look_up_values(images, out, table, pixels, grey: tl.constexpr, block: tl.constexpr):
    """A part of one output channel of one image."""
    plane = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < pixels
    source = plane // 3 if grey else plane
    value = tl.load(images + source * pixels + at, mask=inside, other=0).to(tl.int32)
    tl.store(out + plane * pixels + at, tl.load(table + (plane % 3) * 256 + value, mask=inside), mask=inside)
