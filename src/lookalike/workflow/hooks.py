"""Hooks for coding agents (drop-in contract, section 5): one JSON object in, text out, never a failure.

An agent calls a hook after each of its tools. Three of the hooks are about a run whose report was written: by the agent
itself, or by `lookalike mine` in its shell. Hooks are quick: none of them loads pyarrow, numpy or torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.checks.artifacts import check_contract_files, contract_files
from lookalike.workflow.checks.finding import Finding, printable
from lookalike.workflow.checks.report import check_report, count_words, read_report
from lookalike.workflow.checks.summary import read_summary
from lookalike.workflow.failures import known_failures
from lookalike.workflow.packaging import package_run
from lookalike.workflow.shell import runs_mine

REPORT = "Mining_Report.md"
SWITCH = "MINING_HOOKS"
#: A larger input is not looked at: no shell output that a person could read is as long.
MOST_BYTES = 16 << 20
#: How `lookalike mine` begins the line that names its report.
_REPORT_LINE = "Report:"
#: How `lookalike check` names the run that it looked at, in its last line.
_CHECKED = re.compile(r"\d+ errors, \d+ warnings(?:, \d+ notes)? in (?P<folder>.+)$")
#: Letters of an output that are looked through for a run folder, from its end.
_TAIL = 20_000
#: Findings that are printed; the rest is counted.
_MOST_LINES = 20


@dataclass(frozen=True)
class Event:
    """What an agent says about the call of a tool.

    Attributes
    ----------
    name:
        The kind of event: ``PostToolUse`` unless the input says otherwise.
    command:
        The shell command; empty for other tools.
    stdout:
        What the command printed on its standard output.
    output:
        Everything that it printed, both streams and the error of a failed call.
    file:
        The file that was written; None for other tools.
    transcript:
        The session's transcript; None where the agent keeps none.
    """

    name: str
    command: str
    stdout: str
    output: str
    file: Path | None
    transcript: Path | None


def run_hook(name: str, content: bytes) -> str:
    """Run one hook and return what it has to say; empty where that is nothing.

    Parameters
    ----------
    name:
        One of `HOOKS`.
    content:
        What came on standard input. Whatever it is, nothing is raised for it.
    """
    if name not in HOOKS:
        return f"lookalike hook: there is no hook {name!r}; there are: {', '.join(HOOKS)}"
    if len(content) > MOST_BYTES:
        return f"lookalike hook {name}: the input is larger than {MOST_BYTES} bytes and was not looked at"
    event = read_event(content)
    if isinstance(event, str):
        return f"lookalike hook {name}: {event}"
    try:
        return "\n".join(HOOKS[name](event))
    except OSError as problem:  # a path that is too long, a folder that may not be looked into
        return printable(f"lookalike hook {name}: {problem}")


def is_switched_off() -> bool:
    """Whether the environment silences all hooks."""
    return os.environ.get(SWITCH, "").strip() == "0"


def event_name(content: bytes) -> str:
    """The kind of event, for an answer in JSON."""
    event = read_event(content) if len(content) <= MOST_BYTES else ""
    return "PostToolUse" if isinstance(event, str) else event.name


def read_event(content: bytes) -> Event | str:
    """Read the JSON object; a sentence where it is none."""
    if not content.strip():
        return "nothing came on standard input; it takes the JSON object of an agent's hook"
    try:
        given = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as problem:
        return f"the input is no JSON: {' '.join(str(problem).split())[:100]}"
    if not isinstance(given, dict):
        return "the input is no JSON object"
    tool, response = given.get("tool_input"), given.get("tool_response")
    tool = tool if isinstance(tool, dict) else {}
    streams = [response.get("stdout"), response.get("stderr")] if isinstance(response, dict) else [response]
    output = "\n".join(_text(one) for one in (*streams, given.get("error")) if one)
    file, transcript = _text(tool.get("file_path")), _text(given.get("transcript_path"))
    return Event(
        name=_text(given.get("hook_event_name")) or "PostToolUse",
        command=_text(tool.get("command")),
        stdout=_text(streams[0]),
        output=output,
        file=_path(file, _text(given.get("cwd"))),
        transcript=_path(transcript, ""),
    )


def _text(value: Any) -> str:
    """A string as it is; nothing for anything else."""
    return value if isinstance(value, str) else ""


def _path(text: str, start: str) -> Path | None:
    """A path, from where the agent stands; None for none, and for one that no system takes."""
    if not text or "\0" in text + start:
        return None
    try:
        os.fsencode(text + start)
        return Path(start) / Path(text).expanduser()
    except (ValueError, RuntimeError):  # letters that no file name can have, or no such user's home
        return None


def _output(event: Event) -> list[str]:
    """Say what known failures in a command's output mean."""
    found = known_failures(event.command, event.output)
    return [f"{failure.code}: {failure.meaning}. What to do: {failure.action}." for failure in found]


