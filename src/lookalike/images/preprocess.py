"""From pixels to the array that a model wants: resize, crop, then one table lookup for rescale and normalise.

A `Preprocessing` describes what the model repository's own processor does. On 8-bit pixels rescaling and
normalising have 256 possible results a channel, so they are computed once, in the processor's own arithmetic,
and looked up: the same float32 values as the processor's, bit for bit, in a fraction of the time.

Two processors work differently. That of DINOv3 resizes numbers instead of 8-bit pixels (`arithmetic="float"`). That
of SigLIP2 NaFlex keeps the shape of the image and cuts it into patches (`resize="patches"`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]

#: A number of patches is written as two digits of this base, which are exact in every type that a model computes in.
DIGIT = 128


@dataclass(frozen=True)
class Preprocessing:
    """What happens to the pixels before the model, in the processor's own terms.

    Attributes
    ----------
    resize:
        ``squash`` to `size` whatever the shape; ``shortest_edge`` or ``longest_edge`` to `size[0]`, keeping the shape;
        ``patches``: to as many patches as fit into `most_patches`, nearly keeping the shape.
    size:
        (height, width) of a squash; (edge, edge) for one edge; (patch, patch), the side of a patch.
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
        ``float``: scaled to float32 first and resized then, without rounding to 8 bits (DINOv3).
    most_patches:
        How many patches an image may have; with ``patches`` only, else 0.
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
    most_patches: int = 0

    def __call__(self, image: Image.Image) -> Pixels:
        """Preprocess one image of mode ``L`` or ``RGB``.

        Returns
        -------
        numpy.ndarray
            float32, of `shape`.
        """
        if self.arithmetic == "float":
            return self._in_float(image)
        pixels = np.asarray(self._resize(image))
        if self.crop is not None:
            pixels = self._cropped(pixels)
        if pixels.ndim == 2:
            values = self.lookup[:, pixels]
        else:
            values = np.stack([self.lookup[channel][pixels[:, :, channel]] for channel in range(3)])
        return self._in_patches(values) if self.resize == "patches" else values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result: 3 x height x width, or with ``patches`` (1 + `most_patches`) x values of a patch."""
        if self.resize == "patches":
            return 1 + self.most_patches, 3 * self.size[0] * self.size[1]
        return 3, *(self.crop or self.size)

    @property
    def is_plain(self) -> bool:
        """Whether it is a resize of 8-bit pixels, a crop and a lookup."""
        return self.resize != "patches" and self.arithmetic != "float"

    @property
    def resize_name(self) -> str:
        """How it resizes, for messages."""
        of = "numbers" if self.arithmetic == "float" else "pixels"
        return f"{self.resize} of {of} with Pillow's filter {self.resample}"

    def _resize(self, image: Image.Image) -> Image.Image:
        size = self.resized(image.width, image.height)
        return image if size == image.size else image.resize(size, resample=Image.Resampling(self.resample))

    def _in_float(self, image: Image.Image) -> Pixels:
        """Scale, resize, crop and normalise in float32, as torchvision does with tensors."""
        planes = image.split()
        scale, mean, std = np.float32(self.scale), np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = []
        for plane in planes:
            scaled = Image.fromarray(np.asarray(plane, np.float32) * scale)
            resized = np.asarray(self._resize(scaled))
            values.append(resized if self.crop is None else self._cropped(resized))
        values = values * 3 if len(values) == 1 else values
        return np.stack([(values[channel] - mean[channel]) / std[channel] for channel in range(3)])

    def _in_patches(self, values: Pixels) -> Pixels:
        """A row for every patch, rows of zeros up to the number of patches, and before them a row with the grid.

        That first row begins with the numbers of rows and columns of patches, two digits of base `DIGIT` each. So all
        images have arrays of one shape, and the model finds again which rows are patches, and of what grid.
        """
        patch = self.size[0]
        rows, columns = values.shape[1] // patch, values.shape[2] // patch
        cut = values.reshape(3, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        result = np.zeros(self.shape, np.float32)
        result[0, :4] = (*divmod(rows, DIGIT), *divmod(columns, DIGIT))
        result[1 : 1 + len(cut)] = cut
        return result

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing an image of the given width and height."""
        if self.resize == "squash":
            return self.size[1], self.size[0]
        if self.resize == "patches":
            return _fitted(width, height, self.size[0], self.most_patches)
        edge = self.size[0]
        if self.resize == "longest_edge":
            # open_clip divides both sides by one ratio and rounds.
            ratio = max(width, height) / edge
            return max(1, round(width / ratio)), max(1, round(height / ratio))
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

    def _cropped(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
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


@functools.lru_cache(maxsize=4096)
def _fitted(width: int, height: int, patch: int, most: int) -> tuple[int, int]:
    """Width and height in whole patches, at most `most` of them, that are nearest to the shape of an image.

    The rule of transformers' SigLIP2 processor (`get_image_size_for_max_num_patches`): the largest scale, found by
    halving an interval, whose sides, rounded up to whole patches, make no more than that.
    """
    least, largest, precision = 1e-6, 100.0, 1e-5

    def patches(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(width * scale / patch)), max(1, math.ceil(height * scale / patch))

    while largest - least >= precision:
        scale = (least + largest) / 2
        across, down = patches(scale)
        if across * down <= most:
            least = scale
        else:
            largest = scale
    across, down = patches(least)
    return across * patch, down * patch
