"""The plots of a run: distances by rank, mined labels against the pool's, and a map of targets, mined and pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lookalike.reports import drawing
from lookalike.reports.captions import Plot
from lookalike.reports.facts import Facts, gather, open_tables
from lookalike.reports.labels import NO_LABEL, LabelNames, count_labels, read_labels
from lookalike.reports.markdown import count, number
from lookalike.reports.pairs import Pairs, read_pairs
from lookalike.reports.plot_map import draw_map
from lookalike.selection.filters import Outcome
from lookalike.tables.run_folder import RunFolder

#: Ranks that are drawn one by one; more are drawn as a band.
_MOST_RANKS = 16
_QUANTILES = (5, 25, 50, 75, 95)
#: A line that is farther above the data than this is named, not drawn: it would press the data flat.
_FAR = 2.0
_BINS = 40
#: Labels that `labels.png` shows.
_MOST_LABELS = 20


def write_plots(folder: RunFolder, facts: Facts | None = None) -> list[Path]:
    """Draw the plots of a finished run into its folder of plots.

    Parameters
    ----------
    folder:
        The run.
    facts:
        What `gather` found in it, where that is known already.

    Returns
    -------
    list of pathlib.Path
        `distances.png` (where there are pairs), `labels.png` (where the pool has labels and something was mined) and
        `map.png`. An older plot that has nothing to show any more is removed.

    Raises
    ------
    TableError
        When the folder is no finished run, a table is damaged, or a plot cannot be written.
    """
    facts = facts or gather(folder)
    pairs = read_pairs(folder)
    written = []
    with drawing.style():
        for name, draw in (("distances", _draw_distances), ("labels", _draw_labels), ("map", _draw_map)):
            path = folder.plots / f"{name}.png"
            drawn = draw(facts, pairs, path)
            if drawn is None:
                path.unlink(missing_ok=True)
                continue
            drawing.save(*drawn)
            written.append(path)
    return written


def _draw_map(facts: Facts, pairs: Pairs, path: Path) -> tuple[Figure, Plot] | None:
    return draw_map(open_tables(facts.folder, facts.record), pairs, facts.metric, path)


def _draw_distances(facts: Facts, pairs: Pairs, path: Path) -> tuple[Figure, Plot] | None:
    """Distances by rank, and how many pairs of each outcome lie at each distance."""
    if not len(pairs):
        return None
    figure = drawing.figure(8.4, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    ranks = np.unique(pairs.rank[pairs.rank > 0])  # an image beyond a target's neighbours has none
    table = np.array([np.percentile(pairs.distance[pairs.rank == rank], _QUANTILES) for rank in ranks])
    (_draw_ranks if len(ranks) <= _MOST_RANKS else _draw_band)(left, ranks, table)
    left.set_title("Distances by rank of the neighbour")
    left.set_xlabel("rank (1 is the nearest)")
    left.set_ylabel(f"{facts.metric} distance")
    left.grid(axis="y")
    _draw_outcomes(right, pairs)
    top = float(pairs.distance.max()) or 1.0
    notes = [(facts.threshold, "threshold", drawing.INK, "--"), (facts.random, "random pair", drawing.SOFT, ":")]
    shown = [value for value, *_ in notes if value is not None and value <= _FAR * top]
    above = []
    for value, name, color, dashes in notes:
        if value in shown and value is not None:
            drawing.line_note(left, value, f"{name} {number(value)}", color=color, dashes=dashes)
            right.axhline(value, color=color, linewidth=1.2, linestyle=dashes)
        elif value is not None:
            above.append(f"{name} {number(value)}")
    left.set_ylim(0, 1.08 * max([top, *shown]))
    if above:
        left.annotate(
            "\n".join(f"↑ {note}" for note in above), (1, 1), xycoords="axes fraction", ha="right", va="top",
            color=drawing.SOFT, fontsize=9,
        )  # fmt: skip
    first = table[0]
    caption = (
        "Left: at each rank, the median distance of all targets (dot), the middle half (thick) and 5% to 95% (thin). "
        "Right: how many pairs lie at each distance, by what became of them."
    )
    alt = (
        f"Distances of {count(len(pairs), 'pair')} by rank: median {number(first[2])} at rank {ranks[0]}, "
        f"{number(table[-1][2])} at rank {ranks[-1]}."
    )
    if facts.threshold is not None:
        alt += f" The threshold is {number(facts.threshold)}."
    return figure, Plot("distances", path, "Distances by rank", caption, alt)


def _draw_ranks(axes: Axes, ranks: npt.NDArray[np.int32], table: npt.NDArray[np.float64]) -> None:
    """Quantiles, rank by rank."""
    low, quarter, middle, three, high = table.T
    axes.vlines(ranks, low, high, color=drawing.MINED, linewidth=1.4, zorder=3)
    axes.vlines(ranks, quarter, three, color=drawing.MINED, linewidth=6, zorder=3)
    axes.plot(
        ranks, middle, "o", color="white", markeredgecolor=drawing.MINED, markersize=7, markeredgewidth=2, zorder=4
    )
    axes.set_xlim(ranks[0] - 0.6, ranks[-1] + 0.6)
    axes.set_xticks(ranks)


def _draw_band(axes: Axes, ranks: npt.NDArray[np.int32], table: npt.NDArray[np.float64]) -> None:
    """Quantiles as bands, for many ranks."""
    low, quarter, middle, three, high = table.T
    axes.fill_between(ranks, low, high, color=drawing.MINED, alpha=0.18, linewidth=0)
    axes.fill_between(ranks, quarter, three, color=drawing.MINED, alpha=0.35, linewidth=0)
    axes.plot(ranks, middle, color=drawing.MINED, linewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=_MOST_RANKS))


def _draw_outcomes(axes: Axes, pairs: Pairs) -> None:
    """A histogram on its side: pairs by distance and outcome."""
    names = list(pairs.outcomes())
    left_over = iter(drawing.LEFT_OVER * len(names))
    colors = [drawing.OUTCOMES.get(name) or next(left_over) for name in names]
    groups = [pairs.distance[pairs.having(name)] for name in names]
    top = float(pairs.distance.max()) or 1.0
    axes.hist(
        groups, bins=_BINS, range=(0, top), stacked=True, orientation="horizontal", color=colors,
        label=[f"{name.replace('_', ' ')} ({len(group)})" for name, group in zip(names, groups, strict=True)],
    )  # fmt: skip
    axes.set_xlabel("pairs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=1)


@dataclass(frozen=True)
class _Shares:
    """Shares of the labels that are shown, in percent; targets' only where they have labels."""

    names: list[str]
    mined: npt.NDArray[np.float64]
    pool: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64] | None
    numbers: npt.NDArray[np.int64]
    left_out: int

    @property
    def largest(self) -> float:
        """The largest share of all."""
        return max(float(part.max()) for part in (self.mined, self.pool, self.targets) if part is not None)


