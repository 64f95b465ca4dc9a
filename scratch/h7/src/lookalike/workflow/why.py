"""`explain`: what became of pool images in a finished run. What `lookalike why` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.reports.gallery import describe
from lookalike.tables.filepaths import normal_path, normal_paths
from lookalike.tables.run_folder import RunFolder

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
    except FileNotFoundError as error:
        raise TableError(
            f"has no {folder.outcomes.name}", where=str(folder.path), hint="name the folder of a finished run"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=str(folder.outcomes), hint="mine again") from error
    if missing:
        raise TableError(f"not in the pool of this run: {', '.join(sorted(missing))}", where=str(folder.path))
    return sorted({row["source_row"]: row for row in found}.values(), key=lambda row: row["source_row"])


def _ends(paths: pa.Array, image: str) -> pa.Array:
    """Which paths are an image's, or end in it after a slash."""
    return pc.or_(pc.equal(paths, image), pc.ends_with(paths, pattern=f"/{image.lstrip('/')}"))


def sentence(fate: dict[str, Any]) -> str:
    """What became of one image, for people."""
    outcome, target = fate["outcome"], fate["target_filepath"]
    score = "" if fate["score"] is None else f", score {fate['score']:.4g}"
    where = ""
    if target is not None:
        rank = f"rank {fate['rank']}" if fate["rank"] is not None else "beyond the nearest"
        where = f"{rank}, distance {fate['distance']:.4g}{score}"
    if outcome == "kept":
        return f"{fate['filepath']}: mined for {target} ({where})"
    because = "" if fate["because_of"] is None else f" ({fate['because_of']})"
    if outcome == "excluded":
        return f"{fate['filepath']}: not mined: {_RULES.get(str(fate['rule']), 'it was excluded')}{because}"
    if outcome == "beyond_topn":
        return f"{fate['filepath']}: not mined: it is among the nearest of no target"
    nearest = f"; looked at for {target} ({where})" if target is not None else ""
    return f"{fate['filepath']}: not mined: {describe(outcome, None)[1]}{because}{nearest}"
