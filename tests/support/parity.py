"""Are vectors those of the reference?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lookalike import embed_images


def embedded(images, folder: Path, model: str, model_path, **settings):
    """The result of embedding, and its vectors (images x dimension)."""
    (folder / "list.txt").write_text("\n".join(images))
    result = embed_images(folder / "list.txt", folder / "vectors.parquet", model, str(model_path), **settings)
    return result, np.stack(pq.read_table(result.path).column("embedding").to_numpy())


def cosines(one, two):
    """Of the rows of two arrays."""
    one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def nearest(vectors, count=5):
    """For every row the rows that are nearest by cosine, itself excluded."""
    rows = np.asarray(vectors, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, -2)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def check_parity(ours, reference, *, least=0.99999):
    """The same directions and lengths, the same five nearest; and not all images alike."""
    assert ours.shape == reference.shape
    assert cosines(ours, reference).min() > least
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(reference, axis=1), rtol=1e-4)
    np.testing.assert_array_equal(nearest(ours), nearest(reference))
    # Random models could map all images to one vector, and then any images would agree.
    assert cosines(ours[:1], ours[1:]).min() < 0.9999
