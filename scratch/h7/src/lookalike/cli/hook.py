"""`lookalike hook`: what a coding agent calls after each of its tools. It always ends with exit status 0."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

#: What is taken from standard input and thrown away before giving up: the writer must not meet a closed pipe.
_MOST_READ = 256 << 20
_BLOCK = 1 << 20


def hook(
    name: Annotated[str, typer.Argument(help="output, artifacts, sections or package.")] = "",
    for_agent: Annotated[
        bool,
        typer.Option(
            "--for-agent", help="Print a JSON object that puts the text before the agent, as Claude Code reads it."
        ),
    ] = False,
) -> None:
    """Read a hook's JSON object on standard input and print what is to be said. Always exit status 0."""
    from lookalike.workflow import hooks

    try:
        content = _read_input(hooks.MOST_BYTES)
        if hooks.is_switched_off():
            return
        text = hooks.run_hook(name, content)
        if text and for_agent:
            said = {"hookEventName": hooks.event_name(content), "additionalContext": text}
            text = json.dumps({"hookSpecificOutput": said})
        if text:
            print(text, flush=True)
    except BrokenPipeError:  # nobody listens any more; the interpreter must not fail on the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as problem:  # noqa: BLE001 - a hook must never stop the agent's work
        print(f"lookalike hook {name}: {type(problem).__name__}: {problem}", file=sys.stderr)


def _read_input(most: int) -> bytes:
    """Standard input, cut off one byte above what a hook looks at; nothing from a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    content = bytearray()
    for _ in range(_MOST_READ // _BLOCK):
        block = sys.stdin.buffer.read(_BLOCK)
        if not block:
            break
        content += block[: most + 1 - len(content)]
    return bytes(content)
