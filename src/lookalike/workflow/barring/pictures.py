"""Reading pictures on threads, in their order, with a reason for each that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from PIL import Image

from lookalike.cores import usable_cores
from lookalike.embedding.readahead import read_ahead
from lookalike.errors import MissingDependency
from lookalike.images.decode import decode
from lookalike.images.locate import is_remote, read_bytes
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.reports.thumbnails import Reading
from lookalike.tables.boxes import split_box

Item = TypeVar("Item")
Made = TypeVar("Made")


def each_picture(
    paths: Sequence[str], reading: Reading, make: Callable[[Image.Image], Made]
) -> Iterator[Made | ImageRejected]:
    """Decode files on threads, and yield in their order what `make` makes of each, or why it cannot be read.

    A URL is not read.

    Parameters
    ----------
    paths, reading:
        The files, and how they are read.
    make:
        Called on the threads.
    """

    def one(path: str) -> Made:
        refuse_remote(path, reading)
        return make(decode(read_bytes(path, reading.files), reading.pixels, box=split_box(path)[1]).image)

    return on_threads(one, paths, reading)


def on_threads(one: Callable[[Item], Made], items: Iterable[Item], reading: Reading) -> Iterator[Made | ImageRejected]:
    """Call `one` with items on as many threads as there are cores; yield in their order what it returns, or why not.

    Parameters
    ----------
    one:
        Reads a file; it may raise `ImageRejected` and `MissingDependency`.
    items:
        Its arguments, consumed lazily.
    reading:
        Has the time for one of them.

    Raises
    ------
    ImagesFailed
        When more calls hang than `read_ahead` allows.
    """

    def guarded(item: Item) -> Made | ImageRejected:
        try:
            return one(item)
        except ImageRejected as rejected:
            return rejected
        except MissingDependency as error:
            return ImageRejected(Reason.UNREADABLE, error.what)

    def late(_: Item) -> ImageRejected:
        return ImageRejected(Reason.UNREADABLE, f"no result after {reading.time_limit:g} s")

    threads = usable_cores()
    yield from read_ahead(
        guarded, items, threads=threads, ahead=4 * threads, time_limit=reading.time_limit, on_timeout=late
    )


def refuse_remote(path: str, reading: Reading) -> None:
    """Reject a URL: nothing is fetched to be compared."""
    if is_remote(path, reading.files.root):
        raise ImageRejected(Reason.UNREADABLE, "a URL, which is not read to compare it")
