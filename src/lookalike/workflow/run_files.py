"""What a run writes beside its tables: the two spec files that reproduce it, and its record."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lookalike.config.compose import Schema, spec_text
from lookalike.config.schemas import MISSING, ImageEmbeddingsConfig, NearestNeighborsConfig, RunConfig
from lookalike.embedding.images import EmbeddingResult
from lookalike.encoders.identity import EncoderIdentity
from lookalike.selection.result import ScoredSelection
from lookalike.tables.atomic import atomic_path
from lookalike.tables.run_folder import FileRecord, InputRecord, RunFolder, RunRecord, file_record
from lookalike.workflow.mining import MiningResult
from lookalike.workflow.run_inputs import Side

_PACKAGES = ("torch", "torchvision", "transformers", "timm", "openvino", "pyarrow", "numpy", "pillow")


def table_of(name: str, folder: RunFolder) -> Path:
    """The embedding table of a side, by its name."""
    return {"targets": folder.targets, "pool": folder.pool, "avoid": folder.avoid}[name]


def input_of(side: Side, folder: RunFolder) -> str:
    """What the embedding step of a side reads: the user's parquet, or the table that was made of anything else."""
    if side.converted:
        return str(folder.path / f"{side.name}.parquet")
    return side.path if "://" in side.path else str(Path(side.path).absolute())


def mining_settings(folder: RunFolder, config: RunConfig) -> NearestNeighborsConfig:
    """The settings of the mining step, on the folder's own tables."""
    settings = config.mining(*map(str, (folder.pool, folder.targets, folder.mined)))
    avoid = str(folder.avoid) if config.avoid else ""
    excluded = str(folder.excluded) if folder.excluded.exists() else None
    return replace(settings, avoid_parquet=avoid, exclude_path=excluded)


def write_specs(folder: RunFolder, config: RunConfig, targets: Side, pool: Side, cwd: str) -> None:
    """Write `embedding_spec.yaml` and `mining_spec.yaml`."""
    where = f"Relative paths of images start in {cwd}"
    mining = mining_settings(folder, config)
    _write(folder.mining_spec, mining, ["The mining step of this run: tmm nearest_neighbors -e mining_spec.yaml"])
    # The file can name one side only: the pool, where it was embedded; how to get the other one stands above it.
    sides = [side for side in (pool, targets) if not side.is_ready] or [pool, targets]
    words = [["embedding", "image_embeddings", "-e", str(folder.embedding_spec)] for _ in sides]
    for line, side in zip(words[1:], sides[1:], strict=True):
        line += [f"input_parquet={input_of(side, folder)}", f"output_parquet={table_of(side.name, folder)}"]
    head = [
        "The embedding step of this run",
        *(f"{side.name}: {shlex.join(line)}" for side, line in zip(sides, words, strict=True)),
        where,
    ]
    spec = config.embedding(input_of(sides[0], folder), str(table_of(sides[0].name, folder)))
    if targets.is_ready and pool.is_ready:
        head[0] = "Both sides came with their vectors, so this run embedded nothing; this would embed them again"
        spec = _as_identified(spec, pool.identity or targets.identity)
    _write(folder.embedding_spec, spec, head)


def _as_identified(spec: ImageEmbeddingsConfig, identity: EncoderIdentity | None) -> ImageEmbeddingsConfig:
    """The settings of the encoder that wrote a ready table, as far as the table says."""
    if identity is None:
        return ImageEmbeddingsConfig(spec.input_parquet, spec.output_parquet, MISSING, MISSING)
    return ImageEmbeddingsConfig(
        spec.input_parquet, spec.output_parquet, identity.model.family, identity.origin.model_path,
        precision=identity.numerics.precision,
    )  # fmt: skip


