"""The two spec files: readable, known to the commands, and those of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lookalike.config.schemas import MISSING, ImageEmbeddingsConfig, NearestNeighborsConfig, settings_of
from lookalike.tables.run_folder import RunFolder, RunRecord
from lookalike.workflow.checks.finding import Finding, Rule, error, some

#: Paths are not compared: the folder may have been moved, and the record keeps what the user typed. Nor is the device:
#: a run has one for embedding and one for the search, and no result depends on it.
_PATHS = frozenset({"input_parquet", "output_parquet", "source_parquet", "target_parquet", "device"})


def check_specs(folder: RunFolder, record: RunRecord | None) -> Iterator[Finding]:
    """Look at both specs; those that are missing are told elsewhere."""
    recorded = dict(record.settings) if record else {}
    if "metric" in recorded:
        recorded.setdefault("knn_metric", recorded["metric"])
    encoder = {"model": record.model, "model_path": record.model_path} if record and record.model else {}
    for path, schema, values in (
        (folder.embedding_spec, ImageEmbeddingsConfig, encoder),
        (folder.mining_spec, NearestNeighborsConfig, recorded),
    ):
        if path.is_file():
            yield from _check_spec(path, schema, values)


def _check_spec(path: Path, schema: type, recorded: dict[str, Any]) -> Iterator[Finding]:
    """One spec against its schema and the record."""
    command = "embedding image_embeddings" if schema is ImageEmbeddingsConfig else "tmm nearest_neighbors"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as problem:
        message = f"cannot be read as YAML: {' '.join(str(problem).split())[:200]}"
        yield error(Rule.SPEC, message, path.name, f"`{command}` needs a readable spec")
        return
    if not isinstance(content, dict):
        yield error(Rule.SPEC, "holds no settings", path.name, "it should have lines such as `topn: 5`")
        return
    defaults = {setting.key: setting.default for setting in settings_of(schema)}
    unknown = [str(key) for key in content if key not in defaults]
    if unknown:
        message = f"has settings that `{command}` does not know: {some(unknown)}"
        yield error(Rule.SPEC, message, path.name, f"`{command} --help` lists the settings")
    for key, value in recorded.items():
        if key not in defaults or key in _PATHS:
            continue
        given = content.get(key, defaults[key])
        if given != MISSING and not _same(given, value):
            message = f"has {key}={given}, and the run had {key}={value}"
            yield error(Rule.SPEC, message, path.name, "the spec would not reproduce the run; take the run's value")


def _same(one: object, two: object) -> bool:
    """Whether two values of a setting mean the same: ``true`` and ``True``, ``0.3`` and ``0.30``."""
    left, right = (str(value).strip().lower() for value in (one, two))
    try:
        return left == right or float(left) == float(right)
    except ValueError:
        return False
