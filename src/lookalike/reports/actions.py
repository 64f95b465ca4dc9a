"""What to do next, from what happened: a sentence each, and the commands with the run's own paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lookalike.reports.facts import UNRELATED, Facts
from lookalike.reports.findings import Room, why_noop
from lookalike.reports.markdown import code, command, count, number
from lookalike.reports.supply import is_exhausted, is_short, more, otherwise, why_empty, why_exhausted, worst_rule
from lookalike.selection.filters import Outcome


@dataclass(frozen=True)
class Action:
    """One thing to do, or the statement that it need not be done.

    Attributes
    ----------
    title:
        What it is about.
    text:
        Markdown.
    commands:
        Command lines.
    """

    title: str
    text: str
    commands: list[str] = field(default_factory=list)


def recommend(facts: Facts, room: Room) -> list[Action]:
    """What to do next: first what every run asks about, then what this one does."""
    return [
        _augment(facts),
        _exhausted(facts),
        _noop(facts),
        _unrelated(facts),
        *_rest(facts, room),
    ]


def _augment(facts: Facts) -> Action:
    if not facts.mined:
        text = f"`mined.parquet` has no rows, so there is nothing to augment with: {why_empty(facts)}."
        words, changed = otherwise(facts)
        return Action("Augment: not yet", f"{text} {words}".rstrip(), [_search(facts, **changed)] if changed else [])
    text = (
        f"Look through the {count(facts.mined, 'mined image')} first, keep or drop them in the gallery, and export "
        "your decisions. The second command writes `mined_reviewed.parquet`, the list to add to the training set (or "
        "add `mined.parquet` as it is):"
    )
    run = str(facts.folder.path.resolve())
    commands = [("lookalike", "view", run), ("lookalike", "review", run, "decisions.csv")]
    return Action("Augment with `mined.parquet`", text, [command(words) for words in commands])


def _exhausted(facts: Facts) -> Action:
    title = "Pool exhausted"
    if not facts.searched:
        return Action(title, "Yes: nothing is left that may be mined. Add new images to the pool.")
    rest = count(facts.searched - facts.mined, "pool image that may be mined is", "pool images that may be mined are")
    left = f"No: {rest} not mined yet."
    if not facts.mined:
        return Action(title, left)
    if is_exhausted(facts):
        return Action(title, f"Yes: {why_exhausted(facts)}. {_instead(facts)}")
    changed = more(facts)
    if not changed:
        return Action(title, left)
    text = f"{left} To get more, search again with a larger `{next(iter(changed))}`; no image is embedded again:"
    return Action(title, text, [_search(facts, **changed)])


def _instead(facts: Facts) -> str:
    """What to do with an exhausted pool."""
    rule = worst_rule(facts) if is_short(facts) else ""
    if rule:
        return f"A larger budget would add nothing; loosen what lies behind `{rule}`, or add new images to the pool."
    return f"A larger {'budget' if facts.scored else '`topn`'} would add little; add new images to the pool."


def _noop(facts: Facts) -> Action:
    if facts.label_rule:
        text = f"No: `{facts.label_rule}` acts inside the search, where each target meets images of its own label only."
    elif not facts.wants_label_filter:
        text = "Not applicable: `filter_by_label` was off, so the labels of a pair may differ."
    elif facts.filter_was_noop:
        text = f"Yes: {why_noop(facts)}."
        if not facts.filter_ran:
            text += " Add the column to the input tables, or leave `filter_by_label` out, so that nobody relies on it."
    elif not facts.pairs:
        text = "Not applicable: the search returned no pairs that it could have dropped."
    else:
        text = "No: the label filter kept images of other labels out, see the counts above."
    return Action("Label filter a no-op", text)


def _unrelated(facts: Facts) -> Action:
    if facts.unrelated and facts.random:
        limit = UNRELATED * facts.random
        text = (
            f"Yes: {count(facts.unrelated, 'target')} with no {facts.pool_image} nearer than {number(limit)}. Look at "
            "the pairs in the gallery. If they are wrong, a threshold at that distance drops them; if most pairs are "
            "wrong, try an encoder that suits the images better."
        )
        tighter = facts.threshold is None or facts.threshold > limit
        search = [_search(facts, distance_threshold=f"{limit:.4g}")] if tighter else []
        return Action("Unrelated images", text, search)
    if not facts.pairs:
        return Action("Unrelated images", "There is nothing to judge: the search returned no pairs.")
    text = "None that the distances show. You may still find some by eye; a `distance_threshold` drops the farthest."
    return Action("Unrelated images", text)


def _rest(facts: Facts, room: Room) -> Iterator[Action]:
    """What only some runs ask for."""
    by_label = facts.outcomes.get(Outcome.LABEL_MISMATCH, 0)
    if facts.nothing and facts.mined and by_label:
        text = "The label filter acts after the search. A search within the label serves every target that it can:"
        search = _search(facts, filter_by_label="false", within_label="true")
        yield Action("Targets left with nothing", text, [search])
    elif facts.nothing and facts.mined:
        yield _unserved(facts)
    aside = [side for side in (facts.targets, facts.pool) if side.record.quarantined]
    if aside:
        places = [code(side.quarantine.name, room.value) for side in aside if side.quarantine]
        text = (
            f"Mend or replace the files that {' and '.join(places) or 'the quarantine tables'} list with their reasons."
        )
        yield Action("Images set aside", text)
    if facts.same_path or facts.same_vector:
        text = "Take the targets out of the pool table, so that the list holds new images only."
        if facts.record.settings.get("self_match") == "keep":
            text += " Or mine with `self_match=exclude`, the default, which leaves them out."
        yield Action("Targets in the pool", text)
    if facts.hub_count:
        text = "Look at the hub images first; remove them from the pool if they show nothing that matters."
        yield Action("Hubs", text)
    if facts.paths.missing:
        yield Action("Paths", "Mount the images, or set `root`, before you train with this list.")
    if facts.same_encoder is None:
        yield Action("Encoder", "Embed both sides here with one `model` and `model_path`, and mine again.")


def _unserved(facts: Facts) -> Action:
    """What serves the targets that are left with nothing."""
    title = "Targets left with nothing"
    if facts.scored and facts.outcomes.get(Outcome.OVER_BUDGET):
        budget = min(facts.target_count, facts.searched)
        if facts.budget < budget:
            text = f"The budget of {facts.budget} is less than the number of targets. One image for each:"
            return Action(title, text, [_search(facts, budget=str(budget), min_per_target="1")])
        if not facts.setting("min_per_target"):
            text = "With `min_per_target=1` every target has a claim on its nearest candidate first:"
            return Action(title, text, [_search(facts, min_per_target="1")])
    return Action(title, "The pool may lack such images: collect some, or raise the threshold, if one is set.")


def _search(facts: Facts, **changed: str) -> str:
    """The command that searches again in the run's own tables, with other settings.

    All others come from the run's own spec: what the run left out stays out. The spec names the folder in which the
    run was made, the command the one in which it lies now.
    """
    here, folder = facts.folder.path.resolve(), facts.folder
    words = {
        "source_parquet": folder.pool,
        "target_parquet": folder.targets,
        "exclude_path": folder.excluded,
        "avoid_parquet": folder.avoid,
    }
    places = {name: str(here / path.name) for name, path in words.items() if path.exists()}
    places["output_parquet"] = str(here.with_name(f"{here.name}_again") / folder.mined.name)
    settings = (f"{name}={value}" for name, value in {**places, **changed}.items())
    return command(["tmm", "nearest_neighbors", "-e", str(here / folder.mining_spec.name), *settings])
