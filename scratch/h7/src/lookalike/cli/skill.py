"""`lookalike skill`: the agent skill that comes with lookalike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The agent skill: a folder that teaches a coding agent to mine.", no_args_is_help=True)


@app.command()
def install(
    folder: Annotated[
        Path | None, typer.Option("--dir", help="The folder of skills. Default: .claude/skills, in this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a copy that was changed.")] = False,
) -> None:
    """Copy the skill to where an agent looks for skills."""
    from lookalike.workflow.skill import DEFAULT_FOLDER, install_skill

    path, done = install_skill(folder or DEFAULT_FOLDER, force=force)
    print(f"Skill {done}: {path}")
    print(f"Hooks are not switched on by this; {path / 'hooks' / 'README.md'} says how.")


@app.command()
def path() -> None:
    """Print the folder of the skill that came with this lookalike."""
    from lookalike.workflow.skill import skill_path

    print(skill_path())
