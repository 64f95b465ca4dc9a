"""Snapshots of models for machines without a network: made from a hub's id, with a digest of every file.

A snapshot is the folder that `model_path` names: the files of a model, and `lookalike_snapshot.json`, which says where
they come from and holds their SHA-256. That file is written last: a folder without it is not finished. Names and sizes
are compared whenever the model is loaded, which reads nothing; digests when `verify_snapshot` is called.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import EncoderError
from lookalike.tables.atomic import atomic_path

#: The file with the digests.
MANIFEST = "lookalike_snapshot.json"
#: Raised when the meaning of the file changes.
_VERSION = 1
#: Files in the first folder of a model that are needed beside its weights, and its licence and model card. Python files
#: are run with `trust_remote_code=true` only.
_NEEDED = (
    "config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model", "sentencepiece*.model",
    "*.py", "LICENSE*", "NOTICE*", "README.md",
)  # fmt: skip
#: Kinds of weights, the best first: one kind is fetched. OpenCLIP's have names of their own.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_OPEN_CLIP_WEIGHTS = (
    ("open_clip_model.safetensors",), ("open_clip_pytorch_model.safetensors",), ("open_clip_pytorch_model.bin",),
)  # fmt: skip
#: Where the hub's client keeps the state of an unfinished download.
_UNFINISHED = Path(".cache", "huggingface")
_BLOCK = 1 << 22


@dataclass(frozen=True)
class SnapshotFile:
    """A file of a snapshot: bytes, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """What `lookalike_snapshot.json` holds.

    Attributes
    ----------
    model:
        The hub's id.
    revision:
        The commit there.
    licence:
        As the model card says; "" where it does not.
    files:
        By their path in the folder, with slashes.
    """

    model: str
    revision: str
    licence: str
    files: dict[str, SnapshotFile]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())


def needed_files(model: str, names: Iterable[str], *, open_clip: bool = False) -> list[str]:
    """The files of a repository that loading the model needs, sorted.

    Parameters
    ----------
    model:
        The hub's id, for messages.
    names:
        All files of the repository.
    open_clip:
        Whether OpenCLIP's weights are wanted where a repository has those of transformers, too.

    Raises
    ------
    EncoderError
        When there are no weights that could be loaded.
    """
    here = [name for name in names if "/" not in name]
    kinds = (*_OPEN_CLIP_WEIGHTS, *_WEIGHTS) if open_clip else (*_WEIGHTS, *_OPEN_CLIP_WEIGHTS)
    for kind in kinds:
        weights = _matching(here, kind)
        # An index without its parts, or parts without their index, are of no use.
        if weights and all(_matching(weights, (pattern,)) for pattern in kind):
            return sorted({*weights, *_matching(here, _NEEDED)})
    raise EncoderError(
        "there are no weights in it that are known here",
        where=model,
        hint=f"it has {', '.join(sorted(here)) or 'no files'}; name a model with model.safetensors",
    )


