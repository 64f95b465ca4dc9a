"""`embedding` and `tmm`: the drop-in commands, `<category> <action> -e spec.yaml key=value ...`."""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookalike.cli.status import run_with_status
from lookalike.config.schemas import (
    MISSING,
    ImageEmbeddingsConfig,
    NearestNeighborsConfig,
    TextEmbeddingsConfig,
    UniqueNeighborMatchingConfig,
    settings_of,
)
from lookalike.errors import ConfigError


@dataclass(frozen=True)
class Action:
    """One action of a category: its settings, and what it does with them."""

    schema: (
        type[ImageEmbeddingsConfig]
        | type[TextEmbeddingsConfig]
        | type[NearestNeighborsConfig]
        | type[UniqueNeighborMatchingConfig]
    )
    task: Callable[[Any], None]


def embedding() -> None:
    """Entry point of the command `embedding`."""
    run_with_status(lambda: _dispatch("embedding", sys.argv[1:]))


def tmm() -> None:
    """Entry point of the command `tmm`."""
    run_with_status(lambda: _dispatch("tmm", sys.argv[1:]))


def _image_embeddings(config: ImageEmbeddingsConfig) -> None:
    """Embed, and print what was written."""
    from lookalike.embedding.images import embed_images

    result = embed_images(**asdict(config))
    rate = result.images / result.seconds if result.seconds else 0.0
    print(f"Embeddings saved to: {result.path}")
    print(f"Rows: {result.rows}")
    print(f"Columns: {list(result.columns)}")
    print(
        f"Encoder: {result.identity.model.family} {config.model_path}, fingerprint {result.identity.fingerprint[:12]}"
    )
    print(f"Time: {result.seconds:.1f} s for {result.images} images, {rate:.1f} images/s, {result.limit}")
    print(f"From the cache: {result.cached} images")
    print(f"Reused: {result.reused} images")
    print(f"Images set aside: {len(result.quarantined)}")
    if result.quarantine_path:
        print(f"Quarantine table: {result.quarantine_path}")


def _text_embeddings(config: TextEmbeddingsConfig) -> None:
    """Embed texts, and print what was written."""
    from lookalike.embedding.texts import embed_texts

    result = embed_texts(**asdict(config))
    model = result.identity.model
    print(f"Embeddings saved to: {result.path}")
    print(f"Rows: {result.rows}")
    print(f"Columns: {list(result.columns)}")
    print(f"Encoder: {model.family} {config.model_path}, fingerprint {result.identity.fingerprint[:12]}")
    print(f"Time: {result.seconds:.1f} s for {result.rows} texts")


def _nearest_neighbors(config: NearestNeighborsConfig) -> None:
    """Mine, and print what was written."""
    from lookalike.workflow.mining import mine

    result = mine(**asdict(config))
    print(result.summary, end="")
    print(f"Mined table saved to: {result.path}")
    print(f"Rows: {result.counts.unique}")
    print("Columns: ['filepath']")
    print(f"Pair table: {result.pairs_path}")


def _unique_neighbor_matching(config: UniqueNeighborMatchingConfig) -> None:
    """Match, and print what was written."""
    from lookalike.workflow.unique import unique_neighbors

    result = unique_neighbors(**asdict(config))
    ours = result.summary["lookalike"]
    print(f"Mined table saved to: {result.path}")
    print(f"Rows: {result.retrieved}")
    print(f"Columns: {list(result.columns)}")
    print(f"Retrieved: {result.retrieved} of {config.desired_unique_count}, {result.summary['coverage_pct']:.2f} %")
    greedy = f"; greedy: {ours['greedy_total_distance']:.6g}" if config.assignment == "optimal" else ""
    print(f"Total distance: {ours['total_distance']:.6g}{greedy}")
    print(f"Targets served: {ours['targets_served']} of {result.summary['target_queries']}")
    print(f"Exact search: {result.certificate}")
    print(f"Pair table: {result.pairs_path}")
    print(f"Summary: {result.summary_path}")
    print(f"Files: {len(result.files)} in {config.output_dir}")


#: Every category with its actions.
ACTIONS = {
    "embedding": {
        "image_embeddings": Action(ImageEmbeddingsConfig, _image_embeddings),
        "text_embeddings": Action(TextEmbeddingsConfig, _text_embeddings),
    },
    "tmm": {
        "nearest_neighbors": Action(NearestNeighborsConfig, _nearest_neighbors),
        "unique_neighbor_matching": Action(UniqueNeighborMatchingConfig, _unique_neighbor_matching),
    },
}


def _dispatch(category: str, arguments: list[str]) -> None:
    """Find the action, parse its command line, compose its settings and run it."""
    actions = ACTIONS[category]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_category_help(category, actions))
        if not arguments:
            raise ConfigError("no action was given", where=category, hint=f"use one of: {', '.join(actions)}")
        return
    name, *rest = arguments
    if name == "--version":
        from lookalike import __version__

        print(f"{category} (lookalike) {__version__}")
        return
    if name not in actions:
        near = difflib.get_close_matches(name, actions, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"unknown action {name!r}", where=category, hint=f"{guess}This version has: {', '.join(actions)}"
        )
    action = actions[name]
    if "-h" in rest or "--help" in rest:
        print(action_help(category, name, action))
        return
    from lookalike.config.compose import run

    run(action.schema, _parse(category, name, rest), action.task)


def _parse(category: str, name: str, arguments: list[str]) -> Any:
    """Split a command line into the spec file, the overrides, and Hydra's own flags, in any order."""
    from lookalike.config.compose import CommandLine

    parser = argparse.ArgumentParser(prog=f"{category} {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("-e", "--experiment_spec_file", type=Path, default=None)
    known, words = parser.parse_known_args(arguments)
    overrides = tuple(word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~")))
    flags = tuple(word for word in words if word not in overrides)
    return CommandLine(known.experiment_spec_file, overrides, flags)


def _category_help(category: str, actions: dict[str, Action]) -> str:
    lines = [f"Usage: {category} ACTION -e SPEC.yaml [key=value ...]", "", "Actions:"]
    lines += [f"  {name:<20} {_first_line(action.schema)}" for name, action in actions.items()]
    lines += ["", f"`{category} ACTION --help` lists the settings of an action."]
    return "\n".join(lines)


def action_help(category: str, name: str, action: Action) -> str:
    """Every setting with its type, default and meaning, from the schema."""
    lines = [
        f"Usage: {category} {name} [-e SPEC.yaml] [key=value ...] [--cfg=job] [--info]",
        "",
        _first_line(action.schema),
        "",
        "Settings, in SPEC.yaml or as key=value (which wins over SPEC.yaml):",
    ]
    lines += setting_lines(action.schema)
    lines += [
        "",
        "Flags:",
        "  -e, --experiment_spec_file FILE   YAML file with settings",
        "  -c, --cfg job                     print the composed settings and stop",
        "  --info [all|config|...]           print what Hydra knows and stop",
        "",
        "The last line is `Execution status: PASS` (exit status 0) or `Execution status: FAIL` (exit status 1).",
    ]
    return "\n".join(lines)


def setting_lines(schema: type) -> list[str]:
    """Every setting of a schema with its type, default and meaning."""
    lines = []
    for setting in settings_of(schema):
        default = "required" if setting.default == MISSING else f"default {setting.default!r}"
        lines.append(f"  {setting.key} ({setting.type}, {default})")
        lines += textwrap.wrap(setting.help, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _first_line(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]
