"""`map.png`: targets, mined images and the pool in two dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from lookalike.reports import drawing
from lookalike.reports.captions import Plot
from lookalike.reports.markdown import count
from lookalike.reports.pairs import Pairs
from lookalike.reports.projection import Points, project
from lookalike.reports.sample import Rows, VectorRows

#: Points of each kind at most: more would cover each other, and are not read.
MOST_TARGETS, MOST_MINED, MOST_POOL = 2_000, 2_000, 5_000


def draw_map(
    tables: tuple[VectorRows, VectorRows], pairs: Pairs, metric: str, path: Path
) -> tuple[Figure, Plot] | None:
    """Draw a map; None for a run without targets or pool.

    Parameters
    ----------
    tables:
        The embedding tables of targets and pool.
    pairs:
        The pair table.
    metric:
        Of the search: with the cosine, the map shows directions.
    path:
        Where it will be.
    """
    targets, pool = tables
    if not targets.rows or not pool.rows:
        return None
    mined_rows = np.unique(pairs.source_row[pairs.kept])
    chosen_targets, mined = targets.sample(MOST_TARGETS), _some(mined_rows, MOST_MINED)
    rest = np.setdiff1d(pool.sample(MOST_POOL), mined_rows)
    both = np.union1d(mined, rest)
    vectors = np.concatenate([targets.vectors(chosen_targets), pool.vectors(both)])
    points, method, principal = project(vectors, metric)
    at, is_mined = len(chosen_targets), np.isin(both, mined)
    groups = {"pool": points[at:][~is_mined], "mined": points[at:][is_mined], "targets": points[:at]}
    totals = {"pool": pool.rows - len(mined_rows), "mined": len(mined_rows), "targets": targets.rows}

    figure = drawing.figure(8.4, 6.4)
    axes = figure.subplots()
    crowd = float(np.clip(400 / max(1, len(rest)), 0.05, 1))
    looks: dict[str, dict[str, Any]] = {
        "pool": {
            "marker": "o",
            "s": 8 + 14 * crowd,
            "color": drawing.POOL,
            "alpha": 0.35 + 0.4 * crowd,
            "linewidths": 0,
        },
        "mined": {"marker": "o", "s": 34, "color": drawing.MINED, "edgecolors": "white", "linewidths": 0.6},
        "targets": {"marker": "^", "s": 46, "color": drawing.TARGET, "edgecolors": "white", "linewidths": 0.8},
    }
    for order, (name, group) in enumerate(groups.items()):
        label = f"{name} ({_part(len(group), totals[name])})"
        axes.scatter(group[:, 0], group[:, 1], label=label, zorder=2 + order, **looks[name])
    axes.set_title("Map of the embedding", pad=28)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, handletextpad=0.2, borderaxespad=0.2
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # as large and dark as can be recognised
            handle.set_sizes([44.0])
            handle.set_alpha(1)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("left", "bottom", "right", "top"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_color(drawing.GRID)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.05)
    if method == "PCA":
        axes.set_xlabel(f"first principal component ({principal.shares[0]:.0%} of the variance)", color=drawing.SOFT)
        axes.set_ylabel(f"second ({principal.shares[1]:.0%})", color=drawing.SOFT)
    else:
        axes.set_xlabel("UMAP: near points are alike, far distances mean little", color=drawing.SOFT)
    words = _words(method, principal.shares, groups, totals)
    return figure, Plot("map", path, "Map of targets, mined images and pool", *words)


def _some(rows: Rows, most: int) -> Rows:
    """Rows, or as many of them as may be shown, spread evenly."""
    if len(rows) <= most:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))]


def _part(shown: int, total: int) -> str:
    """How many points are shown."""
    return str(total) if shown == total else f"{shown} of {total}"


def _words(
    method: str, shares: tuple[float, float], groups: dict[str, Points], totals: dict[str, int]
) -> tuple[str, str]:
    """Caption and alternative text."""
    if method == "PCA":
        how = f"by its two leading principal components, which hold {sum(shares):.0%} of the variance"
    else:
        how = "by UMAP with a fixed seed, which keeps neighbours together and distorts long distances"
    caption = f"Every image as a point, in two dimensions {how}."
    parts = [f"{len(groups[name])} of {total} {name}" for name, total in totals.items() if len(groups[name]) < total]
    if parts:
        caption += f" A fixed random sample is shown: {', '.join(parts)}."
    targets, mined, pool = (len(groups[name]) for name in ("targets", "mined", "pool"))
    alt = (
        f"Map with {count(targets, 'target')} as triangles, {count(mined, 'mined image')} as dots and "
        f"{count(pool, 'other pool image')} as small grey dots."
    )
    return caption, alt
