"""`Mining_Report.md`: what a run found, what needs a person's eye and what to do next (drop-in contract, section 5)."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2

from lookalike.reports import markdown
from lookalike.reports.actions import recommend
from lookalike.reports.captions import plot_captions
from lookalike.reports.diagnosis_text import diagnosis_block
from lookalike.reports.facts import Facts, LabelFacts, Side, gather
from lookalike.reports.findings import Room, dropped, find, headline, kept_share, why_noop
from lookalike.reports.selection_text import held_out_table, selection_words, settings_words
from lookalike.reports.supply import left_out
from lookalike.tables.atomic import atomic_path
from lookalike.tables.run_folder import RunFolder

#: What readers expect of the length, in words between blanks.
MOST_WORDS = 1200
#: Steps of a run whose times are told; a run has fewer.
_MOST_STEPS = 12
#: From plenty to little: the first that leaves the report short enough is taken.
_ROOMS = (
    Room(25, 10, 240, 160, prose=True),
    Room(25, 6, 200, 120, prose=False),
    Room(18, 5, 160, 100, prose=False),
    Room(12, 5, 140, 80, prose=False),
    Room(8, 4, 120, 60, prose=False),
    Room(5, 3, 100, 40, prose=False),
    Room(12, 2, 140, 80, prose=False),
    Room(3, 2, 60, 24, prose=False),
    Room(1, 1, 40, 12, prose=False),
    Room(1, 1, 30, 12, prose=False, brief=True),
)
#: What `topn` is called, by whether images were scored, and whether a budget was given.
_PER_QUERY = {
    (False, False): "Similar items per query",
    (True, False): "Similar items per query (sets the budget)",
    (True, True): "Similar items per query (but the budget is given)",
}
_METRICS = {
    "cosine": "The cosine distance is 1 minus the cosine of the angle: from 0 to 2, and 1 at a right angle.",
    "euclidean": "The Euclidean distance has no largest value; it grows with the length of the vectors.",
    "manhattan": "The Manhattan distance, the sum of absolute differences, has no largest value.",
}


def write_report(folder: RunFolder) -> Path:
    """Write `Mining_Report.md` of a finished run, whole or not at all; the plots that are there are in it.

    Parameters
    ----------
    folder:
        The run; its tables and `run.json` must be there.

    Returns
    -------
    pathlib.Path
        The report.

    Raises
    ------
    TableError
        When the folder is no finished run, a table is damaged, or the report cannot be written.
    """
    return store_report(folder, report_text(gather(folder)))


def report_text(facts: Facts) -> str:
    """The text of the report, which `store_report` writes: the record gets its digest in between."""
    text = next((text for text in (render(facts, room) for room in _ROOMS) if _fits(text)), None)
    return text or render(facts, _ROOMS[-1])


def store_report(folder: RunFolder, text: str) -> Path:
    """Write the report, whole or not at all."""
    with atomic_path(folder.report) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return folder.report


def _fits(text: str) -> bool:
    return len(text.split()) <= MOST_WORDS


def render(facts: Facts, room: Room) -> str:
    """The text of the report, in so much room."""
    record, value = facts.record, room.value
    findings = find(facts, room)
    context: dict[str, Any] = {
        "facts": facts,
        "record": record,
        "name": markdown.code(facts.folder.path.resolve().name, value),
        "machine": markdown.plain(record.machine.get("processor") or "", 60),
        "headline": headline(facts, len(findings)),
        "encoder": _encoder(facts, value),
        "kept_share": kept_share(facts),
        "left_out": ", ".join(left_out(facts)),
        "has_gallery": facts.folder.gallery.exists(),
        "findings": findings.own,
        "warnings": findings.warnings[: room.items],
        "more_warnings": len(findings.warnings[room.items :]),
        "inputs": _inputs(facts, value),
        "input_note": _input_note(facts),
        "encoders": _encoders(facts, value),
        "command": markdown.fence(markdown.command(record.command, 4 * value), "text"),
        "settings": settings_words(facts),
        "counts": _counts(facts),
        "outcomes": dropped(facts),
        "noop": _noop(facts),
        "certificate": _certificate(facts),
        "selection": selection_words(facts, record.selection, prose=room.prose, tight=room.tight)
        if record.selection
        else "",
        "held_out": held_out_table(record.selection, room.items, prose=room.prose) if record.selection else "",
        "times": _times(record.seconds),
        "diagnosis": "" if room.brief else diagnosis_block(facts, room),
        "labels": _labels(facts.labels[: room.labels], value),
        "labels_rest": _labels_rest(facts, room),
        "plots": plot_captions(facts.folder),
        "on_disk": _on_disk(facts),
        "first_paths": _first_paths(facts, room),
        "encoding": _encoding(facts),
        "actions": recommend(facts, room),
        "prose": room.prose,
        "tight": room.tight,
        "metric_words": _METRICS.get(facts.metric, ""),
    }
    return re.sub(r"\n{3,}", "\n\n", _template().render(context)).rstrip() + "\n"


@functools.cache
def _template() -> jinja2.Template:
    """The template of the report."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(("html",)),  # this is Markdown: values are escaped by `markdown`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": markdown.count,
        "number": markdown.number,
        "plain": lambda text: markdown.plain(text, 600),
    }
    return environment.get_template("Mining_Report.md.jinja")


