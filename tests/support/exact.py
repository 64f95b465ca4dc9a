"""The oracle of the search: brute force in float64."""

import numpy as np


def brute_force(target, source, k, metric):
    """Distances and rows by the definition, in float64, equal distances in the order of the rows."""
    target, source = target.astype(np.float64), source.astype(np.float64)
    distances = np.empty((len(target), len(source)))
    for row, vector in enumerate(target):
        difference = source - vector
        if metric == "euclidean":
            distances[row] = np.sqrt((difference**2).sum(axis=1))
        elif metric == "manhattan":
            distances[row] = np.abs(difference).sum(axis=1)
        elif metric == "inner_product":
            distances[row] = -(source * vector).sum(axis=1)
        else:
            # sqrt of the product of squares: exact where the cosine is a ratio of small whole numbers.
            squares = (vector**2).sum() * (source**2).sum(axis=1)
            cosines = np.divide(
                (source * vector).sum(axis=1), np.sqrt(squares), where=squares > 0, out=np.zeros(len(source))
            )
            distances[row] = np.clip(1 - cosines, 0, 2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows
