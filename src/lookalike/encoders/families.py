"""Every family of encoders: what the setting `model` may say, and which module loads it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes
    ----------
    name:
        As the setting `model` and the identity spell it; case, ``-`` and ``_`` do not matter in the setting.
    module:
        The module with `load(family_name, request)`, imported when the family is used.
    """

    name: str
    module: str

    def load(self, request: LoadRequest) -> TorchEncoder:
        """Load a model of the family."""
        loader: Callable[[str, LoadRequest], TorchEncoder] = importlib.import_module(self.module).load
        return loader(self.name, request)


#: All families, by name.
FAMILIES = {
    family.name: family
    for family in (
        Family("CLIP", "lookalike.encoders.huggingface"),
        Family("SigLIP", "lookalike.encoders.huggingface"),
        Family("timm", "lookalike.encoders.timm"),
    )
}


def canonical_model(model: str) -> str:
    """The family that `model` names; case, ``-`` and ``_`` do not matter.

    Raises
    ------
    ConfigError
        When no family has that name; names the nearest.
    """
    spelled = {_plain(name): name for name in FAMILIES}
    wanted = _plain(model)
    if wanted in spelled:
        return spelled[wanted]
    near = difflib.get_close_matches(wanted, spelled, n=1)
    guess = f"did you mean {spelled[near[0]]}? " if near else ""
    raise ConfigError(f"model={model!r} is not known", hint=f"{guess}Known: {', '.join(FAMILIES)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