def _encoder(facts: Facts, most: int) -> str:
    """The encoder in a few words: as the user named it, or as its tables do."""
    record, identity = facts.record, facts.targets.identity
    if record.model_path:
        return f"{markdown.code(record.model, most)} {markdown.code(record.model_path, most)}"
    if identity is None:
        return "that wrote the ready embedding tables, which do not name it"
    return f"{markdown.code(identity.model.family, most)} {markdown.code(identity.origin.model_path, most)}"


def _inputs(facts: Facts, most: int) -> str:
    """Both sides as they came in."""
    rows = [
        (
            f"`{side.name}`",
            markdown.code(side.record.path, most, cell=True),
            markdown.plain(side.record.kind, 40),
            side.record.rows,
            side.record.embedded,
            sum(side.record.quarantined.values()),
            "yes" if side.record.has_label else "no",
            _converted(side),
        )
        for side in (facts.targets, facts.pool)
    ]
    header = ("input", "path", "kind", "rows", "embedded", "set aside", "has label", "converted from CSV")
    return markdown.table(header, rows, "lllrrrll")


def _converted(side: Side) -> str:
    """Whether a parquet table had to be made of the input, and of what."""
    if not side.record.converted:
        return "no"
    return "yes" if side.record.kind == "CSV" else f"from {markdown.plain(side.record.kind, 40)}"


def _input_note(facts: Facts) -> str:
    """What else there is to say of the inputs: that the targets are texts, and which vectors were there before."""
    sides = ((side.name, side.record.cached + side.record.reused) for side in (facts.targets, facts.pool))
    known = [f"{count} of `{name}`" for name, count in sides if count]
    text = f"Vectors that came from the cache or an earlier table: {', '.join(known)}." if known else ""
    return " ".join(part for part in ("The targets are texts." if facts.texts else "", text) if part)


def _encoders(facts: Facts, most: int) -> str:
    """What wrote each table."""
    header = ("embedding of", "model", "model_path", "architecture", "dimension", "fingerprint")
    rows = [_encoder_row(facts, side, most) for side in (facts.targets, facts.pool)]
    return markdown.table(header, rows, "llllrl")


def _encoder_row(facts: Facts, side: Side, most: int) -> tuple[object, ...]:
    step = "targets" if side is facts.targets else "pool"
    identity = side.identity
    if identity is None:
        return (step, *["unknown"] * 5)
    model = identity.model
    texts = (model.family, identity.origin.model_path, model.architecture, identity.fingerprint[:12])
    family, path, architecture, fingerprint = (markdown.code(text, most, cell=True) for text in texts)
    return (step, family, path, architecture, model.dimension, fingerprint)


def _counts(facts: Facts) -> str:
    """The counts of `mining_summary.txt`."""
    counts = facts.record.counts
    names = {
        "targets": "Target queries",
        "topn": _PER_QUERY[facts.scored, bool(facts.setting("budget"))],
        "pairs": "Total pairs",
        "label_mismatches": "Dropped by label",
        "over_distance": "Dropped by distance",
        "under_similarity": "Dropped by similarity",
        "duplicates": "Duplicates removed",
        "unique": "Unique items saved",
        "excluded": "Excluded from the pool",
    }
    known = [(title, counts[key]) for key, title in names.items() if counts.get(key) is not None]
    further = [
        (markdown.plain(key.replace("_", " "), 40), number)
        for key, number in counts.items()
        if key not in names and isinstance(number, int)
    ]
    further += [
        (f"Dropped by {markdown.plain(rule, 40)}", number) for rule, number in counts.get("dropped", {}).items()
    ]
    return markdown.table(("count", "number"), [*known, *further[:10]], "lr")


