"""The search's oracle: float64 brute force by the definition."""

import numpy as np

METRICS = ["cosine", "euclidean", "manhattan", "inner_product"]


def all_distances(target, source, metric):
    """Distances of all pairs, targets x sources, float64."""
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
    return distances


def nearest(distances, k):
    """The k nearest of every target, equal distances in the order of the rows; infinity is none (row -1)."""
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(distances, rows, axis=1)
    return found, np.where(np.isinf(found), -1, rows)


def brute_force(target, source, k, metric):
    """Distances and rows of the k nearest, float64."""
    return nearest(all_distances(target, source, metric), k)


def assert_neighbors(found, distances, k):
    """What was found is what the distances of all pairs say."""
    expected, rows = nearest(distances, k)
    assert found.distances.dtype == np.float32
    assert found.rows.dtype == np.int64
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, expected.astype(np.float32), rtol=2e-7, atol=1e-12)
