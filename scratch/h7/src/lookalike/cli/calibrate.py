"""`lookalike calibrate`: distance thresholds from the pool's own distances."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.config.schemas import CalibrateConfig

if TYPE_CHECKING:
    from lookalike.workflow.calibrate import Proposal

_HELP = {name: field.metadata["help"] for name, field in CalibrateConfig.__dataclass_fields__.items()}
_Config = CalibrateConfig


def _named(key: str, name: str) -> Any:
    return typer.Option(name, help=_HELP[key])


def calibrate(
    pool: Annotated[str, typer.Option(help="An embedding table, or a run folder, whose pool is taken.")],
    metric: Annotated[str, _named("knn_metric", "--metric")] = _Config.knn_metric,
    quantile: Annotated[float, _named("quantile", "--quantile")] = _Config.quantile,
    sample: Annotated[int, _named("sample", "--sample")] = _Config.sample,
    seed: Annotated[int, _named("seed", "--seed")] = _Config.seed,
    pool_vectors: Annotated[str, _named("pool_vectors", "--pool-vectors")] = _Config.pool_vectors,
    device: Annotated[str, _named("device", "--device")] = _Config.device,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Propose distance_threshold and dedup_threshold: what near means for this pool and its encoder."""
    from lookalike.workflow.calibrate import calibrate_pool

    found = calibrate_pool(
        pool, knn_metric=metric, quantile=quantile, sample=sample, seed=seed, pool_vectors=pool_vectors, device=device
    )
    if as_json:
        print(json.dumps({"version": 1, **asdict(found)}, indent=2, ensure_ascii=False))
    else:
        _show(found)


def _show(found: Proposal) -> None:
    """Print the table, the proposals with their reasons, and the command."""
    labels = found.random_same_label is not None
    print(f"Pool:     {found.rows} images, {found.pool}")
    print(f"Distance: {found.metric}, to the nearest other image")
    head = f"{'images':>8} {'within':>10} {'random pairs':>13}"
    print(head + (f" {'same label':>11}" if labels else ""))
    for step in found.steps:
        line = f"{step.quantile:>8.1%} {step.distance:>10.4g} {step.random:>13.1%}"
        print(line + (f" {step.same_label:>11.1%}" if labels else ""))
    line = f"{'random':>8} {found.random:>10.4g} {0.5:>13.1%}"
    print(line + (f" {found.random_same_label:>11.1%}" if labels else ""))
    for reason in found.reasons:
        print(f"Reason:   {reason}")
    for note in found.notes:
        print(f"Note:     {note}")
    for name in ("distance_threshold", "dedup_threshold"):
        value = getattr(found, name)
        print(f"{name}: {'none' if value is None else format(value, 'g')}")
    print("Use it:")
    print(found.command)