def _noop(facts: Facts) -> str:
    """Whether the label filter changed anything."""
    if facts.label_rule:
        return (
            f"The label filter was not a no-op: `{facts.label_rule}` acts inside the search, among images of the "
            "target's own label."
        )
    if not facts.wants_label_filter:
        return "The label filter was off, so the question whether it was a no-op does not arise."
    if facts.filter_was_noop:
        return f"The label filter was a no-op: {why_noop(facts)}."
    if not facts.pairs:
        return "The label filter met no pairs, so the question whether it was a no-op does not arise."
    mismatches = facts.record.counts["label_mismatches"] or 0
    return f"The label filter was not a no-op: it dropped {markdown.count(mismatches, 'pair')} whose labels differ."


def _certificate(facts: Facts) -> str:
    text = facts.record.certificate.get("text")
    return f"Exact search: {markdown.plain(text, 200)}." if text else ""


def _times(seconds: dict[str, float]) -> str:
    """How long each step took."""
    return ", ".join(f"{markdown.plain(step, 40)} {time:.1f} s" for step, time in list(seconds.items())[:_MOST_STEPS])


def _labels(rows: list[LabelFacts], most: int) -> str:
    """One row for each label that is shown."""
    header = ("label", "targets", "mined", "best", "median", "no own row", "nothing")
    cells = [
        (
            markdown.plain(row.label, min(most, 60)), row.targets, row.mined, markdown.number(row.best),
            markdown.number(row.median), row.without_own, row.nothing,
        )
        for row in rows
    ]  # fmt: skip
    return markdown.table(header, cells, "lrrrrrr")


def _labels_rest(facts: Facts, room: Room) -> str:
    """Which labels are shown, and what the others amount to."""
    rest = facts.labels[room.labels :]
    if not rest:
        if not facts.has_labels:
            return "The targets have no column `label`, so all of them are in one row."
        if len(rows := facts.labels) == 1:
            return "All targets are in one row."
        return f"All {len(rows)} target labels are shown, those with most targets first."
    bare = sorted((row for row in rest if row.nothing), key=lambda row: (-row.nothing, row.label))
    text = (
        f"Shown: the {markdown.count(room.labels, 'label')} with most targets. "
        f"The other {markdown.count(len(rest), 'label has', 'labels have')} "
        f"{markdown.count(sum(row.targets for row in rest), 'target')} and {sum(row.mined for row in rest)} mined; "
        f"{sum(row.without_own for row in rest)} of them have no own row, {sum(row.nothing for row in rest)} nothing."
    )
    if bare:
        named = ", ".join(f"{markdown.plain(row.label, 40)} ({row.nothing})" for row in bare[: room.items])
        more = len(bare) - room.items
        text += f" With targets left with nothing: {named}{f' and {more} more' if more > 0 else ''}."
    return text


def _on_disk(facts: Facts) -> str:
    """Whether the first paths are there."""
    first = facts.paths.first
    if not first:
        return "There is no path to look up on disk."
    unseen = sum(there is None for _, there in first)
    looked = len(first) - unseen
    text = f"First {markdown.count(len(first), 'path')}: {looked - facts.paths.missing} found on disk"
    if facts.paths.missing:
        text += f", {facts.paths.missing} missing"
    return text + (f", {markdown.count(unseen, 'URL')} not looked up." if unseen else ".")


def _first_paths(facts: Facts, room: Room) -> str:
    words = {True: "yes", False: "no", None: "URL"}
    rows = [
        (words[there], markdown.code(path, room.value, cell=True)) for path, there in facts.paths.first[: room.items]
    ]
    return markdown.table(("on disk", "first paths"), rows, "ll") if rows else ""


def _encoding(facts: Facts) -> str:
    """How the paths are written."""
    paths = facts.paths
    if not facts.mined:
        return "there are no paths to judge."
    if not paths.utf8:
        return "not all paths are valid UTF-8, so other programs may not find these files."
    parts = [
        f"{number} {words}"
        for number, words in (
            (paths.not_ascii, "with letters beyond ASCII"),
            (paths.blanks, "with blanks"),
            (paths.relative, "relative, to be read from the working directory of the run"),
        )
        if number
    ]
    return f"UTF-8; {', '.join(parts) or 'all absolute, ASCII and without blanks'}."
