"""Linear layers in bf16 on a CPU, with weights that are laid out once for oneDNN's product.

PyTorch's own layer lays its weights out in every pass, copies the bias into the result before it multiplies, and runs
the activation after it as a pass of its own over memory. oneDNN does all of it inside the product. The operators are
those that `torch.compile` calls (`torch/_inductor/mkldnn_ir.py`). They are not public, so they are tried out first, and
where they are missing or give something else, the plain layers stay.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

#: Least cosine of a packed layer's results to the plain one's; both round to bf16.
_ALIKE = 0.9999
#: Rows that the weights are laid out for: those of eight images of a ViT-B/16. Any other number works, too.
_ROWS = 1568


class PackedLinear(nn.Module):
    """A linear layer, and the GELU after it where `activation` is ``gelu``.

    Parameters
    ----------
    plain:
        The layer, in bf16 on the CPU.
    activation, algorithm:
        ``none`` and ``""``, or ``gelu`` and one of ``none`` and ``tanh`` (as `nn.GELU.approximate`).
    """

    def __init__(self, plain: nn.Linear, activation: str = "none", algorithm: str = "") -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), _ROWS)
        self.bias = plain.bias
        self._then: tuple[str, list[Any], str] = (activation, [], algorithm)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """From any shape x inputs to the same shape x outputs."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, self.weight, self.bias, *self._then)
        return result


def pack(module: Any) -> None:
    """Pack the linear layers inside a model, in place, where that works on this processor.

    Parameters
    ----------
    module:
        In bf16 on the CPU; it is not trained, saved or moved afterwards.
    """
    if not _works():
        log.debug("oneDNN's packed layers do not work here: the plain ones stay")
        return
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _fuse(child)
            pack(child)


def _fuse(block: Any) -> None:
    """Let the first layer of a transformers MLP (`fc1`, `activation_fn`, `fc2`) do the GELU after it."""
    algorithm = _gelu(getattr(block, "activation_fn", None))
    if algorithm and type(getattr(block, "fc1", None)) is nn.Linear:
        block.fc1 = PackedLinear(block.fc1, "gelu", algorithm)
        block.activation_fn = nn.Identity()


def _gelu(activation: Any) -> str:
    """The name that oneDNN has for a GELU, or nothing for any other activation."""
    from transformers.activations import ACT2FN

    if isinstance(activation, nn.GELU):
        return activation.approximate
    kinds = {type(ACT2FN["gelu"]): "none", type(ACT2FN["gelu_pytorch_tanh"]): "tanh"}
    return kinds.get(type(activation), "")


def _works() -> bool:
    """Whether the operators are there and agree with plain layers."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        # No draw from the program's own random numbers.
        generator = torch.Generator().manual_seed(0)
        plain = nn.Linear(64, 32, dtype=torch.bfloat16, device="meta").to_empty(device="cpu").requires_grad_(False)
        plain.weight.normal_(generator=generator)
        plain.bias.normal_(generator=generator)
        values = torch.empty(2, 9, 64, dtype=torch.bfloat16).normal_(generator=generator)
        pairs = (
            (plain(values), PackedLinear(plain)(values)),
            (nn.functional.gelu(plain(values), approximate="tanh"), PackedLinear(plain, "gelu", "tanh")(values)),
        )
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        log.debug("oneDNN's packed layers: %s", error)
        return False
    cosines = (torch.cosine_similarity(one.float().flatten(), two.float().flatten(), dim=0) for one, two in pairs)
    return all(cosine.item() > _ALIKE for cosine in cosines)
