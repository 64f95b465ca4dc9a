"""`lookalike mine`: one mining run, from two inputs to a run folder."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli.status import end_on_sigterm, report_errors
from lookalike.config.schemas import RunConfig
from lookalike.errors import ConfigError, MissingSetting

if TYPE_CHECKING:
    from lookalike.tables.run_folder import InputRecord, RunRecord
    from lookalike.workflow.run_inputs import Side
    from lookalike.workflow.run_plan import RunPlan
    from lookalike.workflow.run_steps import RunResult
    from lookalike.workflow.yield_ladder import Forecast

_HELP = {name: field.metadata["help"] for name, field in RunConfig.__dataclass_fields__.items()}


def _named(key: str, *names: str) -> Any:
    """An option for a setting of the schema, with the schema's words; its default stays there."""
    return typer.Option(*(names or (f"--{key.replace('_', '-')}",)), help=_HELP[key], show_default=False)


def mine(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any other setting: docs/settings.md has all.")
    ] = None,
    targets: Annotated[str | None, _named("targets")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="A text that says what to look for, in place of --targets; may be given again."),
    ] = None,
    pool: Annotated[str | None, _named("pool")] = None,
    out: Annotated[str | None, _named("out")] = None,
    run_dir: Annotated[str | None, _named("run_dir")] = None,
    model: Annotated[str | None, _named("model")] = None,
    model_path: Annotated[str | None, _named("model_path")] = None,
    topn: Annotated[int | None, _named("topn")] = None,
    metric: Annotated[str | None, _named("knn_metric", "--metric")] = None,
    filter_by_label: Annotated[bool | None, _named("filter_by_label", "--filter-by-label/--no-filter-by-label")] = None,
    device: Annotated[str | None, _named("device")] = None,
    images_root: Annotated[str | None, _named("images_root")] = None,
    light: Annotated[str | None, _named("light")] = None,
    image_ext: Annotated[str | None, _named("image_ext")] = None,
    spec: Annotated[Path | None, typer.Option("-e", "--experiment_spec_file", help="YAML file with settings.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be done, how long it may take and, where vectors are there, how many images a "
            "ladder of settings would give; write nothing.",
        ),
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped, with its own settings.")
    ] = None,
    cfg: Annotated[str | None, typer.Option("-c", "--cfg", metavar="job", help="Print the settings and stop.")] = None,
) -> None:
    """Mine a pool for images like the targets: from two inputs to a folder with tables, report and gallery.

    Default < YAML file < command line. The last line on standard output is the path of the run folder.
    """
    end_on_sigterm()
    by_label = None if filter_by_label is None else str(filter_by_label).lower()
    named = {
        "targets": targets, "pool": pool, "out": out, "run_dir": run_dir, "model": model, "model_path": model_path,
        "topn": topn, "knn_metric": metric, "filter_by_label": by_label, "device": device,
        "images_root": images_root, "light": light, "image_ext": image_ext,
    }  # fmt: skip
    if text:
        if targets is not None or any(word.startswith("targets=") for word in settings or ()):
            raise typer.BadParameter("--text stands in place of --targets, and both were given")
        named["targets"] = f"{len(text)} given texts"
    words = key_values(named, settings or [])
    if not report_errors(lambda: _mine(words, spec, resume, cfg, dry_run, text or [])):
        raise typer.Exit(1)


def key_values(named: dict[str, Any], settings: list[str]) -> list[str]:
    """All settings of the command line as `key=value`, each at most once."""
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    words += settings
    keys = [word.partition("=")[0] for word in words]
    for word, key in zip(words, keys, strict=True):
        if "=" not in word:
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE")
        if keys.count(key) > 1:
            raise typer.BadParameter(f"{key} is given twice")
    return words


def _mine(
    words: list[str], spec: Path | None, resume: Path | None, cfg: str | None, dry_run: bool, texts: list[str]
) -> None:
    """Compose the settings and do what is asked for."""
    from lookalike.config.compose import CommandLine, run

    flags = () if cfg is None else ("--cfg", cfg)
    if resume is None:
        try:
            task = _plan if dry_run else _run
            run(RunConfig, CommandLine(spec, tuple(words), flags), lambda config: task(config, texts))
        except MissingSetting as error:
            raise _needed(error.keys) from error
        return
    if spec is not None or dry_run:
        raise ConfigError(
            "--resume goes on with the settings of the run, and with no others",
            where=str(resume),
            hint="leave out -e and --dry-run",
        )
    from lookalike.tables.run_folder import RunFolder
    from lookalike.workflow.run_state import check_same_settings, settings_file

    if words or flags:
        stored = settings_file(RunFolder(resume))
        run(RunConfig, CommandLine(stored, tuple(words), flags), lambda config: check_same_settings(config, stored))
        if flags:
            return
    _resume(resume)


def _needed(keys: Sequence[str]) -> ConfigError:
    """Settings that were not given, in the words of this command."""
    options = []
    for key in keys:
        name = "metric" if key == "knn_metric" else key
        has_option = name in inspect.signature(mine).parameters
        options.append(f"--{name.replace('_', '-')}" if has_option else f"{key}=VALUE")
    return ConfigError(
        f"lookalike mine needs {' and '.join(options)}",
        hint="as in `lookalike mine --targets weak.parquet --pool pool.csv`; settings can also stand in a YAML file "
        "after -e; `lookalike mine --help` explains them",
    )


def _run(config: RunConfig, texts: list[str]) -> None:
    from lookalike.workflow.run import run

    _show(run(**{**asdict(config), **_given(texts)}))


