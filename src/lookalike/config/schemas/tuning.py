"""The settings of the commands that propose settings: `lookalike calibrate` and `lookalike tune`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lookalike.config.schemas.fields import at_least, one_of, same, setting
from lookalike.config.schemas.mining import NearestNeighborsConfig, ScoringConfig
from lookalike.config.schemas.run import RunConfig
from lookalike.config.schemas.search import LEAST_MEMORY, METRICS
from lookalike.errors import ConfigError


@dataclass
class CalibrateConfig:
    """Propose distance thresholds for a pool and its encoder, from the pool's own distances."""

    knn_metric: str = same(RunConfig, "knn_metric")
    quantile: float = setting(0.99, "the share of the pool images that shall have another one within the threshold")
    sample: int = setting(
        4_000, "images whose nearest other one is looked for among all: all of a pool of this size, or a random sample"
    )
    seed: int = setting(0, "of the sample, and of the random pairs")
    pool_vectors: str = setting(NearestNeighborsConfig.source_embed_column_name, "embedding column of the pool")
    device: str = same(NearestNeighborsConfig, "device")
    memory_limit: int = same(NearestNeighborsConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("knn_metric", self.knn_metric, METRICS)
        if not 0 < self.quantile <= 1:  # also refuses NaN
            raise ConfigError(f"quantile={self.quantile} is not possible", hint="give a share above 0, at most 1")
        at_least("sample", self.sample, 100)
        at_least("seed", self.seed, 0)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)


@dataclass
class TuneConfig:
    """Try scorings, numbers of neighbours and thresholds on one search, and recommend settings for `lookalike mine`."""

    topn: str = setting("1,2,3,5,10,20", "numbers of neighbours per target to try")
    components: str = setting("16,32,64,128,256", "numbers of leading components of the pool to try")
    threshold: str = setting(
        "auto", "distance thresholds to try: auto (off, and what 90 %, 75 % and 50 % of the pairs are within), off, or "
        "numbers with commas"
    )  # fmt: skip
    knn_metric: str = same(ScoringConfig, "knn_metric")
    target_vectors: str = setting(NearestNeighborsConfig.target_embed_column_name, "embedding column of the targets")
    pool_vectors: str = setting(NearestNeighborsConfig.source_embed_column_name, "embedding column of the pool")
    target_weight_column: str = same(NearestNeighborsConfig, "target_weight_column")
    splits: int = same(ScoringConfig, "splits")
    background: int = same(ScoringConfig, "background")
    seed: int = same(ScoringConfig, "seed")
    device: str = same(ScoringConfig, "device")
    memory_limit: int = same(ScoringConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        self.scored().validate()
        for key in ("topn", "components"):
            if min(self.numbers(key)) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} is not possible", hint="give whole numbers from 1")
        if any(not value >= 0 for value in self.thresholds or ()):  # also refuses NaN
            raise ConfigError(f"threshold={self.threshold} is not possible", hint="give distances from 0, auto, or off")

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, ascending, each once."""
        return tuple(sorted({int(value) for value in self._list(key, int)}))

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Thresholds to try, beside none; None: those that fit the distances."""
        word = self.threshold.strip().lower()
        if word in ("auto", "off"):
            return None if word == "auto" else ()
        return tuple(sorted({float(value) for value in self._list("threshold", float)}, reverse=True))

    def scored(self) -> ScoringConfig:
        """Everything that is not tried."""
        mine = {f.name for f in fields(self)} - {"topn", "components"}
        return ScoringConfig(**{f.name: getattr(self, f.name) for f in fields(ScoringConfig) if f.name in mine})

    def _list(self, key: str, kind: type[int] | type[float]) -> list[float]:
        words = [word.strip() for word in str(getattr(self, key)).split(",") if word.strip()]
        try:
            values: list[float] = [kind(word) for word in words]
        except ValueError:
            values = []
        if not values:
            raise ConfigError(
                f"{key}={getattr(self, key)!r} is not possible", hint="give numbers with commas between them"
            )
        return values
