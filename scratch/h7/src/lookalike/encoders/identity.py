"""EncoderIdentity: what wrote a vector, and whether two tables can be compared.

It travels in the metadata of every embedding table. *Model* decides what a vector means: its hash is the
fingerprint, and vectors are comparable when fingerprints agree. *Numerics* says with how much rounding it was
computed: where only that differs, a warning is enough. *Origin* is for people.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from lookalike.errors import TableError

#: Raised when the meaning of a field changes, so that old and new tables do not pass for the same.
VERSION = 1


@dataclass(frozen=True)
class ModelIdentity:
    """The part that decides what a vector means.

    Attributes
    ----------
    family:
        The loader: ``CLIP``, ``SigLIP``, ``timm``.
    architecture:
        The model class or timm name.
    dimension:
        Length of a vector.
    weights:
        SHA-256 over the names, shapes, types and bytes of the tensors in use.
    preprocessing:
        SHA-256 over the preprocessing and how files become pixels.
    pooling:
        How tokens or feature maps become one vector.
    normalisation:
        ``none`` or ``l2``.
    """

    family: str
    architecture: str
    dimension: int
    weights: str
    preprocessing: str
    pooling: str
    normalisation: str


@dataclass(frozen=True)
class Numerics:
    """The part that decides only rounding."""

    precision: str
    runtime: str
    decoder: str


@dataclass(frozen=True)
class Origin:
    """Where the model was loaded from, and with what."""

    model_path: str
    libraries: dict[str, str]


@dataclass(frozen=True)
class EncoderIdentity:
    """What wrote the vectors of a table."""

    model: ModelIdentity
    numerics: Numerics
    origin: Origin

    @property
    def fingerprint(self) -> str:
        """A hash over the model part: equal fingerprints, comparable vectors."""
        return hashlib.sha256(json.dumps(asdict(self.model), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The JSON for a table's metadata."""
        content = {"version": VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> EncoderIdentity:
        """Read the JSON of a table's metadata.

        Raises
        ------
        TableError
            When it is damaged, was tampered with, or comes from a version that this one does not know.
        """
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                raise TableError(
                    f"its encoder identity has version {content['version']}, this lookalike reads {VERSION}",
                    where=where,
                    hint="update lookalike, or embed the table again",
                )
            identity = cls(
                ModelIdentity(**content["model"]),
                Numerics(**content["numerics"]),
                Origin(**content["origin"]),
            )
            recorded = content["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(
                f"its encoder identity cannot be read: {error!r}", where=where, hint="embed the table again"
            ) from error
        if recorded != identity.fingerprint:
            raise TableError(
                "its encoder identity does not agree with its fingerprint", where=where, hint="embed it again"
            )
        return identity


def differences(one: EncoderIdentity, two: EncoderIdentity) -> tuple[list[str], list[str]]:
    """The names of the fields that differ: in the model part, and in the numerics."""
    model_one, model_two = asdict(one.model), asdict(two.model)
    numerics_one, numerics_two = asdict(one.numerics), asdict(two.numerics)
    return (
        [key for key in model_one if model_one[key] != model_two[key]],
        [key for key in numerics_one if numerics_one[key] != numerics_two[key]],
    )


def side_by_side(one: EncoderIdentity, two: EncoderIdentity, names: tuple[str, str]) -> str:
    """Both identities as a table of text; a star marks the rows that differ."""
    rows = [("", *names)]
    for left, right in ((one.model, two.model), (one.numerics, two.numerics)):
        second = asdict(right)
        rows += [(key, _short(value), _short(second[key])) for key, value in asdict(left).items()]
    rows.append(("model_path", one.origin.model_path, two.origin.model_path))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for key, left_text, right_text in rows:
        mark = "*" if key and left_text != right_text else " "
        lines.append(f"{mark} {key:<{widths[0]}}  {left_text:<{widths[1]}}  {right_text}".rstrip())
    return "\n".join(lines)


def _short(value: object) -> str:
    """A digest by its first twelve letters, anything else as it is."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
