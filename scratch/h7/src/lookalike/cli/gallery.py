"""`lookalike gallery`, `lookalike review`, `lookalike view`: look at a run, decide, and take the decisions over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]


def gallery(
    run: _Run,
    every: Annotated[
        bool, typer.Option("--gallery-all", help="All targets of a large run, in pages; else a sample on one page.")
    ] = False,
) -> None:
    """Write the gallery of a run again: one page that opens from disk."""
    from lookalike.workflow.gallery import remake_gallery

    for path in remake_gallery(run, every=every):
        print(path)


def review(
    run: _Run,
    decisions: Annotated[Path, typer.Argument(metavar="DECISIONS.CSV", help="What the gallery exported.")],
) -> None:
    """Write mined_reviewed.parquet: the mined images less those that were dropped in the gallery."""
    from lookalike.workflow.review import review

    result = review(run, decisions)
    print(f"Kept:       {result.kept}")
    print(f"Dropped:    {result.dropped}")
    print(f"Undecided:  {result.undecided} (they stay)")
    print(f"Written:    {result.rows} images to {result.path}")


def view(
    run: _Run,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the run's own, the same every time. 0: any free one.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
) -> None:
    """Serve the gallery of a run with full images, to this machine only, until Ctrl-C."""
    import threading

    from lookalike.workflow.viewer import open_server, open_site

    with open_server(open_site(run), port) as server:
        try:
            print(server.url, flush=True)
            print("Ctrl-C stops it.", file=sys.stderr, flush=True)
            if browser:  # on a thread: a browser in the terminal comes back when it is closed
                threading.Thread(target=_open_browser, args=(server.url,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nStopped. Your decisions stay in the browser.", file=sys.stderr)


def _open_browser(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        print("No browser could be opened: open the address above.", file=sys.stderr, flush=True)
