"""The text side of OpenCLIP models, through open_clip.

Vectors are those of open_clip's `encode_text`, raw, float32; the tokenizer is the one that `open_clip.get_tokenizer`
gives for the model. Its own, that of CLIP, comes with open_clip; others are transformers' and must be in the snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.encoders.base import LoadRequest
from lookalike.encoders.checkpoints import State, fill, read_state
from lookalike.encoders.openclip import Source, digest_of_settings, find_source, pooling_of, require_open_clip
from lookalike.encoders.snapshot import not_loaded, quiet_transformers
from lookalike.encoders.texts import LoadedTexts, check_tokens, no_tokenizer
from lookalike.encoders.texts_transformers import digest_of_tokenizer
from lookalike.errors import EncoderError

if TYPE_CHECKING:
    import torch

#: What the weights of a text tower are called where it is not a part of its own (`text.`).
_NAMES = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
#: What open_clip and transformers raise where a tokenizer is not there, or is not what its configuration says.
_NOT_READ = (
    ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError,
)  # fmt: skip
#: Settings of a text tower that say where it comes from, or are in the tokenizer's digest.
_NO_MEANING = frozenset({"hf_model_pretrained", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"})
#: Start and end, which open_clip's own tokenizer puts around every text; the mode ``clips`` puts one more.
_AROUND, _AROUND_CLIPS = 2, 3


@dataclass(frozen=True)
class _Tokenizer:
    """See `texts.Tokenizer`.

    Attributes
    ----------
    module:
        The tokenizer of open_clip.
    known:
        How many different tokens the model knows.
    where:
        The model, for messages.
    """

    module: Any
    known: int
    where: str

    @property
    def tokens(self) -> int:
        """How many a text becomes."""
        return int(self.module.context_length)

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What `encode_text` takes."""
        made = self.module(list(texts))
        check_tokens(made, self.known, self.where)
        return {"text": made}

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of some texts are cut."""
        return sum(self._length(text) > self.tokens for text in texts)

    def _length(self, text: str) -> int:
        """Tokens of a text that is not cut."""
        if not self._is_of_transformers:
            return len(self.module.encode(text)) + _AROUND
        tokens, clips = self.module.tokenizer, self.module.tokenizer_mode == "clips"
        made = tokens(self.module.clean_fn(text), truncation=False, verbose=False, add_special_tokens=not clips)
        return len(made["input_ids"]) + (_AROUND_CLIPS if clips else 0)

    @property
    def _is_of_transformers(self) -> bool:
        return hasattr(self.module, "tokenizer")

    @property
    def tells_case(self) -> bool:
        """Whether a capital letter is another token than a small one."""
        return bool((self.module(["A"]) != self.module(["a"])).any())

    def digest(self) -> str:
        """SHA-256 over everything between a text and the model's input."""
        module = self.module
        cleaning = {"cleaning": module.clean_fn.__name__}
        if self._is_of_transformers:
            further = {"strip_sep": str(module.strip_sep_token), "mode": module.tokenizer_mode}
            return digest_of_tokenizer(module.tokenizer, self.tokens, **cleaning, **further)
        rules = {"tokens": self.tokens, "numbers": module.encoder, **cleaning}
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def load_texts(request: LoadRequest) -> LoadedTexts:
    """See `lookalike.encoders.texts.LoadTexts`."""
    require_open_clip()
    source = find_source(request)
    with quiet_transformers():
        tower = _build_tower(source, request.model_path)
        tokenizer = _read_tokenizer(source, request, int(tower.vocab_size))
    what = f"the text side of {source.name}"
    hint = "the weights are of another model, or of its image side alone"
    fill(tower, _text_side(read_state(source.weights)), where=str(source.weights), what=what, hint=hint)
    settings = {key: value for key, value in source.config["text_cfg"].items() if key not in _NO_MEANING}
    return LoadedTexts(
        tower, _encode, f"{source.name}, texts ({digest_of_settings(settings)})", int(source.config["embed_dim"]),
        pooling_of(source.config), tokenizer, ("open_clip",),
    )  # fmt: skip


def _encode(tower: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What open_clip's `encode_text` gives; CoCa's tower gives tokens too."""
    vectors = tower(inputs["text"])
    pooled: torch.Tensor = vectors[0] if isinstance(vectors, tuple) else vectors
    return pooled


def _text_side(state: State) -> State:
    """The weights of the text tower, by its own names."""
    state = {name.removeprefix("module."): weight for name, weight in state.items()}
    own = {name.removeprefix("text."): weight for name, weight in state.items() if name.startswith("text.")}
    found = own or {name: weight for name, weight in state.items() if name.startswith(_NAMES)}
    # Made anew by every model; open_clip leaves them out, too.
    return {name: weight for name, weight in found.items() if not name.endswith(("position_ids", "attn_mask"))}


def _build_tower(source: Source, where: str) -> Any:
    """The text tower of a configuration, with random weights."""
    from open_clip.model import CLIPTextCfg, _build_text_tower
    from transformers import AutoConfig

    settings = source.config.get("text_cfg")
    if not settings or not isinstance(settings, dict):
        raise EncoderError("its configuration has no table text_cfg: it has no text side", where=where)
    other = settings.get("hf_model_name")
    try:
        if other:
            # Its code is never run: this refuses a model that needs some.
            AutoConfig.from_pretrained(other, trust_remote_code=False)
        return _build_text_tower(
            source.config["embed_dim"],
            CLIPTextCfg(**{**settings, "hf_model_pretrained": False}),
            source.config.get("quick_gelu", False),
        )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        what, hint = "the text tower of text_cfg", "text_cfg must be as open_clip writes it"
        if other:
            what = f"{other}, whose configuration open_clip has to fetch"
            hint = "load the model once with a network, or use one whose text side is open_clip's own"
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(f"open_clip cannot build its text side, {what}: {first}", where=where, hint=hint) from error


def _read_tokenizer(source: Source, request: LoadRequest, known: int) -> _Tokenizer:
    """The tokenizer that open_clip has for the model, which knows so many tokens."""
    import open_clip

    if request.architecture:
        name = source.name
    elif Path(request.model_path).is_dir():
        name = f"local-dir:{request.model_path}"
    else:
        name = f"hf-hub:{request.model_path}"
    settings = source.config["text_cfg"]
    if settings.get("tokenizer_kwargs", {}).get("reduction_mask"):
        raise EncoderError(
            "its tokenizer leaves out tokens of long texts (reduction_mask), as in training",
            where=request.model_path,
            hint="take reduction_mask out of tokenizer_kwargs in its configuration",
        )
    # A tokenizer of the hub may bring code of its own, which is never run.
    elsewhere = settings.get("hf_tokenizer_name")
    safe = {"trust_remote_code": False} if elsewhere else {}
    try:
        module = open_clip.get_tokenizer(name, **safe)
        is_empty = bool((module(["ab"]) == module(["cd"])).all())
    except _NOT_READ as error:
        if elsewhere and not name.startswith("local-dir:"):
            raise not_loaded(elsewhere, "the tokenizer of this model", error) from error
        raise no_tokenizer(request.model_path) from error
    if is_empty:
        raise no_tokenizer(request.model_path)
    return _Tokenizer(module, known, request.model_path)
