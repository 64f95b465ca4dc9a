"""The same bytes under another name. Nearly every file is told from the others by its size, and not read at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lookalike.images.locate import ReadSettings, local_size, read_bytes, read_part
from lookalike.images.outcome import ImageRejected
from lookalike.tables.boxes import split_box

#: Bytes in the middle of a file that are read first: images of one camera without compression all have one size.
_PART = 4096


class Files:
    """Some files, to be asked which of them has the bytes of another.

    Parameters
    ----------
    paths:
        Local files; URLs are left out.
    reading:
        Which files may be read.

    Attributes
    ----------
    there:
        How many of them are local files that are there.
    missing:
        How many are not there or may not be read.
    urls:
        How many are URLs.
    """

    def __init__(self, paths: Sequence[str], reading: ReadSettings) -> None:
        self._paths, self._reading = paths, reading
        # Two parts of one file are two images; the same part of a file and of its copy are one.
        self._boxes = [split_box(path)[1] for path in paths]
        self._of_size: dict[int, list[int]] = {}
        self._parts: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self.missing = self.urls = 0
        for number, path in enumerate(paths):
            try:
                size = local_size(path, reading)
            except ImageRejected:
                self.missing += 1
                continue
            if size is None:
                self.urls += 1
            elif size:  # empty files are no copies of each other
                self._of_size.setdefault(size, []).append(number)
        self.there = sum(map(len, self._of_size.values()))

    def find(self, path: str) -> int:
        """The number of the first file that has the bytes of the file at `path`, or -1.

        Raises
        ------
        ImageRejected
            When the file at `path` cannot be read.
        """
        size = local_size(path, self._reading)
        box = split_box(path)[1]
        candidates = [one for one in self._of_size.get(size or 0, ()) if self._boxes[one] == box]
        if not candidates:
            return -1
        middle = (size or 0) // 2
        part = read_part(path, self._reading, middle, _PART)
        candidates = [one for one in candidates if self._part(one, middle) == part]
        if not candidates:
            return -1
        digest = _digest(path, self._reading)
        return next((one for one in candidates if self._digest(one) == digest), -1)

    def _part(self, number: int, middle: int) -> bytes:
        if number not in self._parts:
            try:
                self._parts[number] = read_part(self._paths[number], self._reading, middle, _PART)
            except ImageRejected:
                self._parts[number] = b""
        return self._parts[number]

    def _digest(self, number: int) -> bytes:
        if number not in self._digests:
            try:
                self._digests[number] = _digest(self._paths[number], self._reading)
            except ImageRejected:
                self._digests[number] = b""
        return self._digests[number]


def _digest(path: str, reading: ReadSettings) -> bytes:
    return hashlib.sha256(read_bytes(path, reading)).digest()
