"""The schema of each command, as a dataclass: names, types, defaults and meanings.

This is the only place where a default is written. Public functions take theirs from here, Hydra composes
over these classes, and `--help` prints the `help` text of each field. One module for each part of the work;
the rest of the code imports from here.
"""

from lookalike.config.schemas.embedding import (
    AUGMENTS,
    BOX_COLUMNS,
    ImageEmbeddingsConfig,
    TextEmbeddingsConfig,
    box_columns,
)
from lookalike.config.schemas.fields import FALSE_WORDS, MISSING, TRUE_WORDS, at_least, settings_of
from lookalike.config.schemas.mining import NearestNeighborsConfig, ScoringConfig
from lookalike.config.schemas.run import BarringConfig, RunConfig
from lookalike.config.schemas.search import LEAST_MEMORY
from lookalike.config.schemas.tuning import CalibrateConfig, TuneConfig
from lookalike.config.schemas.unique import UniqueNeighborMatchingConfig

__all__ = [
    "AUGMENTS",
    "BOX_COLUMNS",
    "FALSE_WORDS",
    "LEAST_MEMORY",
    "MISSING",
    "TRUE_WORDS",
    "BarringConfig",
    "CalibrateConfig",
    "ImageEmbeddingsConfig",
    "NearestNeighborsConfig",
    "RunConfig",
    "ScoringConfig",
    "TextEmbeddingsConfig",
    "TuneConfig",
    "UniqueNeighborMatchingConfig",
    "at_least",
    "box_columns",
    "settings_of",
]
