"""The two sides of a run: what kind of input each is, and everything that can be known of it before work starts."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.config.schemas import RunConfig, box_columns
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import ImagesFailed, TableError
from lookalike.images.locate import ReadSettings, modified_ns
from lookalike.images.outcome import ImageRejected
from lookalike.tables.boxes import with_boxes
from lookalike.tables.changenet import Layout, is_changenet, to_image_table
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import Parts
from lookalike.tables.image_table import PARQUET_SUFFIXES, check_filepath, name_of, read_rows
from lookalike.tables.run_folder import file_record
from lookalike.tables.vectors import is_vector_type

log = logging.getLogger(__name__)

_KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".txt": "list of paths",
    ".lst": "list of paths",
}
#: What the images of an input are called.
_IMAGES = {"protect": "images to protect", "avoid": "images to avoid"}
#: Files that are looked for before a run, and how long that may take.
_SAMPLE, _SAMPLE_SECONDS = 1000, 3.0


@dataclass(frozen=True)
class Side:
    """One side of a run.

    Attributes
    ----------
    name:
        ``targets`` or ``pool``.
    path:
        As the user gave it.
    kind:
        What it is, for people.
    rows, has_label:
        Of the input.
    table:
        The image table; None for a ready embedding table.
    converted:
        Whether `table` has to be written as parquet, so that the embedding step has a file to name.
    column, dimension, identity:
        Of a ready embedding table: its vectors' column and length, and who wrote them (None: not known).
    sha256:
        Digest of the input file; None for a folder, a URL or a table in memory.
    has_boxes:
        Whether `crop` has put boxes into its paths.
    embedded:
        Its embedding table in the run folder, where that is all that is looked at: an earlier process made it, and the
        input is gone.
    """

    name: str
    path: str
    kind: str
    rows: int
    has_label: bool
    table: pa.Table | None = None
    converted: bool = False
    column: str = ""
    dimension: int = 0
    identity: EncoderIdentity | None = None
    sha256: str | None = None
    has_boxes: bool = False
    embedded: Path | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it comes with vectors."""
        return self.table is None

    def filepaths(self) -> Iterator[pa.Array]:
        """The column `filepath`, part by part: a ready pool may be larger than memory."""
        if self.embedded is not None:
            yield from EmbeddingStream(str(self.embedded), "embedding").filepaths()
        elif self.table is not None:
            yield from self.table.column("filepath").chunks
        else:
            yield from EmbeddingStream(self.path, self.column).filepaths()

    def first_paths(self, count: int) -> list[str]:
        """The paths of the first rows."""
        found: list[str] = []
        for part in self.filepaths():
            found += part.slice(0, count - len(found)).to_pylist()
            if len(found) == count:
                break
        return found

    def labels(self) -> pa.ChunkedArray:
        """The column `label`, as it is in the table."""
        if self.embedded is not None:
            return EmbeddingStream(str(self.embedded), "embedding").read_scalars().column("label")
        if self.table is not None:
            return self.table.column("label")
        return EmbeddingStream(self.path, self.column).read_scalars().column("label")

    def digest(self) -> str:
        """What tells this input from another and from itself after a change: its file, or its paths and labels."""
        if self.sha256 and self.kind != "Visual ChangeNet table":
            return self.sha256
        digest = hashlib.sha256()
        labels = self.table.column("label").chunks if self.table is not None and self.has_label else []
        for part in chain(self.filepaths(), labels):
            digest.update("".join(f"{value}\0" for value in part.to_pylist()).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def open_side(name: str, given: Any, config: RunConfig) -> Side:
    """Read one side's table, or look at it where it is an embedding table.

    Parameters
    ----------
    name:
        ``targets``, ``pool`` or ``protect``.
    given:
        A path or URL, a `pyarrow.Table` or a `pandas.DataFrame`.
    config:
        Settings of the run.

    Raises
    ------
    TableError
        When it cannot be read, has no rows, no paths, or a Visual ChangeNet row has no image.
    """
    path = name_of(given)
    column = config.target_vectors if name == "targets" else config.pool_vectors
    local = Path(given) if isinstance(given, str | Path) and "://" not in str(given) else None
    if local is not None and _has_vectors(local, column):
        return _ready(name, path, column)
    rows = read_rows(given)
    if not rows.num_rows:
        raise _nothing(name, path)
    kind = _kind(given, local, rows)
    changenet = is_changenet(rows)
    if changenet:
        kind = "Visual ChangeNet table"
        rows = to_image_table(rows, path, layout_of(config))
    table = check_filepath(rows, path)
    boxes = box_columns(config.crop)
    has_boxes = any(name in table.column_names for name in boxes)
    if has_boxes:
        table = with_boxes(table, boxes, path)
    if column in table.column_names and is_vector_type(table.schema.field(column).type):
        log.warning("%s: the vectors in column %r are not used: only local parquet files may hold them", path, column)
    return Side(
        name, path, kind, table.num_rows, "label" in table.column_names, table,
        converted=changenet or has_boxes or kind not in ("parquet", "folder of parquet files"),
        sha256=_sha256(local), has_boxes=has_boxes,
    )  # fmt: skip


def layout_of(config: RunConfig) -> Layout:
    """Where the images of a Visual ChangeNet table are."""
    return Layout(config.images_root, config.light, config.image_ext, config.root)


def _has_vectors(path: Path, column: str) -> bool:
    """Whether a local input is an embedding table; refuses a folder, only some of whose files are."""
    if path.is_dir():
        if not any(file.suffix.lower() in PARQUET_SUFFIXES for file in path.iterdir() if file.name[0] != "."):
            return False
    elif path.suffix.lower() not in PARQUET_SUFFIXES or not path.is_file():
        return False
    parts = Parts.open(str(path))
    have = [column in schema.names and is_vector_type(schema.field(column).type) for schema in parts.schemas]
    if any(have):
        parts.require(column)
    return any(have)


def _ready(name: str, path: str, column: str) -> Side:
    """A side that comes with vectors."""
    if not sum(pq.read_metadata(file).num_rows for file in Parts.open(path).files):
        raise _nothing(name, path)
    stream = EmbeddingStream(path, column)
    stream.check_filepaths()
    identity = EncoderIdentity.from_json(stream.identity_json, path) if stream.identity_json else None
    return Side(
        name, path, "embedding table", stream.rows, stream.has_labels,
        column=column, dimension=stream.dimension, identity=identity, sha256=_sha256(Path(path)),
    )  # fmt: skip


def _nothing(name: str, path: str) -> TableError:
    if name == "targets":
        return TableError(
            "has no rows: there is no target, so there is nothing to mine",
            where=path,
            hint="where your model had no failures, that is good news; otherwise check how the table was made",
        )
    if name == "protect":
        return TableError(
            "has no rows: there is no image to protect",
            where=path,
            hint="name the evaluation set, or leave protect out; an empty one would protect nothing without a word",
        )
    return TableError(
        "has no rows: there is no pool image that could be mined", where=path, hint="check how the table was made"
    )


def _kind(given: Any, local: Path | None, rows: pa.Table) -> str:
    """What an image table was read from, for people."""
    if not isinstance(given, str | Path):
        return "table in memory"
    if local is not None and local.is_dir():
        # Told by the rows: walking through a large folder once more takes as long as the first time.
        found = rows.column_names == ["filepath"] and Path(rows.column(0)[0].as_py()).is_relative_to(local.absolute())
        return "folder of images" if found else "folder of parquet files"
    return _KINDS.get(PurePosixPath(str(given)).suffix.lower(), "folder of images")


def _sha256(path: Path | None) -> str | None:
    return file_record(path).sha256 if path is not None and path.is_file() else None


def overlap_warning(targets: Side, pool: Side, self_match: str) -> list[str]:
    """What it means that images are on both sides, where some are."""
    wanted = pa.chunked_array(list(map(_as_text, targets.filepaths())), pa.string())
    known = pc.unique(wanted)
    found = [part.filter(pc.is_in(part, value_set=known)) for part in map(_as_text, pool.filepaths())]
    both = pc.sum(pc.is_in(wanted, value_set=pa.chunked_array(found, pa.string()))).as_py()
    if not both:
        return []
    what = "their nearest image is themselves" if self_match == "keep" else "they are left out (self_match=exclude)"
    return [f"{both} of {targets.rows} targets are in the pool, too (by path): {what}"]


def box_warnings(sides: Sequence[Side], crop: str) -> list[str]:
    """What it means that `crop` finds boxes on one side only.

    Raises
    ------
    TableError
        When it finds none at all.
    """
    columns = box_columns(crop)
    images = [side for side in sides if not side.is_ready and side.embedded is None]
    whole = [side for side in images if not side.has_boxes]
    if not columns or not whole:
        return []
    if len(whole) == len(images):
        assert whole[0].table is not None
        raise TableError(
            f"has none of the columns {', '.join(columns)} of crop={crop}; its columns are "
            f"{whole[0].table.column_names}",
            where=whole[0].path,
            hint="name the four columns of the boxes: crop=left,top,width,height",
        )
    return [f"the {side.name} have no columns {', '.join(columns)}: their images are taken whole" for side in whole]


def _as_text(part: pa.Array) -> pa.Array:
    return part if pa.types.is_string(part.type) else part.cast(pa.string())


def check_files(side: Side, config: RunConfig) -> None:
    """Look for some of a side's image files: a warning where some are missing, an error where all are.

    Raises
    ------
    ImagesFailed
        When none is there, or one is missing and `on_error` is ``raise``.
    """
    rows = np.unique(np.linspace(0, side.rows - 1, min(side.rows, _SAMPLE)).astype(np.int64))
    assert side.table is not None
    paths = side.table.column("filepath").take(pa.array(rows)).to_pylist()
    reading = ReadSettings(config.root, config.max_bytes, config.retries)
    missing: list[str] = []
    looked, started = 0, time.monotonic()
    for path in paths:
        try:
            modified_ns(path, reading)
        except ImageRejected as rejected:
            missing.append(f"{path}: {rejected.detail}")
        looked += 1
        if time.monotonic() - started > _SAMPLE_SECONDS:
            break
    if not missing:
        return
    counted = f"{len(missing)} of {looked}" + (" image files" if looked == side.rows else " image files looked for")
    images = _IMAGES.get(side.name, side.name)
    if len(missing) == looked or config.on_error == "raise":
        start = config.root or f"the working directory, {Path.cwd()}"
        raise ImagesFailed(
            f"{counted} of the {images} are not there; the first: {missing[0]}",
            where=side.path,
            hint=f"relative paths start in {start}",
        )
    log.warning("%s: %s of the %s are not there; the first: %s", side.path, counted, images, missing[0])
