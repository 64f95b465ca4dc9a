"""The run folder: names of the files of one mining run, and `run.json`, the record of what happened.

::

    <out>/mining_results/YYYY-MM-DD_HHMMSS/
      Mining_Report.md            the report, written last (drop-in contract, section 5)
      gallery.html                every target with its mined neighbours, to be looked at
      plots/                      distances.png, labels.png, map.png
      mined.parquet               the mined list: one column `filepath`
      mined_pairs.parquet         the pair table: every pair with its outcome
      pool_outcomes.parquet       what became of every pool image
      target_outcomes.parquet     what became of every target
      mining_summary.txt          the counts
      target_embeddings.parquet   embedding tables of both sides (and their `_quarantine.parquet`, where there are any)
      source_embeddings.parquet
      embedding_spec.yaml         settings that reproduce the run with `embedding` and `tmm`
      mining_spec.yaml
      run.json                    the record: settings, versions, machine, timings, counts, digests
      run.log                     what was said on the way

Paths in the record that lie in the folder are relative to it, so that moving the folder breaks nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lookalike.errors import TableError
from lookalike.tables.atomic import atomic_path

#: Raised when the meaning of a field of `run.json` changes.
VERSION = 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by what they are."""

    path: Path

    @property
    def record(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        """`Mining_Report.md`."""
        return self.path / "Mining_Report.md"

    @property
    def gallery(self) -> Path:
        """`gallery.html`."""
        return self.path / "gallery.html"

    @property
    def plots(self) -> Path:
        """The folder of the plots."""
        return self.path / "plots"

    @property
    def mined(self) -> Path:
        """The mined table."""
        return self.path / "mined.parquet"

    @property
    def pairs(self) -> Path:
        """The pair table."""
        return self.path / "mined_pairs.parquet"

    @property
    def avoid(self) -> Path:
        """The embedding table of the images to avoid, where there are any."""
        return self.path / "avoid_embeddings.parquet"

    @property
    def excluded(self) -> Path:
        """What might not be mined, with the rule and the image that barred it; only where there is any."""
        return self.path / "excluded.parquet"

    @property
    def outcomes(self) -> Path:
        """What became of every pool image."""
        return self.path / "pool_outcomes.parquet"

    @property
    def target_outcomes(self) -> Path:
        """What became of every target: whether it is served, and what the pool has near it."""
        return self.path / "target_outcomes.parquet"

    @property
    def reviewed(self) -> Path:
        """The mined table less what a person dropped; written by `lookalike review`."""
        return self.path / "mined_reviewed.parquet"

    @property
    def summary(self) -> Path:
        """`mining_summary.txt`."""
        return self.path / "mining_summary.txt"

    @property
    def targets(self) -> Path:
        """The targets' embedding table."""
        return self.path / "target_embeddings.parquet"

    @property
    def pool(self) -> Path:
        """The pool's embedding table."""
        return self.path / "source_embeddings.parquet"

    @property
    def embedding_spec(self) -> Path:
        """`embedding_spec.yaml`."""
        return self.path / "embedding_spec.yaml"

    @property
    def mining_spec(self) -> Path:
        """`mining_spec.yaml`."""
        return self.path / "mining_spec.yaml"

    @property
    def log(self) -> Path:
        """`run.log`."""
        return self.path / "run.log"

    @property
    def config(self) -> Path:
        """The folder that the packaging step fills with the configuration in force."""
        return self.path / "mining_config"

    @property
    def transcript(self) -> Path:
        """The agent's transcript, put there by the packaging step."""
        return self.path / "claude_session.jsonl"


@dataclass(frozen=True)
class InputRecord:
    """One side of a run: the targets or the pool.

    Attributes
    ----------
    path:
        As the user gave it.
    kind:
        What it is, for people: ``parquet``, ``CSV``, ``folder of images``, ``embedding table``, ...
    rows:
        Rows of the input.
    has_label:
        Whether it has a column `label`.
    converted:
        Whether it was no parquet table, so that one was made of it.
    embedded:
        Rows of the embedding table.
    quarantined:
        How many images were set aside, by reason code.
    cached, reused:
        Images whose vectors were there already: in the cache, in an earlier table.
    continued:
        Images that were done before this side's embedding was stopped and continued; those of them that came from the
        cache or an earlier table are not in `cached` and `reused`.
    seconds:
        Of embedding; of a side that was continued, since then.
    sha256:
        Digest of the input file; None for a folder or a URL.
    identity:
        The encoder identity (`EncoderIdentity.to_json` as an object); None for a table made elsewhere.
    texts:
        Whether its rows are texts and not images.
    """

    path: str
    kind: str
    rows: int
    has_label: bool
    converted: bool
    embedded: int
    quarantined: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    reused: int = 0
    seconds: float = 0.0
    sha256: str | None = None
    identity: dict[str, Any] | None = None
    continued: int = 0
    texts: bool = False


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of a file of the run."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` holds.

    Attributes
    ----------
    lookalike:
        Version of lookalike.
    created:
        When the run began, ISO 8601 with the zone.
    command:
        The command line.
    settings:
        Every setting of the run, defaults included.
    model, model_path:
        The encoder as the user named it; empty for ready embedding tables.
    targets, pool:
        Both sides.
    counts:
        The fields of `reports.summary.MiningCounts`.
    certificate:
        How the neighbours were found and checked; `text` is the line of the summary.
    excluded:
        How many pool images each rule barred; None where none was.
    selection:
        How the scoring was chosen and what it took, where images were selected by score; else None.
    diagnosis:
        Hubs, targets that the pool has nothing for, exhausted regions, what changed since the last iteration
        (docs/report.md); None in the record of an older version.
    warnings:
        What changes the meaning of the result.
    cwd:
        The working directory of the run, where relative paths start; empty in the record of a run that kept none.
    seconds:
        Time of every step, in the order of the steps.
    versions, machine:
        Of Python and the libraries that matter; processor, memory, devices.
    files:
        The run's files by their names in the folder (``plots/map.png``), and the report, which is written after the
        record, but with the bytes that the record has. `run.json`, `run.log` and what packaging puts there are not
        among them.
    """

    lookalike: str
    created: str
    command: list[str]
    settings: dict[str, Any]
    model: str
    model_path: str
    targets: InputRecord
    pool: InputRecord
    counts: dict[str, Any]
    certificate: dict[str, Any]
    warnings: list[str]
    seconds: dict[str, float]
    versions: dict[str, str]
    machine: dict[str, Any]
    files: dict[str, FileRecord]
    cwd: str = ""
    excluded: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None
    diagnosis: dict[str, Any] | None = None

    @property
    def start(self) -> str:
        """The folder in which relative paths of images start; empty for the working directory.

        Where the run's own one is not there any more, the run was moved, perhaps with its images.
        """
        return self.cwd if self.cwd and Path(self.cwd).is_dir() else ""

    def write(self, folder: RunFolder) -> None:
        """Write `run.json`, whole or not at all."""
        with atomic_path(folder.record) as temporary:
            text = json.dumps({"version": VERSION, **asdict(self)}, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def read_record(folder: RunFolder) -> RunRecord:
    """Read `run.json`.

    Raises
    ------
    TableError
        When the folder is no finished run, or the record is damaged or of a version that is not known.
    """
    where, hint = str(folder.record), "name the folder of a run that `lookalike mine` finished"
    try:
        content = json.loads(folder.record.read_text(encoding="utf-8"))
        version = content.pop("version")
        if version != VERSION:
            raise TableError(f"has version {version}, this lookalike reads {VERSION}", where=where)
        targets, pool = (InputRecord(**content.pop(side)) for side in ("targets", "pool"))
        files = {name: FileRecord(**one) for name, one in content.pop("files").items()}
        return RunRecord(targets=targets, pool=pool, files=files, **content)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", where=where, hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"is damaged: {error!r}", where=where, hint=hint) from error


def update_record(
    folder: RunFolder,
    made: Iterable[Path] = (),
    *,
    report: str | None = None,
    seconds: Mapping[str, float] | None = None,
) -> RunRecord:
    """Take files that were made after the record into it, and files that are gone out of it; return what it holds now.

    Parameters
    ----------
    folder:
        The run.
    made:
        Files of the folder that were written or removed.
    report:
        The text of the report, which is written after this.
    seconds:
        Times of all steps, where they are to be replaced.

    Raises
    ------
    TableError
        As `read_record`, or when it cannot be written.
    """
    record = read_record(folder)
    files = dict(record.files)
    for path in made:
        name = path.relative_to(folder.path).as_posix()
        files.pop(name, None)
        if path.is_file():
            files[name] = file_record(path)
    if report is not None:
        content = report.encode("utf-8")
        files[folder.report.name] = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    record = replace(record, files=files, seconds=dict(seconds) if seconds is not None else record.seconds)
    record.write(folder)
    return record


def file_record(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return FileRecord(path.stat().st_size, digest.hexdigest())
