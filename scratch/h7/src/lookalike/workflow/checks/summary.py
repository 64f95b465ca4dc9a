"""`mining_summary.txt`, read without the code that wrote it: both layouts that are in use (contract, section 3)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lookalike.workflow.checks.finding import Finding, Rule, error

NAME = "mining_summary.txt"
_NUMBERS = {
    "targets": "Target queries",
    "topn": "Similar items per query",
    "pairs": "Total pairs",
    "candidates": "Total candidates",
    "duplicates": "Duplicates removed",
    "unique": "Unique items saved",
}
#: The older release has no line of its own for pairs.
_OPTIONAL = frozenset({"pairs"})
_STEP = re.compile(r"^\s*After (.+?) filtering: kept (\d+)/(\d+) pairs, dropped (\d+)", re.MULTILINE)
_OLD_STEP = re.compile(r"^\s*Label filtering: kept (\d+)/(\d+) pairs, dropped (\d+)", re.MULTILINE)
#: The cosine floor acts on mined images, after duplicates.
_FLOOR = re.compile(r"^\s*After (similarity) filtering: kept (\d+)/(\d+) items, dropped (\d+)", re.MULTILINE)
_LABELS = "label mismatch"
#: How the numbers of further rules begin.
DROPPED_BY = "dropped by "
#: Letters that are read: warnings can make a summary long, but not longer than this.
_MOST = 1 << 20


@dataclass(frozen=True)
class Step:
    """One filter: how many pairs it got, kept and dropped."""

    name: str
    kept: int
    given: int
    dropped: int


@dataclass(frozen=True)
class Summary:
    """The numbers of a summary by the names of `MiningCounts`, its filters in order, and the cosine floor."""

    numbers: dict[str, int]
    steps: tuple[Step, ...]
    floor: Step | None = None

    def counts(self) -> dict[str, int | None]:
        """The numbers as `run.json` has them; None for a filter that did not run."""
        dropped = {step.name: step.dropped for step in self.steps}
        filters = {"label_mismatches": dropped.get(_LABELS), "over_distance": dropped.get("distance")}
        floor = {"under_similarity": self.floor.dropped if self.floor else None}
        further = {dropped_by(name): number for name, number in dropped.items() if name not in (_LABELS, "distance")}
        return {**self.numbers, **filters, **floor, **further}


def dropped_by(rule: str) -> str:
    """The name of the number of pairs that a further rule dropped."""
    return DROPPED_BY + rule


def read_summary(path: Path) -> tuple[Summary | None, list[Finding]]:
    """Read a summary; None, with a finding, where it lacks a number."""
    if not path.is_file():
        return None, []  # the files' own check tells it
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MOST)
    except OSError as problem:
        return None, [error(Rule.SUMMARY, f"cannot be read: {problem.strerror}", NAME)]
    numbers = {}
    for key, words in _NUMBERS.items():
        found = re.search(rf"^\s*{words}: (\d+)\s*$", text, re.MULTILINE)
        if found:
            numbers[key] = int(found[1])
    missing = [words for key, words in _NUMBERS.items() if key not in numbers and key not in _OPTIONAL]
    if missing:
        hint = "mine again; readers look for these lines"
        return None, [error(Rule.SUMMARY, f"has no number for: {', '.join(missing)}", NAME, hint)]
    steps = [Step(name, *map(int, rest)) for name, *rest in _STEP.findall(text)]
    old = [Step(_LABELS, *map(int, found)) for found in _OLD_STEP.findall(text)]
    findings = []
    labels = [step for step in steps if step.name == _LABELS]
    if old and labels and old != labels:
        findings.append(error(Rule.SUMMARY, "its two lines on the label filter do not agree", NAME, "mine again"))
    floors = [Step(name, *map(int, rest)) for name, *rest in _FLOOR.findall(text)]
    return Summary(numbers, tuple(steps if labels else [*old, *steps]), floors[0] if floors else None), findings


def check_sums(summary: Summary) -> Iterator[Finding]:
    """What one filter leaves is what the next one gets, and duplicates are the rest."""
    numbers = summary.numbers
    left = numbers.get("pairs", summary.steps[0].given if summary.steps else numbers["candidates"])
    for step in summary.steps:
        if step.given != left or step.kept + step.dropped != step.given:
            message = f"{left} pairs came to {step.name}: kept {step.kept}/{step.given}, dropped {step.dropped}"
            yield error(Rule.SUMMARY, f"its numbers do not add up: {message}", NAME, "mine again")
        left = step.kept
    if left != numbers["candidates"]:
        message = f"its numbers do not add up: {left} pairs are left, and it has {numbers['candidates']} candidates"
        yield error(Rule.SUMMARY, message, NAME, "mine again")
    left = numbers["candidates"] - numbers["duplicates"]
    if summary.floor is not None and summary.floor.given == left:
        left -= summary.floor.dropped
    if left != numbers["unique"]:
        message = "its numbers do not add up: candidates less duplicates are not the unique items"
        yield error(Rule.SUMMARY, message, NAME, "mine again")