def _given(texts: list[str]) -> dict[str, Any]:
    """Texts of the command line as the table of targets; nothing where there are none."""
    import pyarrow as pa

    return {"targets": pa.table({"text": texts})} if texts else {}


def _resume(folder: Path) -> None:
    from lookalike.workflow.run import resume_run

    _show(resume_run(folder), now=False)


def _plan(config: RunConfig, texts: list[str]) -> None:
    from lookalike.workflow.run_plan import plan_run

    _show_plan(plan_run(config, **_given(texts)))


def _show(result: RunResult, *, now: bool = True) -> None:
    """Print what came of it; the folder last. Of a resumed run some may have been embedded before."""
    record, counts = result.record, result.counts
    for name, side in (("Targets", record.targets), ("Pool", record.pool)):
        print(f"{name + ':':<10} {_side(side, now=now)}")
    print(f"Mined:     {counts.unique} images" + (f", {how_chosen(record)}" if counts.unique else ""))
    if result.warnings:
        print(f"Warnings:  {len(result.warnings)}, in {result.folder.summary}")
    print(f"Report:    {result.report}")
    for page in result.gallery[:1]:
        print(f"Gallery:   {page}")
    print(result.folder.path)


def how_chosen(record: RunRecord) -> str:
    """How a run chose its images, in a few words."""
    if record.selection is None:
        return f"the {record.counts['topn']} nearest of each target, each once"
    components = f", {record.selection['components']} components" if record.selection["components"] else ""
    return f"by score ({record.selection['scoring']}{components})"


def speed(side: InputRecord) -> str:
    """How quickly the images of a side were embedded, those that were not known before."""
    fresh = side.embedded - side.cached - side.reused - side.continued
    if not fresh:
        return "all of them known before"
    known = "" if fresh == side.embedded else f"{fresh} of them now, "
    return f"{known}{fresh / max(side.seconds, 1e-3):.0f} images/s"


def _side(side: InputRecord, *, now: bool) -> str:
    """Where the vectors of one side came from."""
    if side.kind == "embedding table":
        return f"{side.embedded} vectors, as they came"
    known = {
        "done before the run was stopped": side.continued,
        "from the cache": side.cached,
        "from the earlier table": side.reused,
    }
    fresh = side.embedded - side.cached - side.reused
    # Of a side that was stopped and continued, it is not known how many of the first part came from the cache.
    parts = [f"{side.embedded} embedded" if side.continued else f"{fresh} embedded{' now' if now else ''}"]
    parts += [f"{count} {words}" for words, count in known.items() if count]
    text = f"{side.rows} {'texts' if side.texts else 'images'}: {', '.join(parts)}, in {side.seconds:.1f} s"
    if side.quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in side.quarantined.items())
        text += f"; {sum(side.quarantined.values())} set aside ({reasons})"
    return text


def _show_plan(plan: RunPlan) -> None:
    """Print what a run would do."""
    for side in plan.sides:
        print(f"{side.name.capitalize() + ':':<10} {side.rows} rows of {side.path} ({side.kind}), {_work(plan, side)}")
    print(f"Encoder:   {plan.encoder}")
    print(f"Device:    {', '.join(plan.devices)}")
    print(f"Estimate:  {plan.estimate}")
    for line in forecast_lines(plan.forecast):
        print(line)
    print("Nothing was written. The run folder would be:")
    print(plan.folder)


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """What would be mined, line by line: a table of the ladder, or why it cannot be known."""
    from lookalike.selection.choice import BLEND

    if forecast.ladder is None:
        yield f"Yield:     {'nothing' if forecast.pool else 'not known'}: {'; '.join(forecast.notes)}"
        return
    searched = f"one search for {forecast.targets} targets in {forecast.pool} pool images"
    yield f"Yield:     {searched}; * has the run's settings"
    choice = forecast.ladder.choice
    name = "" if choice is None else f"auto ({BLEND})" if choice.option == BLEND else str(choice.option)
    header = ("", "scoring", "topn", "budget", "threshold", "images", "of the pool", "targets served")
    rows = [header]
    for one in forecast.ladder.yields:
        rung = one.rung
        rows.append(
            (
                "*" if rung == forecast.own else "",
                name if rung.scored else "nearest of each",
                "-" if rung.scored and rung.budget else str(rung.topn),
                "-" if not rung.scored else str(one.budget),
                f"{rung.threshold:g}" if rung.threshold >= 0 else "off",
                str(one.images),
                f"{one.images / forecast.pool:.1%}",
                f"{one.served} of {forecast.targets}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
    if choice is not None and choice.tried:
        yield f"  scoring: {choice.reason}"
    for note in forecast.notes:
        yield f"  note: {note}"


def _work(plan: RunPlan, side: Side) -> str:
    """What is to be done for a side; what the cache has of it, as far as that shows without reading an image."""
    from lookalike.workflow.run_plan import CacheState

    if side.is_ready or side.is_text:
        return "taken as they are" if side.is_ready else "texts, to embed"
    if plan.cache is CacheState.OFF:
        return "to embed"
    if plan.cache is CacheState.EMPTY:
        return "to embed; the cache has nothing of this encoder yet"
    if side.name not in plan.cached:
        return "to embed; what the cache has of them shows only when they are read"
    if plan.cached[side.name] == side.rows:
        return "all of them in the cache"
    known = plan.cached[side.name] or "none"
    return f"to embed; the cache knows {known} of them by path, and may know more by their content"
