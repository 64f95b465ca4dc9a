"""Compare the search's kernels with plain torch, and whole searches with brute force; run as a program."""

import sys

import numpy as np
import torch

from lookalike.neighbors.cuda import kernels, products, row_kernels
from lookalike.neighbors.cuda.exact import plain_pair_distances
from lookalike.neighbors.cuda.finder import CudaFinder
from lookalike.neighbors.cuda.frame import Frame
from support.neighbors import METRICS, brute_force

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
    if DEVICE.type == "cpu" or kernels._copies_in_bulk(DEVICE):
        sides = [side.float() for side in pair] if DEVICE.type == "cpu" else pair
        maxima = kernels._bulk_product_maxima(*sides, *affine, torch.empty_like(given))
        assert torch.equal(maxima, given)
    for group in (1, 16):
        given = kernels.manhattan_maxima(left, right, group)
        assert torch.equal(given, products.plain_manhattan_maxima(left, right, group))
    maxima = products.plain_product_maxima(*pair, *affine)
    for most in (1, maxima.shape[1]):
        thresholds = whole(random, targets)
        counts, groups = kernels.passing(maxima, thresholds, most)
        plain_counts, plain_groups = products.plain_passing(maxima, thresholds, most)
        assert torch.equal(counts, plain_counts)
        filled = torch.arange(most, device=DEVICE) < counts[:, None]
        assert torch.equal(groups[filled], plain_groups[filled])
        counts = counts.clamp(max=most)
        for manhattan, vectors in ((False, pair), (False, (left, right)), (True, (left, right))):
            given = row_kernels.member_scores(*vectors, groups, counts, *affine, manhattan=manhattan)
            plain = products.plain_member_scores(*vectors, groups, counts, *affine, manhattan=manhattan)
            assert torch.equal(given, plain)
    places = (0, targets, 20), (-1, sources, (20, 3))
    pairs = [torch.from_numpy(random.integers(*place)).to(DEVICE) for place in places]
    for metric in METRICS:
        given = row_kernels.pair_distances(metric, left, right, *pairs)
        torch.testing.assert_close(given, plain_pair_distances(metric, left, right, *pairs), rtol=1e-14, atol=1e-15)


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
    scales = torch.tensor([0.25] if dimension % 2 else [2.0**row for row in range(9)], dtype=torch.float64).to(DEVICE)
    weights = frame.centre if metric == "cosine" else None
    wide = frame.wide(vectors) * (scales if len(scales) == 1 else scales[:, None])
    for kind, tolerance in ((torch.float32, 2e-7), (torch.bfloat16, 8e-3)):
        given, plain = (torch.full((9, padded), 7, dtype=kind, device=DEVICE) for _ in range(2))
        lengths, sums, rests = products.round_rows(frame, vectors, scales, weights, given)
        expected = products.plain_round_rows(frame, vectors, scales, weights, plain)
        torch.testing.assert_close(given, plain, rtol=tolerance, atol=1e-37)
        torch.testing.assert_close((lengths, sums), expected[:2], rtol=1e-12, atol=1e-12)
        if kind == torch.bfloat16 and frame.manhattan:
            continue  # never asked for
        gaps = wide - given[:, :dimension].double()
        lost = gaps.abs().sum(1) if frame.manhattan else gaps.square().sum(1).sqrt()
        # The interpreter's subnormal bfloat16 are not those that it stores; every bound has room for what underflows.
        assert (lost <= rests * (1 + 1e-9) + 1e-12 * wide.abs().amax(1) + 2.0**-120).all()


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
    for size in SIZES:
        check_kernels(*size)
        print("equal", size)
    products.has_kernels = lambda _: True  # in the interpreter the CPU has them, too
    for name in METRICS:
        for size in (1, 70, 768):
            check_rounding(name, size, size > 1)
            print("equal", name, size)
        check_search(name)
        print("equal", name)
