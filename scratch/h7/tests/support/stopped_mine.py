"""The command `lookalike` with a small encoder that sends its own process a signal before a certain image.

Run as a program: `python stopped_mine.py SIGNAL IMAGE LOG mine --targets ...`. Only the model is replaced.
"""

import os
import signal
import sys
from pathlib import Path

from lookalike.workflow import run_checks
from support.counted_run import CountedEncoder


class StoppingEncoder(CountedEncoder):
    """Logs every image, as `CountedEncoder` does, and stops the process when it has so many of them."""

    def __init__(self, log, number, images):
        super().__init__(log, 0.0)
        self.number, self.left = number, images

    def start(self, pixels):
        self.left -= len(pixels)
        if self.left < 0:
            os.kill(os.getpid(), self.number)
        return super().start(pixels)


if __name__ == "__main__":
    from lookalike.cli.main import main

    number, images, log = getattr(signal, sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    run_checks.open_encoder = lambda *arguments: StoppingEncoder(log, number, images)
    sys.argv = ["lookalike", *sys.argv[4:]]
    main()