def _draw_labels(facts: Facts, pairs: Pairs, path: Path) -> tuple[Figure, Plot] | None:
    """The share of each label in the mined list, beside its share in the pool."""
    shares = _shares(facts)
    if shares is None:
        return None
    rows = np.arange(len(shares.names))[::-1]
    figure = drawing.figure(8.4, 1.7 + 0.34 * len(rows))
    axes = figure.subplots()
    axes.hlines(rows, shares.pool, shares.mined, color=drawing.GRID, linewidth=4, zorder=1)
    axes.plot(shares.pool, rows, "s", color=drawing.POOL, markersize=7, label="pool", zorder=3, clip_on=False)
    if shares.targets is not None:
        axes.plot(
            shares.targets, rows, "^", color="none", markeredgecolor=drawing.TARGET, markeredgewidth=1.8, markersize=12,
            label="targets", zorder=5, clip_on=False,
        )  # fmt: skip
    axes.plot(shares.mined, rows, "o", color=drawing.MINED, markersize=9, label="mined", zorder=4, clip_on=False)
    axes.set_yticks(rows, [drawing.tick_label(name) for name in shares.names])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("share of each set in percent")
    axes.set_xlim(0, max(5.0, 1.06 * shares.largest))
    axes.tick_params(axis="y", length=0, pad=10)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_title("Labels: mined, and what the pool holds", pad=28)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, handletextpad=0.3, borderaxespad=0.2)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(rows, [f"{number} mined" for number in shares.numbers])
    beside.tick_params(axis="y", length=0, labelsize=9, labelcolor=drawing.SOFT)
    beside.spines["right"].set_visible(False)
    most = int(np.argmax(shares.mined))
    caption = "The share of each label among the mined images (dot) and in the pool (square)"
    caption += ", and among the targets (triangle)." if shares.targets is not None else "."
    if shares.left_out:
        caption += f" Shown: the {len(rows)} labels mined most; {shares.left_out} more are left out."
    alt = (
        f"Most mined images have the label {drawing.tick_label(shares.names[most])}: {shares.mined[most]:.0f}% of the "
        f"mined list, {shares.pool[most]:.0f}% of the pool."
    )
    return figure, Plot("labels", path, "Mined labels against the pool", caption, alt)


def _shares(facts: Facts) -> _Shares | None:
    """Labels of mined images, pool and targets; None where the pool has no label or nothing was mined."""
    if not facts.record.pool.has_label or not facts.mined:
        return None
    folder, names = facts.folder, LabelNames()
    mined = np.zeros(0, np.int64)
    with pq.ParquetFile(folder.pairs) as reader:
        for batch in reader.iter_batches(columns=["source_label", "outcome"]):
            kept = batch.filter(pc.equal(batch["outcome"].cast("string"), Outcome.KEPT))
            part = np.bincount(names.codes(kept["source_label"]), minlength=len(names.names))
            mined = np.pad(mined, (0, len(part) - len(mined))) + part
    pool = count_labels(folder.pool, names)
    labels = read_labels(folder.targets)
    numbers = [names.number(None if name == NO_LABEL else name) for name in labels.names if labels.there]
    if set(names.names) <= {NO_LABEL}:
        return None
    targets = np.zeros(len(names.names), np.int64)
    np.add.at(targets, numbers, np.bincount(labels.codes, minlength=len(numbers)) if labels.there else 0)
    mined, pool = (np.pad(part, (0, len(names.names) - len(part))) for part in (mined, pool))
    order = np.lexsort((np.array(names.names), -pool, -mined))
    shown = order[:_MOST_LABELS]
    return _Shares(
        [names.names[place] for place in shown],
        100 * mined[shown] / mined.sum(),
        100 * pool[shown] / max(1, pool.sum()),
        100 * targets[shown] / max(1, targets.sum()) if labels.there else None,
        mined[shown],
        len(order) - len(shown),
    )