def _artifacts(event: Event) -> list[str]:
    """Look whether the files of the run stand beside a report that was written."""
    folder = _reported_run(event)
    if folder is None:
        return []
    found = list(check_contract_files(folder))
    return _told(found) or [f"{REPORT}: the {len(contract_files(folder))} files of the run are there"]


def _sections(event: Event) -> list[str]:
    """Look at the sections of a report that was written."""
    folder = _reported_run(event)
    if folder is None:
        return []
    text, found = read_report(folder.report)
    if text:
        summary, _ = read_summary(folder.summary)
        numbers = summary.numbers if summary else {}
        found += check_report(text, targets=numbers.get("targets"), mined=numbers.get("unique"))
    return _told(found) or [f"{REPORT}: all seven sections are there, {count_words(text)} words"]


def _package(event: Event) -> list[str]:
    """Package the run whose report was written."""
    folder = _reported_run(event)
    if folder is None:
        return []
    if folder.report.is_symlink():
        return [f"nothing was packaged: {folder.report} is a symbolic link"]
    if not folder.report.is_file():
        return [f"nothing was packaged: there is no {folder.report}"]
    lines = package_run(folder, event.transcript)
    return [printable(line) for line in lines]


def _reported_run(event: Event) -> RunFolder | None:
    """The run whose report was just written, by the agent or by `lookalike mine`; None for every other event."""
    if event.file is not None:
        return RunFolder(event.file.parent) if event.file.name == REPORT else None
    return _mined_run(event) if runs_mine(event.command) else None


def _mined_run(event: Event) -> RunFolder | None:
    """The run that `lookalike mine` made, by what it printed; None where it made none.

    Its last line is the folder. Where another command printed after it, the line that names its report is taken; where
    its output was kept from us (`run=$(lookalike mine ...)`), what a `lookalike check` of the same command line names.
    """
    lines = [line.strip() for line in event.stdout[-_TAIL:].split("\n") if line.strip()]
    named = [line.removeprefix(_REPORT_LINE).strip() for line in lines if line.startswith(_REPORT_LINE)]
    places = [_path(line, "") for line in lines[-1:]]
    places += [place.parent for place in (_path(line, "") for line in named[-1:]) if place is not None]
    places += [_path(found["folder"], "") for found in map(_CHECKED.match, lines[::-1]) if found]
    for place in places:
        if place is not None and place.is_absolute() and _is_run(RunFolder(place)):
            return RunFolder(place)
    return None


def _is_run(folder: RunFolder) -> bool:
    """Whether a folder holds a report or a record."""
    try:
        return folder.report.exists() or folder.record.exists()
    except OSError:  # a line that is longer than any path
        return False


def _told(findings: list[Finding]) -> list[str]:
    """Findings as lines, the first of them if there are many."""
    lines = [finding.lines() for finding in findings[:_MOST_LINES]]
    rest = len(findings) - len(lines)
    return [*lines, f"and {rest} more: lookalike check tells all"] if rest else lines


#: The hooks by name.
HOOKS: dict[str, Callable[[Event], list[str]]] = {
    "output": _output,
    "artifacts": _artifacts,
    "sections": _sections,
    "package": _package,
}
