"""TAO's RADIO checkpoints: timm's C-RADIO backbone, and the adaptor into the space of a text model.

RADIO has a class token for each teacher that it learned from. The vector is the class token of the adaptor's teacher,
after the adaptor's head. Preprocessing is the same as of TAO's OpenCLIP models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded
from lookalike.encoders.base import LoadRequest
from lookalike.encoders.checkpoints import State, fill, misfit
from lookalike.encoders.tao import Spec
from lookalike.encoders.tao_openclip import clip_preprocessing
from lookalike.errors import ConfigError, EncoderError, MissingDependency

if TYPE_CHECKING:
    import torch

#: Architectures by the spec's model type: timm's name, and what differs from it.
TYPES: dict[str, dict[str, Any]] = {
    f"c-radio_v3-{letter}": {"model_name": f"vit_{size}_patch16_radio_v3"}
    for letter, size in (("b", "base"), ("l", "large"), ("h", "huge"), ("g", "giant"))
}
#: Which class token each adaptor reads: C-RADIOv3's teachers are CLIP, SigLIP2, DINOv2 and SAM, in this order.
TOKENS = {"clip": 0, "siglip2": 1, "siglip2-g": 1}
#: What specs call the adaptors, beside their own names.
_ALIASES = {"dfn_clip": "clip", "dfn": "clip"}
#: Input size where the spec gives none; TAO's configurations of these models have it.
_SIDE = 224
_PATCH = 16
_BACKBONE = "model.radio_model.model."
_ADAPTORS = "model.radio_model.adaptors."
_ASIDE = ("model.radio_model.summary_idxs", "model.logit_")
#: The weights of RADIO's own patch generator; everything else is in blocks that timm has too.
GENERATOR = ("patch_generator.embedder.weight", "patch_generator.pos_embed", "patch_generator.cls_token.token")


def check(spec: Spec) -> None:
    """Refuse a model type that is not known.

    Raises
    ------
    ConfigError
        Lists those that are.
    """
    if spec.type not in TYPES:
        raise ConfigError(
            f"model.type={spec.type!r} is not a RADIO model that can be built",
            where=spec.path,
            hint=f"known: {', '.join(TYPES)}",
        )


def load(spec: Spec, state: State, request: LoadRequest) -> Loaded:
    """See `lookalike.encoders.tao.load`."""
    import torch

    adaptor = _adaptor(spec, state, request.model_path)
    head_prefix = f"{_ADAPTORS}{adaptor}.head_mlp."
    others = [name for name in state if not name.startswith((_BACKBONE, _ADAPTORS, *_ASIDE))]
    head_state = {name.removeprefix(head_prefix): state[name] for name in state if name.startswith(head_prefix)}
    side = spec.image_size or _SIDE
    what, where = f"{spec.type} with the adaptor {adaptor}", request.model_path
    backbone = fill_backbone(TYPES[spec.type], side, state, _BACKBONE, where=where, what=what, unknown=others)
    head = build_head(head_state, head_prefix, where=where, what=what)
    fill(head, head_state, where=where, what=what, prefix=head_prefix)
    token = TOKENS[adaptor]

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        summary = module["backbone"].forward_features(batch)[:, token]
        vectors: torch.Tensor = module["head"](summary)
        return vectors

    return Loaded(
        module=torch.nn.ModuleDict({"backbone": backbone, "head": head}),
        forward=forward,
        architecture=spec.type,
        dimension=int(head.final[2].out_features),
        pooling=f"class token of {adaptor}",
        preprocessing=clip_preprocessing(side),
        libraries=("timm",),
    )


def with_prefix(state: State, prefix: str) -> State:
    """The weights under a prefix, named without it."""
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def fill_backbone(
    settings: dict[str, Any], side: int, state: State, prefix: str, *, where: str, what: str, unknown: list[str]
) -> Any:
    """C-RADIO's backbone as timm has it, with RADIO's weights, its positions interpolated to the input size.

    Parameters
    ----------
    settings:
        Of `timm.create_model`.
    side:
        Of the input, in pixels.
    state, prefix:
        The weights of a file, and what the names of RADIO's own vision transformer begin with.
    where, what, unknown:
        See `fill`.

    Raises
    ------
    EncoderError
        When weights are missing, left over or of another shape.
    MissingDependency
        When the installed timm is older than this architecture.
    """
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    own = with_prefix(state, prefix)
    strange = [prefix + name for name in own if name not in GENERATOR and not name.startswith("blocks.")]
    missing = [prefix + name for name in GENERATOR if name not in own]
    if missing:
        raise misfit(what, where, missing, [*strange, *unknown])
    if side % _PATCH:
        raise EncoderError(
            f"images of {side} pixels do not divide into patches of {_PATCH}",
            where=where,
            hint=f"correct the size in the training spec to a multiple of {_PATCH}",
        )
    if not timm.is_model(settings["model_name"]):
        raise MissingDependency(
            f"timm {timm.__version__} does not have {settings['model_name']}, which {what} is built from",
            where=where,
            hint="pip install 'timm>=1.0.31'",
        )
    backbone = timm.create_model(**settings, img_size=side, num_classes=0)
    # RADIO's own code, which TAO trains with, interpolates positions without aligned corners; timm's default for two
    # of the sizes follows an older release of it.
    named = {f"radio_model.model.{name}": weight for name, weight in own.items()}
    converted = checkpoint_filter_fn(named, backbone, interpolation="bilinear", antialias=False, align_corners=False)
    fill(backbone, converted, where=where, what=what, prefix=prefix, unknown=[*strange, *unknown])
    return backbone


def build_head(state: State, prefix: str, *, where: str, what: str) -> Any:
    """An adaptor's head in the sizes of its weights: RADIO's second kind of multi-layer perceptron.

    Raises
    ------
    EncoderError
        When the weights are of another kind of head.
    """
    from torch import nn

    class Head(nn.Module):
        """A linear layer, residual blocks, and a last one; norm and GELU before every layer but the first."""

        def __init__(self, width: int, hidden: int, output: int, blocks: int, pre_norm: bool) -> None:
            super().__init__()
            self.pre_norm = nn.Sequential(nn.LayerNorm(width), nn.GELU()) if pre_norm else nn.Identity()
            self.fc1 = nn.Linear(width, hidden)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden)) for _ in range(blocks)
            )
            self.final = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, output))

        def forward(self, summary: torch.Tensor) -> torch.Tensor:
            hidden = self.fc1(self.pre_norm(summary))
            for block in self.blocks:
                hidden = hidden + block(hidden)
            projected: torch.Tensor = self.final(hidden)
            return projected

    missing = [prefix + name for name in ("fc1.weight", "final.2.weight") if name not in state]
    if missing:
        raise misfit(what, where, missing, [prefix + name for name in state], hint="only heads of C-RADIOv3 are known")
    hidden, width = state["fc1.weight"].shape
    blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    return Head(width, hidden, len(state["final.2.weight"]), blocks, "pre_norm.0.weight" in state)


def _adaptor(spec: Spec, state: State, where: str) -> str:
    """The adaptor that the spec names; ``siglip``, and none, is the SigLIP2 one, which C-RADIOv3-H calls siglip2-g."""
    named = _ALIASES.get(spec.adaptor, spec.adaptor)
    if named in ("", "siglip"):
        named = "siglip2-g" if spec.type.endswith("-h") else "siglip2"
    if named not in TOKENS:
        raise ConfigError(
            f"model.adaptor_name={named!r} is not known",
            where=spec.path,
            hint=f"known: {', '.join(('siglip', *TOKENS))}",
        )
    there = sorted({name.removeprefix(_ADAPTORS).split(".")[0] for name in state if name.startswith(_ADAPTORS)})
    if named not in there:
        raise EncoderError(
            f"the adaptor {named!r} of the training spec is not in the checkpoint, which has "
            f"{', '.join(there) or 'none'}",
            where=where,
            hint=f"correct model.adaptor_name: {', '.join(('siglip', *TOKENS))}",
        )
    return named
