"""What every command that searches has: its device, its memory, its metrics, and what distances can be."""

from __future__ import annotations

import math

from lookalike.errors import ConfigError

#: The least `memory_limit` of a search, in bytes: below, blocks would be too small to be fast.
LEAST_MEMORY = 128 << 20
METRICS = ("cosine", "euclidean", "manhattan")
#: The largest cosine distance.
MOST_COSINE = 2.0
#: Help of the device of a search.
SEARCH_DEVICE = (
    "where to search: auto (the processor, or the first CUDA GPU for a large search), cpu, cuda, cuda:1, or several "
    "with commas"
)


def check_distances(distance_threshold: float, min_similarity: float) -> None:
    """Refuse thresholds that cannot be right."""
    if math.isnan(distance_threshold):
        raise ConfigError("distance_threshold is not a number (NaN)", hint="give a number, or leave it out")
    if not -1 <= min_similarity <= 1:  # also refuses NaN
        raise ConfigError(f"min_similarity={min_similarity} is not possible", hint="a cosine is -1 to 1")
