"""Decoding and preprocessing on a CUDA device, a group of images at a time; the pixels are Pillow's, byte for byte.

Plain JPEG files (see `nvjpeg.plain_layout`) are decoded by the GPU's JPEG engines, and go through libjpeg's and
Pillow's arithmetic on the GPU. All others, and parts of files, are prepared by Pillow and join them there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.nvjpeg import Decoder, Layout, NvJpegError, Planes, plain_layout
from lookalike.embedding.prepare import CacheLookup, Group, PillowPreparer, resized_within
from lookalike.embedding.readahead import read_ahead
from lookalike.encoders.base import Encoder, TorchEncoder
from lookalike.errors import ConfigError
from lookalike.images.decode import DecodeSettings
from lookalike.images.locate import ReadSettings
from lookalike.images.outcome import ImageRejected

if TYPE_CHECKING:
    import torch

    #: Rows and their pixels.
    _Part: TypeAlias = tuple[list[int], torch.Tensor]

log = logging.getLogger(__name__)

#: Name of this path in the numerics.
DECODER = "nvjpeg"
#: Bytes of planes that are decoded at a time; RGB and the resized pixels come on top, about three times as much.
_MOST_BYTES = 1 << 29
#: Decoders that a trial has made, for the next run on their device: making one takes 0.6 s.
_tried: dict[torch.device, list[Decoder]] = {}
#: Seconds to wait for another thread's turn to end; a group takes a fraction of one.
_PATIENCE = 10.0


def check_card(settings: ImageEmbeddingsConfig, device: str) -> None:
    """Refuse `decoder=nvjpeg`, before any work, where other settings rule it out.

    Raises
    ------
    ConfigError
        When the device is no CUDA device, or orientation is to be applied.
    """
    if settings.decoder != "nvjpeg":
        return
    if not device.startswith("cuda"):
        raise _impossible("the model does not run on a CUDA device")
    if settings.exif == "apply":
        raise _impossible("exif=apply turns images, which is not known there")


def can_prepare_on_card(encoder: Encoder, settings: ImageEmbeddingsConfig) -> bool:
    """Whether images are prepared on the card: where it is asked for, or possible and not ruled out.

    Raises
    ------
    ConfigError
        When it is asked for and not possible.
    """
    if settings.decoder == "pillow" or settings.exif == "apply":
        return False
    obstacle = _obstacle(encoder)
    if obstacle and settings.decoder == "nvjpeg":
        raise _impossible(obstacle)
    if obstacle and isinstance(encoder, TorchEncoder) and encoder.device.type == "cuda":
        log.info("images are decoded by Pillow: %s", obstacle)
    return not obstacle


def _impossible(obstacle: str) -> ConfigError:
    return ConfigError(f"decoder=nvjpeg is not possible here: {obstacle}", hint="use decoder=pillow or decoder=auto")


def _obstacle(encoder: Encoder) -> str:
    """Why an encoder's images cannot be prepared on a card, or nothing."""
    if not isinstance(encoder, TorchEncoder) or encoder.device.type != "cuda":
        return "the model does not run on a CUDA device"
    import torch

    try:
        from lookalike.embedding.kernels import FILTERS, preprocess
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if not encoder.preprocessing.is_plain or encoder.preprocessing.resample not in FILTERS:
        return f"the model's resize ({encoder.preprocessing.resize_name}) is not known there"
    try:
        with torch.inference_mode(), torch.cuda.device(encoder.device):
            decoder = Decoder()
            # Triton compiles its kernels with the system's C compiler, which a small container does not have.
            probe = torch.zeros((1, 3, 40, 40), dtype=torch.uint8, device=encoder.device)
            preprocess(probe, encoder.preprocessing, encoder.dtype)
            torch.cuda.synchronize()
    except NvJpegError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, Pillow can do the work
        log.warning("the GPU's JPEG path does not work here, although its parts are there: %r", error)
        return f"a trial of its kernels failed ({str(error).splitlines()[0] if str(error) else error!r})"
    _tried[encoder.device] = [decoder]
    return ""


class _File(NamedTuple):
    """A file for the card: its row, its bytes, and what its header says."""

    row: int
    data: bytes
    layout: Layout


