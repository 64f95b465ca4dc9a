"""Every error that lookalike raises on purpose.

A user's mistake ends in one of these; anything else that escapes is a bug in lookalike.

::

    LookalikeError
    ├── ConfigError             a setting is missing, unknown, of the wrong type or out of range
    │   └── MissingSetting      settings that the user must give were not given
    ├── TableError              an input or output table cannot be right
    │   └── VectorError         an embedding column holds something that is not a vector
    ├── EncoderError            a model cannot be loaded or is not what the user named
    │   └── EncoderMismatch     two tables were written by different encoders
    ├── SearchError             a search failed its own check
    ├── ImagesFailed            images could not be embedded and the run may not go on without them
    └── MissingDependency       an optional package is needed; names the extra that brings it
"""

from __future__ import annotations

from collections.abc import Sequence


class LookalikeError(Exception):
    """Base of every intended error: what happened, with which input, and what to do next.

    Parameters
    ----------
    what:
        One sentence that says what happened.
    where:
        The input that it happened with: a file, a column, a setting. Empty where `what` names it.
    hint:
        What the user can do next. Empty where nothing useful can be said.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        lines = [f"{where}: {what}" if where else what]
        if hint:
            lines.append(f"  What to do: {hint}")
        super().__init__("\n".join(lines))


class ConfigError(LookalikeError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class MissingSetting(ConfigError):  # noqa: N818 - reads as the fact that it states
    """Settings that the user must give were not given.

    Parameters
    ----------
    keys:
        Their names, in the order of the schema.
    what, hint:
        As of `LookalikeError`.
    """

    def __init__(self, keys: Sequence[str], what: str, *, hint: str = "") -> None:
        self.keys = tuple(keys)
        super().__init__(what, hint=hint)


class TableError(LookalikeError):
    """A table cannot be read, lacks a column, or cannot be written."""


class VectorError(TableError):
    """An embedding column holds nulls, ragged or empty vectors, or values that are not finite."""


class SearchError(LookalikeError):
    """The neighbours that were found are not those of brute force: a bug in lookalike or in a device."""


class EncoderError(LookalikeError):
    """A model cannot be loaded, or is not what the user said it is."""


class EncoderMismatch(EncoderError):  # noqa: N818 - reads as the fact that it states
    """Two embedding tables were written by different encoders, so their vectors cannot be compared."""


class ImagesFailed(LookalikeError):  # noqa: N818
    """Images could not be embedded, and the run may not go on without them."""


class MissingDependency(LookalikeError):  # noqa: N818
    """An optional package is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingDependency:
        """Name the package, what it is for, and the extra that installs it."""
        return cls(
            f"the package {package!r} is needed {purpose} and is not installed",
            hint=f"pip install 'lookalike[{extra}]'",
        )
