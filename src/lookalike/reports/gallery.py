"""`gallery.html`: every target with its mined neighbours, on a page that opens from disk and needs no network.

The page is a Jinja template with its style and scripts inside, and one block of JSON. The template escapes what it
writes; the script writes what the JSON holds as text, never as HTML; the page's own policy lets no other script run
and nothing be sent.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import jinja2

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ImagesFailed, LookalikeError
from lookalike.reports.captions import plot_captions
from lookalike.reports.facts import Facts, gather
from lookalike.reports.findings import Findings, Room, find
from lookalike.reports.gallery_data import GalleryData, load, page_content, page_images
from lookalike.reports.markdown import command, pieces
from lookalike.reports.thumbnails import make_thumbnails, setting
from lookalike.selection.filters import Outcome
from lookalike.tables.atomic import atomic_path
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord

log = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"
#: In the order in which they are joined: each one uses those before it.
_SCRIPTS = ("gallery_decisions.js", "gallery_tiles.js", "gallery_filters.js", "gallery.js")
#: What ends a script element or begins another, and two ends of a line that JavaScript knows and JSON does not.
_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}

#: How a thumbnail begins in the page's data: a WebP in base64.
_PICTURE = b'"UklGR'

#: Room for the findings: the report, which has more, is beside the page.
_ROOM = Room(labels=0, items=5, warning=240, value=80, prose=False)


def write_gallery(
    folder: RunFolder, *, every: bool = False, keep_pictures: bool = False, facts: Facts | None = None
) -> list[Path]:
    """Write the gallery of a finished run and return its pages.

    Parameters
    ----------
    folder:
        The run; `run.json` must be there.
    every:
        Show all targets of a large run, on as many pages as it takes (`gallery.html`, `gallery_2.html`, ...).
        Otherwise one page shows a sample, and says so.
    keep_pictures:
        Refuse to put a page on which no image can be read in the place of one that has pictures.
    facts:
        What `gather` found in the run, where that is known already.

    Raises
    ------
    TableError
        When the folder is no finished run, or cannot be written to.
    ImagesFailed
        When the disk or network that holds the images does not answer, or pictures would be lost.
    """
    data = load(folder)
    pages = data.pages(every=every)
    head = {**_verdict(data), **_eye(data, facts)}
    paths = [folder.gallery if not number else page_path(folder, number + 1) for number in range(len(pages))]
    for number, rows in enumerate(pages):
        images = page_images(data, rows)
        thumbnails = make_thumbnails(images, data.reading)
        if keep_pictures and number == 0 and not any(one.data for one in thumbnails):
            _keep_pictures(data, images[0], thumbnails[0].reason)
        content = page_content(data, rows, images, thumbnails)
        html = _template().render(
            **head,
            **_inline(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
            plots=_plots(folder),
            shown=len(rows),
            shown_pairs=int((data.first_pair[rows + 1] - data.first_pair[rows]).sum()),
            total=len(data.target_paths),
            number=number + 1,
            names=[path.name for path in paths],
            again=_command(folder, "gallery", "--gallery-all"),
        )
        with atomic_path(paths[number]) as temporary:
            temporary.write_text(html, encoding="utf-8", newline="\n")
    for old in old_pages(folder):
        if old not in paths:  # of an earlier call that wrote more
            old.unlink(missing_ok=True)
    return paths


def _keep_pictures(data: GalleryData, image: str, reason: str) -> None:
    """Refuse to replace a page that has pictures: no image can be read today, the first one for this reason."""
    page = data.folder.gallery
    if page.is_file() and _PICTURE in page.read_bytes():
        raise ImagesFailed(
            f"none of its images can be read, and the gallery that is there has its pictures; the first: {image}: "
            f"{reason}",
            where=str(page),
            hint=f"mount the images (relative paths start in {data.reading.files.base or Path.cwd()}), or remove the "
            "page to get one without pictures",
        )


def page_path(folder: RunFolder, number: int) -> Path:
    """A further page of the gallery."""
    return folder.gallery.with_name(f"{folder.gallery.stem}_{number}{folder.gallery.suffix}")


def old_pages(folder: RunFolder) -> list[Path]:
    """The further pages that are there."""
    return sorted(path for path in folder.path.iterdir() if path != folder.gallery and is_page(path.name, folder))


def is_page(name: str, folder: RunFolder) -> bool:
    """Whether the name of a file of the run is that of a page of its gallery."""
    stem, suffix = re.escape(folder.gallery.stem), re.escape(folder.gallery.suffix)
    return re.fullmatch(rf"{stem}(_\d+)?{suffix}", name) is not None


def describe(outcome: str, threshold: float | None) -> tuple[str, str]:
    """The name of an outcome for people, and the rule behind it in words."""
    farther = "farther than the threshold" + (f" of {threshold:g}" if threshold is not None else "")
    known = {
        Outcome.KEPT: ("kept", "mined: it is in mined.parquet"),  # the page knows more of a selection by score
        Outcome.LABEL_MISMATCH: ("other label", "its label is not the target's"),
        Outcome.OVER_DISTANCE: ("too far", farther),
        Outcome.DUPLICATE: ("duplicate", "the same image is kept already"),
        Outcome.UNDER_SIMILARITY: ("not alike", "its best cosine to any target is below min_similarity"),
        Outcome.OVER_BUDGET: ("over budget", "others had a better score"),
        Outcome.OVER_TARGET_LIMIT: ("target full", "its target has all the images that it may have"),
        Outcome.OVER_LABEL_LIMIT: ("label full", "its target's label has all the images that it may have"),
        Outcome.NEAR_DUPLICATE: ("near-duplicate", "an image that is almost the same is kept"),
        Outcome.LESS_DIVERSE: ("less diverse", "the kept images are more unlike each other without it"),
        Outcome.AVOIDED: ("avoided", "it is more like an image to avoid than like a target"),
    }
    words = outcome.replace("_", " ")  # of a rule that this module does not know
    return {str(key): value for key, value in known.items()}.get(outcome, (words, f"by the rule “{words}”"))


def _verdict(data: GalleryData) -> dict[str, Any]:
    """What the head of the page says."""
    record, outcomes = data.record, data.outcomes
    threshold = setting(record.settings, "distance_threshold")
    threshold = threshold if isinstance(threshold, int | float) and threshold >= 0 else None
    total = max(1, sum(outcomes.values()))
    kept = data.pairs.column("outcome").to_pylist()
    rows = data.pairs.column("target_row").to_pylist()
    satisfied = {row for row, outcome in zip(rows, kept, strict=True) if outcome == Outcome.KEPT}
    return {
        "name": data.folder.path.resolve().name,
        "record": record,
        "command": command(record.command),
        "review": _command(data.folder, "review", "decisions.csv"),
        "mined": outcomes[Outcome.KEPT],
        "metric": setting(record.settings, "knn_metric"),
        "searched": record.pool.embedded - (record.counts.get("excluded") or 0),
        "left_out": record.counts.get("excluded") or 0,
        "left_out_by": ", ".join(f"{number} {rule}" for rule, number in _rules_before(record).items()),
        "numbers": _numbers(record),
        "pairs": sum(outcomes.values()),
        "hides": bool(data.hidden.any()),
        "threshold": threshold,
        "without": len(data.target_paths) - len(satisfied),
        "encoder": _encoder(record.model, record.model_path, record.targets),
        "certificate": record.certificate.get("text", ""),
        "chosen": _chosen(record),
        "outcomes": [
            {"name": name, "count": count, "share": count / total, "title": title, "words": words}
            for name, count in outcomes.items()
            for title, words in [describe(name, threshold)]
        ],
    }


def _rules_before(record: RunRecord) -> dict[str, int]:
    """How many pool images each rule left out before the search."""
    rules: dict[str, int] = (record.excluded or {}).get("rules", {})
    return rules


def _numbers(record: RunRecord) -> dict[str, Any]:
    """The numbers that decided how many images there are, as the head of the page names them."""
    if record.selection is None:
        return {"Neighbours each": record.counts.get("topn")}
    candidates = setting(record.settings, "candidates")
    known = {"Candidates each": candidates if candidates is not None else ScoringConfig.candidates}
    return {"Budget": record.selection["budget"], **known}


def _chosen(record: RunRecord) -> str:
    """How the images were chosen, in a sentence."""
    selection = record.selection
    if selection is None:
        return f"the {record.counts.get('topn')} nearest of each target, each image once"
    components = f" in {selection['components']} components" if selection["components"] else ""
    why = {
        "density_ratio": "more like the targets than like the rest of the pool",
        "lda": "nearest to the mean of the targets",
        "blend": "like the targets and unlike the rest of the pool, by several scores at once",
        "nearest": "best rank among the neighbours of any target",
    }.get(selection["scoring"], "best score")
    floor = setting(record.settings, "min_per_target")
    claim = "" if floor == 0 else "every target first had a claim on its own nearest; "
    return (
        f"by score, {selection['scoring']}{components}: {why}; the best {selection['budget']} at most; {claim}"
        f"{selection['served']} of {selection['targets']} targets have a mined image among their own candidates"
    )


def _command(folder: RunFolder, name: str, word: str) -> str:
    """A command of this program for this run, which works from wherever the user is."""
    return command(("lookalike", name, str(folder.path.resolve()), word))


def _eye(data: GalleryData, facts: Facts | None) -> dict[str, Any]:
    """What needs a person's eye, as in the report, taken apart so that the template can escape it."""
    try:
        findings = find(facts or gather(data.folder), _ROOM)
    except LookalikeError as error:
        # A folder without its vectors, for example: the images can be looked at all the same.
        log.warning("the gallery has no findings: %s", error)
        findings = Findings([], [])
    most = _ROOM.items
    return {
        "findings": [pieces(text) for text in (*findings.own, *findings.warnings[:most])],
        "more_findings": len(findings.warnings[most:]),
        "things": len(findings),
        "report": data.folder.report.name,
    }


