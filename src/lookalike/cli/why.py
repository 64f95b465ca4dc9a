"""`lookalike why`: what became of pool images in a run, and which rule stopped them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def why(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    images: Annotated[list[str], typer.Argument(help="Pool images: a path, or the end of one, like its file name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object an image.")] = False,
) -> None:
    """Say of pool images whether they were mined, for which target, and if not, which rule stopped them."""
    from lookalike.workflow.why import explain, sentence, settings_of

    found, settings = explain(run, images), settings_of(run)
    for fate in found:
        print(json.dumps(fate, ensure_ascii=False) if as_json else sentence(fate, settings))
