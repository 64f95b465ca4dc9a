"""The searches that a report recommends, done: the run's spec with the words of the command over it."""

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from lookalike import mine


def recommended(text):
    """The recommended searches of a report, as arguments of `mine`."""
    lines = re.findall(r"^ +(tmm nearest_neighbors .+)$", text, re.MULTILINE)
    return [settings_of(shlex.split(line)) for line in lines]


def settings_of(words):
    """Of one command: `tmm nearest_neighbors -e SPEC name=value ...`."""
    assert words[:3] == ["tmm", "nearest_neighbors", "-e"]
    spec = yaml.safe_load(Path(words[3]).read_text(encoding="utf-8"))
    given = dict(word.split("=", 1) for word in words[4:])
    return {**spec, **{key: yaml.safe_load(value) if value else "" for key, value in given.items()}}


def mined_by(settings):
    """The paths that a recommended search mines."""
    known = {key: value for key, value in settings.items() if value != "???"}
    return set(pq.read_table(mine(**known).path).column("filepath").to_pylist())
