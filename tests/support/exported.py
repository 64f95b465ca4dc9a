"""A tiny image model to be exported, what has to be beside its file, and its vectors."""

from __future__ import annotations

import json
from pathlib import Path

SIZE = 32
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIZE}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def write_processor(folder: Path, **changes) -> None:
    """What the images of a model have to go through, beside it."""
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))


def network(outputs: str = "one"):
    """A small convolutional network with random weights; gives a vector, or several things with it among them."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches = torch.nn.Conv2d(3, 12, 8, 8)
            self.head = torch.nn.Linear(12, 20)

        def forward(self, pixels):
            tokens = torch.nn.functional.gelu(self.patches(pixels)).flatten(2).transpose(1, 2)
            pooled = self.head(tokens.mean(1))
            if outputs == "one":
                return pooled
            if outputs == "hidden":
                return {"last_hidden_state": tokens, "pooler_output": pooled}
            return {"text_embeds": pooled * 2, "image_embeds": pooled}

    return Network().eval()


def reference(module, paths):
    """The vectors of a network, by transformers' own processor."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    settings = {key: value for key, value in PROCESSOR.items() if key != "image_processor_type"}
    processor = CLIPImageProcessorPil(**settings)
    with torch.inference_mode():
        pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
        return np.asarray(module(pixels))
