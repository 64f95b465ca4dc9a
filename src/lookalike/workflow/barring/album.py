"""Telling copies by their pixels: a digest for the same pixels, a fingerprint for the same picture.

The fingerprint is the picture in grey at 64 x 64 less its local mean, as a vector of length 1: edges and grain,
whatever the brightness. Two pictures agree by the cosine of their fingerprints, mirrored and turned upside down, too.
Nearly all real copies (JPEG of quality 85, three quarters of the size, mirrored) agree to 0.995 and more, different
images of the same kind of product to 0.994 and less (docs/leakage.md); distances of embeddings of the two overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lookalike.neighbors.base import Rows
from lookalike.workflow.barring.looks import EDGE, Look

#: Pictures whose fingerprints agree by at least this cosine are copies.
AGREE = 0.995
#: Sides of a picture and of its copy have the same ratio, up to this factor: a smaller copy is rounded to whole pixels.
_SHAPE = 1.05
#: Fingerprints that are compared at a time.
_BATCH = 512


class Copies(NamedTuple):
    """Which of some pictures are copies.

    Attributes
    ----------
    same:
        Per picture, the first one that has the same pixels, or -1.
    alike:
        Per picture, the one that agrees most, if that is enough, or -1.
    """

    same: Rows
    alike: Rows


class Album:
    """Pictures that copies are looked for of.

    Parameters
    ----------
    looks:
        What is known of them, by their number; None where a file could not be read.
    """

    def __init__(self, looks: Sequence[Look | None]) -> None:
        there = [(row, one) for row, one in enumerate(looks) if one is not None]
        self._digests: dict[bytes, int] = {}
        for row, one in there:
            self._digests.setdefault(one.digest, row)
        self._rows = np.array([row for row, _ in there], np.int64)
        self._shapes = np.array([one.shape for _, one in there])
        self._prints = np.array([one.fingerprint for _, one in there], np.float32).reshape(len(there), EDGE * EDGE)

    def __len__(self) -> int:
        """Return the number of pictures that could be read."""
        return len(self._rows)

    def find(self, looks: Sequence[Look]) -> Copies:
        """Find which of some pictures are copies of those in the album."""
        same = np.array([self._digests.get(one.digest, -1) for one in looks], np.int64)
        alike = np.full(len(looks), -1, np.int64)
        for first in range(0, len(looks) if len(self) else 0, _BATCH):
            part = looks[first : first + _BATCH]
            alike[first : first + len(part)] = self._alike(part)
        return Copies(same, alike)

    def _alike(self, looks: Sequence[Look]) -> Rows:
        """Per picture, the one that agrees most, or -1."""
        seen = np.stack([one.fingerprint for one in looks])
        turned = np.stack([seen, seen[:, :, ::-1], seen[:, ::-1], seen[:, ::-1, ::-1]], axis=1)
        # All have length 1 (or 0, for one colour, which agrees with nothing): products are cosines.
        agree = turned.reshape(-1, EDGE * EDGE) @ self._prints.T
        agree = agree.reshape(len(looks), 4, len(self)).max(axis=1)
        best = agree.argmax(axis=1)
        shapes = np.array([one.shape for one in looks])
        fits = (agree[np.arange(len(looks)), best] >= AGREE) & (np.abs(shapes - self._shapes[best]) <= np.log(_SHAPE))
        return np.where(fits, self._rows[best], -1)
