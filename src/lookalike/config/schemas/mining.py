"""The settings of `tmm nearest_neighbors`, and of a selection by score."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lookalike.config.schemas.fields import MISSING, TRUE_WORDS, at_least, one_of, same, setting
from lookalike.config.schemas.search import LEAST_MEMORY, METRICS, MOST_COSINE, SEARCH_DEVICE, check_distances
from lookalike.config.schemas.unique import UniqueNeighborMatchingConfig
from lookalike.errors import ConfigError

DIVERSITY_METHODS = ("mmr", "facility_location")
SCORINGS = ("auto", "nearest", "density_ratio", "lda")


@dataclass
class ScoringConfig:
    """Which pool images are kept: those most like the targets, with a share for every target, within a budget."""

    scoring: str = setting(
        "auto",
        "nearest: by rank among the targets' neighbours; density_ratio: like the targets and unlike the rest of the "
        "pool; lda: like the mean of the targets; auto: a blend of what finds hidden targets again",
    )
    components: str = setting(
        "auto",
        "leading components of the pool that density_ratio and lda look at; auto: blends 16, 32, 64, 128 and 256",
    )
    topn: int = setting(5, "neighbours per target that set the budget where none is given")
    knn_metric: str = setting("cosine", "of distances and ranks: euclidean, cosine or manhattan")
    candidates: int = setting(20, "nearest pool images of a target that count as its own")
    budget: float = setting(
        0.0, "images to keep: a number, or, below 1, a share of the pool; 0: as many as topn neighbours per target give"
    )
    min_per_target: int = setting(1, "images kept for every target from its own candidates before the rest; 0: none")
    max_per_target: int = setting(0, "images kept for one target at most; 0: no limit")
    max_per_label: int = setting(0, "images kept for the targets of one label at most; 0: no limit")
    filter_by_label: str = setting(
        "false", "true, 1 or yes: search among the pool images of a target's label only, and keep no other"
    )
    distance_threshold: float = setting(
        -1.0, "keep an image only for a target whose distance is at most this; a negative value switches this off"
    )
    min_similarity: float = setting(
        -1.0, "keep an image only if its best cosine to any target is at least this, -1 to 1; -1: off"
    )
    dedup_threshold: float = setting(
        -1.0,
        "keep one image of each group of near-duplicates: images that are linked by a cosine distance of at most this; "
        "0: only what has the same direction; -1: off",
    )
    diversity: float = setting(
        0.0, "how much it counts that the kept images differ from each other, 0 (not at all) to 1 (nothing else does)"
    )
    diversity_method: str = setting(
        "mmr",
        "mmr: each next image unlike those that are kept; facility_location: the kept images stand for all good ones",
    )
    avoid_weight: float = setting(0.5, "how strongly the images to avoid push others away; of density_ratio and lda")
    splits: int = setting(20, "how often auto hides a random half of the targets")
    background: int = setting(
        30_000, "pool images that density_ratio compares with: all of a pool of this size, else a random sample"
    )
    seed: int = setting(0, "of the random halves and of the sample")
    device: str = setting("auto", SEARCH_DEVICE)
    memory_limit: int = setting(2 << 30, "bytes that the search may take; a larger pool is read part by part")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("scoring", self.scoring, SCORINGS)
        one_of("knn_metric", self.knn_metric, METRICS)
        if self.components != "auto" and not (self.components.isdecimal() and int(self.components) >= 1):
            raise ConfigError(f"components={self.components!r} is not possible", hint="use auto, or a number from 1")
        at_least("topn", self.topn, 1)
        at_least("candidates", self.candidates, 1)
        for key in ("min_per_target", "max_per_target", "max_per_label", "seed"):
            at_least(key, getattr(self, key), 0)
        check_distances(self.distance_threshold, self.min_similarity)
        if self.dedup_threshold != -1 and not 0 <= self.dedup_threshold <= MOST_COSINE:  # also refuses NaN
            raise ConfigError(
                f"dedup_threshold={self.dedup_threshold} is not possible", hint="a cosine distance is 0 to 2; -1: off"
            )
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity={self.diversity} is not possible", hint="give a number from 0 to 1")
        one_of("diversity_method", self.diversity_method, DIVERSITY_METHODS)
        if not 0 <= self.avoid_weight < float("inf"):
            raise ConfigError(f"avoid_weight={self.avoid_weight} is not possible", hint="give a number from 0")
        at_least("splits", self.splits, 2)
        at_least("background", self.background, 1000)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        if not 0 <= self.budget < float("inf") or (self.budget > 1 and self.budget != int(self.budget)):
            raise ConfigError(
                f"budget={self.budget} is not possible",
                hint="give a whole number, a share below 1, or 0",
            )
        if self.min_per_target > self.candidates:
            raise ConfigError(
                f"min_per_target={self.min_per_target} is more than candidates={self.candidates}",
                hint="raise candidates, or lower min_per_target",
            )
        if 0 < self.max_per_target < self.min_per_target:
            raise ConfigError(
                f"max_per_target={self.max_per_target} is less than min_per_target={self.min_per_target}",
                hint="raise max_per_target, or lower min_per_target",
            )

    @property
    def filters_by_label(self) -> bool:
        """Whether `filter_by_label` holds one of the words that switch it on."""
        return str(self.filter_by_label).strip().lower() in TRUE_WORDS


@dataclass
class NearestNeighborsConfig:
    """Mine the pool: for every target the nearest pool images, then the unique ones among them."""

    source_parquet: str = setting(MISSING, "the pool: an embedding table (or a folder of them)")
    target_parquet: str = setting(MISSING, "the targets: an embedding table (or a folder of them)")
    output_parquet: str = setting(MISSING, "the mined table; its pair table and mining_summary.txt go beside it")
    topn: int = setting(5, "neighbours per target")
    knn_metric: str = setting("euclidean", "euclidean, cosine or manhattan")
    source_embed_column_name: str = setting("embedding", "embedding column of the pool")
    target_embed_column_name: str = setting("embedding", "embedding column of the targets")
    filter_by_label: str = setting(
        "false", "true, 1 or yes: drop pairs whose labels differ (after the search; nothing refills)"
    )
    distance_threshold: float = setting(
        -1.0, "keep pairs with distance <= threshold; a negative value switches this off, 0 does not"
    )
    min_similarity: float = setting(
        -1.0,
        "keep mined images whose best cosine to any target is at least this, -1 to 1; also writes mined_raw.parquet, "
        "mined_candidates.parquet and knn_summary.csv; -1: off",
    )
    within_label: bool = setting(False, "search among the pool images of a target's label only, so that topn come back")
    scoring: str = same(ScoringConfig, "scoring", "nearest")
    components: str = same(ScoringConfig, "components")
    candidates: int = same(ScoringConfig, "candidates")
    budget: float = same(ScoringConfig, "budget")
    min_per_target: int = same(ScoringConfig, "min_per_target")
    max_per_target: int = same(ScoringConfig, "max_per_target")
    max_per_label: int = same(ScoringConfig, "max_per_label")
    target_weight_column: str = setting(
        "", "a column of the targets with how much each counts in the scoring, from 0, like weakness; empty: all alike"
    )
    dedup_threshold: float = same(ScoringConfig, "dedup_threshold")
    diversity: float = same(ScoringConfig, "diversity")
    diversity_method: str = same(ScoringConfig, "diversity_method")
    avoid_weight: float = same(ScoringConfig, "avoid_weight")
    avoid_parquet: str = setting(
        "", "images to stay away from: an embedding table, with its vectors in the targets' embedding column"
    )
    exclude_path: str | None = same(UniqueNeighborMatchingConfig, "exclude_path")
    splits: int = same(ScoringConfig, "splits")
    background: int = same(ScoringConfig, "background")
    seed: int = same(ScoringConfig, "seed")
    device: str = same(ScoringConfig, "device")
    memory_limit: int = same(ScoringConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("knn_metric", self.knn_metric, METRICS)
        at_least("topn", self.topn, 1)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        check_distances(self.distance_threshold, self.min_similarity)
        if self.selects_by_score:
            self.scored().validate()
        elif self.target_weight_column:
            raise ConfigError(
                "target_weight_column counts in a scoring, and scoring=nearest has none",
                hint="add scoring=auto, or leave it out",
            )

    @property
    def has_floor(self) -> bool:
        """Whether `min_similarity` can drop anything."""
        return self.min_similarity > -1

    @property
    def selects_by_score(self) -> bool:
        """Whether images are scored and kept within a budget, instead of the topn of every target, each once."""
        limited = self.budget or self.max_per_target or self.max_per_label or self.diversity or self.avoid_parquet
        return self.scoring != "nearest" or bool(limited) or self.dedup_threshold >= 0

    def scored(self) -> ScoringConfig:
        """The settings of a selection by score; `within_label` is its label filter."""
        values = {f.name: getattr(self, f.name) for f in fields(ScoringConfig)}
        if self.within_label:
            values["filter_by_label"] = "true"
        return ScoringConfig(**values)

    @property
    def filters_by_label(self) -> bool:
        """Whether `filter_by_label` holds one of the words that switch it on."""
        return self.filter_by_label.strip().lower() in TRUE_WORDS