def _write(path: Path, spec: Schema, head: Sequence[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(spec_text(spec, head), encoding="utf-8")


def embedded_record(side: Side, result: EmbeddingResult) -> InputRecord:
    """The record of a side that was embedded."""
    quarantined: dict[str, int] = {}
    for image in result.quarantined:
        quarantined[str(image.reason)] = quarantined.get(str(image.reason), 0) + 1
    return InputRecord(
        side.path, side.kind, side.rows, side.has_label, side.converted, result.rows, quarantined,
        result.cached, result.reused, result.seconds, side.sha256, identity_record(result.identity),
        side.rows - result.images,
    )  # fmt: skip


def ready_record(side: Side) -> InputRecord:
    """The record of a side that came with vectors."""
    identity = identity_record(side.identity) if side.identity else None
    return InputRecord(
        side.path, side.kind, side.rows, side.has_label, False, side.rows, sha256=side.sha256, identity=identity
    )


def identity_record(identity: EncoderIdentity) -> dict[str, Any]:
    """An encoder identity as `run.json` holds it."""
    return {"fingerprint": identity.fingerprint, **asdict(identity)}


@dataclass(frozen=True)
class Done:
    """What a run did, for its record."""

    created: str
    config: RunConfig
    inputs: Mapping[str, InputRecord]
    mined: MiningResult
    seconds: Mapping[str, float]
    excluded: dict[str, Any] | None = None
    cwd: str = ""
    diagnosis: dict[str, Any] | None = None


def write_record(folder: RunFolder, done: Done) -> RunRecord:
    """Write `run.json` as it is before anything is drawn, and return what it holds."""
    from lookalike import __version__

    embeds = any(record.kind != "embedding table" for record in done.inputs.values())
    record = RunRecord(
        lookalike=__version__,
        created=done.created,
        command=command_of(done.config),
        settings=asdict(done.config),
        model=done.config.model if embeds else "",
        model_path=done.config.model_path if embeds else "",
        targets=done.inputs["targets"],
        pool=done.inputs["pool"],
        counts=asdict(done.mined.counts),
        certificate={**asdict(done.mined.certificate), "text": str(done.mined.certificate)},
        warnings=list(done.mined.warnings),
        seconds=dict(done.seconds),
        versions=dict(_versions()),
        machine=_machine(done.inputs),
        files=dict(_files(folder)),
        cwd=done.cwd,
        excluded=done.excluded,
        selection=None if done.mined.scored is None else selection_record(done.mined.scored),
        diagnosis=done.diagnosis,
    )
    record.write(folder)
    return record


def selection_record(selection: ScoredSelection) -> dict[str, Any]:
    """How images were selected by score, as `run.json` holds it; a number that is none becomes null."""
    choice = selection.choice
    return {
        "scoring": choice.option.scoring,
        "components": choice.option.components,
        "reason": choice.reason,
        "tried": [
            {
                "scoring": one.option.scoring, "components": one.option.components, "rank": one.rank,
                "log_rank": one.log_rank, "spread": one.spread, "found": one.found, "among": one.among,
                "share": one.share,
            }
            for one in choice.tried
        ],
        "budget": selection.budget,
        "served": int(selection.served.sum()),
        "targets": len(selection.own),
        "cutoff": None if math.isnan(selection.cutoff) else selection.cutoff,
        "background": selection.background,
        "exact_background": selection.exact_background,
        "seed": selection.seed,
        "seconds": {step: round(seconds, 3) for step, seconds in selection.seconds.items()},
    }  # fmt: skip


def command_of(config: RunConfig) -> list[str]:
    """The command line that does the same: every setting that is not at its default."""
    words = ["lookalike", "mine", "--targets", config.targets, "--pool", config.pool]
    for setting in fields(config):
        value = getattr(config, setting.name)
        if setting.name not in ("targets", "pool") and value != setting.default:
            words.append(f"{setting.name}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def _files(folder: RunFolder) -> Iterator[tuple[str, FileRecord]]:
    for path in sorted(folder.path.iterdir()):
        if path.is_file() and path.name[0] != "." and path not in (folder.record, folder.log):
            yield path.name, file_record(path)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _machine(inputs: Mapping[str, InputRecord]) -> dict[str, Any]:
    """Processor, memory, and what embedded."""
    import psutil

    from lookalike.cores import usable_cores

    runtimes = {record.identity["numerics"]["runtime"] for record in inputs.values() if record.identity}
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory": psutil.virtual_memory().total,
        "devices": sorted(runtimes),
    }


def _processor() -> str:
    """The processor's name; Linux has it in a file, and `platform` only where it is asked elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
