"""Decoding and preprocessing on a CUDA card: nvJPEG, antialiased resize and normalisation, a group at a time.

Only plain JPEG files (baseline, grey or three components, with their end marker) go to nvJPEG; everything else is
decoded by Pillow and joins them on the card. nvJPEG spreads subsampled colour in another way than Pillow's libjpeg, so
vectors of colourful images differ (a cosine of 0.9995 was measured): it is used only when it is asked for, and its name
stands in the numerics of the encoder's identity.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike.embedding.cache import FileStamp, content_digest
from lookalike.embedding.prepare import CacheLookup, Group, Seen
from lookalike.encoders.base import TorchEncoder
from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: Name of this path in the numerics.
DECODER = "nvjpeg"
#: torch's names of the Pillow filters that it has with antialiasing.
_MODES = {2: "bilinear", 3: "bicubic"}
#: JPEG markers: start of frame of the baseline kind and of the extended sequential kind.
_PLAIN_FRAMES = (0xC0, 0xC1)
#: Markers that begin a frame (C0 to CF without the tables C4, C8 and CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def can_decode_on_card(encoder: object) -> bool:
    """Whether an encoder runs on CUDA, its preprocessing is known there, and torchvision has nvJPEG."""
    if not isinstance(encoder, TorchEncoder) or encoder.device.type != "cuda":
        return False
    if encoder.preprocessing.resample not in _MODES:
        return False
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    try:
        probe = encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))
        decode_jpeg([probe], mode=ImageReadMode.RGB, device=encoder.device)
    except RuntimeError:  # torchvision without nvJPEG
        return False
    return True


class CardPreparer:
    """Prepares groups of images on the card; one instance serves several threads.

    Parameters
    ----------
    encoder:
        Gives device, type and preprocessing.
    decoding, reading:
        Bounds and rules.
    filepaths:
        All paths of the input.
    batch_size:
        Images of a group.
    cache:
        Where vectors may be known from.
    """

    #: Two keep the decoder busy while one group's files are read; more contend for the interpreter.
    threads = 3
    ahead = 4

    def __init__(
        self,
        filepaths: Sequence[str],
        encoder: TorchEncoder,
        decoding: DecodeSettings,
        reading: ReadSettings,
        batch_size: int,
        cache: CacheLookup,
    ) -> None:
        self.group_size = batch_size
        self._cache = cache
        self.begin = cache.begin
        self._encoder = encoder
        self._decoding = decoding
        self._reading = reading
        self._filepaths = filepaths
        self._streams = threading.local()

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare a group on the calling thread's own stream; the result is complete when this returns."""
        import torch

        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self._encoder.device)  # type: ignore[no-untyped-call]
        group = Group()
        stream: torch.cuda.Stream = self._streams.own
        with torch.inference_mode(), torch.cuda.device(self._encoder.device), torch.cuda.stream(stream):
            images = self._decoded(rows, group)
            group.rows = sorted(images)
            if images:
                group.pixels = self._preprocessed(images, group)
        stream.synchronize()
        return group

    def _decoded(self, rows: Sequence[int], group: Group) -> dict[int, torch.Tensor]:
        """Decode every good image of the group to a uint8 tensor (3 x height x width) on the card."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        plain: dict[int, bytes] = {}
        images: dict[int, torch.Tensor] = {}
        for row in rows:
            known = self._cache.by_path(row)
            try:
                if known is None:
                    stamp = FileStamp.of(self._filepaths[row])
                    data = read_bytes(self._filepaths[row], self._reading)
                    digest = content_digest(data)
                    known = self._cache.by_content(digest)
                    group.seen[row] = Seen(digest, stamp, known.pixels if known else 0, bool(known and known.clipped))
                if known is not None:
                    group.known.append((row, known.vector))
                    group.clipped += known.clipped
                elif self._decoding.exif == "ignore" and is_plain_jpeg(data, self._decoding.max_pixels):
                    plain[row] = data
                else:
                    images[row] = self._by_pillow(row, data, group)
            except ImageRejected as rejected:
                group.rejected.append((row, rejected))
        if plain:
            encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in plain.values()]
            try:
                decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=self._encoder.device)
                images.update(zip(plain, decoded, strict=True))
            except RuntimeError:  # one of them is damaged: Pillow says which, and why
                for row, data in plain.items():
                    try:
                        images[row] = self._by_pillow(row, data, group)
                    except ImageRejected as rejected:
                        group.rejected.append((row, rejected))
        return images

    def _by_pillow(self, row: int, data: bytes, group: Group) -> torch.Tensor:
        import torch

        decoded = decode(data, self._decoding)
        group.clipped += decoded.clipped
        group.seen[row] = group.seen[row]._replace(clipped=decoded.clipped)
        pixels = torch.from_numpy(np.array(decoded.image.convert("RGB"))).permute(2, 0, 1)
        return pixels.to(self._encoder.device, non_blocking=True)

    def _preprocessed(self, images: dict[int, torch.Tensor], group: Group) -> torch.Tensor | None:
        """Resize, crop and normalise; images of one shape together."""
        import torch

        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in group.rows:
            height, width = images[row].shape[-2:]
            wide, high = self._encoder.preprocessing.resized(width, height)
            if wide * high > self._decoding.max_pixels:
                rejected = ImageRejected(Reason.TOO_LARGE, f"resizing it would make {wide} x {high} pixels")
                group.rejected.append((row, rejected))
            else:
                group.seen[row] = group.seen[row]._replace(pixels=max(height * width, wide * high))
                by_shape[height, width].append(row)
        ready: dict[int, torch.Tensor] = {}
        for shape_rows in by_shape.values():
            stacked = torch.stack([images[row] for row in shape_rows])
            pixels = preprocess_on_card(stacked, self._encoder.preprocessing).to(self._encoder.dtype)
            ready.update(zip(shape_rows, pixels, strict=True))
        group.rows = sorted(ready)
        return torch.stack([ready[row] for row in group.rows]) if ready else None


def preprocess_on_card(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """What `Preprocessing` does to one Pillow image, for a batch of one shape on a card.

    Parameters
    ----------
    images:
        n x 3 x height x width, uint8.
    preprocessing:
        With a filter of `_MODES`.

    Returns
    -------
    torch.Tensor
        n x 3 x height x width, float32.
    """
    import torch
    from torch.nn.functional import interpolate, pad

    height, width = images.shape[-2:]
    wide, high = preprocessing.resized(width, height)
    pixels = images.float()
    if (high, wide) != (height, width):
        mode = _MODES[preprocessing.resample]
        # As Pillow: first across, then down, with 8-bit values after each.
        for size in ((height, wide), (high, wide)):
            pixels = interpolate(pixels, size, mode=mode, antialias=True, align_corners=False)
            pixels = pixels.round_().clamp_(0, 255)
    if preprocessing.crop is not None:
        (top, left), (above, before) = preprocessing.crop_window(high, wide)
        crop_height, crop_width = preprocessing.crop
        if above or before or crop_height > high or crop_width > wide:
            after, below = max(0, crop_width - wide - before), max(0, crop_height - high - above)
            pixels = pad(pixels, (before, after, above, below))
        pixels = pixels[..., top : top + crop_height, left : left + crop_width]
    mean = torch.tensor(preprocessing.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(3, 1, 1)
    return (pixels * preprocessing.scale - mean) / std


def is_plain_jpeg(data: bytes, max_pixels: int) -> bool:
    """Whether nvJPEG may have a file: plain JPEG of 8 bits and 1 or 3 components, within bounds, not cut off.

    Everything else is for Pillow, which knows more kinds and says what is wrong with a file. The layout of the
    markers is that of ITU-T T.81, annex B.
    """
    if data[:2] != b"\xff\xd8" or data.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return False
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            bits, components = data[position + 4], data[position + 9]
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            plain = marker in _PLAIN_FRAMES and bits == 8 and components in (1, 3)
            return plain and 0 < height * width <= max_pixels
        if marker == 0xEE:  # an Adobe segment can say that three components are RGB, not YCbCr
            return False
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
