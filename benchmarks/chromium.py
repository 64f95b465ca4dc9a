"""Headless Chromium, as the benchmark of the gallery and its tests start it."""

from __future__ import annotations

import shutil

#: No window, no network of its own, and no sandbox, which containers do not have.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: What to say where there is none.
ABSENT = "no chromium on this machine (Debian: apt-get install chromium)"


def find_chromium() -> str | None:
    """The program, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")
