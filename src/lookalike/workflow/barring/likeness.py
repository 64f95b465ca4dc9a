"""Bar what is like some images: the same path, bytes or pixels, a copy, or the same component under another light.

Embeddings propose what may be a copy and the pixels decide, because distances of copies and of other images overlap
(docs/leakage.md). Where pixels cannot be read, the distance decides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.encoders.base import Encoder
from lookalike.images.locate import is_remote
from lookalike.images.outcome import ImageRejected
from lookalike.neighbors.base import Rows
from lookalike.reports.thumbnails import Reading
from lookalike.tables.boxes import Box, files_of, has_boxes, overlap, split_box
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.filepaths import full_paths
from lookalike.workflow.barring.album import Album
from lookalike.workflow.barring.bars import Marks, Rule
from lookalike.workflow.barring.files import Files
from lookalike.workflow.barring.looks import Look, Looks
from lookalike.workflow.barring.near import SAME_VECTOR, Measure
from lookalike.workflow.barring.reference import Reference, check_encoder, with_views

#: Whether a part of a file (None: all of it) bars another part of it.
Shares: TypeAlias = Callable[[Box | None, Box | None], bool]

#: Pool images whose pixels are compared at a time.
_LOOKS = 512
#: Rows of the pool whose components are read at a time.
_COMPONENTS = 1 << 18


@dataclass(frozen=True)
class Rules:
    """What the rules are called where one kind of image bars, and how they differ.

    Attributes
    ----------
    path, bytes, pixels, near, component:
        The rule for each kind of likeness.
    threshold:
        Every pool image within this cosine distance is barred; negative: off.
    protects:
        Whether nothing may slip through: a pool that is small enough is compared as a whole, and a pool image without
        pixels is barred when it is nearer than pool images are to each other. Otherwise only an equal vector bars it.
    each:
        Pool images that may be copies of one image, at most.
    """

    path: Rule
    bytes: Rule
    pixels: Rule
    near: Rule
    component: Rule
    threshold: float
    protects: bool
    each: int


class Likeness:
    """The search for what is like some images.

    Parameters
    ----------
    pool:
        Where to search.
    settings:
        How much may be read.
    inputs:
        How files are read and embedded.
    encoder:
        That of the pool, or None.
    looks:
        What looks at pictures.

    Attributes
    ----------
    marks:
        What is found.
    """

    def __init__(
        self,
        pool: EmbeddingStream,
        settings: BarringConfig,
        inputs: RunConfig,
        encoder: Encoder | None,
        looks: Looks,
    ) -> None:
        self._pool, self._settings, self._encoder, self._batch = pool, settings, encoder, inputs.batch_size
        self._reading, self._looks = Reading.of(vars(inputs)), looks
        self._base = inputs.root if "://" in inputs.root else str(Path(inputs.root).absolute())
        self._measure = Measure(pool, settings.device, settings.memory_limit)
        self.marks = Marks(pool.rows)

    def bar_paths(self, paths: Collection[str], rule: Rule, shares: Shares | None = None) -> None:
        """Bar the rows that have one of some paths; two spellings of a path are one, a relative one, too.

        Parameters
        ----------
        paths, rule:
            Which paths, and why.
        shares:
            Of another part of the same file, whether it is barred, too: the part that bars, and the part in the pool.
        """
        if not paths:
            return
        names, first = list(paths), 0
        known = full_paths(pa.array(names, pa.string()), self._base)
        for part in self._pool.filepaths():
            found = pc.index_in(full_paths(part, self._base), known).fill_null(-1).to_numpy(zero_copy_only=False)
            free = self.marks.rule[first : first + len(part)] == 0
            places = np.flatnonzero((found >= 0) & free)
            self.marks.bar(first + places, rule, [names[one] for one in found[places]])
            first += len(part)
        if shares is not None:
            self._bar_parts(names, rule, shares)

    def _bar_parts(self, names: list[str], rule: Rule, shares: Shares) -> None:
        """Bar rows that are another part of a file, one part of which bars them."""
        first, boxed = 0, has_boxes(pa.array(names, pa.string()))
        bars: dict[str, list[tuple[Box | None, str]]] = {}
        for place, name in zip(full_paths(pa.array(names, pa.string()), self._base).to_pylist(), names, strict=True):
            file, box = split_box(place)
            bars.setdefault(file, []).append((box, name))
        known = pa.array(bars, pa.string())
        for part in self._pool.filepaths():
            if boxed or has_boxes(part):
                whole = full_paths(part, self._base)
                in_files = pc.is_in(files_of(whole), known).to_numpy(zero_copy_only=False)
                places = np.flatnonzero(in_files & (self.marks.rule[first : first + len(part)] == 0))
                rows, by = [], []
                for place, path in zip(places.tolist(), whole.take(pa.array(places)).to_pylist(), strict=True):
                    file, own = split_box(path)
                    found = next((name for box, name in bars[file] if shares(box, own)), None)
                    if found is not None:
                        rows.append(first + place)
                        by.append(found)
                self.marks.bar(np.array(rows, np.int64), rule, by)
            first += len(part)

    def bar(self, reference: Reference, rules: Rules) -> None:
        """Bar the rows that are like some images."""
        self.bar_paths(reference.paths, rules.path, overlap if rules.protects else None)
        self._bar_bytes(reference, rules.bytes)
        self._bar_pictures(reference, rules)
        if rules.threshold >= 0:
            self._bar_near(self.marks.free(), reference, rules.near, rules.threshold)
            if not len(reference.vectors):
                self.marks.note(f"the {reference.name} images have no vectors: their threshold has no effect")
        self._bar_components(reference, rules.component)

    def _bar_bytes(self, reference: Reference, rule: Rule) -> None:
        """Bar files with the same bytes."""
        reading, name = self._reading.files, reference.name
        files = Files(reference.paths, reading)
        self._note_count(files.urls, f"{name} images are URLs: bytes and pixels are not compared with theirs")
        self._note_count(files.missing, f"of {len(reference.paths)} {name} images have no file that can be read")
        first = missing = urls = 0
        for part in self._pool.filepaths() if files.there else ():
            free = np.flatnonzero(self.marks.rule[first : first + len(part)] == 0)
            rows, by = [], []
            for place, path in zip(free.tolist(), part.take(pa.array(free)).to_pylist(), strict=True):
                if is_remote(path, reading.root):
                    urls += 1
                    continue
                try:
                    found = files.find(path)
                except ImageRejected:
                    missing += 1
                    continue
                if found >= 0:
                    rows.append(first + place)
                    by.append(reference.paths[found])
            self.marks.bar(np.array(rows, np.int64), rule, by)
            first += len(part)
        self._note_count(urls, "pool images are URLs: their bytes and pixels are not compared")
        self._note_count(missing, "pool images have no file that can be read: their bytes are not compared")

    def _bar_pictures(self, reference: Reference, rules: Rules) -> None:
        """Bar copies: what may be one is read, and its pixels decide."""
        candidates = self._candidates(reference, rules)
        album, blind = self._album(reference) if len(candidates) else (Album(()), np.empty(0, np.int64))
        unread = candidates
        if len(album):
            unread = self._bar_copies(candidates, album, reference, rules)
        if not self._settings.leak_reads:
            unread = self.marks.free()
        if not len(reference.vectors):
            if len(unread):
                self.marks.note(
                    f"pixels could not be compared of {len(unread)} pool images, and the {reference.name} images have "
                    "no vectors: only paths and bytes are compared"
                )
            return
        limit = SAME_VECTOR
        if rules.protects and (len(unread) or len(blind)):
            limit = self._measure.own_spacing()
        barred = self._bar_near(unread, reference, rules.near, limit)
        barred += self._bar_near(self.marks.free(), reference.only(blind), rules.near, limit)
        if len(unread) or len(blind):
            self.marks.note(
                f"pixels could not be compared of {len(unread)} pool images and {len(blind)} {reference.name} images: "
                f"there the distance decides, and {barred} pool images within {limit:.2g} are barred"
            )

    def _candidates(self, reference: Reference, rules: Rules) -> Rows:
        """Rows of the pool that may be copies, those that are looked at first at the front."""
        most, free = self._settings.leak_reads, self.marks.free()
        if rules.protects and len(free) <= most:
            return free
        if not len(reference.vectors):
            if most:  # with 0 all of them are told as not read
                self.marks.note(
                    f"{len(free)} pool images are more than leak_reads={most}, and the {reference.name} images have no "
                    "vectors that tell which of them may be copies: only paths and bytes are compared"
                )
            return np.empty(0, np.int64)
        if rules.protects and self._encoder is not None and most:
            check_encoder(self._encoder, self._pool)
            reference = with_views(reference, self._encoder, self._reading, self._batch)
        chosen = self._measure.neighbours(reference, self.marks.mask, most, rules.each)
        if rules.protects and most:
            self.marks.note(
                f"the pool has {len(free)} images, more than leak_reads={most}: pixels are compared of the "
                f"{len(chosen)} that are nearest to the {reference.name} images"
            )
        return chosen

    def _album(self, reference: Reference) -> tuple[Album, Rows]:
        """The pictures of the images, and which of those with a vector could not be read."""
        most = self._settings.leak_reads
        if len(reference.paths) > most:
            self.marks.note(
                f"there are {len(reference.paths)} {reference.name} images, more than leak_reads={most}: pixels are "
                f"compared with those of the first {most}"
            )
        paths = reference.paths[:most]
        looks = [
            None if isinstance(one, ImageRejected) else one
            for one in self._looks.each(paths, f"reading the {reference.name} images")
        ]
        read = np.zeros(len(reference.paths), np.bool_)
        read[: len(looks)] = [one is not None for one in looks]
        return Album(looks), np.unique(reference.rows[~read[reference.rows]])

    def _bar_copies(self, candidates: Rows, album: Album, reference: Reference, rules: Rules) -> Rows:
        """Read candidates and bar the copies; return those that could not be read, ascending."""
        rows = np.sort(candidates)
        paths = self._pool.pick(rows, ("filepath",)).column("filepath").to_pylist()
        pictures = self._looks.each(paths, "comparing pixels")
        images = {rules.pixels: np.full(len(rows), -1, np.int64), rules.near: np.full(len(rows), -1, np.int64)}
        same, alike = images[rules.pixels], images[rules.near]
        unread, places, looks = [], list[int](), list[Look]()

        def compare() -> None:
            found = album.find(looks)
            same[places], alike[places] = found.same, np.where(found.same < 0, found.alike, -1)
            places.clear()
            looks.clear()

        for place, picture in enumerate(pictures):
            if isinstance(picture, ImageRejected):
                unread.append(place)
                continue
            places.append(place)
            looks.append(picture)
            if len(looks) == _LOOKS:
                compare()
        compare()
        self.marks.read += len(rows) - len(unread)
        for rule, found in images.items():
            copies = np.flatnonzero(found >= 0)
            distances = self._measure.distances(rows[copies], reference, found[copies])
            self.marks.bar(rows[copies], rule, [reference.paths[one] for one in found[copies]], distances)
        return rows[unread]

    def _bar_near(self, rows: Rows, reference: Reference, rule: Rule, limit: float) -> int:
        """Bar those of some rows that are within a distance; return how many these are."""
        rows = np.sort(rows)
        rows = rows[self.marks.rule[rows] == 0]
        if not len(rows) or not len(reference.vectors):
            return 0
        found = self._measure.nearest(rows, reference)
        # In float32, as distances are: a threshold of 0.3 bars a distance that prints as 0.3.
        near = found.distances <= np.float32(limit)
        by = [reference.paths[one] for one in found.rows[near]]
        self.marks.bar(rows[near], rule, by, found.distances[near])
        return len(by)

    def _bar_components(self, reference: Reference, rule: Rule) -> None:
        """Bar images of the same component under another light, where the pool is a Visual ChangeNet table.

        Its files are named `<object_name>_<light>`, and it carries the column `object_name`.
        """
        if "object_name" not in self._pool.pick(np.zeros(1, np.int64), ("object_name",)).column_names:
            return
        shown: dict[tuple[str, str], str] = {}
        whole = full_paths(pa.array(reference.paths, pa.string()), self._base).to_pylist()
        for path, place in zip(reference.paths, whole, strict=True):
            folder, name = posixpath.split(place)
            shown.setdefault((folder, posixpath.splitext(name)[0].rpartition("_")[0]), path)
        for first in range(0, self._pool.rows, _COMPONENTS):
            block = np.arange(first, min(first + _COMPONENTS, self._pool.rows))
            table = self._pool.pick(block, ("filepath", "object_name"))
            rows, by = [], []
            places = full_paths(table.column("filepath").combine_chunks().cast(pa.string()), self._base).to_pylist()
            components = table.column("object_name").to_pylist()
            for row, (place, component) in enumerate(zip(places, components, strict=True), first):
                folder, name = posixpath.split(place)
                found = shown.get((folder, str(component))) if component not in (None, "") else None
                if found is not None and name.startswith(f"{component}_") and not self.marks.rule[row]:
                    rows.append(row)
                    by.append(found)
            self.marks.bar(np.array(rows, np.int64), rule, by)

    def _note_count(self, number: int, text: str) -> None:
        if number:
            self.marks.note(f"{number} {text}")
