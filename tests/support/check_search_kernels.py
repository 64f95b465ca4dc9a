"""Compare the search's kernels with plain torch, and whole searches with brute force; run as a program."""

import sys

import numpy as np
import torch

from lookalike.neighbors.cuda import kernels, products
from lookalike.neighbors.cuda.finder import CudaFinder
from lookalike.neighbors.cuda.frame import Frame
from support.neighbors import brute_force

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
#: Targets, sources, dimension: within a tile, ragged, several tiles, several steps.
SIZES = ((1, 1, 64), (3, 16, 64), (130, 275, 64), (70, 129, 128), (33, 40, 192))


def widened(targets, sources, *affine):
    """The interpreter multiplies the bits of bfloat16 as whole numbers; it gets the same values in float32."""
    return KERNEL(targets.float(), sources.float(), *affine)


KERNEL = kernels.product_maxima
if DEVICE.type == "cpu":
    kernels.product_maxima = widened


def whole(random, *shape):
    """Small whole numbers: sums are exact in any order, so that results must be equal to the bit."""
    return torch.from_numpy(random.integers(-8, 9, shape).astype(np.float32)).to(DEVICE)


def check_kernels(targets, sources, dimension):
    random = np.random.default_rng(targets + sources)
    left, right = whole(random, targets, dimension), whole(random, sources, dimension)
    affine = whole(random, targets), whole(random, targets), whole(random, sources)
    pair = left.bfloat16(), right.bfloat16()
    given = kernels.product_maxima(*pair, *affine)
    assert torch.equal(given, products.plain_product_maxima(*pair, *affine))
    for group in (1, 16):
        given = kernels.manhattan_maxima(left, right, group)
        assert torch.equal(given, products.plain_manhattan_maxima(left, right, group))
    hits = [torch.from_numpy(random.integers(0, size, 20)).to(DEVICE) for size in (targets, -(-sources // 16))]
    for manhattan in (False, True):
        given = kernels.member_scores(left, right, *hits, manhattan=manhattan)
        assert torch.equal(given, products.plain_member_scores(left, right, *hits, manhattan=manhattan))
    empty = [hit[:0] for hit in hits]
    assert kernels.member_scores(left, right, *empty, manhattan=False).shape == (0, 16)


def check_rounding(metric, dimension, moved):
    """Lengths, sums and rests as in plain torch, and what was rounded within its rest of what it was made of."""
    random = np.random.default_rng(dimension)
    vectors = (5 * moved + random.standard_normal((9, dimension))).astype(np.float32)
    vectors[3], vectors[4] = 0, vectors[4] * np.float32(1e-38)
    vectors = torch.from_numpy(vectors).to(DEVICE)
    frame = Frame(metric, dimension)
    if moved and metric != "manhattan":
        centre = vectors.double().mean(0)
        frame = Frame(metric, dimension, centre, float(frame.lengths(centre[None])))
    padded = -(-dimension // products.STEP) * products.STEP
    kinds = [torch.float32] if frame.manhattan else [torch.float32, torch.bfloat16]
    scales = torch.tensor([0.25] if dimension % 2 else [2.0**row for row in range(9)], dtype=torch.float64).to(DEVICE)
    weights = frame.centre if metric == "cosine" else None
    both = []
    for way in (products.round_rows, products.plain_round_rows):
        into = [torch.full((9, padded), 7, dtype=kind, device=DEVICE) for kind in kinds]
        both.append((into, way(frame, vectors, scales, weights, into)))
    (given, measured), (expected, plain) = both
    wide = frame.wide(vectors) * (scales if len(scales) == 1 else scales[:, None])
    for some, other, rest in zip(given, expected, measured[2], strict=True):
        assert some[:, dimension:].abs().sum() == 0
        torch.testing.assert_close(some, other, rtol=2e-7 if some.dtype == torch.float32 else 8e-3, atol=1e-37)
        gaps = wide - some[:, :dimension].double()
        lengths = gaps.abs().sum(1) if frame.manhattan else gaps.square().sum(1).sqrt()
        # The interpreter's subnormal bfloat16 are not those that it stores; every bound has room for what underflows.
        assert (lengths <= rest * (1 + 1e-9) + 1e-12 * wide.abs().amax(1) + 2.0**-120).all()
    for some, other in zip(measured[:2], plain[:2], strict=True):
        torch.testing.assert_close(some, other, rtol=1e-12, atol=1e-12)


def check_search(metric):
    random = np.random.default_rng(1)
    targets, sources = (random.standard_normal((count, 70)).astype(np.float32) for count in (5, 300))
    sources[200:210] = targets[0]
    finder = CudaFinder(targets, metric, 7, DEVICE)
    finder.see(sources[:250], np.arange(250))
    finder.see(sources[250:], np.arange(250, 300))
    distances, rows = brute_force(targets, sources, 7, metric)
    found = finder.finish()
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12, atol=1e-15)


if __name__ == "__main__":
    assert (kernels.GROUP, kernels.STEP) == (products.GROUP, products.STEP)
    for size in SIZES:
        check_kernels(*size)
        print("equal", size)
    products.has_kernels = lambda _: True  # in the interpreter the CPU has them, too
    for name in ("cosine", "euclidean", "manhattan", "inner_product"):
        for size in (1, 70, 768):
            check_rounding(name, size, size > 1)
            print("equal", name, size)
        check_search(name)
        print("equal", name)
