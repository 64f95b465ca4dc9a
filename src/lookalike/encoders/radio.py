"""C-RADIO snapshots as NVIDIA publishes them, read into transformers' own class, without the code beside them.

Their config.json names Python files of the snapshot instead of a `model_type`. The architecture is told from the
shapes of the weights and is the one of transformers' `RadioModel`; where it is not, the snapshot's own code has to run,
which only the user can allow.
"""

from __future__ import annotations

import math
import re
from typing import Any

from lookalike.encoders.snapshot import not_loaded
from lookalike.errors import EncoderError

#: Attention heads by width, which the shapes do not tell: ViT S, B, L, So400m, H and g of timm.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24}
#: Weights of parts that make no vectors here: heads that imitate other models, and the patches of videos.
_LEFT_OUT = re.compile(r"adaptors\.|video_embedder|\.heads?\.")
#: All weights that transformers' class knows.
_KNOWN = re.compile(
    r"radio_model\.(model\.(patch_generator\.(embedder\.weight|pos_embed|cls_token\.token)"
    r"|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias))"
    r"|input_conditioner\.norm_(mean|std)|summary_idxs)"
)
_ROOT = "radio_model.model."


def native_config(content: dict[str, Any], model_path: str) -> Any:
    """The `RadioConfig` of a snapshot in NVIDIA's layout.

    Parameters
    ----------
    content:
        Its config.json.
    model_path:
        A hub id or a snapshot folder.

    Raises
    ------
    EncoderError
        When transformers' class is not what the snapshot holds; names the setting that lets its own code run.
    """
    from transformers import RadioConfig

    shapes = _shapes(model_path)
    for key in ("vitdet_window_size", "feature_normalizer_config", "inter_feature_normalizer_config"):
        if content.get(key) is not None:
            raise needs_code(model_path, f"its config.json sets {key}")
    unknown = [name for name in shapes if not _KNOWN.fullmatch(name) and not _LEFT_OUT.search(name)]
    if unknown:
        raise needs_code(model_path, f"it has weights that transformers' RadioModel does not know: {unknown[:3]}")
    try:
        places, width = shapes[f"{_ROOT}patch_generator.pos_embed"][-2:]
        prefix = shapes[f"{_ROOT}patch_generator.cls_token.token"][0]
        patch = math.isqrt(shapes[f"{_ROOT}patch_generator.embedder.weight"][1] // 3)
        inner = shapes[f"{_ROOT}blocks.0.mlp.fc1.weight"][0]
        heads = _HEADS[width]
        summaries = shapes["radio_model.summary_idxs"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise needs_code(model_path, f"its weights are not those of a RADIO ViT ({error})") from error
    blocks = 1 + max(int(found[1]) for name in shapes if (found := re.match(rf"{re.escape(_ROOT)}blocks\.(\d+)", name)))
    return RadioConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        mlp_ratio=inner / width,
        qkv_bias=f"{_ROOT}blocks.0.attn.qkv.bias" in shapes,
        patch_size=patch,
        max_img_size=math.isqrt(places) * patch,
        # Class tokens and registers are one tensor. Which of them are the summary is a weight, and all others are
        # only left out of the patches: where the one kind ends makes no difference.
        num_cls_tokens=prefix,
        num_registers=0,
        summary_idxs=list(range(summaries)),
    )


def needs_code(model_path: str, why: str) -> EncoderError:
    """The error of a snapshot that only its own code can load."""
    return EncoderError(
        f"the model comes with Python code of its own, which does not run unless you allow it: {why}",
        where=model_path,
        hint="read that code; if you trust it, add trust_remote_code=true",
    )


def _shapes(model_path: str) -> dict[str, list[int]]:
    """Names and shapes of the weights, from the header of their file."""
    from safetensors import SafetensorError, safe_open
    from transformers.utils import cached_file

    try:
        path = cached_file(model_path, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if path is None:
            raise needs_code(model_path, "it has no file model.safetensors")
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise not_loaded(model_path, "its weights", error) from error
