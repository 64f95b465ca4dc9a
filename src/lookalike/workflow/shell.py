"""What a shell command line runs. Its words are read as a shell reads them: a command that is only named does not run.

Not a whole shell. Known are quotes, comments, redirections, here-documents, substitutions, words that stand before a
command (assignments, ``if``, ``timeout 60``, ``uv run``, ``docker run ... IMAGE``), ``python -m`` and ``sh -c``. Loads
nothing heavy.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath

#: Letters that are read of a command line, how deep in substitutions, and how far behind a wrapper.
_MOST, _DEEPEST, _FARTHEST = 100_000, 8, 64
_DOUBLE, _SINGLE, _ANSI = r'"(?:[^"\\]|\\.)*"', r"'[^']*'", r"\$'(?:[^'\\]|\\.)*'"
_WORD = rf"(?:{_ANSI}|{_DOUBLE}|{_SINGLE}|\\.|[^\s;&|()<>\"'`\\])+"
_TOKEN = re.compile(
    rf"(?P<comment>#[^\n]*)|(?P<redirect>(?:\d*|&)(?:<<<|>>|>\||<>|<|>)(?:&[\d-]+|[ \t]*(?:{_WORD})?))"
    rf"|(?P<word>{_WORD})|(?P<end>[;&|()`\n])",
    re.DOTALL,
)
_QUOTED = re.compile(rf"{_ANSI}|{_SINGLE}|\\.|(?P<double>{_DOUBLE})", re.DOTALL)
_HERE_DOCUMENT = re.compile(
    r"(?<!<)<<-?[ \t]*(['\"]?)([A-Za-z_]\w*)\1([^\n]*)\n.*?(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_PYTHON = re.compile(r"python[\d.]*$")
_NUMBER = re.compile(r"[\d.]+[smhd]?$")

#: The programs, and what their first argument can be: behind a wrapper nothing else tells a program from an argument.
_OURS = {
    "lookalike": re.compile(
        "(?:mine|gallery|review|view|atlas|check|export|import|encoders|tune|calibrate|history|cache|skill|demo|doctor|"
        "hook|why)$"
    ),
    "embedding": re.compile("(?:image|text)_embeddings$"),
    "tmm": re.compile("(?:nearest|unique)_neighbor"),
}
_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh"})
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "fi", "done", "time"})
#: Programs that run the command after their options; those that do so after the word `run`; those that do so after
#: `run` or `exec` and the name of an image.
_WRAPPERS = frozenset({
    "env", "nohup", "nice", "ionice", "timeout", "stdbuf", "sudo", "doas", "exec", "command", "setsid", "eval", "xargs",
    "srun", "taskset", "numactl", "uvx",
})  # fmt: skip
_RUNNERS = frozenset({"uv", "pipx", "poetry", "pdm", "hatch", "rye", "pixi", "conda", "mamba", "micromamba"})
_CONTAINERS = frozenset({"docker", "podman", "nerdctl", "apptainer", "singularity"})
#: Programs that show or keep text and run nothing: what they print was printed by somebody else.
_READERS = frozenset({
    "cat", "tac", "nl", "head", "tail", "less", "more", "grep", "egrep", "fgrep", "rg", "ag", "sed", "awk", "gawk",
    "echo", "printf", "ls", "find", "wc", "sort", "uniq", "cut", "tr", "diff", "git", "gh", "jq", "stat", "file", "cd",
    "pushd", "popd", "pwd", "true", "false", "test", "[", "[[", "for", "export", "set", "sleep", "date",
})  # fmt: skip


def calls(text: str) -> list[tuple[str, ...]]:
    """The calls of `lookalike`, `embedding` and `tmm` in a command line: the program's plain name and its arguments."""
    found = (_call(words) for words in _commands(text[:_MOST]))
    return [call for call in found if call]


def runs_mine(text: str) -> bool:
    """Whether a command line runs `lookalike mine`."""
    return any(call[:2] == ("lookalike", "mine") for call in calls(text))


def only_reads(text: str) -> bool:
    """Whether every command of a line only shows what is there already, as `cat` and `grep` do."""
    plain = map(_without_prefix, _commands(text[:_MOST]))
    names = [_name(words[0]) for words in plain if words]
    return bool(names) and all(name in _READERS for name in names)


