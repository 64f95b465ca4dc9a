"""Whether the forward pass of a family can be recorded as a CUDA graph, and gives the same vectors from it.

For the column `graphs` of `encoders/towers.py`: `python -m tests.support.check_graphs "DINOv2" "DINOv3: ConvNeXt"`, on
a machine with a CUDA device. Models have full size and random weights; each is checked in a process of its own, because
a recording that fails leaves torch's memory allocator in a bad state.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def check(name: str) -> str:
    """One line about one family."""
    import torch
    from benchmarks.encoder_models import MODELS

    from lookalike.encoders.base import LoadRequest
    from lookalike.encoders.families import FAMILIES
    from lookalike.encoders.graph import GraphedForward
    from lookalike.images.decode import DecodeSettings

    with tempfile.TemporaryDirectory() as folder:
        path = MODELS[name](Path(folder), False)
        request = LoadRequest(str(path), "", "cuda", "bf16", DecodeSettings("ignore", "clip", 10**8))
        encoder = FAMILIES[name.split(":", maxsplit=1)[0]].load(request)
    plain = encoder.forward._forward if isinstance(encoder.forward, GraphedForward) else encoder.forward
    graphed = GraphedForward(plain)
    torch.manual_seed(0)
    worst = 0.0
    with torch.inference_mode():
        for _ in range(8):
            batch = torch.randn(64, *encoder.preprocessing.shape, device="cuda", dtype=encoder.dtype)
            if encoder.preprocessing.resize == "patches":
                batch[:, 0, :4] = torch.tensor([0.0, 16, 0, 16], device="cuda", dtype=encoder.dtype)
            worst = max(worst, float((graphed(batch).float() - plain(batch).float()).abs().max()))
    return f"{name}: recorded={graphed._graph is not None}, largest difference {worst:.3g}"


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(check(sys.argv[2]))
    else:
        for family in sys.argv[1:]:
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.check_graphs", "--one", family],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            print(done.stdout.strip() or f"{family}: {done.stderr.strip().splitlines()[-1]}", flush=True)