def fetch_snapshot(model: str, folder: Path, *, revision: str = "main", open_clip: bool = False) -> Snapshot:
    """Fetch a model from the hub into a folder; a fetch that was stopped goes on.

    Parameters
    ----------
    model:
        The hub's id, like ``facebook/dinov2-base``.
    folder:
        Made where it is missing. It must be empty, an unfinished fetch, or this very snapshot.
    revision:
        A branch, tag or commit.
    open_clip:
        See `needed_files`.

    Raises
    ------
    EncoderError
        When the hub cannot be reached or does not give the model, the folder is in use, or a file arrived damaged.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    _refuse_foreign(folder)
    earlier = read_snapshot(folder)
    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
        commit = info.sha or revision
        if earlier is not None:
            return _unchanged(folder, earlier, model, commit)
        chosen = needed_files(model, [one.rfilename for one in info.siblings or ()], open_clip=open_clip)
        snapshot_download(model, revision=commit, local_dir=folder, allow_patterns=[_escaped(name) for name in chosen])
    # ValueError: an id that cannot be one. A hub that is not reached is an error of its HTTP library.
    except (OSError, ValueError, vars(errors)["HTTPError"]) as error:
        raise _not_fetched(model, error) from error
    card: Any = info.card_data
    snapshot = Snapshot(model, commit, str((card and card.get("license")) or ""), _digests(folder, chosen))
    told = {one.rfilename: one.lfs.sha256 for one in info.siblings or () if one.lfs is not None}
    damaged = [name for name in chosen if name in told and told[name] != snapshot.files[name].sha256]
    if damaged:
        for name in damaged:
            (folder / name).unlink()
        raise EncoderError(
            f"{', '.join(damaged)} arrived damaged and was removed", where=model, hint="run the same command again"
        )
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps({"version": _VERSION, **asdict(snapshot)}, indent=2), encoding="utf-8")
    shutil.rmtree(folder / _UNFINISHED.parts[0], ignore_errors=True)
    return snapshot


def read_snapshot(folder: Path) -> Snapshot | None:
    """The digests of a folder; None where it has none.

    Raises
    ------
    EncoderError
        When they are damaged, or of a version that is not known here.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise EncoderError(
                f"has version {content['version']}, this lookalike reads {_VERSION}",
                where=str(path),
                hint="update lookalike, or fetch the model again",
            )
        files = {name: SnapshotFile(**file) for name, file in content["files"].items()}
        return Snapshot(content["model"], content["revision"], content["licence"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"cannot be read: {error!r}", where=str(path), hint="fetch the model again") from error


def check_files(folder: Path) -> None:
    """Refuse a snapshot that lacks a file, or has one of another size; reads no file. Folders without digests pass.

    Raises
    ------
    EncoderError
        Names the files, and how to bring them.
    """
    snapshot = read_snapshot(folder)
    if snapshot is not None:
        _refuse(folder, snapshot, list(_wrong_sizes(folder, snapshot)))


def verify_snapshot(folder: Path) -> Snapshot:
    """Compare every file of a snapshot with its digest.

    Raises
    ------
    EncoderError
        When there are no digests, or files are missing or changed; names them.
    """
    snapshot = read_snapshot(folder)
    if snapshot is None:
        raise EncoderError(
            f"has no {MANIFEST}, so there is nothing to compare its files with",
            where=str(folder),
            hint="`lookalike encoders fetch MODEL --to FOLDER` makes a snapshot with digests",
        )
    wrong = dict(_wrong_sizes(folder, snapshot))
    for name, file in snapshot.files.items():
        if name not in wrong and _sha256(folder / name) != file.sha256:
            wrong[name] = "has other content"
    _refuse(folder, snapshot, list(wrong.items()))
    return snapshot


def how_to_bring(model_path: str) -> str:
    """What to do where a model cannot be loaded: which files a folder lacks, and how they come to this machine."""
    folder = Path(model_path)
    if not folder.is_dir():
        return (
            "no such folder here, so it was taken for a Hugging Face id; check the path or the id. Without a network: "
            f"run `lookalike encoders fetch {model_path} --to FOLDER` on a machine that has one, copy the folder to "
            "this machine and give it as model_path"
        )
    present = {path.name for path in folder.iterdir()}
    lacking = [name for name in ("config.json", "preprocessor_config.json") if name not in present]
    kinds = (*_WEIGHTS, *_OPEN_CLIP_WEIGHTS)
    if not any(all(_matching(present, (pattern,)) for pattern in kind) for kind in kinds):
        lacking.append("model.safetensors")
    if not lacking:
        return "its files are there, but do not make a model that can be loaded; fetch it again"
    return (
        f"the folder has no {', no '.join(lacking)}; `lookalike encoders fetch ID --to FOLDER` on a machine with a "
        "network makes a whole one"
    )


def _refuse(folder: Path, snapshot: Snapshot, wrong: list[tuple[str, str]]) -> None:
    if wrong:
        listed = "; ".join(f"{name} {what}" for name, what in wrong)
        raise EncoderError(
            f"the snapshot is not whole: {listed}",
            where=str(folder),
            hint=f"copy it again, or on a machine with a network: lookalike encoders fetch {snapshot.model} "
            f"--revision {snapshot.revision} --to FOLDER",
        )


def _wrong_sizes(folder: Path, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Files that are missing or have another size, and what is wrong with each."""
    for name, file in snapshot.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            yield name, "is missing"
        else:
            if size != file.size:
                yield name, f"has {size} bytes instead of {file.size}"


def _refuse_foreign(folder: Path) -> None:
    """Refuse to write into a folder that something else is in."""
    if folder.exists() and not folder.is_dir():
        raise EncoderError("is a file, and a folder is needed", where=str(folder), hint="choose another --to")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / _UNFINISHED).is_dir() and not (folder / MANIFEST).is_file():
        raise EncoderError(
            "is not empty, and not an unfinished fetch", where=str(folder), hint="choose a new folder after --to"
        )


def _unchanged(folder: Path, earlier: Snapshot, model: str, commit: str) -> Snapshot:
    """The finished snapshot in the folder, if it is the one that is asked for."""
    if (earlier.model, earlier.revision) != (model, commit):
        raise EncoderError(
            f"has {earlier.model} at {earlier.revision}, and {model} at {commit} was asked for",
            where=str(folder),
            hint="choose a new folder after --to",
        )
    return verify_snapshot(folder)


def _digests(folder: Path, names: Iterable[str]) -> dict[str, SnapshotFile]:
    return {name: SnapshotFile((folder / name).stat().st_size, _sha256(folder / name)) for name in names}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    listed = list(patterns)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in listed)]


def _escaped(name: str) -> str:
    """A pattern that only this name matches."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _not_fetched(model: str, error: BaseException) -> EncoderError:
    """What the hub said, in its first line, and what can be done."""
    from huggingface_hub import constants, errors

    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, errors.GatedRepoError):
        hint = "accept its terms on its page at the hub, then log in with `hf auth login` or set HF_TOKEN"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | ValueError):
        hint = "check the id and the revision; a private model needs `hf auth login` or HF_TOKEN"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        hint = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it, or run this on a machine with a network"
    else:
        hint = f"the hub is {constants.ENDPOINT} (HF_ENDPOINT); run this on a machine that reaches it"
    return EncoderError(f"cannot be fetched: {first}", where=model, hint=hint)
