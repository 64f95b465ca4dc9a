"""EncoderIdentity: what wrote a vector, and whether two tables can be compared.

It travels in the metadata of every embedding table. *Model* decides what a vector means: its hash is the
fingerprint, and vectors are comparable when fingerprints agree. *Numerics* says with how much rounding it was
computed: where only that differs, a warning is enough. *Origin* is for people.

A text encoder has a fourth part, *images*: the model part of the image encoder that it was trained with. Its vectors
are compared with the vectors of that encoder, and with no others.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from lookalike.errors import TableError

#: Raised when the meaning of a field changes, so that old and new tables do not pass for the same.
VERSION = 1
#: The family of what is no encoder: pictures in grey, kept in the cache to tell copies.
PICTURES = "pictures"
#: Between the pooling of a model and what its vectors are averaged over.
AVERAGED = ", mean of "


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
        SHA-256 over the preprocessing and how files become pixels; of a text encoder, over how texts become tokens.
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
    """What wrote the vectors of a table.

    Attributes
    ----------
    model, numerics, origin:
        See the module.
    images:
        Of a text encoder: the image encoder that it belongs to, with its usual settings. None of an image encoder.
    """

    model: ModelIdentity
    numerics: Numerics
    origin: Origin
    images: ModelIdentity | None = None

    @property
    def fingerprint(self) -> str:
        """A hash over the model part: equal fingerprints, the same vectors for the same input."""
        return hashlib.sha256(json.dumps(_meaning(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The JSON for a table's metadata."""
        content = {"version": VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        if self.images is None:
            del content["images"]
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
                ModelIdentity(**content["images"]) if "images" in content else None,
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
    """The names of the fields in which two encoders differ: in the model part, and in the numerics.

    Where none differs, both give the same vector for the same input.
    """
    return _unequal(_meaning(one), _meaning(two)), _unequal(asdict(one.numerics), asdict(two.numerics))


def mismatches(one: EncoderIdentity, two: EncoderIdentity) -> tuple[list[str], list[str]]:
    """The names of the fields for which the vectors of two encoders cannot be compared, or only with other rounding.

    Images are compared with images of the same encoder, and with texts of the text encoder that was trained with it.
    How image files become pixels does not matter to a text; and where texts meet images there are no two vectors of
    one input whose distance would be off by rounding.
    """
    if (one.images is None) == (two.images is None):
        return differences(one, two)
    first, second = _joint(one), _joint(two)
    if first["weights"] == second["weights"]:  # then it is one model, by whatever name it was asked for
        first = {**first, **{key: second[key] for key in ("family", "architecture")}}
    return _unequal(first, second), []


def side_by_side(one: EncoderIdentity, two: EncoderIdentity, names: tuple[str, str]) -> str:
    """Both identities as a table of text; a star marks the rows that differ."""
    across = (one.images is None) != (two.images is None)
    left, right = (_joint(one), _joint(two)) if across else (_meaning(one), _meaning(two))
    rows = [("", *names)]
    if across:
        kinds = ["images" if side.images is None else "texts" for side in (one, two)]
        rows.append(("vectors of", kinds[0], kinds[1]))
    rows += [(key, _short(value), _short(right.get(key, ""))) for key, value in left.items()]
    if not across:
        numerics = asdict(two.numerics)
        rows += [(key, _short(value), _short(numerics[key])) for key, value in asdict(one.numerics).items()]
    rows.append(("model_path", one.origin.model_path, two.origin.model_path))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for key, left_text, right_text in rows:
        mark = "*" if key and left_text != right_text and key != "vectors of" else " "
        lines.append(f"{mark} {key:<{widths[0]}}  {left_text:<{widths[1]}}  {right_text}".rstrip())
    return "\n".join(lines)


def _meaning(identity: EncoderIdentity) -> dict[str, Any]:
    """Everything that decides what a vector means, flat: one more field for a text encoder, a digest of its images'."""
    meaning = asdict(identity.model)
    if identity.images is not None:
        images = json.dumps(asdict(identity.images), sort_keys=True)
        meaning["images"] = hashlib.sha256(images.encode()).hexdigest()
    return meaning


def _joint(identity: EncoderIdentity) -> dict[str, Any]:
    """What has to be equal for texts and images to be in one space: the image encoder, and whether lengths are 1."""
    images = identity.images or identity.model
    joint = {**asdict(images), "normalisation": identity.model.normalisation}
    # Averaged over turned images, a vector is still in the space of the texts; pooled in another way, it is not.
    joint["pooling"] = images.pooling.split(AVERAGED)[0]
    del joint["preprocessing"]
    return joint


def _unequal(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The keys whose values differ, or that only one has."""
    return [key for key in {**one, **two} if one.get(key) != two.get(key)]


def _short(value: object) -> str:
    """A digest by its first twelve letters, anything else as it is."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
