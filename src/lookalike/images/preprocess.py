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
        ``squash`` to `size` whatever the shape, or ``shortest_edge`` to `size[0]`, keeping the shape.
    size:
        (height, width) of a squash; (edge, edge) for the shortest edge.
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
            pixels = _centre_crop(pixels, self.crop, self.crop_rounding)
        if pixels.ndim == 2:
            return self._lookup[:, pixels]
        return np.stack([self._lookup[channel][pixels[:, :, channel]] for channel in range(3)])

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing an image of the given width and height."""
        if self.resize == "squash":
            return self.size[1], self.size[0]
        edge = self.size[0]
        # Both transformers and torchvision truncate the longer side.
        if width <= height:
            return edge, max(1, int(edge * height / width))
        return max(1, int(edge * width / height)), edge

    @cached_property
    def _lookup(self) -> Pixels:
        """3 x 256: the model's input for every 8-bit value of every channel."""
        levels = np.arange(256)
        if self.arithmetic == "torch":
            scaled = levels.astype(np.float32) / np.float32(255)
        else:
            scaled = (levels.astype(np.float64) * self.scale).astype(np.float32)
        mean = np.asarray(self.mean, np.float32)[:, None]
        std = np.asarray(self.std, np.float32)[:, None]
        return np.ascontiguousarray((scaled[None, :] - mean) / std)


def _centre_crop(pixels: npt.NDArray[np.uint8], crop: tuple[int, int], rounding: str) -> npt.NDArray[np.uint8]:
    """Cut the centre out of an image; where it is smaller, pad with zeros first."""
    height, width = pixels.shape[:2]
    crop_height, crop_width = crop
    if height < crop_height or width < crop_width:
        new_height, new_width = max(crop_height, height), max(crop_width, width)
        padded = np.zeros((new_height, new_width, *pixels.shape[2:]), pixels.dtype)
        # An odd padding: transformers puts the larger part before the image, torchvision after it.
        extra = 1 if rounding == "floor" else 0
        top, left = (new_height - height + extra) // 2, (new_width - width + extra) // 2
        padded[top : top + height, left : left + width] = pixels
        pixels, height, width = padded, new_height, new_width
    if rounding == "round":
        top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
    else:
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return pixels[top : top + crop_height, left : left + crop_width]
