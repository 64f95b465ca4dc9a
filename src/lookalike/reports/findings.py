"""What in a run needs a person's eye, one sentence each, with the rule that was applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lookalike.reports.diagnosis_text import diagnosis_findings
from lookalike.reports.facts import (
    HUB_SHARE,
    HUB_TARGETS,
    HUB_TIMES,
    UNRELATED,
    Facts,
    Side,
)
from lookalike.reports.markdown import code, count, number, percent, plain
from lookalike.reports.supply import is_exhausted, is_short, why_empty, why_exhausted
from lookalike.selection.filters import Outcome

#: Warnings that a finding of its own stands for: how two of a search begin, and what one of a run holds.
_FILTER_WARNING = "filter_by_label is on"
_IDENTITY_WARNING = "no encoder identity"
_OVERLAP_WARNING = "targets are in the pool, too"
_SHORT_WARNING = "images are kept of a budget of"
_EMPTY_WARNINGS = (
    *("every row of the pool is excluded", "every row of the pool is barred"),
    "no target has a neighbour in the pool that may be kept",
)


#: With room for so few entries of a list, lists that are found elsewhere are left out.
_TIGHT = 2


@dataclass(frozen=True)
class Room:
    """How much the report may show; less where it would become too long.

    Attributes
    ----------
    labels:
        Rows of the table of labels.
    items:
        Entries of a list of warnings; paths that a finding names are half as many.
    warning, value:
        Characters of a warning, and of a path or label.
    prose:
        Whether what is the same in every report is explained.
    brief:
        Whether findings are only named, where even the least of everything is too much.
    """

    labels: int
    items: int
    warning: int
    value: int
    prose: bool
    brief: bool = False

    @property
    def named(self) -> int:
        """Paths that a finding names."""
        return max(1, self.items // 3)

    @property
    def tight(self) -> bool:
        """Whether only what must be there is."""
        return self.items <= _TIGHT


@dataclass(frozen=True)
class Findings:
    """What needs a person's eye, as Markdown sentences.

    Attributes
    ----------
    own:
        What the numbers show; never cut.
    warnings:
        What the run warned about; also in `run.json`, so that the report may cut them.
    """

    own: list[str]
    warnings: list[str]

    def __len__(self) -> int:
        """Return how many things there are."""
        return len(self.own) + len(self.warnings)


#: What `embed_images` says of images that it could not read; a finding has their number and reasons.
_SET_ASIDE = "images were set aside"


def find(facts: Facts, room: Room) -> Findings:
    """Find everything that needs a person's eye."""
    own = [
        *_result(facts),
        *_inputs(facts, room),
        *_served(facts, room),
        *diagnosis_findings(facts, room),
        *_images(facts, room),
    ]
    return Findings(
        [f"{text[: text.index('**', 2)]}**." for text in own] if room.brief else own,
        [plain(warning, room.warning) for warning in facts.record.warnings if not _is_told(warning, facts)],
    )


def _is_told(warning: str, facts: Facts) -> bool:
    """Whether a finding of its own says what a warning says."""
    return (
        (warning.startswith(_FILTER_WARNING) and facts.filter_was_noop)
        or (warning.startswith(_IDENTITY_WARNING) and facts.same_encoder is None)
        or (_OVERLAP_WARNING in warning and bool(facts.same_path))
        or (_SHORT_WARNING in warning and is_short(facts))
        or (warning.startswith(_EMPTY_WARNINGS) and not facts.pairs)
        or (_SET_ASIDE in warning and any(side.record.quarantined for side in (facts.targets, facts.pool)))
    )


def _result(facts: Facts) -> Iterator[str]:
    """The result as a whole."""
    if not facts.mined:
        yield f"**The mined table is empty**: {why_empty(facts)}."
    if facts.same_encoder is None:
        unknown = [side.name for side in (facts.targets, facts.pool) if side.identity is None]
        yield (
            f"**The encoder is not known** of {' and '.join(unknown)}: the table was made elsewhere and does not say "
            "which encoder wrote it. If two encoders wrote the two tables, every distance is meaningless."
        )
    if facts.same_encoder is False:
        yield "**Different encoders wrote the two tables**: the distances between them mean nothing."
    if facts.filter_was_noop:
        yield f"**The label filter was a no-op**: {why_noop(facts)}."
    if facts.random == 0 and facts.nearest == 0 and not facts.same_path:
        yield "**All distances are 0**: the encoder does not tell these images apart, so the order says nothing."


def _inputs(facts: Facts, room: Room) -> Iterator[str]:
    """Images that did not take part."""
    for side, noun in ((facts.targets, "target"), (facts.pool, "pool image")):
        bad = sum(side.record.quarantined.values())
        if bad:
            place = f", see {code(side.quarantine.name, room.value)}" if side.quarantine else ""
            yield f"**{count(bad, noun)} set aside**, which could not be embedded ({_reasons(side)}{place})."


