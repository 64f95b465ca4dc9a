"""How a drop-in command begins and ends: logging, errors for people, and the status line in every ending."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from lookalike.errors import LookalikeError

log = logging.getLogger("lookalike")

#: Levels that `TAO_LOGGING_LEVEL` may name.
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop by a signal."""


def set_up_logging() -> None:
    """Log lookalike's own lines to standard error, at the level that `TAO_LOGGING_LEVEL` names."""
    wanted = os.environ.get("TAO_LOGGING_LEVEL", "INFO").strip().upper()
    level = wanted if wanted in _LEVELS else "INFO"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(level)
    if level != wanted:
        log.warning("TAO_LOGGING_LEVEL=%s is not one of %s: INFO is used", wanted, ", ".join(_LEVELS))


def report_errors(work: Callable[[], None]) -> bool:
    """Call `work`; print what goes wrong for people and return whether it went well.

    A user's mistake gives a message without a traceback (`TAO_LOGGING_LEVEL=DEBUG` shows it). Anything else is
    a bug in lookalike, and its traceback is wanted.
    """
    try:
        work()
        return True
    except LookalikeError as error:
        _show_traceback_when_debugging()
        _say(error, str(error))
    except MemoryError as error:
        _show_traceback_when_debugging()
        _say(error, "out of memory\n  What to do: use a smaller batch_size or a smaller pool")
    except RuntimeError as error:
        if "out of memory" not in str(error).lower() and "allocate memory" not in str(error).lower():
            _report_bug()
        else:
            _show_traceback_when_debugging()
            _say(error, f"{error}\n  What to do: use a smaller batch_size")
    except KeyboardInterrupt as stop:
        _end_at_the_next_signal()
        rest = "" if hasattr(stop, "__notes__") else "; no unfinished file was left behind"
        _say(stop, f"interrupted ({str(stop) or 'Ctrl-C'}){rest}")
    except SystemExit as stop:  # argparse and Hydra leave this way, with their message already printed
        return not stop.code
    except BrokenPipeError:  # the reader of standard output has gone: `run_with_status` ends quietly
        raise
    except BaseException:  # noqa: BLE001 - the status line must come last, whatever happened
        _report_bug()
    return False


def run_with_status(work: Callable[[], None]) -> None:
    """Run a drop-in command and leave the process with its status line and exit status.

    The last line on standard output is `Execution status: PASS` (exit status 0) or `Execution status: FAIL`
    (exit status 1): callers read both.
    """
    end_on_sigterm()
    escape_foreign_letters()
    try:
        set_up_logging()
        passed = report_errors(work)
        sys.stderr.flush()
        print(f"Execution status: {'PASS' if passed else 'FAIL'}", flush=True)
    except BrokenPipeError:  # the reader of standard output has gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        passed = False
    sys.exit(0 if passed else 1)


def end_on_sigterm() -> None:
    """Let SIGTERM end the process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def escape_foreign_letters() -> None:
    """Print a letter that the terminal's encoding has not, as a path may hold it, as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def _end_at_the_next_signal() -> None:
    """Let a second Ctrl-C or SIGTERM end the process at once: all is said, and its traceback would tell nothing."""
    with contextlib.suppress(ValueError):  # not on the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def _say(error: BaseException, text: str) -> None:
    """Print what went wrong and, below it, what was noted on the way: how a run that was stopped goes on."""
    lines = [f"Error: {text}", *(f"  {note}" for note in getattr(error, "__notes__", ()))]
    print("\n".join(lines), file=sys.stderr)


def _report_bug() -> None:
    traceback.print_exc()
    print("Error: this is a bug in lookalike; please report it with the lines above", file=sys.stderr)


def _show_traceback_when_debugging() -> None:
    if log.isEnabledFor(logging.DEBUG):
        traceback.print_exc()
