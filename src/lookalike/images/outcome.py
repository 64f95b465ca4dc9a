"""What can become of an image that cannot be embedded.

The reasons are a closed set. Anything else that goes wrong is a bug in lookalike, not an outcome, and
propagates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa


class Reason(StrEnum):
    """Why an image was set aside."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    BAD_VECTOR = "bad_vector"
    BAD_BOX = "bad_box"


class ImageRejected(Exception):  # noqa: N818 - a signal between decoder and engine, not an error for the user
    """Signals that one file cannot become a vector.

    Parameters
    ----------
    reason:
        One of the closed set.
    detail:
        What was seen, in words.
    size:
        Bytes of the file, or None where it could not be read.
    """

    def __init__(self, reason: Reason, detail: str, size: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.size = size


@dataclass(frozen=True)
class QuarantinedImage:
    """One row of the quarantine table."""

    row: int
    filepath: str
    reason: Reason
    detail: str
    size: int | None

    def __str__(self) -> str:
        """One line for a log or a message."""
        return f"{self.filepath}: {self.reason} ({self.detail})"


def quarantine_table(images: Sequence[QuarantinedImage]) -> pa.Table:
    """The quarantine table: `row` in the input, `filepath`, `reason`, `detail`, `size` in bytes."""
    return pa.table(
        {
            "row": pa.array([image.row for image in images], pa.int64()),
            "filepath": pa.array([image.filepath for image in images], pa.string()),
            "reason": pa.array([str(image.reason) for image in images], pa.string()),
            "detail": pa.array([image.detail for image in images], pa.string()),
            "size": pa.array([image.size for image in images], pa.int64()),
        }
    )


def count_reasons(images: Sequence[QuarantinedImage]) -> str:
    """How many images fell to each reason, most frequent first: ``3 missing, 1 truncated``."""
    counts = Counter(str(image.reason) for image in images)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
