"""Whether two embedding tables can be compared at all: one encoder, one dimension."""

from __future__ import annotations

from collections.abc import Iterator

from lookalike.encoders.identity import EncoderIdentity, mismatches, side_by_side
from lookalike.errors import EncoderMismatch, VectorError
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import EmbeddingTable


def compare_encoders(target: EmbeddingTable, source: EmbeddingStream, columns: tuple[str, str]) -> Iterator[str]:
    """Refuse tables of different encoders; yield a warning where their likeness cannot be known."""
    sides = ((target.identity_json, target.name), (source.identity_json, source.name))
    one, two = (EncoderIdentity.from_json(text, name) if text else None for text, name in sides)
    yield from compare_identities(one, two, (target.name, source.name))
    if target.vectors.shape[1] != source.dimension:
        raise VectorError(
            f"targets have {target.vectors.shape[1]} dimensions ({target.name}, column {columns[0]!r}), "
            f"the pool has {source.dimension} ({source.name}, column {columns[1]!r})",
            hint="embed both with the same model and model_path",
        )


def compare_identities(
    one: EncoderIdentity | None, two: EncoderIdentity | None, names: tuple[str, str]
) -> Iterator[str]:
    """Refuse different encoders of two tables; yield a warning where only the rounding differs, or one is unknown."""
    if one is None or two is None:
        unknown = [name for identity, name in zip((one, two), names, strict=True) if identity is None]
        yield (
            f"no encoder identity in {' and '.join(unknown)}: made elsewhere, so that both sides were written by "
            "the same encoder is not checked"
        )
        return
    model, numerics = mismatches(one, two)
    if model:
        raise EncoderMismatch(
            f"the two tables were written by different encoders; they differ in {', '.join(model)}:\n"
            + side_by_side(one, two, names),
            hint="run `embedding image_embeddings` again for one of them, with the other's model and model_path",
        )
    if numerics:
        yield f"the two tables were computed with different {', '.join(numerics)}: distances differ by rounding"
