"""Scores of many halves at once against the plain formula, one half and one image at a time."""

import numpy as np
import pytest
import torch

from lookalike.neighbors.cuda import halves as cuda_halves
from lookalike.neighbors.held import Hiding
from lookalike.selection import halves
from lookalike.selection.halves import half_means


def by_formula(near, to_targets, visible, weights, k, own):
    like, unlike = np.zeros((2, len(visible), len(near)))
    for half, shown in enumerate(visible):
        scaled = weights / weights[shown].mean() if weights[shown].any() else np.ones(len(weights))
        for image in range(len(near)):
            there = np.ones(len(weights), bool)
            if own is not None:
                there[own[image]] = False
            seen, hidden = np.flatnonzero(there & shown), np.flatnonzero(there & ~shown)
            nearest = seen[np.argsort(-to_targets[image, seen], kind="stable")[:k]]
            if len(nearest):
                like[half, image] = (to_targets[image, nearest].astype(float) * scaled[nearest]).mean()
            others = np.concatenate([near[image], to_targets[image, hidden]]).astype(float)
            others = -np.sort(-others[np.isfinite(others)])[:k]
            if len(others):
                unlike[half, image] = others.mean()
    return like, unlike


@pytest.mark.parametrize("targets", [2, 12, 100])
@pytest.mark.parametrize("pool", [0, 3, 8])
@pytest.mark.parametrize("weighted", ["equal", "unequal", "some zero"])
@pytest.mark.parametrize("as_targets", [False, True])
def test_means_are_those_of_the_formula(targets, pool, weighted, as_targets, monkeypatch):
    monkeypatch.setattr(halves, "_AT_A_TIME", 7)
    monkeypatch.setattr(cuda_halves, "_VALUES", 600)
    random, k = np.random.default_rng(0), 8
    images = targets if as_targets else 45
    near = -np.sort(-random.random((images, pool)).astype(np.float32), axis=1)
    if pool == 8:
        near[::3, 5:] = -np.inf
    to_targets = random.uniform(-1, 1, (images, targets)).astype(np.float32)
    weights = {
        "equal": np.full(targets, 2.0),
        "unequal": random.uniform(0.1, 3, targets),
        "some zero": np.r_[0.0, np.ones(targets - 1)],
    }[weighted]
    visible = np.zeros((4, targets), bool)
    for half in visible:
        half[random.permutation(targets)[: -(-targets // 2)]] = True
    own = np.arange(targets) if as_targets else None
    # One target is nearer to all than any other: whoever is hidden stands far down in the lists of the visible.
    to_targets[:, : targets // 2] += 2
    visible[0] = np.arange(targets) >= targets // 2
    hiding = Hiding(visible, weights)
    expected = by_formula(near, to_targets, visible, weights, k, own)
    there = cuda_halves.half_means(
        torch.tensor(near).double(), torch.tensor(to_targets).double(), torch.tensor(visible), torch.tensor(weights),
        hiding.means.tolist(), k, None if own is None else torch.tensor(own),
    )  # fmt: skip
    for found in (half_means(near, to_targets, hiding, k, own), [one.numpy() for one in there]):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
