"""The gallery: from the command to it, seconds to write it, its size, and until it is interactive in headless Chromium.

The images are solar cells (`elpv-dataset`, 300 x 300) and woven textile (`conformal-clip-data`, 250 x 250), all grey.
The vectors are made up so that every pair has an image of its own: the worst case for the size. Time to interactive
is from the start of the navigation until the first key was handled and the frame that shows it was drawn: a key is
pressed every four milliseconds from the moment that the page has a document. `command.py` measures from the command on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chromium import ABSENT, FLAGS, find_chromium
from benchmarks.command import measure_command, show_command
from benchmarks.common import save, summary

BOUND_MB, BOUND_SECONDS = 15.0, 1.0
#: Presses `j` until a tile has the focus, and notes when the next frame was drawn.
_PRESS = """
const pressing = setInterval(() => {
  if (!document.body) return;
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true, cancelable: true }));
  if (!document.activeElement?.matches(".tile")) return;
  clearInterval(pressing);
  requestAnimationFrame(() => setTimeout(() => (window.interactive = performance.now()), 0));
}, 4);
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks gallery`."""
    parser.add_argument("--targets", type=int, default=500)
    parser.add_argument("--topn", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--only-command", action="store_true", help="measure from the command to the gallery; save nothing"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    command = measure_command(arguments.runs)
    show_command(command)
    if arguments.only_command:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = _make_run(Path(folder) / "run", arguments.targets, arguments.topn)
        result = {**_write(made, arguments.runs), **_open(made.gallery, arguments.runs)}
    size, ready = result["megabytes"], result["seconds_to_interactive"]["median"]
    print(f"{arguments.targets} targets x {arguments.topn}: {result['images']} distinct images")
    print(f"written in {result['seconds_to_write']['median']:.1f} s")
    print(f"size: {size:.1f} MB, bound {BOUND_MB:g}: {'kept' if size < BOUND_MB else 'BROKEN'}")
    print(f"interactive after {ready:.2f} s, bound {BOUND_SECONDS:g}: {'kept' if ready < BOUND_SECONDS else 'BROKEN'}")
    save("gallery", {"targets": arguments.targets, "topn": arguments.topn, **result, "command": command})


def _make_run(folder: Path, targets: int, topn: int) -> Any:
    """A finished run over real images, each target with neighbours that no other target has."""
    from lookalike.workflow.demo_data import DATASETS

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.runs import make_run

    paths = [path for name in ("solar", "textile") for path in DATASETS[name]().table.column("filepath").to_pylist()]
    pool = targets * topn
    if len(paths) < targets + pool:
        raise SystemExit(f"{targets} targets x {topn} need {targets + pool} images, there are {len(paths)}")
    random = np.random.default_rng(0)
    paths = random.permutation(paths)[: targets + pool].tolist()
    centres = random.standard_normal((targets, 64))
    near = np.repeat(centres, topn, axis=0) + 0.1 * random.standard_normal((pool, 64))
    return make_run(
        folder, target_paths=paths[:targets], pool_paths=paths[targets:], topn=topn, vectors=(centres, near)
    )


def _write(made: Any, runs: int) -> dict[str, Any]:
    """Seconds to write the page, and its size."""
    from lookalike.reports.gallery import write_gallery
    from lookalike.reports.gallery_data import load, page_images

    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        write_gallery(made)
        seconds.append(time.perf_counter() - started)
    data = load(made)
    return {
        "seconds_to_write": summary(seconds),
        "megabytes": made.gallery.stat().st_size / 1e6,
        "images": len(page_images(data, data.pages(every=False)[0])),
    }


def _open(page: Path, runs: int) -> dict[str, Any]:
    """Seconds until the page is interactive, in a fresh context each time; the first one is not counted."""
    from playwright.sync_api import sync_playwright

    program = find_chromium()
    if program is None:
        raise SystemExit(ABSENT)
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        for _ in range(runs + 1):
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            context.add_init_script(_PRESS)
            tab = context.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_function("() => window.interactive")
            seconds.append(tab.evaluate("window.interactive") / 1000)
            context.close()
        version = browser.version
        browser.close()
    return {"seconds_to_interactive": summary(seconds[1:]), "chromium": version}