def _commands(text: str, depth: int = 0) -> Iterator[list[str]]:
    """Every simple command as its words without quotes, those in substitutions and in `sh -c` too."""
    if depth > _DEEPEST:
        return
    inner: list[str] = []
    words: list[str] = []
    for token in _TOKEN.finditer(_HERE_DOCUMENT.sub(r"\3\n", text.replace("\\\n", " "))):
        if token["word"] is not None:
            words.append(_unquoted(token["word"]))
            inner += _substitutions(token["word"])
        elif token["end"] is not None and words:
            yield words
            inner += _scripts(words)
            words = []
    if words:
        yield words
        inner += _scripts(words)
    for part in inner:
        yield from _commands(part, depth + 1)


def _unquoted(word: str) -> str:
    """A word as the command gets it."""
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word


def _substitutions(word: str) -> Iterator[str]:
    """Command lines within the double quotes of a word; outside of quotes they are tokens of their own."""
    for quoted in _QUOTED.finditer(word):
        text = (quoted["double"] or "")[1:-1]
        for start in re.finditer(r"(?<!\\)\$\(", text):
            yield _to_closing(text[start.end() :])
        yield from re.findall(r"(?<!\\)`([^`]*)`", text)


def _to_closing(text: str) -> str:
    """The text up to the bracket that closes it, or all of it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return text[:place]
    return text


def _scripts(words: list[str]) -> Iterator[str]:
    """What `sh -c SCRIPT` runs, also behind a wrapper."""
    place = next((place for place in _starts(_without_prefix(words)) if _name(place[0]) in _SHELLS), [])
    for number, option in enumerate(place[1:-1], 1):
        if re.fullmatch(r"-[a-z]*c", option):
            yield place[number + 1]
            return
        if not option.startswith(("-", "+")):
            return


def _call(words: list[str]) -> tuple[str, ...] | None:
    """A simple command as a call of ours; None for others."""
    starts = list(_starts(_without_prefix(words)))
    first = _plain_call(starts[0]) if starts else None
    later = (call for call in map(_plain_call, starts[1:]) if call and _OURS[call[0]].match(call[1]))
    return first or next(later, None)


def _plain_call(words: list[str]) -> tuple[str, ...] | None:
    """A call by name or path, or as `python -m lookalike`."""
    name = _name(words[0])
    if name in _OURS and len(words) > 1:
        return (name, *words[1:])
    if _PYTHON.match(name) and "-m" in words:
        place = words.index("-m")
        options = all(word.startswith("-") or before in ("-X", "-W") for before, word in pairwise(words[:place]))
        if options and words[place + 1 : place + 2] == ["lookalike"] and len(words) > place + 2:
            return ("lookalike", *words[place + 2 :])
    return None


def _without_prefix(words: list[str]) -> list[str]:
    """A command without the assignments and the words of the shell's grammar before it."""
    place = 0
    while place < len(words) and (words[place] in _KEYWORDS or _ASSIGNMENT.match(words[place])):
        place += 1
    return words[place:]


def _starts(words: list[str]) -> Iterator[list[str]]:
    """Where a command may begin: at its first word, and behind a wrapper at every word that can be its command.

    That is told by what stands between: options and their values, assignments, numbers; for a container also an image.
    """
    if not words:
        return
    yield words
    name = _name(words[0])
    container = name in _CONTAINERS and ("run" in words or "exec" in words)
    if not (container or name in _WRAPPERS or (name in _RUNNERS and "run" in words)):
        return
    for place in range(1, min(len(words), _FARTHEST)):
        yield words[place:]
        word = words[place]
        passing = word in ("run", "exec", "tool") or word.startswith("-") or words[place - 1].startswith("-")
        passing = passing or _name(word) in _WRAPPERS or bool(_ASSIGNMENT.match(word) or _NUMBER.match(word))
        if _name(word) in _READERS or not (passing or container):
            return


def _name(word: str) -> str:
    """The name of a program without its folder and the ending that it has on Windows."""
    return PurePosixPath(word.replace("\\", "/")).name.removesuffix(".exe")
