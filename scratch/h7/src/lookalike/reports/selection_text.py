"""The report's words on a selection by score: what was used, why, and the held-out curve that it rests on."""

from __future__ import annotations

from typing import Any

from lookalike.reports import markdown

_WORDS = {
    "density_ratio": "An image's score says how much more alike it is to the targets than to the rest of the pool, in "
    "a space whitened on the pool's leading components.",
    "lda": "An image's score says how near it is to the mean of the targets, in a space whitened on the pool's "
    "leading components.",
    "nearest": "An image's score is one over its best rank among the neighbours of any target.",
}


def selection_words(selection: dict[str, Any], kept: int) -> str:
    """What chose the images, in a few sentences.

    Parameters
    ----------
    selection:
        `RunRecord.selection`.
    kept:
        Mined images.
    """
    scoring, components = selection["scoring"], selection["components"]
    name = f"`{scoring}`" + (f" with {components} components" if components else "")
    text = f"Images were selected by score: {name}, {markdown.plain(selection['reason'], 300)}. "
    text += _WORDS.get(scoring, "")
    served, targets = selection["served"], selection["targets"]
    text += (
        f" Every target has a claim on its own nearest candidates first, then the best scores fill the budget: {kept} "
        f"of {selection['budget']} images. Served, by a mined image among its own candidates: {served} of "
        f"{markdown.count(targets, 'target')}."
    )
    if scoring == "density_ratio" and not selection["exact_background"]:
        text += (
            f" The rest of the pool stands for itself by a random sample of {selection['background']} images "
            f"(seed {selection['seed']})."
        )
    return text


def held_out_table(selection: dict[str, Any], most: int) -> str:
    """The held-out figures of the best candidates; empty where nothing was tried."""
    tried = selection["tried"]
    if not tried:
        return ""
    rows = [
        (
            f"{one['scoring']}" + (f", {one['components']}" if one["components"] else ""),
            f"{one['rank']:.0f}",
            f"{one['spread']:.2f}",
            f"{one['found']:.0%}",
        )
        for one in tried[:most]
    ]
    table = markdown.table(("scoring, components", "typical rank", "spread", "found"), rows, "lrrr")
    rest = f" The {len(tried) - most} others were worse." if len(tried) > most else ""
    return (
        f"{table}\n\nThe choice needs no labels: random halves of the targets were hidden among "
        f"{tried[0]['among']} pool images, and each candidate had to find them again. `typical rank` is where it put a "
        f"hidden one, `found` how many of them came within the budget.{rest}"
    )
