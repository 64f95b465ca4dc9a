"""The command `lookalike` in the test's own process: its real entry point, without the time of a new process."""

import logging
import sys

import pytest

from lookalike.cli.main import main
from support.commands import Completed


def call_lookalike(monkeypatch, capsys, *words):
    """Call the entry point as a shell would, and put everything that it changes back."""
    log = logging.getLogger("lookalike")
    before = list(log.handlers), log.propagate, log.level
    monkeypatch.setattr(sys, "argv", ["lookalike", *map(str, words)])
    monkeypatch.setenv("TAO_LOGGING_LEVEL", "INFO")
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])
    out, err = capsys.readouterr()
    return Completed(int(end.value.code or 0), out, err)
