"""What the pool still has for the targets: whether it is exhausted, and which setting would give more.

A search for the topn nearest runs dry when it meets the same images again and again. A selection by score ends at its
budget, and the same images are candidates of many targets by nature: there the pool is exhausted when the budget cannot
be filled. Both count what may be mined only: what is left out before the search is no supply.
"""

from __future__ import annotations

from collections.abc import Iterator

from lookalike.reports.facts import DUPLICATE_SHARE, MINED_SHARE, Facts
from lookalike.reports.markdown import code, count, percent
from lookalike.selection.filters import Outcome

#: Outcomes that say nothing of a rule that could be loosened.
_NO_RULES = (Outcome.KEPT, Outcome.DUPLICATE, Outcome.OVER_BUDGET)


def is_exhausted(facts: Facts) -> bool:
    """Whether there is not much left to find."""
    if _mined_share(facts) >= MINED_SHARE or not facts.searched:
        return True
    return is_short(facts) if facts.scored else _duplicate_share(facts) > DUPLICATE_SHARE


def is_short(facts: Facts) -> bool:
    """Whether the rules of a selection by score let through fewer images than its budget allows."""
    return facts.mined < facts.budget


def why_exhausted(facts: Facts) -> str:
    """The numbers that tell how much of the pool is left."""
    if is_short(facts):
        rule = worst_rule(facts)
        most = f"; `{rule}` stopped most of the others" if rule else ""
        return f"{facts.mined} of the {count(facts.budget, 'image')} that the budget allows pass the rules{most}"
    mined = (
        f"{percent(_mined_share(facts))} of the {count(facts.searched, 'pool image')} that may be mined "
        f"{'is' if facts.searched == 1 else 'are'} mined (limit {percent(MINED_SHARE)})"
    )
    if facts.scored:
        return mined
    return (
        f"{mined}, and {percent(_duplicate_share(facts))} of the candidates were duplicates of an earlier one "
        f"(limit {percent(DUPLICATE_SHARE)})"
    )


def more(facts: Facts) -> dict[str, str]:
    """The setting that gives more images, with its new value; nothing where no setting does."""
    if facts.scored and (is_short(facts) or facts.budget >= facts.searched):
        return {}
    if facts.scored and facts.setting("budget"):
        return {"budget": str(min(2 * facts.budget, facts.searched))}
    topn = min(2 * facts.topn, facts.searched)
    return {"topn": str(topn)} if topn > facts.topn else {}


def worst_rule(facts: Facts) -> str:
    """The rule that dropped most pairs; empty where none dropped any."""
    rules = {name: number for name, number in facts.outcomes.items() if name not in _NO_RULES}
    return max(rules, key=lambda name: rules[name]) if rules else ""


def why_empty(facts: Facts) -> str:
    """Why nothing was mined."""
    if not facts.searched:
        rules = ", ".join(left_out(facts))
        every = "the only pool image was" if facts.left_out == 1 else f"all {facts.left_out} pool images were"
        return f"{every} left out before the search{rules and f' ({rules})'}"
    if not facts.pairs:
        if facts.label_rule:
            return f"no target's label occurs in the pool, and `{facts.label_rule}` allows no other"
        return "the search returned no pairs"
    name, dropped = max(facts.outcomes.items(), key=lambda outcome: outcome[1])
    return f"the search returned {count(facts.pairs, 'pair')}, and the rule `{name}` alone dropped {dropped}"


def left_out(facts: Facts) -> Iterator[str]:
    """What was left out before the search, by rule."""
    rules = (facts.record.excluded or {}).get("rules", {})
    return (f"{number} {code(rule, 40)}" for rule, number in rules.items())


def otherwise(facts: Facts) -> tuple[str, dict[str, str]]:
    """Where nothing was mined: the search without the rule that left nothing, in words, and the settings for it."""
    if not facts.searched:
        text = "Name another pool, or add images to this one."
        if set((facts.record.excluded or {}).get("rules", {})) in ({"self_match"}, {"self_match", "self_twin"}):
            text += " If the targets themselves may be mined, mine again with `self_match=keep`."
        return text, {}
    if not facts.pairs and facts.label_rule:
        both = {"filter_by_label": facts.wants_label_filter, "within_label": facts.setting("within_label")}
        return "The same search among all labels:", {name: "false" for name, on in both.items() if on}
    return _WITHOUT.get(worst_rule(facts), ("", {}))


#: Per rule, what the search without it is called, and the settings for it.
_WITHOUT: dict[str, tuple[str, dict[str, str]]] = {
    Outcome.OVER_DISTANCE: ("The same search without a threshold:", {"distance_threshold": "-1.0"}),
    Outcome.UNDER_SIMILARITY: ("The same search without `min_similarity`:", {"min_similarity": "-1.0"}),
    Outcome.AVOIDED: ("The same search without the images to avoid, which stay left out:", {"avoid_parquet": ""}),
    Outcome.LABEL_MISMATCH: (
        "The same search among the images of each target's label:",
        {"filter_by_label": "false", "within_label": "true"},
    ),
}


def _mined_share(facts: Facts) -> float:
    """Share of what may be mined that is mined."""
    return facts.mined / max(1, facts.searched)


def _duplicate_share(facts: Facts) -> float:
    """Share of the candidates whose image was mined for an earlier pair."""
    duplicates = facts.outcomes.get(Outcome.DUPLICATE, 0)
    return duplicates / max(1, duplicates + facts.mined)
