"""Boxes of one file share its decoding: components of a board lie one after another in a table."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from lookalike.embedding.cache import content_digest
from lookalike.images.decode import Decoded, DecodeSettings, Loaded, finish, load
from lookalike.images.outcome import ImageRejected
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
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._held: OrderedDict[bytes, Future[Loaded]] = OrderedDict()

    def decode(self, data: bytes, box: Box) -> Decoded:
        """Decode a part of the bytes of a file.

        Raises
        ------
        ImageRejected
            As `images.decode.decode`.
        """
        key = content_digest(data)
        with self._lock:
            waiting = self._held.get(key)
            is_first = waiting is None
            if waiting is None:
                waiting = self._held[key] = Future()
            self._held.move_to_end(key)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)
        if is_first:
            try:
                waiting.set_result(load(data, self._settings))
            except BaseException as error:
                waiting.set_exception(error)
                raise
        try:
            loaded = waiting.result()
        except ImageRejected as rejected:  # one of its own for each box: they are raised on several threads
            raise ImageRejected(rejected.reason, rejected.detail, rejected.size) from None
        return finish(loaded, self._settings, box)
