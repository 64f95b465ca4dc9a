"""The files of a run: there, whole, and as the run wrote them. Loads neither pyarrow nor numpy."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from lookalike.tables.run_folder import RunFolder, RunRecord, file_record
from lookalike.workflow.checks.finding import Finding, Rule, error, warning

#: How a file of a kind begins and ends; what does not is cut off, or something else.
_MARKS = {
    ".parquet": (b"PAR1", b"PAR1"),
    ".png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    ".html": (b"<", b"</html>"),
}
_TAIL = 64


def contract_files(folder: RunFolder) -> tuple[Path, ...]:
    """The files that every run has, whoever made it (drop-in contract, section 5)."""
    tables = (folder.targets, folder.pool, folder.mined)
    return (folder.embedding_spec, folder.mining_spec, *tables, folder.summary, folder.report)


def check_contract_files(folder: RunFolder) -> Iterator[Finding]:
    """Look for the files that stand beside a report: there, not empty, not cut off."""
    for path in contract_files(folder):
        yield from check_file(path, folder)


def check_own_files(folder: RunFolder, named: Iterable[str]) -> Iterator[Finding]:
    """Look for the files that a run of lookalike has: those of the contract, and the pictures.

    Parameters
    ----------
    folder:
        The run.
    named:
        Names of files that the report shows or links to, and of those in the record: which plots there was something
        to draw in, and how many pages the gallery has.
    """
    for path in (*contract_files(folder), folder.pairs, folder.log):
        yield from check_file(path, folder)
    pictures = {folder.path / name for name in named if _is_picture(name, folder)}
    # A picture is no part of the result, so a missing one is a warning.
    for path in (folder.gallery, *sorted(pictures - {folder.gallery})):
        for found in check_file(path, folder):
            yield warning(found.rule, found.message, found.where, _how_again(path, folder))


def _is_picture(name: str, folder: RunFolder) -> bool:
    """Whether the name of a file is that of a plot of this run, or of a page of its gallery."""
    path = PurePosixPath(name)
    page = path.suffix == folder.gallery.suffix and path.stem.startswith(folder.gallery.stem)
    return "\0" not in name and (path.parts[:-1] == (folder.plots.name,) or (page and len(path.parts) == 1))


def _how_again(path: Path, folder: RunFolder) -> str:
    """What makes a file again that is not as the run, or a later command, left it."""
    place = shlex.quote(str(folder.path))
    if path == folder.reviewed:
        return f"make it again: lookalike review {place} DECISIONS.CSV"
    if _is_picture(path.relative_to(folder.path).as_posix(), folder):
        again = "mine again with the same settings" if path.parent == folder.plots else f"lookalike gallery {place}"
        return f"make it again: {again}"
    return "if you changed it on purpose, keep the change in a file of another name; otherwise mine again"


def check_file(path: Path, folder: RunFolder) -> Iterator[Finding]:
    """One file: there, a file, not empty, and whole as far as its first and last bytes tell."""
    name = path.relative_to(folder.path).as_posix()
    try:
        state = path.stat()
    except OSError as problem:
        what = "is missing" if isinstance(problem, FileNotFoundError) else f"cannot be read: {problem.strerror}"
        yield error(Rule.ARTIFACT, what, name, _hint(path))
        return
    if not stat.S_ISREG(state.st_mode):
        yield error(Rule.ARTIFACT, "is not a file", name)
    elif not state.st_size and path != folder.log:  # a run that had nothing to say has an empty log
        yield error(Rule.ARTIFACT, "is empty", name, _hint(path))
    elif path.suffix in _MARKS and not _whole(path, state.st_size, *_MARKS[path.suffix]):
        yield error(Rule.ARTIFACT, f"is no whole {path.suffix[1:]} file", name, _hint(path))


def _whole(path: Path, size: int, first: bytes, last: bytes) -> bool:
    """Whether a file begins and ends as its kind does; unreadable is not whole."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(first))
            stream.seek(max(0, size - _TAIL))
            return head == first and stream.read(_TAIL).rstrip().endswith(last)
    except OSError:
        return False


def _hint(path: Path) -> str:
    """What brings a missing file back."""
    if path.name == "Mining_Report.md":
        return "the report is written last: the run did not end; go on with `lookalike mine --resume RUN`"
    return "copy the whole run folder, or run the mining again"


def check_digests(folder: RunFolder, record: RunRecord) -> Iterator[Finding]:
    """Compare the files with their sizes and digests in the record; those that are missing are told elsewhere."""
    for name, recorded in record.files.items():
        path = folder.path / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            yield error(Rule.RECORD, f"names a file outside the run folder: {name}", folder.record.name)
            continue
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue
            same = path.stat().st_size == recorded.bytes and file_record(path) == recorded
        except FileNotFoundError:
            if path == folder.reviewed:  # who takes a review back may remove it
                hint = _how_again(path, folder)
                yield warning(Rule.ARTIFACT, "is missing, and the record names it", name, hint)
            elif path not in (*contract_files(folder), folder.pairs) and not _is_picture(name, folder):
                yield error(Rule.ARTIFACT, "is missing, and the record names it", name, _hint(path))
            continue
        except OSError as problem:
            yield error(Rule.ARTIFACT, f"cannot be read: {problem.strerror}", name)
            continue
        if not same:
            message = "was changed after the run: its bytes are not those in run.json"
            yield error(Rule.CHANGED, message, name, _how_again(path, folder))


def check_package(folder: RunFolder) -> Iterator[Finding]:
    """The packaged configuration is that of the run, and the transcript is for its owner alone."""
    for spec in (folder.embedding_spec, folder.mining_spec):
        copy = folder.config / spec.name
        if not copy.is_file() or not spec.is_file():
            continue  # not packaged, or told by the files' own check
        if file_record(copy) != file_record(spec):
            name = f"{folder.config.name}/{spec.name}"
            yield warning(Rule.PACKAGE, f"is not the {spec.name} of the run", name, f"copy {spec.name} there again")
    if os.name != "nt" and folder.transcript.is_file() and folder.transcript.stat().st_mode & 0o077:
        message = "can be read by others, and a transcript can hold secrets"
        yield warning(Rule.PACKAGE, message, folder.transcript.name, f"chmod 600 {folder.transcript.name}")
