"""From a YAML file and `key=value` overrides to one checked configuration, through Hydra.

The order of precedence is schema default < YAML (`-e`) < override. Hydra does the composing and owns its
stock flags (`--cfg`, `--info`, ...); this module prepares what Hydra gets, so that

* a key that the schema does not have is refused with the nearest one that it has,
* a string value may hold spaces, quotes, commas and `=`, as paths do,
* nothing is written to the working directory (Hydra's `outputs/` folder and log file are off).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from hydra import main as hydra_main
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lookalike.config.schemas import (
    ImageEmbeddingsConfig,
    NearestNeighborsConfig,
    RunConfig,
    TextEmbeddingsConfig,
    UniqueNeighborMatchingConfig,
)
from lookalike.errors import ConfigError, MissingSetting

Schema = (
    ImageEmbeddingsConfig | TextEmbeddingsConfig | NearestNeighborsConfig | UniqueNeighborMatchingConfig | RunConfig
)

#: Hydra's own logging and folders are switched off: the commands log and write by themselves.
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.run.dir=.")


@dataclass(frozen=True)
class CommandLine:
    """What one drop-in command was given.

    Attributes
    ----------
    spec:
        The YAML file after `-e`, or None.
    overrides:
        `key=value` words, in order.
    flags:
        Everything else: Hydra's stock flags with their values.
    """

    spec: Path | None
    overrides: tuple[str, ...]
    flags: tuple[str, ...]


def run(schema: type[Schema], line: CommandLine, task: Callable[[Any], None]) -> None:
    """Compose the configuration and call `task` with it, or do what a Hydra flag asks for instead.

    Parameters
    ----------
    schema:
        The dataclass that defines the command's settings.
    line:
        The parsed command line.
    task:
        Called with an instance of `schema`. Not called with `--cfg`, `--info` and the like.

    Raises
    ------
    ConfigError
        When a setting is unknown, missing, or of the wrong type; when the YAML file cannot be read.
    """
    base = OmegaConf.structured(schema)
    if line.spec is not None:
        base = _merge_spec(base, line.spec, schema)
    # Hydra reads `node.x` values from its ConfigStore: defaults and YAML go in as one typed node.
    ConfigStore.instance().store(schema.__name__, base)
    _refuse_multirun(line)
    overrides = [_literal(word, schema) for word in line.overrides]

    failures: list[BaseException] = []

    def composed(config: DictConfig) -> None:
        # Hydra prints a line of its own about every exception that passes through it.
        try:
            task(_instance(config))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    # Flags come last: a bare `--info` would take the word after it for its value.
    with _hydra_process([Path(sys.argv[0]).name, *_QUIET, *overrides, *line.flags]):
        try:
            hydra_main(version_base="1.3", config_path=None, config_name=schema.__name__)(composed)()
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_reason(error), hint="see --help for the keys, their types and defaults") from error
    if failures:
        raise failures[0]


def spec_text(settings: Schema, head: Sequence[str] = ()) -> str:
    """Settings as the YAML of a spec file, which composes to the same values again.

    What OmegaConf would take for an interpolation in a path is only text here. `head` are comments above.
    """
    values = {
        key: re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + "\\${", value) if isinstance(value, str) else value
        for key, value in asdict(settings).items()
    }
    comment = "".join(f"# {' '.join(line.splitlines())}\n" for line in head)  # a path may hold a line break
    return comment + OmegaConf.to_yaml(OmegaConf.create(values))


def read_spec(schema: type[Schema], spec: Path) -> Any:
    """The settings of a spec file as an instance of `schema`.

    Raises
    ------
    ConfigError
        When it cannot be read, or a key is unknown, missing or of the wrong type.
    """
    return _instance(_merge_spec(OmegaConf.structured(schema), spec, schema))


def _refuse_multirun(line: CommandLine) -> None:
    """Refuse Hydra's sweeps: a value with commas is a path here, and the jobs would write over each other's output.

    Hydra takes the flag by any beginning that no other flag has, and as an override, too.
    """
    flags = [flag for flag in line.flags if flag == "-m" or (len(flag) > 3 and "--multirun".startswith(flag))]
    words = [word for word in line.overrides if word.lstrip("+").startswith("hydra.mode=")]
    if flags or words:
        raise ConfigError(
            "runs with several values at a time (Hydra's multirun) are not possible",
            where=(flags + words)[0],
            hint="call the command once for each value, with an output_parquet of its own",
        )


def _merge_spec(base: DictConfig, spec: Path, schema: type[Schema]) -> DictConfig:
    """Lay the YAML file's values over the schema's defaults."""
    if not spec.is_file():
        raise ConfigError("the experiment spec file does not exist", where=str(spec), hint="check the path after -e")
    try:
        values = OmegaConf.load(spec)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"not readable as YAML: {error}", where=str(spec)) from error
    if not isinstance(values, DictConfig):
        raise ConfigError("must hold `key: value` lines at its top level", where=str(spec))
    for key in values:
        _known(str(key), schema, where=str(spec))
    try:
        merged = OmegaConf.merge(base, values)
    except OmegaConfBaseException as error:
        raise ConfigError(_reason(error), where=f"{spec}, key {error.full_key!r}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _literal(word: str, schema: type[Schema]) -> str:
    """Check the key of an override and, for a string setting, take its value as it stands.

    Hydra's grammar gives meaning to commas, brackets and `=` inside a value; in a path they are only
    characters. A value that the user quoted keeps Hydra's own reading.
    """
    name, has_value, value = word.partition("=")
    key = name.lstrip("+~").split("@")[0]
    if key.startswith(("hydra.", "hydra/")):
        return word
    _known(key, schema, where=f"override {word!r}")
    string_keys = {f.name for f in fields(schema) if f.type in ("str", "str | None")}
    quoted = re.fullmatch(r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*\"""", value)
    if not has_value or key not in string_keys or quoted or value == "null":
        return word
    # Inside Hydra's quotes only `\"` is special, with the backslashes before it (or before the closing quote).
    escaped = re.sub(r'(\\*)"', lambda found: found.group(1) * 2 + '\\"', value)
    escaped = re.sub(r"(\\+)$", lambda found: found.group(1) * 2, escaped)
    return f'{name}="{escaped}"'


