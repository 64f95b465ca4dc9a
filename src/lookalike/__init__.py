"""lookalike: find the pool images that look like your model's failures.

The public face. Every name below is imported when it is first used, so that `import lookalike` is quick::

    import lookalike

    lookalike.embed_images("weak.csv", "targets.parquet", "SigLIP", "google/siglip-base-patch16-224")
    lookalike.embed_images("pool/", "pool.parquet", "SigLIP", "google/siglip-base-patch16-224")
    lookalike.mine("pool.parquet", "targets.parquet", "mined.parquet", topn=5, knn_metric="cosine")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lookalike.embedding.images import EmbeddingResult as EmbeddingResult
    from lookalike.embedding.images import embed_images as embed_images
    from lookalike.encoders.identity import EncoderIdentity as EncoderIdentity
    from lookalike.errors import ConfigError as ConfigError
    from lookalike.errors import EncoderError as EncoderError
    from lookalike.errors import EncoderMismatch as EncoderMismatch
    from lookalike.errors import ImagesFailed as ImagesFailed
    from lookalike.errors import LookalikeError as LookalikeError
    from lookalike.errors import MissingDependency as MissingDependency
    from lookalike.errors import SearchError as SearchError
    from lookalike.errors import TableError as TableError
    from lookalike.errors import VectorError as VectorError
    from lookalike.neighbors.base import Neighbors as Neighbors
    from lookalike.neighbors.search import nearest_neighbors as nearest_neighbors
    from lookalike.workflow.mining import MiningResult as MiningResult
    from lookalike.workflow.mining import mine as mine
    from lookalike.workflow.run import resume_run as resume_run
    from lookalike.workflow.run import run as run
    from lookalike.workflow.run_steps import RunResult as RunResult
    from lookalike.workflow.unique import UniqueResult as UniqueResult
    from lookalike.workflow.unique import unique_neighbors as unique_neighbors

_HOMES = {
    "lookalike.embedding.images": ("EmbeddingResult", "embed_images"),
    "lookalike.encoders.identity": ("EncoderIdentity",),
    "lookalike.errors": (
        "ConfigError",
        "EncoderError",
        "EncoderMismatch",
        "ImagesFailed",
        "LookalikeError",
        "MissingDependency",
        "SearchError",
        "TableError",
        "VectorError",
    ),
    "lookalike.neighbors.base": ("Neighbors",),
    "lookalike.neighbors.search": ("nearest_neighbors",),
    "lookalike.workflow.mining": ("MiningResult", "mine"),
    "lookalike.workflow.unique": ("UniqueResult", "unique_neighbors"),
    "lookalike.workflow.run": ("resume_run", "run"),
    "lookalike.workflow.run_steps": ("RunResult",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 - computed from the table above


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names, for completion in notebooks."""
    return list(__all__)
