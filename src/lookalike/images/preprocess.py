"""From pixels to the array that a model wants: resize, crop, then one table lookup for rescale and normalise.

A `Preprocessing` describes what the model repository's own processor does. On 8-bit pixels rescaling and
normalising have 256 possible results a channel, so they are computed once, in the processor's own arithmetic,
and looked up: the same float32 values as the processor's, bit for bit, in a fraction of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preprocessing:
    """What happens to the pixels before the model, in the processor's own terms.

    Attributes
    ----------
    resize:
        ``squash`` to `size` whatever the shape, or ``shortest_edge`` or ``longest_edge`` to `size[0]`, keeping the
        shape.
    size:
        (height, width) of a squash; (edge, edge) for one edge.
    resample:
        Pillow's number of the filter (3 is bicubic).
    crop:
        (height, width) of the centre crop after it, or None. Smaller images are padded with zeros.
    crop_rounding:
        Where the crop starts when the margin is odd: ``floor`` (transformers) or ``round`` (torchvision).
    scale:
        Factor on the 8-bit values.
    mean, std:
        Per channel, on the scaled values.
    arithmetic:
        ``numpy``: float64 product rounded to float32, then float32 (transformers).
        ``torch``: float32 division by 255 (torchvision's ToTensor).
    """

    resize: str
    size: tuple[int, int]
    resample: int
    crop: tuple[int, int] | None
    crop_rounding: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    arithmetic: str = "numpy"

    def __call__(self, image: Image.Image) -> Pixels:
        """Preprocess one image of mode ``L`` or ``RGB``.

        Returns
        -------
        numpy.ndarray
            float32, 3 x height x width.
        """
        width, height = self.resized(image.width, image.height)
        if (width, height) != image.size:
            image = image.resize((width, height), resample=Image.Resampling(self.resample))
        pixels = np.asarray(image)
        if self.crop is not None:
            pixels = self._cropped(pixels)
        if pixels.ndim == 2:
            return self.lookup[:, pixels]
        return np.stack([self.lookup[channel][pixels[:, :, channel]] for channel in range(3)])

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing an image of the given width and height."""
        if self.resize == "squash":
            return self.size[1], self.size[0]
        edge = self.size[0]
        if self.resize == "longest_edge":
            # open_clip divides both sides by one ratio and rounds.
            ratio = max(width, height) / edge
            return round(width / ratio), round(height / ratio)
        # Both transformers and torchvision truncate the longer side.
        if width <= height:
            return edge, max(1, int(edge * height / width))
        return max(1, int(edge * width / height)), edge

    def crop_window(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the centre crop of an image begins, and how many zeros go above and left of it first.

        Zeros are added only where the image is smaller than the crop.
        """
        assert self.crop is not None
        start, padding = [], []
        for length, wanted in ((height, self.crop[0]), (width, self.crop[1])):
            # Odd remainders: transformers rounds padding up and the start down, torchvision the other way.
            floor = self.crop_rounding == "floor"
            padding.append(max(0, wanted - length + floor) // 2 if length < wanted else 0)
            margin = max(0, length - wanted)
            start.append(margin // 2 if floor else round(margin / 2))
        return (start[0], start[1]), (padding[0], padding[1])

    def _cropped(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Cut the centre out of an image; where it is smaller, pad with zeros first."""
        assert self.crop is not None
        height, width = pixels.shape[:2]
        (top, left), (above, before) = self.crop_window(height, width)
        if height < self.crop[0] or width < self.crop[1]:
            shape = (max(self.crop[0], height), max(self.crop[1], width), *pixels.shape[2:])
            padded = np.zeros(shape, pixels.dtype)
            padded[above : above + height, before : before + width] = pixels
            pixels = padded
        return pixels[top : top + self.crop[0], left : left + self.crop[1]]

    @cached_property
    def lookup(self) -> Pixels:
        """3 x 256: the model's input for every 8-bit value of every channel."""
        levels = np.arange(256)
        if self.arithmetic == "torch":
            scaled = levels.astype(np.float32) / np.float32(255)
        else:
            scaled = (levels.astype(np.float64) * self.scale).astype(np.float32)
        mean = np.asarray(self.mean, np.float32)[:, None]
        std = np.asarray(self.std, np.float32)[:, None]
        return np.ascontiguousarray((scaled[None, :] - mean) / std)
