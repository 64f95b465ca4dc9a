"""Texts as the targets of a run: what of its settings changes, and how they are embedded and checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from lookalike.config.schemas import RunConfig
from lookalike.embedding.texts import TextEmbeddingResult, check_texts, embed_texts_with
from lookalike.encoders.base import Encoder
from lookalike.encoders.texts import TextEncoder, load_text_encoder
from lookalike.errors import ConfigError
from lookalike.tables.run_folder import InputRecord
from lookalike.tables.text_table import read_text_table
from lookalike.workflow.comparable import compare_identities
from lookalike.workflow.run_files import identity_record
from lookalike.workflow.run_inputs import Side

NOTE = "the targets are texts, and distances of texts to images lie in another range than distances between images"


def settle(config: RunConfig, targets: Side) -> RunConfig:
    """The settings of a run whose targets may be texts.

    Scores compare a pool image with the targets and with the rest of the pool, in the pool's own space; hidden targets,
    which choose among them, are put into the pool. Both suppose that the targets are images. So `auto` takes the
    nearest images of every text. A text has no pixels that could be in the pool, too.

    Raises
    ------
    ConfigError
        When a setting needs a scoring.
    """
    if not targets.is_text:
        return config
    if config.scoring == "auto":
        if config.target_weight_column:
            raise ConfigError(
                "target_weight_column counts in a scoring, and texts are mined by their distances alone",
                where=targets.path,
                hint="leave it out",
            )
        config = replace(config, scoring="nearest")
    return config if targets.has_paths else replace(config, self_match="keep", self_threshold=-1.0)


def text_note(config: RunConfig, targets: Side) -> list[str]:
    """What it means for the result that the targets are texts."""
    if not targets.is_text:
        return []
    nearest = "; each takes its nearest images (scoring=nearest)" if config.scoring == "nearest" else ""
    return [NOTE + nearest]


def check_text_sides(config: RunConfig, sides: Sequence[Side]) -> None:
    """Refuse settings with which the texts of a run cannot be embedded; loads no model."""
    if any(side.is_text and not side.is_ready for side in sides):
        check_texts(config.texts("", ""))


def load_texts(
    config: RunConfig, sides: Sequence[Side], encoder: Encoder | None, done: Collection[str] = ()
) -> TextEncoder | None:
    """Load the text encoder where texts have to be embedded, and compare it with what the pool has or gets.

    Raises
    ------
    EncoderError
        When the model cannot be loaded or has no text side, or the vectors of the pool are not comparable.
    """
    targets, pool = sides
    if not targets.is_text or targets.is_ready or targets.name in done:
        return None
    texts = load_text_encoder(config.texts("", ""))
    own = pool.identity if pool.is_ready else encoder.identity if encoder is not None else None
    run = f"this run ({config.model} {config.model_path})"
    list(
        compare_identities(texts.identity, own, (run, pool.path if pool.is_ready else run))
    )  # said again by the search
    return texts


def embed_side(encoder: TextEncoder, config: RunConfig, side: Side, source: str, output: str) -> TextEmbeddingResult:
    """Embed the texts of a side, read from the table `source`."""
    return embed_texts_with(encoder, read_text_table(source), config.texts(source, output))


def text_record(side: Side, result: TextEmbeddingResult) -> InputRecord:
    """The record of a side whose texts were embedded."""
    return InputRecord(
        side.path, side.kind, side.rows, side.has_label, side.converted, result.rows, seconds=result.seconds,
        sha256=side.sha256, identity=identity_record(result.identity), texts=True,
    )  # fmt: skip
