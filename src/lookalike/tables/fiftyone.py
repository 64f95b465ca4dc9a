"""Mined images as a dataset folder that FiftyOne imports; FiftyOne itself is not needed to write it.

The format is the plain JSON one that FiftyOne calls `LegacyFiftyOneDataset`: `samples.json` with one object for each
image, and `metadata.json` with the types of the fields. The newer format is a dump of FiftyOne's own database
documents, which change from version to version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lookalike.tables.coco import plain, write_json

_FIELDS = "fiftyone.core.fields."
_LABEL = f"{_FIELDS}EmbeddedDocumentField(fiftyone.core.labels.Classification)"
#: The fields of a sample, and their types as FiftyOne names them.
_TYPES = {
    "filepath": f"{_FIELDS}StringField",
    "tags": f"{_FIELDS}ListField({_FIELDS}StringField)",
    "label": _LABEL,
    "target": f"{_FIELDS}StringField",
    "target_label": _LABEL,
    "rank": f"{_FIELDS}IntField",
    "distance": f"{_FIELDS}FloatField",
    "score": f"{_FIELDS}FloatField",
}
#: Fields that a dataset may have beside them.
_MORE = {
    "box": f"{_FIELDS}ListField({_FIELDS}IntField)",
    "embedding": f"{_FIELDS}ListField({_FIELDS}FloatField)",
}
#: The files of a dataset folder.
FILES = ("metadata.json", "samples.json")


def write_dataset(
    rows: pa.Table,
    names: Sequence[str],
    tags: Sequence[str],
    folder: Path,
    fields: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write the files of a dataset into a folder that is there.

    Parameters
    ----------
    rows:
        As `mined_rows.SCHEMA` says.
    names:
        The path of each image, as it is to be written.
    tags:
        Of all samples.
    folder:
        Where they go.
    fields:
        Further fields (`box`, `embedding`), with a value for each row.
    """
    samples = []
    fields = fields or {}
    for number, (row, name) in enumerate(zip(rows.to_pylist(), names, strict=True)):
        known = {key: plain(row[key]) for key in ("target", "rank", "distance", "score")}
        labels = {
            key: None if row[key] is None else {"_cls": "Classification", "label": row[key]}
            for key in ("label", "target_label")
        }
        more = {key: values[number] for key, values in fields.items()}
        samples.append({"filepath": name, "tags": list(tags), **known, **labels, **more})
    types = {**_TYPES, **{key: _MORE[key] for key in fields}}
    metadata = {"media_type": "image", "sample_fields": types, "info": {"source": "mined by lookalike"}}
    write_json(metadata, folder / FILES[0])
    write_json({"samples": samples}, folder / FILES[1])