def _encoder(model: str, model_path: str, targets: InputRecord) -> str:
    """The encoder in a few words: as the user named it, or as a ready embedding table names it."""
    if model_path:
        return f"{model} {model_path}".strip()
    identity = targets.identity or {}
    part = identity.get("model", {})
    return f"{part.get('family', '')} {part.get('architecture', '')}".strip() or "unknown: ready embeddings"


def _plots(folder: RunFolder) -> list[dict[str, str]]:
    """The plots that are there, as data URIs with their words."""
    return [
        {
            "title": plot.title,
            "caption": plot.caption,
            "alt": plot.alt or plot.title,
            "source": f"data:image/png;base64,{base64.b64encode(plot.path.read_bytes()).decode()}",
        }
        for plot in plot_captions(folder)
    ]


def _inline(content: str) -> dict[str, str]:
    """Style, scripts and data as they go into the page, and the policy that lets exactly these scripts run."""
    style, theme, script = _assets()
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
              for text in (style, theme, script)]  # fmt: skip
    policy = (
        f"default-src 'none'; img-src data: file: 'self'; style-src {hashes[0]}; "
        f"script-src {hashes[1]} {hashes[2]}; base-uri 'none'; form-action 'none'"
    )
    # The template writes these as they are: the files are ours, the data is escaped here.
    return {
        "policy": policy,
        "style": style,
        "theme": theme,
        "script": script,
        "content": content.translate(_ESCAPES),
    }


@functools.cache
def _assets() -> tuple[str, str, str]:
    """The style, the script that sets the colours before anything is drawn, and the main script."""
    style, theme, *parts = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("gallery.css", "gallery_theme.js", *_SCRIPTS)
    )
    return style, theme, '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@functools.cache
def _template() -> jinja2.Template:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("gallery.html")
