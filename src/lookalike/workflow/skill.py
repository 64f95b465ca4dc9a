"""The agent skill: where it is, which version it has, and how it is put where an agent looks for skills."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from lookalike.errors import TableError

SKILL_NAME = "lookalike-mining"
#: Where agents look for the skills of a project, from its top folder.
DEFAULT_FOLDER = Path(".claude") / "skills"
#: Written beside the installed files: their digests, by which a copy that nobody changed is known.
MANIFEST = ".installed.json"
_VERSION = re.compile(r"^\s+version:\s*[\"']?([^\"'\s]+)", re.MULTILINE)


def skill_path() -> Path:
    """The folder of the skill that came with this lookalike: in the installed package, or in the repository."""
    package = Path(__file__).resolve().parents[1]
    for skills in (package / "skills", package.parents[1] / "skills"):
        if (skills / SKILL_NAME / "SKILL.md").is_file():
            return skills / SKILL_NAME
    raise TableError("the agent skill is not in this installation", where=str(package), hint="install lookalike again")


def skill_version() -> str:
    """The version that the skill's own file gives."""
    try:
        found = _VERSION.search((skill_path() / "SKILL.md").read_text(encoding="utf-8"))
    except (OSError, TableError):
        return "unknown"
    return found[1] if found else "unknown"


def install_skill(folder: Path, *, force: bool = False) -> tuple[Path, str]:
    """Copy the skill into a folder of skills, whole or not at all.

    Parameters
    ----------
    folder:
        The folder of skills; the copy is its sub-folder `lookalike-mining`.
    force:
        Replace a copy that was changed.

    Returns
    -------
    tuple of Path and str
        The copy, and what was done: ``installed``, ``updated``, or ``up to date``.

    Raises
    ------
    TableError
        When a copy is there that somebody changed, or nothing can be written there.
    """
    source, target = skill_path(), folder / SKILL_NAME
    wanted = _digests(source)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TableError("is a link or a file, and not a folder", where=str(target), hint="remove it, or use --dir")
    there = _digests(target) if target.exists() else None
    if there == wanted:
        return target, "up to date"
    if there is not None and there != _installed(target) and not force:
        changed = sorted(name for name in there if there[name] != (_installed(target) or wanted).get(name))
        raise TableError(
            f"is a copy that was changed ({', '.join(changed[:5]) or 'files are missing'})",
            where=str(target),
            hint="keep your changes elsewhere, then use --force: it replaces the whole folder",
        )
    try:
        _replace(source, target, wanted)
    except OSError as problem:
        raise TableError(f"cannot be written: {problem.strerror}", where=str(folder), hint="use --dir") from problem
    return target, "installed" if there is None else "updated"


def _replace(source: Path, target: Path, digests: dict[str, str]) -> None:
    """Put a new copy in the place of an old one, which stays where that fails.

    A process that is killed between the two renamings leaves the old one in a hidden folder beside.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as room:
        copy = Path(room) / "new"
        shutil.copytree(source, copy, ignore=_not_shipped)
        (copy / MANIFEST).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
        old = Path(room) / "old"
        if target.exists():
            target.rename(old)
        try:
            copy.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def _installed(target: Path) -> dict[str, str] | None:
    """The digests that the last installation wrote; None where there are none."""
    try:
        content = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _digests(folder: Path) -> dict[str, str]:
    """Every file of a skill with its digest."""
    found = {}
    for root, folders, names in os.walk(folder):
        skipped = _not_shipped(root, [*folders, *names])
        folders[:] = [name for name in folders if name not in skipped]
        for name in sorted(set(names) - skipped):
            path = Path(root, name)
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def _not_shipped(_: str, names: list[str]) -> set[str]:
    """What is no part of the skill: our own manifest, and what Python and desktops leave behind."""
    return {name for name in names if name in (MANIFEST, "__pycache__", ".DS_Store")}
