"""Boxes of one file share its decoding: components of a board lie one after another in a table."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future

from lookalike.embedding.cache import content_digest
from lookalike.images.decode import Decoded, DecodeSettings, Loaded, finish, load
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.tables.boxes import Box

#: Whole images that are kept; each may have as many pixels as `max_pixels` allows.
_KEPT = 2


class Boards:
    """Decodes files of which only parts are wanted, each once as long as its parts come together.

    Called from several threads: the first one that needs a file decodes it, the others wait for it.

    Parameters
    ----------
    settings:
        How files become pixels.
    time_limit:
        Seconds for one file. Its parts are rejected once they are over, however many there are: a file whose decoder
        hangs holds one thread, and not one for every part.
    """

    def __init__(self, settings: DecodeSettings, time_limit: float = math.inf) -> None:
        self._settings = settings
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._held: OrderedDict[bytes, tuple[Future[Loaded], float]] = OrderedDict()  # and when it began

    def decode(self, data: bytes, box: Box) -> Decoded:
        """Decode a part of the bytes of a file.

        Raises
        ------
        ImageRejected
            As `images.decode.decode`.
        """
        waiting, began, is_first = self._take(content_digest(data))
        if is_first:
            try:
                waiting.set_result(load(data, self._settings))
            except BaseException as error:
                waiting.set_exception(error)
                raise
        try:
            left = began + self._time_limit - time.monotonic()
            loaded = waiting.result(min(max(left, 0.0), threading.TIMEOUT_MAX))
        except TimeoutError:
            detail = f"its file gave no result after {self._time_limit:g} s"
            raise ImageRejected(Reason.UNREADABLE, detail, len(data)) from None
        except ImageRejected as rejected:  # one of its own for each box: they are raised on several threads
            raise ImageRejected(rejected.reason, rejected.detail, rejected.size) from None
        return finish(loaded, self._settings, box)

    def _take(self, key: bytes) -> tuple[Future[Loaded], float, bool]:
        """Where a file will be, when that began, and whether it is for the caller to decode it."""
        with self._lock:
            is_first = key not in self._held
            if is_first:
                self._held[key] = Future(), time.monotonic()
            self._held.move_to_end(key)
            # One that hangs stays, so that nobody tries it again.
            ended = [one for one, (held, _) in self._held.items() if held.done() and one != key]
            for one in ended[: max(0, len(self._held) - _KEPT)]:
                del self._held[one]
            return *self._held[key], is_first
