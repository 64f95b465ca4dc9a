"""The report's words on how images were chosen: the settings, and of a selection by score what it rests on."""

from __future__ import annotations

from typing import Any

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.reports import markdown
from lookalike.reports.facts import Facts

#: Settings of a selection by score that are shown where they are not at their defaults.
_LIMITS = (
    *("components", "max_per_target", "max_per_label", "target_weight_column", "dedup_threshold", "diversity"),
    "avoid_weight",
)

#: Letters of the reason for a scoring, where there is little room.
_TIGHT = 100
#: Fewer rows of the held-out figures compare nothing.
_LEAST_ROWS = 3
_WORDS = {
    "density_ratio": "An image's score says how much more alike it is to the targets than to the rest of the pool, in "
    "a space whitened on the pool's leading components.",
    "lda": "An image's score says how near it is to the mean of the targets, in a space whitened on the pool's "
    "leading components.",
    "blend": "An image's score is a weighted mean of several scores, each brought to one scale: what is like the "
    "targets and unlike the rest of the pool by many of them stands first.",
    "nearest": "An image's score is one over its best rank among the neighbours of any target.",
}


def settings_words(facts: Facts) -> str:
    """The settings that decided, as `name` value."""
    values = {**(_scored_settings(facts) if facts.scored else _nearest_settings(facts)), **_filter_settings(facts)}
    return ", ".join(f"`{name}` {value}" for name, value in values.items())


def _nearest_settings(facts: Facts) -> dict[str, str]:
    asked = facts.setting("topn")
    return {"topn": f"{facts.topn}" + (f" (asked for {asked})" if asked != facts.topn else "")}


def _scored_settings(facts: Facts) -> dict[str, str]:
    given = facts.setting("budget")
    shown = {
        "scoring": markdown.plain(facts.setting("scoring"), 40),
        "topn": f"{facts.topn}",
        "budget": f"{given:.15g}" if given else f"{facts.budget} (set by `topn`)",
        "candidates": f"{facts.setting('candidates')}",
        "min_per_target": f"{facts.setting('min_per_target')}",
    }
    defaults = NearestNeighborsConfig()
    limits = {name: facts.setting(name) for name in _LIMITS if facts.setting(name) != getattr(defaults, name)}
    return {**shown, **{name: markdown.plain(value, 40) for name, value in limits.items()}}


def _filter_settings(facts: Facts) -> dict[str, str]:
    """What both ways of choosing know."""
    shown = {
        "knn_metric": markdown.plain(facts.metric, 40),
        "filter_by_label": "on" if facts.wants_label_filter else "off",
        "within_label": "on" if facts.setting("within_label") else "off",
        "distance_threshold": "off" if facts.threshold is None else f"{facts.threshold:g}",
    }
    floor = facts.setting("min_similarity")
    if floor > -1:
        shown["min_similarity"] = f"{floor:g}"
    if "self_match" in facts.record.settings:
        shown["self_match"] = markdown.plain(facts.record.settings["self_match"], 40)
    return shown


def selection_words(facts: Facts, selection: dict[str, Any], *, prose: bool, tight: bool) -> str:
    """What chose the images, in a few sentences.

    Parameters
    ----------
    facts:
        The run.
    selection:
        `RunRecord.selection`.
    prose:
        Whether what is the same in every such run is explained.
    tight:
        Whether not even what a score is has room.
    """
    scoring, components = selection["scoring"], selection["components"]
    name = f"`{scoring}`" + (f" with {components} components" if components else "")
    sentences = [
        f"Images were selected by score: {name}, {markdown.plain(selection['reason'], _TIGHT if tight else 300)}."
    ]
    if not tight:
        sentences.append(_WORDS.get(scoring, ""))
    claim = "Every target has a claim on its own nearest candidates first, then the best scores fill the budget"
    if not facts.setting("min_per_target"):
        claim = "The best scores fill the budget"
    near = " or a near-duplicate of one" if facts.setting("dedup_threshold") >= 0 else ""
    sentences += [
        f"{claim}: {facts.mined} of {selection['budget']} images.",
        f"Served, by a mined image among its own candidates{near}: {selection['served']} of "
        f"{markdown.count(selection['targets'], 'target')}.",
    ]
    if prose:
        sentences.append(
            f"The pairs are those of every target with its {facts.setting('candidates')} candidates (more, where the "
            "budget asks for them), and of every other image that came to its turn; `duplicate` marks the further "
            "targets of an image that is kept."
        )
    if scoring in ("density_ratio", "blend") and not selection["exact_background"]:
        sentences.append(
            f"The rest of the pool stands for itself by a random sample of {selection['background']} images "
            f"(seed {selection['seed']})."
        )
    return " ".join(sentences)


def held_out_table(selection: dict[str, Any], most: int, *, prose: bool) -> str:
    """The held-out figures of the best candidates; empty where nothing was tried, or there is no room for two."""
    tried = selection["tried"]
    if not tried or most < _LEAST_ROWS:
        return ""
    rows = [
        (
            f"{one['scoring']}" + (f", {one['components']}" if one["components"] else ""),
            f"{one['rank']:.0f}",
            f"{one['spread']:.2f}",
            f"{one['found']:.0%}",
            f"{one.get('share', 0.0):.0%}",
        )
        for one in tried[:most]
    ]
    table = markdown.table(("scoring, components", "typical rank", "spread", "found", "share"), rows, "lrrrr")
    rest = f" The {len(tried) - most} others were worse." if len(tried) > most else ""
    if not prose:
        return (
            f"{table}\n\nRandom halves of the targets were hidden; `found`: within the budget again; `share`: in the "
            f"blend.{rest}"
        )
    return (
        f"{table}\n\nThe choice needs no labels: random halves of the targets were hidden among "
        f"{tried[0]['among']} pool images, and each candidate had to find them again. `typical rank` is where it put a "
        f"hidden one, `found` how many of them came within the budget, `share` how much it counts in the score.{rest}"
    )
