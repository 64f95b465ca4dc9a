"""Values in Markdown: escaped, cut to a bearable length, and tables that are aligned in the source text too.

Paths, labels and warnings come from anywhere. None of them may end a table row, begin a heading or become HTML.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from rich.cells import cell_len

#: What stands for what was left out.
ELLIPSIS = "…"
#: What `pieces` reads: an escaped sign, a code span, or the marks of bold text.
_MARKED = re.compile(
    r"\\([\\`*\[\]<>|~&$_])|(?<!`)(?P<marks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=marks)(?!`)|\*\*", re.DOTALL
)
_SPECIAL = re.compile(r"([\\`*\[\]<>|~&$])|(?<![^\W_])(_)|(_)(?![^\W_])")


def shorten(text: str, most: int) -> str:
    """Cut a text in the middle: the beginning and the end of a path say more than what is between them."""
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}{ELLIPSIS}{text[head + 1 - most :]}"


def one_line(text: str) -> str:
    """Show line ends and other control characters as escapes, so that a value stays in its line."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def code(value: object, most: int, *, cell: bool = False) -> str:
    """A value as a code span, at most so many characters of it; in a cell of a table, a bar is escaped."""
    text = shorten(one_line(str(value)), most)
    if not text.strip():
        return "(empty)"
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    span = f"{marks}{pad}{text}{pad}{marks}"
    return span.replace("|", r"\|") if cell else span


def plain(value: object, most: int) -> str:
    """A value as plain text with Markdown's own signs escaped, at most so many characters of it, from its beginning."""
    text = " ".join(one_line(" ".join(str(value).split())).split())
    text = text if len(text) <= most else text[: most - 1].rstrip() + ELLIPSIS
    return _SPECIAL.sub(r"\\\g<0>", text)


def pieces(text: str) -> list[tuple[str, str]]:
    """Take a sentence of this module's Markdown apart, for a place that is no Markdown.

    Returns
    -------
    list of (kind, text)
        ``text``, ``bold`` or ``code``, and the text as it was before it was escaped.
    """
    found: list[tuple[str, str]] = []
    kind, last = "text", 0

    def add(sort: str, piece: str) -> None:
        if found and found[-1][0] == sort != "code":
            found[-1] = (sort, found[-1][1] + piece)
        elif piece:
            found.append((sort, piece))

    for match in _MARKED.finditer(text):
        add(kind, text[last : match.start()])
        last = match.end()
        if match["code"] is not None:
            span = match["code"]
            padded = span[0] == span[-1] == " " and span.strip(" ")
            add("code", span[1:-1] if padded else span)
        elif match[1] is not None:
            add(kind, match[1])
        else:
            kind = "bold" if kind == "text" else "text"
    add(kind, text[last:])
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    """A table whose columns are aligned in the source text.

    Parameters
    ----------
    header, rows:
        Cells, escaped already.
    align:
        A letter for each column: ``l`` left, ``r`` right.
    """
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(3, *(cell_len(row[column]) for row in cells)) for column in range(len(header))]
    rule = ["-" * (width - 1) + ":" if side == "r" else "-" * width for width, side in zip(widths, align, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = []
        for text, width, side in zip(row, widths, align, strict=True):
            blank = " " * (width - cell_len(text))
            padded.append(blank + text if side == "r" else text + blank)
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def command(words: Sequence[str], most: int | None = None) -> str:
    """A command line for the shell, on one line; where it is longer than so many characters, its beginning."""
    text = " ".join(_quoted(word) for word in words)
    return text if most is None or len(text) <= most else f"{text[: most - 1].rstrip()}{ELLIPSIS}"


def _quoted(word: str) -> str:
    """A word quoted for the shell; line ends and the like in Bash's `$'...'`, so that it stays in its line."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + one_line(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def fence(text: str, kind: str = "") -> str:
    """A block of code."""
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{marks}{kind}\n{text}\n{marks}"


def count(number: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: `1 image`, `3 images`."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share:.0%}" if not 0 < share < 0.01 else "under 1%"


def number(value: float | None) -> str:
    """A distance with four digits; a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"
