"""How the plots look, and how they are written: the same bytes for the same data.

Figures are made by Matplotlib's object interface, which opens no window and keeps no state. Colours are Okabe and
Ito's, which differ for colour-blind eyes too; shapes differ as well, so that a grey print can be read.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache

import matplotlib.style
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lookalike.reports.captions import ALT, CAPTION, TITLE, Plot
from lookalike.reports.markdown import one_line, shorten
from lookalike.tables.atomic import atomic_path

INK, SOFT, GRID = "#1b1f24", "#5b6470", "#e3e6ea"
TARGET, MINED, POOL = "#d55e00", "#0072b2", "#8a929c"
#: Colours of outcomes by name; others take those left over, in order.
OUTCOMES = {"kept": MINED, "duplicate": "#b9c0c8", "label_mismatch": "#e69f00", "over_distance": "#cc79a7"}
LEFT_OVER = ("#009e73", "#56b4e9", "#f0e442", "#5b6470")
_DPI = 150
#: Fonts with Chinese, Japanese and Korean letters, which the default one lacks; those that are there are used.
_ASIAN = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "SimHei", "Arial Unicode MS",
)  # fmt: skip


@cache
def _fonts() -> list[str]:
    """The fonts of the plots, in the order in which a letter is looked for."""
    there = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _ASIAN if name in there)]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of all plots, whatever the user's own Matplotlib settings are; restored at the end."""
    look = {
        "font.family": _fonts(),
        "font.size": 10.0,
        "text.color": INK,
        "text.parse_math": False,  # a label may hold dollar signs
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 12.0,
        "axes.titleweight": "bold",
        "axes.titlepad": 14.0,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "figure.facecolor": "white",
    }
    with matplotlib.style.context(["default", look]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
        yield


def figure(width: float, height: float) -> Figure:
    """A figure of so many inches."""
    made = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, plot: Plot) -> None:
    """Write a figure as PNG with its words inside and nothing that changes from run to run."""
    words = {TITLE: plot.title, CAPTION: plot.caption, ALT: plot.alt, "Software": None}
    with atomic_path(plot.path) as temporary:
        made.savefig(temporary, format="png", metadata=words)


def tick_label(text: str) -> str:
    """A label or path as a short text on an axis."""
    return shorten(one_line(text), 28)


def line_note(axes: Axes, height: float, text: str, *, color: str, dashes: str) -> None:
    """A horizontal line with its meaning written on it, at the right."""
    axes.axhline(height, color=color, linewidth=1.2, linestyle=dashes, zorder=2)
    axes.annotate(
        text, (1, height), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right",
        va="bottom", color=color, fontsize=9, zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
    )  # fmt: skip
