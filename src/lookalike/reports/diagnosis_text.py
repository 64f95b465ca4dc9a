"""The report's words on what a search tells of the pool: what it lacks, what is used up, hubs, and what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lookalike.reports.facts import Facts
from lookalike.reports.markdown import code, count, number, percent, plain
from lookalike.selection.drift import LARGE

if TYPE_CHECKING:
    from lookalike.reports.findings import Room

#: The mean of the targets has moved where so few shuffles move it as far, and so many times as far as half of them.
CHANCE, TIMES = 0.01, 2.0
#: A label has lost its supply where it had so many images, and has fewer than this share of them.
LABEL_LEAST, LABEL_SHARE = 5, 0.5
#: Pool images are named as found for most targets from so many on, and so many of them.
_LEAST_FOUND, _WORST = 3, 10


def diagnosis_findings(facts: Facts, room: Room) -> Iterator[str]:
    """What needs a person's eye."""
    found = facts.record.diagnosis
    if not found:
        return
    near = found["near"]
    if near and found["nothing_near"]["count"]:
        lacks = found["nothing_near"]
        yield (
            f"**The pool lacks what {count(lacks['count'], 'target')} show{'s' if lacks['count'] == 1 else ''}**: "
            f"nothing within {number(near['limit'])}, the distance within which {percent(near['quantile'])} of the "
            f"pool images have another one{_named(lacks, room)}."
        )
    if near and found["exhausted"]["count"]:
        yield (
            f"**{count(found['exhausted']['count'], 'target is', 'targets are')} in an exhausted region**: more than "
            f"half of what is near was mined before or left out{_named(found['exhausted'], room)}."
        )
    drift = found["drift"]
    if drift and "unknown" not in drift:
        yield from _drift_findings(drift, room)


def diagnosis_block(facts: Facts, room: Room) -> str:
    """The facts behind the findings: how near is near, hubs, and the last iteration; empty where they are not known."""
    found = facts.record.diagnosis
    if not found:
        return ""
    paragraphs = [" ".join([*_near_words(found, room), *_hub_words(found, room)])]
    if found["drift"]:
        paragraphs.append(_drift_words(found["drift"], room))
    return "\n\n".join(paragraphs)


def _near_words(found: Mapping[str, Any], room: Room) -> Iterator[str]:
    """How near is near, and for how many targets there is anything."""
    near, lacks, used = found["near"], found["nothing_near"]["count"], found["exhausted"]["count"]
    if not near:
        yield "The pool has no two images, so that nothing says how near is near."
        return
    where = "" if room.tight else " (`target_outcomes.parquet` has every target)"
    yield (
        f"Near is within {number(near['limit'])}, where {percent(near['quantile'])} of the pool images have another "
        f"one: {count(lacks, 'target has', 'targets have')} nothing near, {used} mostly what was mined before or left "
        f"out{where}."
    )


def _hub_words(found: Mapping[str, Any], room: Room) -> Iterator[str]:
    """How uneven the k-occurrences are, and the images that are found most often."""
    hubs = found["hubs"]
    if hubs["skewness"] is None:
        return
    chance = "" if hubs["by_chance"] is None else f" (by chance {_skewness(hubs['by_chance'])})"
    yield f"Skewness of the pool images' {found['k']}-occurrence: {_skewness(hubs['skewness'])}{chance}."
    if room.prose:
        yield "Far above chance, a few images (hubs) are near to very many targets."
    images = [one for one in hubs["images"] if one["targets"] >= _LEAST_FOUND]
    if images and not room.tight:
        named = ", ".join(
            f"{code(one['filepath'], room.value)} {one['targets']}{' (mined)' if one['mined'] else ''}"
            for one in images[: min(_WORST, 2 * room.items)]
        )
        yield f"Found for most targets: {named}."


def _skewness(value: float) -> str:
    """With one digit, and without a sign before a zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def _drift_words(drift: Mapping[str, Any], room: Room) -> str:
    """How the run compares with the last iteration."""
    since = f"Since iteration {drift['iteration']}"
    if "unknown" in drift:
        return f"{since}: nothing can be compared, since {plain(drift['unknown'], room.warning)}."
    mined, nearest = drift["mined"], drift["nearest"]
    parts = [f"{mined[1]} images after {mined[0]}"]
    if nearest["then"] is not None and nearest["now"] is not None:
        parts.append(f"median distance to the nearest image {number(nearest['now'])} after {number(nearest['then'])}")
    if nearest["superiority"] is not None:
        parts.append(f"larger than before with probability {nearest['superiority']:.2f} ({LARGE:g} is a large change)")
    shift = drift["targets"]
    if shift and not room.tight:
        parts.append(
            f"mean of the targets moved by {number(shift['distance'])} (by chance {number(shift['by_chance'])}, as far "
            f"in {percent(shift['chance'])} of shuffles)"
        )
    return f"{since}: {', '.join(parts)}."


def _drift_findings(drift: Mapping[str, Any], room: Room) -> Iterator[str]:
    """What changed by more than chance."""
    nearest, shift = drift["nearest"], drift["targets"]
    if nearest["superiority"] is not None and nearest["superiority"] >= LARGE:
        yield (
            f"**The nearest images are farther than in iteration {drift['iteration']}**: {number(nearest['now'])} "
            f"after {number(nearest['then'])} (medians); what is near may be used up."
        )
    if shift and shift["chance"] <= CHANCE and shift["distance"] >= TIMES * shift["by_chance"]:
        yield (
            f"**The targets are others than in iteration {drift['iteration']}**: their mean moved "
            f"{shift['distance'] / shift['by_chance']:.1f} times as far as by chance."
        )
    lost = [
        one
        for one in drift["labels"]
        if one["mined"][0] >= LABEL_LEAST and one["mined"][1] < LABEL_SHARE * one["mined"][0]
    ]
    if lost:
        named = ", ".join(
            f"{plain(one['label'], room.value)} ({one['mined'][1]} after {one['mined'][0]})"
            for one in lost[: room.named]
        )
        more = len(lost) - room.named
        yield (
            f"**{count(len(lost), 'label gives', 'labels give')} less than half of what iteration {drift['iteration']} "
            f"gave**: {named}{f' and {more} more' if more > 0 else ''}."
        )


def _named(region: Mapping[str, Any], room: Room) -> str:
    """The first targets of a region, and their labels."""
    paths: Sequence[str] = region["first"][: room.named]
    words = [code(path, room.value) for path in paths]
    more = region["count"] - len(paths)
    text = f" ({', '.join(words)}{f' and {more} more' if more > 0 else ''}" if words else ""
    labels = list(region["labels"].items())[: room.named] if len(region["labels"]) > 1 else []
    if text and labels:
        text += f"; labels: {', '.join(f'{plain(label, min(room.value, 40))} {number}' for label, number in labels)}"
    return f"{text})" if text else ""
