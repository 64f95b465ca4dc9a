"""The commands in the test's own process: their real entry points, without the time of a new process."""

import logging
import signal
import sys

import pytest

from lookalike.cli import dropin
from lookalike.cli.main import main
from support.commands import Completed

ENTRY_POINTS = {"lookalike": main, "embedding": dropin.embedding, "tmm": dropin.tmm}


def call_lookalike(monkeypatch, capsys, *words):
    """Call `lookalike` with some words."""
    return call_command(monkeypatch, capsys, "lookalike", *words)


def call_command(monkeypatch, capsys, name, *words):
    """Call an entry point as a shell would, and put everything that it changes back."""
    log = logging.getLogger("lookalike")
    before = list(log.handlers), log.propagate, log.level
    on_sigterm = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    monkeypatch.setenv("TAO_LOGGING_LEVEL", "INFO")
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as end:
            ENTRY_POINTS[name]()
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])
    out, err = capsys.readouterr()
    return Completed(int(end.value.code or 0), out, err)
