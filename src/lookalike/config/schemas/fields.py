"""What a schema is made of: a field with its sentence for `--help`, and the checks of its value."""

from __future__ import annotations

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import field, fields
from typing import Any, NamedTuple, TypeVar

from lookalike.errors import ConfigError

T = TypeVar("T")


#: OmegaConf's mark for a value that the user must give.
MISSING: Any = "???"
#: Values of a string setting that switch it on; the drop-in contract gives these three, in any case.
TRUE_WORDS = frozenset({"true", "1", "yes"})
FALSE_WORDS = frozenset({"false", "0", "no"})


def setting(default: T, help: str) -> T:
    """One schema field: its default and the sentence that `--help` prints for it."""
    return field(default=default, metadata={"help": help})


def same(schema: type, key: str, default: Any = None) -> Any:
    """A field as another schema has it: its default (unless one is given) and its sentence, written there only."""
    origin = next(f for f in fields(schema) if f.name == key)
    return field(default=origin.default if default is None else default, metadata=dict(origin.metadata))


class Setting(NamedTuple):
    """One row of a schema, as `--help` and the documentation show it."""

    key: str
    type: str
    default: object
    help: str


def settings_of(schema: type) -> list[Setting]:
    """The settings of a schema class, in order."""
    return [
        Setting(f.name, str(f.type), f.default, f.metadata["help"])
        for f in fields(schema)
        if f.default is not NO_DEFAULT
    ]


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not in a closed set."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not possible", hint=f"use one of: {', '.join(allowed)}")


def at_least(key: str, value: int, least: int) -> None:
    """Refuse a number below its least value."""
    if value < least:
        raise ConfigError(f"{key}={value} is not possible", hint=f"{key} must be at least {least}")
