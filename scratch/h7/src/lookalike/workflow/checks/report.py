"""`Mining_Report.md` against the drop-in contract, section 5. Pure text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lookalike.workflow.checks.finding import Finding, Rule, error, warning

LEAST_SECTION_WORDS = 30
LEAST_WORDS, MOST_WORDS = 600, 1200
NAME = "Mining_Report.md"
#: A report of 1200 words is far below this; what is longer is something else and is not read.
_MOST_BYTES = 4 << 20
_GROUPED = re.compile(r"\d{1,3}(?:[,.'\u00a0\u202f ]\d{3})+(?!\d)")


@dataclass(frozen=True)
class Section:
    """A section that the report must have.

    Attributes
    ----------
    title:
        After the ``##``.
    words:
        What must stand in it, in any case; of several with ``|`` between them, one.
    table:
        Whether it must hold a table.
    """

    title: str
    words: tuple[str, ...]
    table: bool = False


SECTIONS = (
    Section("Verdict", ("target", "mined", "encoder", "topn")),
    Section("Inputs", ("target_parquet", "source_pool", "rows", "label", "converted|conversion|csv"), table=True),
    Section("Encoder Consistency", ("model", "model_path")),
    Section("Mining Run", ("tmm|lookalike", "topn", "knn_metric", "filter_by_label", "no-op|no op|noop|no effect")),
    Section("Per-Label Breakdown", ("label", "target", "mined")),
    Section("Output Sanity", ("mined.parquet", "filepath", "disk|exist", "encod|utf-8")),
    Section("Recommended Actions", ("mined.parquet",)),
)
_HINT = "write the report again; `lookalike mine` writes one that passes"


def read_report(path: Path) -> tuple[str, list[Finding]]:
    """The text of a report, and what is wrong with the file itself; no text where it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        return "", [error(Rule.ARTIFACT, "is not a file", NAME)]
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as problem:
        return "", [error(Rule.ARTIFACT, f"cannot be read: {problem.strerror}", NAME)]
    if len(content) > _MOST_BYTES:
        return "", [error(Rule.REPORT_LENGTH, f"has more than {_MOST_BYTES} bytes: not read", NAME, _HINT)]
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as problem:
        text = content.decode("utf-8", "replace")
        return text, [error(Rule.ARTIFACT, f"is not UTF-8, first at byte {problem.start}", NAME, "store it as UTF-8")]


def check_report(text: str, *, targets: int | None = None, mined: int | None = None) -> Iterator[Finding]:
    """Look at the sections, their words and lengths, and at the verdict's numbers where they are known.

    Parameters
    ----------
    text:
        The report.
    targets, mined:
        The numbers that the verdict must have; None where they are not known.
    """
    found = split_sections(text)
    titles = [_key(title) for title, _ in found]
    known = {_key(section.title): section for section in SECTIONS}
    for key, section in known.items():
        if key not in titles:
            yield error(Rule.REPORT_SECTIONS, f"has no section '## {section.title}'", NAME, _HINT)
        elif titles.count(key) > 1:
            yield error(Rule.REPORT_SECTIONS, f"has the section '## {section.title}' more than once", NAME, _HINT)
    for title, _ in found:
        if _key(title) not in known:
            yield warning(Rule.REPORT_SECTIONS, f"has a section '## {title}' that readers do not expect", NAME, _HINT)
    for title, body in found:
        if _key(title) in known:
            yield from _check_section(known[_key(title)], body)
    total = count_words(text)
    if not LEAST_WORDS <= total <= MOST_WORDS:
        yield error(Rule.REPORT_LENGTH, f"has {total} words; it should have {LEAST_WORDS} to {MOST_WORDS}", NAME, _HINT)
    verdicts = [body for title, body in found if _key(title) == "verdict"]
    if verdicts:
        yield from _check_numbers(verdicts[0], targets, mined)


def linked_files(text: str) -> tuple[str, ...]:
    """Files that a report shows or links to by a relative path."""
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    return tuple(dict.fromkeys(link for link in links if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|[/#]", link)))


def split_sections(text: str) -> list[tuple[str, str]]:
    """Every ``##`` section as title and body; a ``##`` in a block of code is none."""
    sections: list[tuple[str, list[str]]] = []
    fence = ""
    for line in text.splitlines():
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1][:3]
        elif mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        heading = None if fence or mark else re.match(r" {0,3}##(?!#)\s*(.*?)\s*#*\s*$", line)
        if heading:
            sections.append((heading[1], []))
        elif sections:
            sections[-1][1].append(line)
    return [(title, "\n".join(lines)) for title, lines in sections]


def count_words(text: str) -> int:
    """Words between blanks that hold a letter or a digit: the bars and lines of a table are none."""
    return sum(1 for word in text.split() if any(map(str.isalnum, word)))


def _check_section(section: Section, body: str) -> Iterator[Finding]:
    """Length, words and table of one section."""
    where = f"{NAME}, '## {section.title}'"
    words = count_words(body)
    if words < LEAST_SECTION_WORDS:
        message = f"has {words} words, and at least {LEAST_SECTION_WORDS} are wanted"
        yield error(Rule.REPORT_LENGTH, message, where, _HINT)
    plain = _plain(body)
    missing = [word for word in section.words if not any(one in plain for one in word.split("|"))]
    if missing:
        shown = ", ".join(" or ".join(word.split("|")) for word in missing)
        yield error(Rule.REPORT_WORDS, f"does not say: {shown}", where, _HINT)
    if section.table and not re.search(r"^\s*\|?\s*:?-{3,}:?\s*\|", body, re.MULTILINE):
        yield error(Rule.REPORT_WORDS, "has no table", where, _HINT)
    if section.title == "Encoder Consistency" and not re.search(r"\bmatch:\s*yes\b", plain):
        said = re.search(r"\bmatch:\s*(.{1,60})", plain)
        message = f"says 'Match: {said[1].strip()}', not 'Match: yes'" if said else "does not say 'Match: yes'"
        hint = "embed both sides with the same model and model_path, then mine again"
        yield error(Rule.REPORT_MATCH, message, where, hint)


def _check_numbers(verdict: str, targets: int | None, mined: int | None) -> Iterator[Finding]:
    """The verdict's numbers; 0 and 1 may be written as words."""
    numbers = {int(number) for number in re.findall(r"\d{1,15}", verdict)}
    numbers |= {int(re.sub(r"\D", "", group)) for group in _GROUPED.findall(verdict)}
    for name, count in (("targets", targets), ("mined images", mined)):
        if count is not None and count > 1 and count not in numbers:
            message = f"does not have the number of {name}, {count}"
            yield error(Rule.REPORT_NUMBERS, message, f"{NAME}, '## Verdict'", "write the report again")


def _key(title: str) -> str:
    """A title without its number, emphasis and case."""
    return re.sub(r"^[\d.)\s]+", "", title.replace("*", "").replace("`", "")).strip().casefold()


def _plain(text: str) -> str:
    """Text without emphasis and code marks, in lower case, for looking up words."""
    return re.sub(r"[*`\\]", "", text).casefold()
