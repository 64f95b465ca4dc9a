"""The ways of searching that are compared, and the bare matrix product that none of them can do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
#: Searches and returns the rows that were found; a product returns nothing.
Way = Callable[[], Rows | None]

#: The two ways of taking the product: the faster one counts.
PRODUCTS = ("product in blocks", "whole product")
#: Sources of a block: of NumPy's product, and of torch.
_PRODUCT_BLOCK = 4096
_TORCH_BLOCK = 8192
#: The names of the metrics in faiss. Unit vectors have their cosine as the inner product.
_OF_FAISS = {"cosine": "METRIC_INNER_PRODUCT", "euclidean": "METRIC_L2", "manhattan": "METRIC_L1"}


@dataclass(frozen=True)
class Setting:
    """What is searched for, and the ways that end in reasonable time and memory there."""

    sources: int
    topn: int
    metric: str
    ways: tuple[str, ...]
    targets: int = 1_000
    dimension: int = 768


def random_vectors(rows: int, dimension: int, seed: int) -> Matrix:
    """Normally distributed values, the same every time."""
    return np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)


def data_of(setting: Setting) -> tuple[Matrix, Matrix]:
    """Targets and sources; unit vectors for cosine, made in place."""
    target = random_vectors(setting.targets, setting.dimension, 1)
    source = random_vectors(setting.sources, setting.dimension, 0)
    if setting.metric == "cosine":
        for side in (target, source):
            np.divide(side, np.sqrt(np.einsum("ij,ij->i", side, side))[:, None], out=side)
    return target, source


def open_way(name: str, setting: Setting, target: Matrix, source: Matrix) -> Way:
    """What a way does in its turn; imports and memory for a product are prepared here."""
    if name in PRODUCTS:
        return product(target, source, _PRODUCT_BLOCK if name == "product in blocks" else len(source))
    if name == "lookalike":
        from lookalike import nearest_neighbors

        return lambda: nearest_neighbors(target, source, setting.topn, setting.metric).rows
    if name == "faiss":
        import faiss

        kind = getattr(faiss, _OF_FAISS[setting.metric])
        return lambda: faiss.knn(target, source, setting.topn, metric=kind)[1]
    if name == "torch":
        return lambda: _torch(target, source, setting.topn, setting.metric)
    assert name == "scikit-learn", name
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=setting.topn, algorithm="brute", metric=setting.metric).fit(source)
    return lambda: fitted.kneighbors(target, return_distance=False)


def product(target: Matrix, source: Matrix, size: int) -> Callable[[], None]:
    """The bare product by blocks of so many sources, into memory that is there and is used again."""
    scores = np.ones((len(target), size), np.float32)

    def work() -> None:
        for first in range(0, len(source), size):
            block = source[first : first + size]
            np.matmul(target, block.T, out=scores[:, : len(block)])

    return work


def _torch(target: Matrix, source: Matrix, k: int, metric: str) -> Rows:
    """Scores by blocks of sources, the k best of each block, and a running merge; larger scores are nearer."""
    import torch

    left = torch.from_numpy(target)
    best, rows = torch.empty((len(target), 0)), torch.empty((len(target), 0), dtype=torch.int64)
    for first in range(0, len(source), _TORCH_BLOCK):
        block = torch.from_numpy(source[first : first + _TORCH_BLOCK])
        if metric == "manhattan":
            scores = -torch.cdist(left, block, p=1)
        else:
            scores = left @ block.T
            if metric == "euclidean":
                scores -= (block * block).sum(1) / 2
        values, places = scores.topk(min(k, len(block)))
        best, rows = torch.cat([best, values], 1), torch.cat([rows, places + first], 1)
        best, order = best.topk(min(k, best.shape[1]))
        rows = rows.gather(1, order)
    found: Rows = rows.numpy()
    return found


def libraries() -> list[str]:
    """The thread pools and BLAS kernels of this process: whose they are, and what they chose."""
    from threadpoolctl import threadpool_info

    lines = []
    for pool in threadpool_info():
        folder = Path(pool["filepath"]).parent
        words = [pool["internal_api"], pool["version"], pool.get("architecture"), f"{pool['num_threads']} threads"]
        owner = folder.parent.name if folder.name == "lib" else folder.name.removesuffix(".libs")
        lines.append(f"{owner}: {' '.join(word for word in words if word)}")
    return sorted(lines)
