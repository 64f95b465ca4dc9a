"""A finding: one thing in a run folder that is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    #: The run cannot be trusted, or a reader of its files will fail.
    ERROR = "error"
    #: A person should look at it; the result may still be right.
    WARNING = "warning"


class Rule(StrEnum):
    """What was checked. The words are part of the interface: scripts and agents read them."""

    UNFINISHED = "unfinished"
    MADE_ELSEWHERE = "made-elsewhere"
    RECORD = "record"
    ARTIFACT = "artifact"
    CHANGED = "changed"
    TABLE = "table"
    VECTORS = "vectors"
    ENCODER = "encoder"
    MINED = "mined"
    OUTCOME = "outcome"
    BOUNDS = "bounds"
    ORDER = "order"
    SUMMARY = "summary"
    COUNTS = "counts"
    SPEC = "spec"
    REPORT_SECTIONS = "report-sections"
    REPORT_WORDS = "report-words"
    REPORT_LENGTH = "report-length"
    REPORT_MATCH = "report-match"
    REPORT_NUMBERS = "report-numbers"
    PATH_MISSING = "path-missing"
    PATH_ENCODING = "path-encoding"
    PACKAGE = "package"


#: What each rule looks for, for the documentation.
MEANINGS = {
    Rule.UNFINISHED: "the run ended: it has a record or a report, and no state of work is left",
    Rule.MADE_ELSEWHERE: "no record and no pair table: another workflow made the run, and less can be checked",
    Rule.RECORD: "`run.json` is there, can be read, and agrees with the tables",
    Rule.ARTIFACT: "every file that the run should have is there, neither empty nor cut off; plots as the report shows",
    Rule.CHANGED: "the files still have the bytes that the run wrote",
    Rule.TABLE: "every table can be read and has the columns and types that its readers expect",
    Rule.VECTORS: "the first vectors of both embedding tables have one length and no nulls, NaN or infinities",
    Rule.ENCODER: "one encoder wrote both embedding tables, and it is the one in the record",
    Rule.MINED: "the mined table is what the pair table says was kept, in that order, each path once",
    Rule.OUTCOME: "every pair has an outcome that is known, and no kept pair is beyond the threshold",
    Rule.BOUNDS: "every pair's rows are in both tables, and hold the paths that the pair names",
    Rule.ORDER: "ranks begin at 1 and are not repeated, and distances do not fall with the rank",
    Rule.SUMMARY: "`mining_summary.txt` can be read, and its numbers add up",
    Rule.COUNTS: "the summary, the record and the tables have the same numbers",
    Rule.SPEC: "both spec files can be read, hold settings that the commands know, and agree with the record",
    Rule.REPORT_SECTIONS: "the report has its seven `##` sections, each once, and no other",
    Rule.REPORT_WORDS: "each section has the words that readers look for",
    Rule.REPORT_LENGTH: "each section has at least 30 words, the report 600 to 1200",
    Rule.REPORT_MATCH: "the report says `Match: yes`",
    Rule.REPORT_NUMBERS: "the verdict has the numbers of the summary",
    Rule.PATH_MISSING: "the first paths of the mined and the target table are files on this machine",
    Rule.PATH_ENCODING: "paths are valid UTF-8 and not percent-encoded",
    Rule.PACKAGE: "the packaged configuration is that of the run, and only you can read the transcript",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    severity:
        Error or warning.
    rule:
        Which check found it.
    message:
        What is wrong, in one sentence.
    where:
        The file, and the place in it.
    hint:
        What to do next. Empty where nothing useful can be said.
    """

    severity: Severity
    rule: Rule
    message: str
    where: str
    hint: str = ""

    def lines(self) -> str:
        """The finding as text for people; what would change a terminal is escaped."""
        text = f"{self.severity:<7}  {self.rule:<15}  {printable(self.where)}: {printable(self.message)}"
        return f"{text}\n{' ' * 26}What to do: {printable(self.hint)}" if self.hint else text


def error(rule: Rule, message: str, where: str, hint: str = "") -> Finding:
    """A finding that makes the run untrustworthy."""
    return Finding(Severity.ERROR, rule, message, where, hint)


def warning(rule: Rule, message: str, where: str, hint: str = "") -> Finding:
    """A finding that a person should look at."""
    return Finding(Severity.WARNING, rule, message, where, hint)


def printable(text: str) -> str:
    """The text with everything but letters, signs and spaces escaped: a path may hold line ends and colour codes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def some(items: list[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
