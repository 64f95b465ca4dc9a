"""`bar_pool`: which rows of a pool may not be mined, by which rule, and because of which image.

The rules in their order; a row gets the first that applies:

1. `excluded`: its path is on a list.
2. `protected_path`, `protected_bytes`, `protected_pixels`, `protected_near`, `protected_component`: it is an image of
   the evaluation set, or a copy of one, or shows the same component under another light.
3. `self_match` and `self_twin`: the same for the targets.
"""

from __future__ import annotations

import logging
from typing import Any

from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.encoders.base import Encoder
from lookalike.errors import TableError
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.workflow.barring.bars import Bars, Rule
from lookalike.workflow.barring.likeness import Likeness, Rules
from lookalike.workflow.barring.looks import Looks
from lookalike.workflow.barring.reference import joined, of_targets, open_protected
from lookalike.workflow.exclusion import read_all_excluded, split_sources
from lookalike.workflow.run_inputs import layout_of

log = logging.getLogger(__name__)

#: Nearest pool images of a protected image, and of a target, that may be copies. A copy of a target that is farther
#: away is not mined for it anyway.
_PROTECTED_NEIGHBOURS, _OWN_NEIGHBOURS = 1000, 16


def bar_pool(
    pool: EmbeddingStream,
    targets: EmbeddingTable | None,
    settings: BarringConfig,
    *,
    inputs: RunConfig | None = None,
    encoder: Encoder | None = None,
    protect: Any = None,
    exclude: Any = None,
) -> Bars:
    """Find the rows of a pool that may not be mined.

    Paths and vectors of the pool pass by part by part. A file is opened where another has its size. It is decoded where
    it may be a copy and the cache does not know it, at most `leak_reads` files of the pool for each of `protect` and
    the targets.

    Parameters
    ----------
    pool:
        The pool.
    targets:
        What is looked for; None: `self_match` has no effect.
    settings:
        What is barred.
    inputs:
        How inputs and files are read, and how `protect` is embedded; the defaults where there is none.
    encoder:
        That of the pool, from `open_encoder` for `inputs`. It embeds a `protect` without vectors and, where the pool
        has more than `leak_reads` rows, mirrored and smaller copies of its images, to find such copies in the pool.
    protect:
        Used in place of `settings.protect`; it may be a table in memory, or a list of inputs.
    exclude:
        Used in place of `settings.exclude`; it may be a list of sources.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError
        When a source of exclusion or `protect` cannot be read or is empty, or `protect` bars every row.
    EncoderMismatch, VectorError
        When `protect` has vectors of another encoder.
    """
    settings.validate()
    inputs = inputs or RunConfig("", "")
    with Looks(inputs) as looks:
        job = Likeness(pool, settings, inputs, encoder, looks)
        # Everything is opened before work starts, so that what cannot be read is refused at once.
        layout = layout_of(inputs)
        excluded = read_all_excluded(settings.exclude if exclude is None else exclude, "filepath", layout)
        sources = split_sources(settings.protect if protect is None else protect)
        protected = [open_protected(one, pool, inputs, encoder, job.marks.note) for one in sources]
        job.bar_paths(excluded, Rule.EXCLUDED, lambda theirs, _: theirs is None)  # a file stands for all its parts
        if protected:
            before = int(job.marks.mask.sum())
            job.bar(
                joined(protected),
                Rules(
                    Rule.PROTECTED_PATH, Rule.PROTECTED_BYTES, Rule.PROTECTED_PIXELS, Rule.PROTECTED_NEAR,
                    Rule.PROTECTED_COMPONENT, settings.protect_threshold, True, _PROTECTED_NEIGHBOURS,
                ),
            )  # fmt: skip
            _refuse_all_protected(job, pool, before)
        if targets is not None and settings.self_match == "exclude":
            job.bar(
                of_targets(targets),
                Rules(
                    Rule.SELF_MATCH, Rule.SELF_MATCH, Rule.SELF_MATCH, Rule.SELF_TWIN, Rule.SELF_TWIN,
                    settings.self_threshold, False, _OWN_NEIGHBOURS,
                ),
            )  # fmt: skip
    if job.marks.mask.all():
        job.marks.note("every row of the pool is barred: nothing can be mined")
    bars = job.marks.bars()
    for note in bars.notes:
        log.warning(note)
    return bars


def _refuse_all_protected(job: Likeness, pool: EmbeddingStream, before: int) -> None:
    """Refuse an evaluation set that leaves nothing of the pool: one of the two is the wrong table."""
    if before == pool.rows or not job.marks.mask.all():
        return
    counts = job.marks.bars().counts
    found = ", ".join(f"{number} {rule}" for rule, number in counts.items() if rule != Rule.EXCLUDED)
    raise TableError(
        f"protect bars every row of the pool that is left ({found}): nothing can be mined",
        where=pool.name,
        hint="protect= names the evaluation set: check that it is not the pool itself, and that protect_threshold, if "
        "you gave one, is small",
    )