def _served(facts: Facts, room: Room) -> Iterator[str]:
    """Targets that got nothing, or less than it seems."""
    if facts.nothing and facts.mined:
        whose = "its" if facts.nothing == 1 else "their"
        yield (
            f"**{count(facts.nothing, 'target')} left with nothing**: none of {whose} neighbours was kept, or is a "
            "duplicate or near-duplicate of a kept image"
            f"{_such_as(facts.first_nothing, facts.nothing, room)}."
        )
    if is_exhausted(facts) and facts.mined:
        yield f"**The pool is nearly exhausted** for these targets and settings: {why_exhausted(facts)}."


def _images(facts: Facts, room: Room) -> Iterator[str]:
    """Single images that stand out."""
    if facts.unrelated:
        what = "Distances look unrelated" if facts.all_unrelated else "Unrelated neighbours"
        rule = f"{UNRELATED:g} times the distance of a random target–pool pair ({number(facts.random)})"
        nearest = f"the nearest {facts.pool_image} is no nearer than {rule}"
        yield (
            f"**{what}**: for {count(facts.unrelated, 'target')} {nearest}"
            f"{_such_as(facts.first_unrelated, facts.unrelated, room)}."
        )
    if facts.hub_count:
        named = ", ".join(f"{code(hub.filepath, room.value)} for {hub.targets}" for hub in facts.hubs[: room.named])
        yield (
            f"**{count(facts.hub_count, 'hub image')}** in the pool: found for at least {HUB_TARGETS} targets, a "
            f"{_share(HUB_SHARE)} of them, and {HUB_TIMES} times as often as by chance ({named}"
            f"{_more(facts.hub_count - min(len(facts.hubs), room.named))}). Often an empty or blurred picture."
        )
    if facts.same_path:
        known = "none of them was mined as its own neighbour"
        if facts.self_mined:
            known = f"{facts.self_mined} of them mined as their own neighbour, so the mined table holds images you know"
        yield f"**{count(facts.same_path, 'target')} found in the pool**, too, by path; {known}."
    if facts.same_vector:
        yield (
            f"**{count(facts.same_vector, 'target')} with an equal vector in the pool**: a neighbour of another path "
            "at distance 0, which is most likely a copy."
        )
    if facts.paths.missing:
        first = next(path for path, there in facts.paths.first if there is False)
        yield (
            f"**{facts.paths.missing} of the first {len(facts.paths.first)} mined paths are not on the disk**, "
            f"such as {code(first, room.value)}."
        )
    if not facts.paths.utf8:
        yield "**Paths in the mined table are not valid UTF-8**; other programs may not find these files."


def why_noop(facts: Facts) -> str:
    """Why the label filter changed nothing."""
    if facts.filter_ran:
        return "it ran and dropped no pair, since the labels of all pairs agree"
    sides = (facts.targets, facts.pool)
    lacking = [f"{side.name} has no column `label`" for side in sides if not side.record.has_label]
    return f"{' and '.join(lacking) or 'a table has no column `label`'}, so nothing was filtered"


def _reasons(side: Side) -> str:
    """Images that were set aside, by reason."""
    return ", ".join(f"{number} {plain(reason, 40)}" for reason, number in side.record.quarantined.items())


def dropped(facts: Facts) -> str:
    """Pairs by outcome."""
    return ", ".join(f"{number} {code(name, 40)}" for name, number in facts.outcomes.items())


def headline(facts: Facts, things: int) -> str:
    """The verdict in one line."""
    eye = "nothing stands out" if not things else f"{count(things, 'thing needs', 'things need')} a person's eye"
    if not facts.mined:
        return f"Nothing was mined for {count(facts.target_count, 'target')}; {eye}"
    known = f" ({facts.self_mined} of them targets themselves)" if facts.self_mined else ""
    return f"{count(facts.mined, 'image')}{known} mined for {count(facts.target_count, 'target')}; {eye}"


def kept_share(facts: Facts) -> str:
    """The share of pairs that were kept."""
    return percent(facts.outcomes[Outcome.KEPT] / max(1, facts.pairs))


def _such_as(paths: Sequence[str], total: int, room: Room) -> str:
    shown = [code(path, room.value) for path in paths[: room.named]]
    return f" ({', '.join(shown)}{_more(total - len(shown))})" if shown else ""


def _more(left: int) -> str:
    return f" and {left} more" if left > 0 else ""


def _share(share: float) -> str:
    return {0.1: "tenth"}.get(share, percent(share))
