"""JPEG files to colour planes on a GPU's own JPEG engines: NVIDIA's nvJPEG library, called directly.

torchvision calls the same library, but gets RGB from it: nvJPEG then spreads subsampled colour in another way than
libjpeg does. The planes as they are stored come out equal to libjpeg's, byte for byte, so that with libjpeg's own
arithmetic after them (`kernels.planes_to_rgb`) the pixels are those of Pillow. The engines also work beside the
GPU's processors, which belong to the model.

The functions and structures are those of nvjpeg.h (CUDA Toolkit documentation, "nvJPEG"), unchanged since CUDA 11.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: nvjpegBackend_t: the JPEG engines of data-centre GPUs since A100.
_BACKEND_HARDWARE = 3
#: nvjpegOutputFormat_t: the planes as they are stored.
_OUTPUT_YUV = 1
#: JPEG marker of a baseline frame.
_BASELINE = 0xC0
#: Markers that begin a frame (C0 to CF without the tables C4, C8 and CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Horizontal and vertical factors of three components, as a file holds them.
_SAMPLINGS = {b"\x11\x11\x11": "4:4:4", b"\x21\x11\x11": "4:2:2", b"\x22\x11\x11": "4:2:0"}
#: Very small images are spread in another way by libjpeg, very large ones do not fit the engines.
_LEAST_EDGE, _MOST_EDGE = 16, 16_384


class NvJpegError(Exception):
    """The library is missing, the GPU has no JPEG engines, or it cannot decode a file."""


class Layout(NamedTuple):
    """Size of an image and how its colour is stored: ``grey``, ``4:4:4``, ``4:2:2`` or ``4:2:0``."""

    height: int
    width: int
    sampling: str

    @property
    def chroma(self) -> tuple[int, int]:
        """Height and width of each of the two colour planes."""
        if self.sampling == "grey":
            return 0, 0
        across, down = self.sampling != "4:4:4", self.sampling == "4:2:0"
        return (self.height + down) >> down, (self.width + across) >> across

    @property
    def bytes(self) -> int:
        """Bytes of all planes."""
        height, width = self.chroma
        return self.height * self.width + 2 * height * width


def plain_layout(data: bytes, max_pixels: int) -> Layout | None:
    """The layout of a file that the engines may have, or None for all others.

    They may have plain JPEG: baseline, 8 bits, grey or YCbCr in a common sampling, within bounds, not cut off.
    Everything else is for Pillow, which knows more kinds and says what is wrong with a file. The order of the
    markers is that of ITU-T T.81, annex B.

    Parameters
    ----------
    data:
        The bytes of a file.
    max_pixels:
        A larger image is Pillow's, too, which refuses it.
    """
    if data[:2] != b"\xff\xd8" or data.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            return _frame_layout(data[position + 4 : position + 19], max_pixels) if marker == _BASELINE else None
        if marker == 0xEE:  # an Adobe segment can say that three components are RGB, not YCbCr
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _frame_layout(frame: bytes, max_pixels: int) -> Layout | None:
    """The layout that a frame header describes: bits, height, width, components, then 3 bytes for each of them."""
    bits, components = frame[0], frame[5]
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    edges_fit = min(height, width) >= _LEAST_EDGE and max(height, width) <= _MOST_EDGE
    if bits != 8 or not edges_fit or height * width > max_pixels:
        return None
    if components == 1:
        return Layout(height, width, "grey")
    # Other names of the components can mean RGB.
    if components != 3 or frame[6::3] != b"\x01\x02\x03" or frame[7::3] not in _SAMPLINGS:
        return None
    return Layout(height, width, _SAMPLINGS[frame[7::3]])


class _Image(ctypes.Structure):
    """nvjpegImage_t: where the planes of an image go."""

    _fields_ = (("channel", ctypes.c_size_t * 4), ("pitch", ctypes.c_size_t * 4))


class Planes(NamedTuple):
    """Where one image goes: addresses of its luma and its two colour planes, and the bytes of a row of each."""

    addresses: tuple[int, int, int]
    pitches: tuple[int, int, int]


class Decoder:
    """A decoder on the JPEG engines of the current CUDA device; for one thread at a time.

    Raises
    ------
    NvJpegError
        When the library is missing, or the GPU has no such engines.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._handle, self._state = ctypes.c_void_p(), ctypes.c_void_p()
        self._batch = 0
        create = self._library.nvjpegCreateEx(_BACKEND_HARDWARE, None, None, 0, ctypes.byref(self._handle))
        _check(create, "this GPU has no JPEG engines")
        _check(self._library.nvjpegJpegStateCreate(self._handle, ctypes.byref(self._state)), "no decoder state")
        finalizer = weakref.finalize(self, _destroy, self._library, self._handle, self._state)
        finalizer.atexit = False  # the driver may be gone by then, and frees everything itself

    def decode(self, files: Sequence[bytes], images: Sequence[Planes], stream: int) -> None:
        """Decode files to device memory, in the order of a CUDA stream.

        Parameters
        ----------
        files:
            Their bytes; each as `plain_layout` allows it.
        images:
            For each, where its planes go.
        stream:
            Address of the CUDA stream.

        Raises
        ------
        NvJpegError
            When a file cannot be decoded. Nothing is known of the others then.
        """
        count = len(files)
        if count != self._batch:
            begin = self._library.nvjpegDecodeBatchedInitialize(self._handle, self._state, count, 1, _OUTPUT_YUV)
            _check(begin, "a batch cannot be begun")
            self._batch = count
        targets = (_Image * count)(*(_Image(addresses, pitches) for addresses, pitches in images))
        data = (ctypes.c_char_p * count)(*files)
        lengths = (ctypes.c_size_t * count)(*map(len, files))
        decode = self._library.nvjpegDecodeBatched(
            self._handle, self._state, data, lengths, targets, ctypes.c_void_p(stream)
        )
        if decode:
            self._batch = 0
        _check(decode, "a file cannot be decoded")


def _destroy(library: Any, handle: ctypes.c_void_p, state: ctypes.c_void_p) -> None:
    """Give a decoder's memory back."""
    library.nvjpegJpegStateDestroy(state)
    library.nvjpegDestroy(handle)


def _check(status: int, meaning: str) -> None:
    """Turn an nvjpegStatus_t that is not success into an error."""
    if status:
        raise NvJpegError(f"{meaning} (nvJPEG status {status})")


@functools.cache
def _library() -> Any:
    """The library that comes with torchvision, with NVIDIA's own packages, or with the system."""
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "nvjpegDecodeBatched"):
            return library
    raise NvJpegError("the nvJPEG library is not installed; torchvision for CUDA brings it along")


def _candidates() -> list[str]:
    """Files and names that may be the library."""
    found: list[Path] = []
    for package, below in (("torchvision", "../torchvision.libs"), ("nvidia", "*/lib")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found += sorted(Path(place).glob(f"{below}/libnvjpeg*.so*"))
    system = ctypes.util.find_library("nvjpeg")
    return [*map(str, found), *([system] if system else [])]