class CardPreparer:
    """Prepares groups of images on the card; one instance serves several threads.

    Parameters
    ----------
    alone:
        Prepares what is not for the card, and single images where a group did not end in time.
    encoder:
        Gives device, type and preprocessing.
    decoding, reading:
        Bounds and rules.
    batch_size:
        Images of a group.
    cache:
        Where vectors may be known from.
    reading_threads:
        Files that are read at a time: one where they lie on a disk, several where they come over a network.
    """

    #: One decodes, one reads files, and one is between the two.
    threads = 3
    ahead = threads + 1

    def __init__(
        self,
        alone: PillowPreparer,
        encoder: TorchEncoder,
        decoding: DecodeSettings,
        reading: ReadSettings,
        batch_size: int,
        cache: CacheLookup,
        reading_threads: int = 1,
    ) -> None:
        import torch

        self.group_size = batch_size
        self._reading_threads = reading_threads
        self.alone = alone
        self.begin, self.forget = cache.begin, cache.forget
        self._cache = cache
        self._encoder = encoder
        self._decoding = decoding
        self._bounds = reading
        self._consumer = torch.cuda.current_stream(encoder.device)
        # Of high priority: its small steps go before the model's large ones.
        self._stream = torch.cuda.Stream(encoder.device, priority=-1)  # type: ignore[no-untyped-call]
        self._decoders = _tried.pop(encoder.device, [])
        # One reads at a time: threads that read a disk side by side take Python's lock from each other at every step,
        # and are slower together than one alone. And one works on the card: a second was not faster beside the model.
        self._reading, self._working = _Turn(), _Turn()

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare a group: read the files, sort them by who decodes them, and join the results in order."""
        import torch

        group = Group()
        with self._reading.take():
            files, others = self._read(rows, group)
        device = self._encoder.device
        with torch.inference_mode(), torch.cuda.device(device), self._working.take(), torch.cuda.stream(self._stream):
            parts = [part for chunk in _chunks(files) for part in self._on_card(chunk, others)]
            if others:
                parts += self._by_pillow(others, group)
            if parts:
                group.rows, pixels = _in_order(parts)
                if pixels.is_cuda:  # its memory goes back to this stream's pool only when the model has read it
                    pixels.record_stream(self._consumer)
                group.pixels = pixels
            self._stream.synchronize()
        return group

    def _read(self, rows: Sequence[int], group: Group) -> tuple[list[_File], list[tuple[int, bytes]]]:
        """Read what the cache does not know: the files for the card, and those for Pillow."""
        files: list[_File] = []
        others: list[tuple[int, bytes]] = []
        for row, data in self._fetched(rows, group):
            try:
                layout = None if self.alone.is_part(row) else plain_layout(data, self._decoding.max_pixels)
                if layout is None:
                    others.append((row, data))
                    continue
                size = (layout.width, layout.height)
                wide, high = resized_within(size, self._encoder.preprocessing, self._decoding.max_pixels)
                group.note(row, max(wide * high, layout.width * layout.height), clipped=False)
                files.append(_File(row, data, layout))
            except ImageRejected as rejected:
                group.rejected.append((row, rejected))
        return files, others

    def _fetched(self, rows: Sequence[int], group: Group) -> Iterator[tuple[int, bytes]]:
        """The bytes of the files that the cache does not know; of files in a network, several at a time."""

        def fetch(row: int) -> tuple[int, bytes | None, Group]:
            one = Group()
            try:
                return row, self._cache.find_or_read(row, self._bounds, one), one
            except ImageRejected as rejected:
                one.rejected.append((row, rejected))
                return row, None, one

        threads = self._reading_threads
        fetched = (
            map(fetch, rows)
            if threads == 1
            # Without a time limit here: the engine has one for the group.
            else read_ahead(fetch, rows, threads=threads, ahead=threads, time_limit=math.inf, on_timeout=fetch)
        )
        for row, data, one in fetched:
            group.add(one)
            if data is not None:
                yield row, data

    def _on_card(self, files: list[_File], others: list[tuple[int, bytes]]) -> list[_Part]:
        """Decode and preprocess files; where one is damaged or memory runs out, in halves, and at last by Pillow."""
        import torch

        try:
            return self._decoded(files)
        except (NvJpegError, torch.OutOfMemoryError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                self._encoder.memory_ran_out()
                torch.cuda.empty_cache()
        if len(files) == 1:
            others.append((files[0].row, files[0].data))
            return []
        half = len(files) // 2
        return [*self._on_card(files[:half], others), *self._on_card(files[half:], others)]

    def _decoded(self, files: list[_File]) -> list[_Part]:
        """All planes in one call of the decoder, into one buffer; then the files of one layout together."""
        import torch

        files = sorted(files, key=lambda file: file.layout)
        buffer = torch.empty(sum(file.layout.bytes for file in files), dtype=torch.uint8, device=self._encoder.device)
        classes = [(layout, list(same)) for layout, same in groupby(files, key=lambda file: file.layout)]
        address = buffer.data_ptr()
        planes: list[Planes] = []
        for layout, same in classes:
            planes += _addresses(layout, len(same), address)
            address += len(same) * layout.bytes
        decoder = self._decoders.pop() if self._decoders else Decoder()
        decoder.decode([file.data for file in files], planes, self._stream.cuda_stream)
        # Not reached by a decoder that failed: nothing is known of it. One that did its work is kept also where memory
        # runs out after it, because making another takes a good part of a second.
        try:
            return self._preprocessed(classes, buffer)
        finally:
            self._stream.synchronize()  # the next one who decodes overwrites the decoder's own memory
            self._decoders.append(decoder)

    def _preprocessed(self, classes: list[tuple[Layout, list[_File]]], buffer: torch.Tensor) -> list[_Part]:
        """From the planes of each layout's files, one after another in a buffer, to what the model sees."""
        import torch

        from lookalike.embedding.kernels import planes_to_rgb, preprocess

        parts, first = [], 0
        for layout, same in classes:
            count, size = len(same), layout.height * layout.width
            last = first + count * layout.bytes
            sizes = [count * size, *[count * (layout.bytes - size) // 2] * 2]
            luma, blue, red = torch.split(buffer[first:last], sizes)
            first = last
            images = luma.view(count, 1, layout.height, layout.width)
            if layout.sampling != "grey":
                images = planes_to_rgb(images[:, 0], blue, red, layout)
            pixels = preprocess(images, self._encoder.preprocessing, self._encoder.dtype)
            parts.append(([file.row for file in same], pixels))
        return parts

    def _by_pillow(self, files: list[tuple[int, bytes]], group: Group) -> list[_Part]:
        """Decode and preprocess on the processor's cores, and leave the pixels there."""
        import torch

        def prepare(file: tuple[int, bytes]) -> Group:
            row, data = file
            one = Group(seen={row: group.seen[row]} if row in group.seen else {})
            self.alone.prepare(row, data, one)
            return one

        parts: list[_Part] = []
        threads = self.alone.threads
        # Without a time limit here: the engine has one for the group.
        for one in read_ahead(
            prepare, files, threads=threads, ahead=2 * threads, time_limit=math.inf, on_timeout=prepare
        ):
            if one.pixels is not None:
                parts.append((one.rows, torch.as_tensor(one.pixels).to(self._encoder.dtype)))
            group.add(one)
        return parts


class _Turn:
    """Lets one thread at a time through, for speed only: one that hangs inside does not stop the others."""

    def __init__(self) -> None:
        self._free = threading.Lock()

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn, but not for ever: after `_PATIENCE` seconds, the thread that has it is left out."""
        free = self._free
        if not free.acquire(timeout=_PATIENCE):
            self._free = free = threading.Lock()
            free.acquire()
        try:
            yield
        finally:
            free.release()


def _in_order(parts: list[_Part]) -> tuple[list[int], torch.Tensor]:
    """The rows of all parts, ascending, and their pixels: on the card where some are there and memory allows."""
    import torch

    rows = [row for rows, _ in parts for row in rows]
    device = next((pixels.device for _, pixels in parts if pixels.is_cuda), torch.device("cpu"))
    try:
        pixels = torch.cat([pixels.to(device) for _, pixels in parts]) if len(parts) > 1 else parts[0][1]
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        pixels = torch.cat([pixels.cpu() for _, pixels in parts])
    if rows != sorted(rows):
        pixels = pixels[torch.from_numpy(np.argsort(rows)).to(pixels.device)]
    return sorted(rows), pixels


def _addresses(layout: Layout, count: int, address: int) -> list[Planes]:
    """Where the planes of some images of one layout go: all luma planes, then all of one colour, then the other."""
    size, pitches = layout.height * layout.width, (layout.width, layout.chroma[1], layout.chroma[1])
    chroma = (layout.bytes - size) // 2
    blue = address + count * size
    red = blue + count * chroma
    return [
        Planes((address + number * size, blue + number * chroma, red + number * chroma), pitches)
        for number in range(count)
    ]


def _chunks(files: list[_File]) -> Iterator[list[_File]]:
    """Split files so that the planes of each part fit `_MOST_BYTES`, if one alone does."""
    chunk: list[_File] = []
    held = 0
    for file in files:
        if chunk and held + file.layout.bytes > _MOST_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(file)
        held += file.layout.bytes
    if chunk:
        yield chunk
