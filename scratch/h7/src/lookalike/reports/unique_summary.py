"""`summary.json` of unique neighbour matching, with the keys of the drop-in contract (section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def dataset_stats(images: Sequence[Counter[str] | None], rare: Sequence[str]) -> dict[str, Any]:
    """What a set of images shows.

    Parameters
    ----------
    images:
        Instances of each class in each image; None where an image is not annotated.
    rare:
        The rare classes.
    """
    instances: Counter[str] = Counter()
    showing: Counter[str] = Counter()
    for classes in images:
        instances.update(classes or {})
        showing.update((classes or {}).keys())
    rare_images = sum(any(name in classes for name in rare) for classes in images if classes)
    return {
        "total_images": len(images),
        "rare_images": rare_images,
        "common_images": len(images) - rare_images,
        "rare_instances": sum(instances[name] for name in rare),
        "per_class": {
            name: {"image_count": showing[name], "instance_count": instances[name]} for name in sorted(instances)
        },
    }


def distance_stats(distances: npt.NDArray[np.floating]) -> dict[str, float | int | None]:
    """How some distances are spread; None where there are none."""
    values = distances.astype(np.float64)
    if not len(values):
        return {"count": 0, **dict.fromkeys(("min", "max", "mean", "median", "std", "p25", "p75"))}
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        "count": len(values),
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "median": float(middle),
        "std": float(values.std()),
        "p25": float(low),
        "p75": float(high),
    }
