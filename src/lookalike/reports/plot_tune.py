"""`tune.png`: what more images bring, by scoring: held-out recall, precision, coverage, redundancy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lookalike.reports import drawing
from lookalike.reports.captions import Plot

#: The panels: a column of the table, what it is called, and whether it is a share.
_PANELS = (
    ("yield", "images kept (yield)", False),
    ("held_out_recall", "hidden targets found (held-out recall)", True),
    ("precision", "right label (precision)", True),
    ("coverage", "targets served (coverage)", True),
    ("redundancy", "likeness of kept images (redundancy)", False),
)
_DASHES = ("-", "--", ":", "-.")
_COLORS = {
    "nearest": drawing.TARGET, "density_ratio": drawing.LEFT_OVER[0], "lda": drawing.LEFT_OVER[1],
    "auto": drawing.MINED,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One scoring of one encoder without a threshold.

    Attributes
    ----------
    encoder, scoring, components:
        What it is.
    rows:
        Its rows of the table with their numbers, by `topn`.
    """

    encoder: str
    scoring: str
    components: int
    rows: tuple[tuple[int, dict[str, Any]], ...]


def draw_curves(curves: Sequence[Curve], chosen: int, path: Path) -> None:
    """Draw what each setting gives over how many images it keeps.

    Parameters
    ----------
    curves:
        All scorings of all encoders.
    chosen:
        The row of the table that is recommended, or that without its threshold: it is on a curve.
    path:
        The PNG.
    """
    best = next(curve for curve in curves if chosen in dict(curve.rows))
    mark = dict(best.rows)[chosen]
    encoders = list(dict.fromkeys(curve.encoder for curve in curves))
    with drawing.style():
        figure = drawing.figure(12.0, 7.2)
        axes = figure.subplots(2, 3).ravel()
        for panel, (column, title, share) in zip(axes, _PANELS, strict=False):
            _draw(panel, curves, best, column, encoders)
            if mark[column] is not None:
                place = mark["topn" if column == "yield" else "yield"]
                panel.plot(place, mark[column], "o", color="white", markeredgecolor=drawing.INK, markersize=9,
                           markeredgewidth=2, zorder=6)  # fmt: skip
            panel.set_title(title, fontsize=10)
            panel.set_xlabel("topn" if column == "yield" else "images kept")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            panel.grid(axis="y")
            if share:
                panel.set_ylim(-0.03, 1.03)
        _legend(axes[-1], curves, best, encoders, mark)
        alt = (
            f"At the mark: {_name(best)}, topn {mark['topn']}, {mark['yield']} images, "
            f"{_percent(mark['held_out_recall'])} of the hidden targets found, {_percent(mark['coverage'])} of the "
            f"targets served, right label {_percent(mark['precision'])}."
        )
        caption = (
            "Each line is one scoring without a threshold; along it, topn grows. The thick line is the recommended "
            "scoring, the mark the recommended number of neighbours."
        )
        drawing.save(figure, Plot("tune", path, "What more images bring", caption, alt))


def _draw(panel: Axes, curves: Sequence[Curve], best: Curve, column: str, encoders: Sequence[str]) -> None:
    """One figure of all curves."""
    drawn = False
    for curve in curves:
        rows = [row for _, row in curve.rows if row[column] is not None]
        across = [row["topn" if column == "yield" else "yield"] for row in rows]
        drawn = drawn or bool(rows)
        panel.plot(
            across, [row[column] for row in rows], _DASHES[encoders.index(curve.encoder) % len(_DASHES)],
            color=drawing.MINED if curve is best else _COLORS[curve.scoring], linewidth=3 if curve is best else 1.0,
            alpha=1.0 if curve is best else 0.55, zorder=4 if curve is best else 2,
        )  # fmt: skip
    if not drawn:
        panel.text(0.5, 0.5, "not known", ha="center", va="center", transform=panel.transAxes, color=drawing.SOFT)


def _legend(
    panel: Axes, curves: Sequence[Curve], best: Curve, encoders: Sequence[str], mark: Mapping[str, Any]
) -> None:
    """What the lines and the mark are, in the place of a panel."""
    panel.set_axis_off()
    panel.plot([], [], color=drawing.MINED, linewidth=3, label=f"recommended: {_name(best)}")
    words = "the knee" if "together" in (mark["knee"] or "") else "no knee, near the default"
    panel.plot(
        [], [], "o", color="white", markeredgecolor=drawing.INK, markersize=9, markeredgewidth=2,
        label=f"{words}: topn {mark['topn']}",
    )  # fmt: skip
    for scoring in dict.fromkeys(curve.scoring for curve in curves):
        panel.plot([], [], color=_COLORS[scoring], label=scoring.replace("_", " "))
    if len(encoders) > 1:
        for number, encoder in enumerate(encoders):
            dashes = _DASHES[number % len(_DASHES)]
            panel.plot([], [], dashes, color=drawing.INK, label=drawing.tick_label(encoder))
    panel.legend(loc="upper left", fontsize=10)


def _name(curve: Curve) -> str:
    components = f", {curve.components} components" if curve.components else ""
    return f"{curve.scoring.replace('_', ' ')}{components}"


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.0%}"
