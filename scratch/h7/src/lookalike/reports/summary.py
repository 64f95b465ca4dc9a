"""`mining_summary.txt`, in the layout of the drop-in contract (section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lookalike.config.schemas import NearestNeighborsConfig


@dataclass(frozen=True)
class MiningCounts:
    """The numbers of one mining run.

    Attributes
    ----------
    targets:
        Target rows.
    topn:
        Neighbours a target, after clamping to the pool.
    pairs:
        Pairs that the search returned: targets times topn, or fewer where a label has fewer sources.
    label_mismatches, over_distance:
        Pairs that each filter dropped, or None where it did not run.
    duplicates:
        Pairs whose source was kept for an earlier pair.
    unique:
        Rows of the mined table.
    under_similarity:
        Unique sources that the cosine floor dropped, or None where it did not run.
    excluded:
        Rows of the pool that were not searched, because they are excluded; None where none could be.
    dropped:
        Pairs that each further rule dropped, by the rule's name; only a selection by score has such rules.
    """

    targets: int
    topn: int
    pairs: int
    label_mismatches: int | None
    over_distance: int | None
    duplicates: int
    unique: int
    under_similarity: int | None = None
    excluded: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def after_labels(self) -> int:
        """Pairs left after the label filter."""
        return self.pairs - (self.label_mismatches or 0)

    @property
    def after_distance(self) -> int:
        """Pairs left after the distance filter."""
        return self.after_labels - (self.over_distance or 0)

    @property
    def candidates(self) -> int:
        """Pairs left after all filters."""
        return self.after_distance - sum(self.dropped.values())

    @property
    def raw(self) -> int:
        """Unique sources before the cosine floor."""
        return self.unique + (self.under_similarity or 0)


def mining_summary(
    counts: MiningCounts,
    output: Path,
    distance_threshold: float,
    certificate: str,
    warnings: tuple[str, ...],
    min_similarity: float = NearestNeighborsConfig.min_similarity,
    extra: tuple[str, ...] = (),
) -> str:
    """The text of `mining_summary.txt`; `extra` are lines about the selection.

    Readers look for substrings of the two layouts that are in use, so both are served: the newer one line by
    line, and the older one's `Label filtering:` line at the end.
    """
    lines = [
        f"Target queries: {counts.targets}",
        f"Similar items per query: {counts.topn}",
        f"Total pairs: {counts.pairs}",
    ]
    if counts.excluded is not None:
        lines.append(f"Excluded from the pool: {counts.excluded} rows")
    if counts.label_mismatches is not None:
        lines.append(
            f"After label mismatch filtering: kept {counts.after_labels}/{counts.pairs} pairs, "
            f"dropped {counts.label_mismatches} mismatches"
        )
    if counts.over_distance is not None:
        lines.append(
            f"After distance filtering: kept {counts.after_distance}/{counts.after_labels} pairs, "
            f"dropped {counts.over_distance} exceeding threshold {distance_threshold:.4f}"
        )
    left = counts.after_distance
    for rule, dropped in counts.dropped.items():
        lines.append(f"After {rule} filtering: kept {left - dropped}/{left} pairs, dropped {dropped}")
        left -= dropped
    lines += [
        f"Total candidates: {counts.candidates}",
        f"Duplicates removed: {counts.duplicates}",
    ]
    if counts.under_similarity is not None:
        lines.append(
            f"After similarity filtering: kept {counts.unique}/{counts.raw} items, "
            f"dropped {counts.under_similarity} below cosine {min_similarity:.4f}"
        )
    lines += [
        f"Unique items saved: {counts.unique}",
        f"Results saved to: {output}",
        *extra,
        f"Exact search: {certificate}",
    ]
    lines += [f"Warning: {warning}" for warning in warnings]
    if counts.label_mismatches is not None:
        lines.append(
            f"Label filtering: kept {counts.after_labels}/{counts.pairs} pairs, "
            f"dropped {counts.label_mismatches} mismatches"
        )
    return "\n".join(["Summary:", *(f"  {line}" for line in lines)]) + "\n"
