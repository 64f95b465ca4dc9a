"""`lookalike tune`: settings of `lookalike mine` that fit the targets and the pool."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.config.schemas import TuneConfig
from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.workflow.tune import Tuned

_HELP = {name: field.metadata["help"] for name, field in TuneConfig.__dataclass_fields__.items()}
_Config = TuneConfig
#: The name of an encoder that was given none.
_ONLY = "encoder"


def _named(key: str, name: str) -> Any:
    return typer.Option(name, help=_HELP[key])


def tune(
    out: Annotated[Path, typer.Option(help="The folder for tune.parquet, tune.csv and tune.png.")],
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run folder, whose two tables are taken.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="The targets: an embedding table.")] = None,
    pool: Annotated[str | None, typer.Option(help="The pool: an embedding table.")] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME=TARGETS,POOL", help="Another encoder's tables of the same images."),
    ] = None,
    topn: Annotated[str, _named("topn", "--topn")] = _Config.topn,
    components: Annotated[str, _named("components", "--components")] = _Config.components,
    threshold: Annotated[str, _named("threshold", "--threshold")] = _Config.threshold,
    metric: Annotated[str, _named("knn_metric", "--metric")] = _Config.knn_metric,
    target_vectors: Annotated[str, _named("target_vectors", "--target-vectors")] = _Config.target_vectors,
    pool_vectors: Annotated[str, _named("pool_vectors", "--pool-vectors")] = _Config.pool_vectors,
    target_weight_column: Annotated[
        str | None, typer.Option("--target-weight-column", help=_HELP["target_weight_column"], show_default=False)
    ] = None,
    seed: Annotated[int, _named("seed", "--seed")] = _Config.seed,
    device: Annotated[str, _named("device", "--device")] = _Config.device,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier tune.")] = False,
) -> None:
    """Try scorings, numbers of neighbours and thresholds on one search; recommend settings for `lookalike mine`.

    The last line on standard output are these settings.
    """
    from lookalike.workflow.tune import tune

    sides, barred, weights = _sides(run, targets, pool, with_ or [])
    found = tune(
        sides, out, topn=topn, components=components, threshold=threshold, knn_metric=metric,
        target_vectors=target_vectors, pool_vectors=pool_vectors,
        target_weight_column=weights if target_weight_column is None else target_weight_column, seed=seed,
        device=device, exclude_paths=barred, force=force,
    )  # fmt: skip
    _show(found, sides)


def _sides(
    run: Path | None, targets: str | None, pool: str | None, others: list[str]
) -> tuple[dict[str, tuple[str | Path, str | Path]], list[str], str]:
    """The tables of each encoder by its name, what may not be mined, and the column of weights that a run had."""
    from lookalike.workflow.tune import sides_of_run

    if run is not None and (targets or pool):
        raise ConfigError("a run folder has both tables", where=str(run), hint="leave out --targets and --pool")
    if bool(targets) != bool(pool):
        raise ConfigError("--targets and --pool go together", hint="give both, or a run folder")
    sides: dict[str, tuple[str | Path, str | Path]] = {}
    barred: list[str] = []
    weights = _Config.target_weight_column
    if run is not None:
        target_table, pool_table, barred, weights = sides_of_run(run)
        sides[_ONLY] = (target_table, pool_table)
    elif targets and pool:
        sides[_ONLY] = (targets, pool)
    for word in others:
        name, equals, listed = word.partition("=")
        both = listed.split(",")
        if not (name and equals and len(both) == 2 and all(both)):
            raise ConfigError(
                f"--with {word} is not NAME=TARGETS,POOL", hint="as in --with siglip=weak.parquet,pool.parquet"
            )
        if name in sides:
            raise ConfigError(f"--with {word}: the name {name!r} is taken", hint="give each encoder a name of its own")
        sides[name] = (both[0], both[1])
    return sides, barred, weights


def _show(found: Tuned, sides: dict[str, tuple[str | Path, str | Path]]) -> None:
    """Print the best row of each scoring, the reasons, and the recommendation."""
    row = found.table.slice(found.row, 1).to_pylist()[0]
    print(f"Tried:    {found.table.num_rows} settings, {len(sides)} search{'es' if len(sides) > 1 else ''}")
    for note in found.notes:
        print(f"Note:     {note}")
    for reason in found.reasons:
        print(f"Reason:   {reason}")
    known = {
        "yield": f"{row['yield']} images, {row['pool_share']:.1%} of the pool",
        "found": _percent(row["held_out_recall"], "of the hidden targets"),
        "served": _percent(row["coverage"], "of the targets"),
        "labels": _percent(row["precision"], "of the images have the label of their target"),
    }
    for name, words in known.items():
        if words:
            print(f"{name.capitalize() + ':':<10}{words}")
    best = _best_by_label(found)
    if best:
        print(f"Note:     {best}")
    for file in found.files:
        print(f"Written:  {file}")
    targets, pool = (str(one) for one in sides[found.encoder])
    print(f"Use it{f' (encoder {found.encoder})' if len(sides) > 1 else ''}:")
    print(f"lookalike mine --targets {shlex.quote(targets)} --pool {shlex.quote(pool)} {' '.join(found.settings)}")
    print(" ".join(found.settings))


def _percent(value: float | None, of: str) -> str:
    return "" if value is None else f"{value:.1%} {of}"


def _best_by_label(found: Tuned) -> str:
    """What the labels would have chosen, at no smaller a yield; nothing without labels."""
    row = found.table.slice(found.row, 1).to_pylist()[0]
    if row["precision"] is None:
        return ""
    rows = [one for one in found.table.to_pylist() if one["yield"] >= row["yield"] and one["precision"] is not None]
    best = max(rows, key=lambda one: one["precision"])
    components = f", {best['components']} components" if best["components"] else ""
    return (
        f"by the labels, the best setting with as many images or more is {best['encoder']}, {best['scoring']}"
        f"{components}, topn={best['topn']}: {best['precision']:.1%}"
    )  # fmt: skip
