"""An encoder for lookalike: the mean colours of a grid of cells, 3 x 8 x 8 numbers an image."""

import torch

from lookalike.encoders.base import LoadRequest, Slices, TorchEncoder, choose_device
from lookalike.encoders.families import Family
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.images.preprocess import Preprocessing

CELLS = 8
#: Every image is squashed to 64 x 64 with Pillow's bicubic filter (3), and scaled to 0 to 1.
PREPROCESSING = Preprocessing("squash", (64, 64), 3, None, "floor", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def load(family: str, request: LoadRequest) -> TorchEncoder:
    """Make the encoder; a real one reads its weights from `request.model_path` here."""
    device = choose_device(request.device)

    def forward(batch: torch.Tensor) -> torch.Tensor:  # images x 3 x 64 x 64 -> images x 192
        return torch.nn.functional.adaptive_avg_pool2d(batch, CELLS).flatten(1)

    # Whatever changes what a vector means has to change this, so that old and new vectors are never compared.
    model = ModelIdentity(
        family=family, architecture=f"grid-{CELLS}", dimension=3 * CELLS * CELLS, weights="none",
        preprocessing=request.preprocessing_digest(PREPROCESSING), pooling="mean", normalisation="none",
    )  # fmt: skip
    numerics = Numerics(precision="fp32", runtime=f"torch-{device.type}", decoder="pillow")
    identity = EncoderIdentity(model, numerics, Origin(request.model_path, {"torch": torch.__version__}))
    return TorchEncoder(identity, PREPROCESSING, forward, device, torch.float32, Slices.of(device, cpu=64))


FAMILY = Family("ColourGrid", __name__, "the mean colours of 8 x 8 cells", "anything, it has no weights", package="")