@contextlib.contextmanager
def _hydra_process(argv: list[str]) -> Iterator[None]:
    """Give Hydra the command line that it reads from the process, and take it back afterwards.

    HYDRA_FULL_ERROR makes Hydra raise instead of printing a traceback and leaving the process.
    """
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _known(key: str, schema: type[Schema], *, where: str) -> None:
    """Refuse a key that the schema does not have, naming the nearest one that it has."""
    names = [f.name for f in fields(schema)]
    if key in names:
        return
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"unknown key {key!r}", where=where, hint=f"{guess}Known keys: {', '.join(names)}")


def _instance(config: DictConfig) -> Any:
    """The composed configuration as an instance of its schema class, nothing missing."""
    missing = [str(key) for key in config if OmegaConf.is_missing(config, key)]
    for key in map(str, config):
        try:
            config[key]
        except MissingMandatoryValue as error:
            raise MissingSetting(
                missing,
                f"MissingMandatoryValue: {_reason(error)}",
                hint=f"give it on the command line, {key}=VALUE, or in the YAML file after -e",
            ) from error
        except OmegaConfBaseException as error:
            raise ConfigError(_reason(error), where=key, hint="check the ${...} in its value") from error
    return OmegaConf.to_object(config)


def _reason(error: BaseException) -> str:
    """The first line of each message in a chain of Hydra and OmegaConf errors: no traceback, no repeats."""
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None:
        text = str(link).strip().splitlines()
        if text and text[0] not in lines:
            lines.append(text[0])
        link = link.__cause__
    return ": ".join(lines)
