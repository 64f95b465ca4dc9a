"""`explain`: what became of pool images in a finished run. What `lookalike why` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.selection.filters import Outcome
from lookalike.tables.filepaths import normal_path, normal_paths
from lookalike.tables.run_folder import RunFolder, read_record

#: Rows that are looked through at a time.
_BLOCK = 65_536
#: How the rules that exclude images say it.
_RULES = {
    "excluded": "it is on the list of what is not wanted",
    "already_mined": "an earlier iteration mined it",
    "protected_path": "it is an image of the protected set",
    "protected_bytes": "it has the same bytes as a protected image",
    "protected_pixels": "it has the same pixels as a protected image",
    "protected_near": "it is nearly a protected image",
    "protected_component": "it shows the component of a protected image",
    "self_match": "it is a target itself",
    "self_twin": "it is a copy of a target",
}


#: What stopped an image, and the setting of that rule.
_OUTCOMES: dict[str, tuple[str, str]] = {
    Outcome.LABEL_MISMATCH: ("its label is not that of a target", ""),
    Outcome.OVER_DISTANCE: ("it is farther from every target than the threshold", "distance_threshold"),
    Outcome.DUPLICATE: ("the same path is mined already", ""),
    Outcome.UNDER_SIMILARITY: ("its best cosine to any target is too small", "min_similarity"),
    Outcome.OVER_BUDGET: ("others had better scores, and the budget was full", "budget"),
    Outcome.OVER_TARGET_LIMIT: ("its targets have all the images that they may have", "max_per_target"),
    Outcome.OVER_LABEL_LIMIT: ("its targets' labels have all the images that they may have", "max_per_label"),
    Outcome.NEAR_DUPLICATE: ("an image that is almost the same is mined", "dedup_threshold"),
    Outcome.LESS_DIVERSE: ("its score was good enough, but it is too much like what is mined", "diversity"),
    Outcome.AVOIDED: ("it is nearer to an image to avoid than to any target", ""),
    Outcome.BEYOND_TOPN: ("it is among the nearest of no target", "topn"),
}
#: Outcomes for which no target was looked at.
_NO_TARGET = (Outcome.LABEL_MISMATCH, Outcome.BEYOND_TOPN)


def explain(run: str | Path, images: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of `pool_outcomes.parquet` for some images, in the order of the pool.

    Parameters
    ----------
    run:
        The folder of a finished run.
    images:
        Paths, or ends of paths from a folder's name on, such as file names; two spellings of a path are one.

    Raises
    ------
    TableError
        When the run has no such table, or an image is not in the pool.
    """
    folder = RunFolder(Path(run))
    wanted = [normal_path(image) for image in images]
    missing = set(wanted)
    found = []
    try:
        with pq.ParquetFile(folder.outcomes) as reader:
            for batch in reader.iter_batches(_BLOCK):
                table = pa.Table.from_batches([batch])
                paths = normal_paths(table.column("filepath").combine_chunks())
                is_wanted = [_ends(paths, one) for one in wanted]
                missing -= {one for one, mask in zip(wanted, is_wanted, strict=True) if pc.any(mask).as_py()}
                for mask in is_wanted:
                    found += table.filter(mask).to_pylist()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TableError(
            f"has no {folder.outcomes.name}", where=str(folder.path), hint="name the folder of a finished run"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=str(folder.outcomes), hint="mine again") from error
    if missing:
        raise TableError(
            f"not in the pool of this run: {', '.join(sorted(missing))}",
            where=str(folder.path),
            hint="give a path as the pool has it, or its end from a folder or file name on",
        )
    return sorted({row["source_row"]: row for row in found}.values(), key=lambda row: row["source_row"])


def _ends(paths: pa.Array, image: str) -> pa.Array:
    """Which paths are an image's, or end in it after a slash."""
    return pc.or_(pc.equal(paths, image), pc.ends_with(paths, pattern=f"/{image.lstrip('/')}"))


def sentence(fate: dict[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """What became of one image, for people.

    Parameters
    ----------
    fate:
        A row of `pool_outcomes.parquet`.
    settings:
        Of the run, where they are known: the rule is told with its setting.
    """
    outcome, target, known = fate["outcome"], fate["target_filepath"], settings or {}
    if outcome == Outcome.KEPT:
        return f"{fate['filepath']}: mined for {target} ({_place(fate, known)})"
    because = "" if fate["because_of"] is None else f" ({fate['because_of']})"
    if outcome == Outcome.EXCLUDED:
        rule = str(fate["rule"])
        words = _RULES.get(rule, "it was excluded")
        own = because if fate["because_of"] != fate["filepath"] else ""
        return f"{fate['filepath']}: not mined: {words}{own} (rule {rule})"
    words, setting = _OUTCOMES.get(outcome, (f"by the rule {outcome}", ""))
    value = known.get(setting)
    named = f" ({setting}={value:.15g})" if setting and isinstance(value, int | float) and value > 0 else ""
    text = f"{fate['filepath']}: not mined: {words}{named}{because} (rule {outcome})"
    return (
        text if target is None or outcome in _NO_TARGET else f"{text}; nearest target {target} ({_place(fate, known)})"
    )


def settings_of(run: str | Path) -> dict[str, Any]:
    """The settings of a run, for `sentence`; none where the folder does not tell."""
    folder = RunFolder(Path(run))
    return read_record(folder).settings if folder.record.is_file() else {}


def _place(fate: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Rank, distance and score of an image for its target."""
    looked = settings.get("candidates", "")
    rank = f"rank {fate['rank']}" if fate["rank"] is not None else f"not among its {looked} nearest".replace("  ", " ")
    score = "" if fate["score"] is None else f", score {fate['score']:.4g}"
    return f"{rank}, distance {fate['distance']:.4g}{score}"
