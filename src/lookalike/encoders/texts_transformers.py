"""The text sides of CLIP, SigLIP and SigLIP2 models, through transformers.

Vectors are those of transformers' `get_text_features`, raw, float32: CLIP's projected end-of-text token, SigLIP's
projected last token. Texts are padded to the model's full length, as these models were trained; what is longer is cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.encoders.base import LoadRequest
from lookalike.encoders.huggingface import config_of, read_weights
from lookalike.encoders.snapshot import not_loaded, quiet_transformers, read_config_json, what_it_says
from lookalike.encoders.texts import LoadedTexts, check_tokens, no_tokenizer
from lookalike.errors import EncoderError, MissingDependency

if TYPE_CHECKING:
    import torch

#: Tokens of a text where neither the tokenizer nor the model says how many.
_TOKENS = 64
#: What a tokenizer without a limit has for one is a number far above this.
_MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Tower:
    """What differs between the text towers that transformers loads.

    Attributes
    ----------
    text_class:
        The transformers class.
    output:
        The attribute of its output that is the vector.
    pooling:
        For the identity.
    tokens:
        Length of every text, in tokens; 0: as the tokenizer or the model says.
    """

    text_class: str
    output: str
    pooling: str
    tokens: int = 0


#: By `model_type` in config.json.
TOWERS = {
    "clip": Tower("CLIPTextModelWithProjection", "text_embeds", "end_token", 77),
    "siglip": Tower("SiglipTextModel", "pooler_output", "last_token"),
    "siglip2": Tower("Siglip2TextModel", "pooler_output", "last_token"),
}


@dataclass(frozen=True)
class _Tokenizer:
    """Turns texts into tokens, all of one length: see `texts.Tokenizer`.

    Attributes
    ----------
    module:
        The tokenizer of transformers.
    tokens:
        How many a text becomes.
    known:
        How many different tokens the model knows.
    where:
        The model, for messages.
    """

    module: Any
    tokens: int
    known: int
    where: str

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The model's arguments for some texts, each texts x tokens, padded or cut."""
        made = self.module(
            list(texts), truncation=True, padding="max_length", max_length=self.tokens, return_tensors="pt"
        )
        check_tokens(made["input_ids"], self.known, self.where)
        # As the tokenizer's own settings say: those of SigLIP give no mask, because the model was trained without.
        return {key: made[key] for key in ("input_ids", "attention_mask") if key in made}

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of some texts are cut."""
        whole = self.module(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return sum(len(one) > self.tokens for one in whole)

    @property
    def tells_case(self) -> bool:
        """Whether a capital letter is another token than a small one."""
        return bool(self.module("A")["input_ids"] != self.module("a")["input_ids"])

    def digest(self) -> str:
        """SHA-256 over everything between a text and the model's input."""
        return digest_of_tokenizer(self.module, self.tokens)


def digest_of_tokenizer(module: Any, tokens: int, **further: str) -> str:
    """SHA-256 over a tokenizer of transformers, the length of its texts, and whatever else changes its tokens."""
    if hasattr(module, "backend_tokenizer"):
        content = module.backend_tokenizer.to_str().encode()
    else:
        content = Path(module.vocab_file).read_bytes()
    rules = {
        "tokens": tokens,
        "class": type(module).__name__,
        "padding_side": module.padding_side,
        "inputs": list(module.model_input_names),
        "special": {key: str(value) for key, value in module.special_tokens_map.items()},
        "content": hashlib.sha256(content).hexdigest(),
        **further,
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def load_texts(request: LoadRequest) -> LoadedTexts:
    """See `lookalike.encoders.texts.LoadTexts`."""
    import transformers

    with quiet_transformers():
        content = read_config_json(request.model_path)
        tower = TOWERS.get(str(content.get("model_type")))
        if tower is None:
            raise EncoderError(
                f"its config.json says {what_it_says(content)}, which has no text side",
                where=request.model_path,
                hint=f"name a whole model, with both sides: model_type is one of {sorted(TOWERS)}",
            )
        config = config_of(content, request.model_path)
        text_config = config.text_config
        if hasattr(config, "projection_dim"):
            # The whole model's value is the one in force; a text_config may hold an unrelated default.
            text_config.projection_dim = config.projection_dim
        tokenizer = _read_tokenizer(request.model_path, tower, text_config)
        module = read_weights(getattr(transformers, tower.text_class), text_config, request.model_path)
    last = module.text_projection if hasattr(module, "text_projection") else module.head

    def forward(module: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors: torch.Tensor = getattr(module(**inputs), tower.output)
        return vectors

    return LoadedTexts(
        module, forward, tower.text_class, int(last.out_features), tower.pooling, tokenizer, ("transformers",)
    )


def _read_tokenizer(model_path: str, tower: Tower, text_config: Any) -> _Tokenizer:
    """The snapshot's own tokenizer, and how many tokens a text becomes."""
    from transformers import AutoTokenizer

    try:
        if _named(model_path).startswith("SiglipTokenizer"):
            # Without these, transformers would take another tokenizer, which splits texts in another way.
            for package, module_name in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
                if not _is_installed(module_name):
                    raise MissingDependency.of(package, "text", "for the tokenizer of this model")
        module = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
        # Without its files, transformers may make one that knows nothing but its special tokens.
        is_empty = module("ab")["input_ids"] == module("cd")["input_ids"]
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if not Path(model_path).is_dir():
            raise not_loaded(model_path, "its tokenizer", error) from error
        is_empty = True
    if is_empty:
        raise no_tokenizer(model_path)
    limits = [tower.tokens] if tower.tokens else [module.model_max_length]
    limits.append(getattr(text_config, "max_position_embeddings", None) or _MOST_TOKENS)
    tokens = min(limits)
    length = int(tokens) if tokens < _MOST_TOKENS else _TOKENS
    return _Tokenizer(module, length, int(text_config.vocab_size), model_path)


def _named(model_path: str) -> str:
    """The class of the tokenizer, as the snapshot names it; empty where it does not."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    return str(get_tokenizer_config(model_path).get("tokenizer_class") or "")


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of the package above it
        return importlib.util.find_spec(module) is not None
    return False
