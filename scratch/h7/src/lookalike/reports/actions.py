"""What to do next, from what happened: a sentence each, and the commands with the run's own paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from lookalike.config.schemas import NearestNeighborsConfig, RunConfig
from lookalike.reports.facts import UNRELATED, Facts
from lookalike.reports.findings import Room, why_empty, why_exhausted, why_noop
from lookalike.reports.markdown import code, command, count, number
from lookalike.selection.filters import Outcome

#: Settings of a run that a search again keeps, where they are not at the search's defaults.
_CARRIED = frozenset(f.name for f in fields(RunConfig)) & frozenset(f.name for f in fields(NearestNeighborsConfig)) - {
    "topn", "knn_metric", "device", "memory_limit",
}  # fmt: skip


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
        again, searches = _again(facts)
        return Action("Augment: not yet", f"{text} {again}".rstrip(), searches)
    text = (
        f"Look through the {count(facts.mined, 'mined image')} first, keep or drop them in the gallery, and export "
        "your decisions. The second command writes `mined_reviewed.parquet`, the list to add to the training set (or "
        "add `mined.parquet` as it is):"
    )
    run = str(facts.folder.path.resolve())
    commands = [("lookalike", "view", run), ("lookalike", "review", run, "decisions.csv")]
    return Action("Augment with `mined.parquet`", text, [command(words) for words in commands])


def _again(facts: Facts) -> tuple[str, list[str]]:
    """The search again, with the rule that dropped most switched off: what that is, and the command."""
    worst = max(facts.outcomes, key=lambda name: facts.outcomes[name])
    if facts.setting("within_label"):
        return "The same search among all labels:", [_search(facts, within_label="false")]
    if worst == Outcome.OVER_DISTANCE:
        return "The same search without a threshold:", [_search(facts, distance_threshold="-1.0")]
    if worst == Outcome.LABEL_MISMATCH:
        search = _search(facts, filter_by_label="false", within_label="true")
        return "The same search among the images of each target's label:", [search]
    return "", []


def _exhausted(facts: Facts) -> Action:
    if facts.exhausted and facts.mined:
        text = f"Yes: {why_exhausted(facts)}. More neighbours per target would add little; add new images to the pool."
        return Action("Pool exhausted", text)
    text = f"No: {count(facts.record.pool.embedded - facts.mined, 'pool image')} not mined yet."
    more = min(2 * facts.topn, facts.record.pool.embedded)
    if more == facts.topn or not facts.mined:
        return Action("Pool exhausted", text)
    text += " To get more, search again with a larger `topn`; no image is embedded again:"
    return Action("Pool exhausted", text, [_search(facts, topn=str(more))])


def _noop(facts: Facts) -> Action:
    if not facts.wants_label_filter:
        text = "Not applicable: `filter_by_label` was off, so the labels of a pair may differ."
    elif not facts.filter_was_noop:
        text = "No: the label filter kept images of other labels out, see the counts above."
    else:
        text = f"Yes: {why_noop(facts)}."
        if not facts.filter_ran:
            text += " Add the column to the input tables, or leave `filter_by_label` out, so that nobody relies on it."
    return Action("Label filter a no-op", text)


def _unrelated(facts: Facts) -> Action:
    if facts.unrelated and facts.random:
        limit = UNRELATED * facts.random
        text = (
            f"Yes: {count(facts.unrelated, 'target')} with no pool image nearer than {number(limit)}. Look at the "
            "pairs in the gallery. If they are wrong, a threshold at that distance drops them; if most pairs are "
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
        yield Action(
            "Targets left with nothing",
            "The pool may lack such images: collect some, or raise the threshold, if one is set.",
        )
    aside = [side for side in (facts.targets, facts.pool) if side.record.quarantined]
    if aside:
        places = [code(side.quarantine.name, room.value) for side in aside if side.quarantine]
        text = (
            f"Mend or replace the files that {' and '.join(places) or 'the quarantine tables'} list with their reasons."
        )
        yield Action("Images set aside", text)
    if facts.same_path or facts.same_vector:
        text = "Take the targets out of the pool table, so that the list holds new images only."
        yield Action("Targets in the pool", text)
    if facts.hub_count:
        text = "Look at the hub images first; remove them from the pool if they show nothing that matters."
        yield Action("Hubs", text)
    if facts.paths.missing:
        yield Action("Paths", "Mount the images, or set `root`, before you train with this list.")
    if facts.same_encoder is None:
        yield Action("Encoder", "Embed both sides here with one `model` and `model_path`, and mine again.")


def _search(facts: Facts, **changed: str) -> str:
    """The command that searches again in the run's own embedding tables, with other settings."""
    folder = facts.folder.path.resolve()
    words = {
        "source_parquet": str(folder / facts.folder.pool.name),
        "target_parquet": str(folder / facts.folder.targets.name),
        "output_parquet": str(folder.with_name(f"{folder.name}_again") / facts.folder.mined.name),
        "topn": str(facts.setting("topn")),
        "knn_metric": facts.metric,
    }
    for name, default in facts.defaults.items():
        if name in _CARRIED and facts.setting(name) != default:
            words[name] = str(facts.setting(name)).lower()
    words |= changed
    if changed.get("within_label") == "false":
        del words["within_label"]
    columns = {"source_embed_column_name": 1, "target_embed_column_name": 0}
    words |= {name: facts.columns[place] for name, place in columns.items() if facts.columns[place] != "embedding"}
    return command(["tmm", "nearest_neighbors", *(f"{name}={value}" for name, value in words.items())])
