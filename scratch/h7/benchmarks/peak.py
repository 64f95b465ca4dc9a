"""What the processor can do at most: the matrix product of a SigLIP-B/16 layer, in billions of operations a second.

One image of SigLIP-B/16 at 224 pixels takes 35 billion operations, nearly all of them in such products, so peak / 35
is a bound on images/s in that precision.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from benchmarks.common import save

#: Rows (8 images of 196 tokens), inner and outer dimension of the first product of the MLP.
SHAPE = (8 * 196, 768, 3072)
#: Operations of one image, in billions.
IMAGE = 35.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks peak`."""
    parser.add_argument("--repeat", type=int, default=9)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    import torch

    rows, inner, outer = SHAPE
    result = {}
    for name in ("float32", "bfloat16"):
        left, right = (torch.randn(size).to(getattr(torch, name)) for size in ((rows, inner), (inner, outer)))
        rates = []
        for _ in range(arguments.repeat):
            started = time.perf_counter()
            for _ in range(10):
                torch.mm(left, right)
            rates.append(10 * 2e-9 * rows * inner * outer / (time.perf_counter() - started))
        result[name] = {"gflops": median(rates), "images_per_second": median(rates) / IMAGE}
        print(f"{name:<9} {median(rates):>6.0f} GFLOP/s, at most {median(rates) / IMAGE:.1f} images/s")
    save("peak", {"shape": SHAPE, **result})
