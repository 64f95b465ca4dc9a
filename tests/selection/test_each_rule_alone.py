"""Each rule of `select_scored` by itself, against a walk in plain Python; and that nothing but the inputs decides."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.config.schemas import ScoringConfig
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.scored import select_scored

#: Every rule, with nothing else on; `floor` is `min_per_target`, which all others leave at 0.
RULES = (
    "budget",
    "floor",
    "excluded",
    "label",
    "distance",
    "similarity",
    "avoid",
    "path",
    "target",
    "target_label",
    "twins",
)
LEAST_COSINE, FARTHEST = 0.2, 0.7


def cosines(left, right):
    left, right = (np.asarray(side, float) / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    return left @ right.T


def made(seed, rows, count, copies=False):
    """Targets, pool (some of it equal, where copies matter), labels, and everything that a rule asks for."""
    random = np.random.default_rng(seed)
    pool = random.standard_normal((rows, 5)).astype(np.float32)
    if copies:
        pool[random.integers(0, rows, rows // 4)] = pool[0]
    return {
        "targets": random.standard_normal((count, 5)).astype(np.float32),
        "pool": pool,
        "labels": (random.integers(0, 2, count), random.integers(0, 3, rows)),
        "keys": random.integers(0, max(1, rows // 2), rows),
        "excluded": np.r_[False, random.random(rows - 1) < 0.4],
        "avoid": random.standard_normal((2, 5)).astype(np.float32),
    }


def select(rule, data, budget, scoring):
    config = {
        "label": {"filter_by_label": "true"},
        "distance": {"distance_threshold": FARTHEST},
        "similarity": {"min_similarity": LEAST_COSINE},
        "target": {"max_per_target": 2},
        "target_label": {"max_per_label": 3},
        "twins": {"dedup_threshold": 0.0},
        "floor": {"min_per_target": 1},
    }.get(rule, {})
    given = {
        "excluded": {"excluded": data["excluded"]},
        "label": {"target_labels": data["labels"][0], "pool_labels": data["labels"][1]},
        "target_label": {"target_labels": data["labels"][0]},
        "avoid": {"avoid": data["avoid"]},
        "path": {"keys": data["keys"]},
    }.get(rule, {})
    config = {"scoring": scoring, "components": "3", "min_per_target": 0, "candidates": 4, "budget": budget, **config}
    return select_scored(data["targets"], data["pool"], ScoringConfig(**config), **given)


def walk(rule, data, found, budget):
    """Best score first, then the nearest to a target, then the pool's order; what breaks no rule is kept."""
    pool, targets = data["pool"], data["targets"]
    likeness = cosines(targets, pool)
    same = data["labels"][0][:, None] == data["labels"][1][None, :]
    ok = {
        "excluded": ~data["excluded"],
        "label": same.any(axis=0),
        "distance": found.pool_distances <= np.float32(FARTHEST),
        "similarity": likeness.max(axis=0) >= LEAST_COSINE,
        "avoid": cosines(data["avoid"], pool).max(axis=0) <= likeness.max(axis=0),
    }.get(rule, np.ones(len(pool), bool))
    order = sorted(
        np.flatnonzero(ok).tolist(), key=lambda row: (-found.pool_scores[row], found.pool_distances[row], row)
    )
    kept, full = {}, np.zeros(len(targets), int)
    lists = np.argsort(-likeness, axis=1, kind="stable")[:, :5]  # topn, which is more than candidates
    images = [row.tobytes() for row in pool]
    for row in order:
        if len(kept) == budget:
            break
        if rule == "path" and data["keys"][row] in {data["keys"][other] for other in kept}:
            continue
        if rule == "twins" and images[row] in {images[other] for other in kept}:
            continue
        # Those among whose neighbours it is; an image that no target lists has the nearest of all.
        listed = [target for target in range(len(targets)) if row in lists[target]] or [int(likeness[:, row].argmax())]
        nearest = sorted(listed, key=lambda target: (-likeness[target, row], target))
        if rule == "target":
            nearest = [target for target in nearest if full[target] < 2]
        if rule == "target_label":
            label = data["labels"][0]
            nearest = [target for target in nearest if full[label == label[target]].sum() < 3]
        if not nearest:
            continue
        kept[row] = nearest[0]
        full[nearest[0]] += 1
    return kept


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(5, 40),
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from(["lda", "density_ratio"]),
)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("floor", "avoid")])
def test_the_kept_are_those_of_a_walk_with_this_rule_alone(rule, seed, rows, count, budget, scoring):
    data = made(seed, rows, count, copies=rule in ("budget", "twins"))
    found = select(rule, data, budget, scoring)
    expected = walk(rule, data, found, found.budget)
    assert set(found.kept_rows.tolist()) == set(expected)
    scores = found.pool_scores[found.kept_rows]
    assert (np.diff(scores) <= 0).all(), "best first"
    named = {OUTCOMES[code] for code in found.pool_outcomes}
    of_rule = {
        "excluded": Outcome.EXCLUDED, "label": Outcome.LABEL_MISMATCH, "distance": Outcome.OVER_DISTANCE,
        "similarity": Outcome.UNDER_SIMILARITY, "path": Outcome.DUPLICATE, "target": Outcome.OVER_TARGET_LIMIT,
        "target_label": Outcome.OVER_LABEL_LIMIT, "twins": Outcome.NEAR_DUPLICATE,
    }  # fmt: skip
    assert named <= {Outcome.KEPT, Outcome.OVER_BUDGET, of_rule.get(rule)}, "no other rule is named"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(1, 5), st.integers(1, 12))
def test_images_to_avoid_alone(seed, rows, count, budget):
    data = made(seed, rows, count)
    found = select("avoid", data, budget, "nearest")
    margin = cosines(data["targets"], data["pool"]).max(axis=0) - cosines(data["avoid"], data["pool"]).max(axis=0)
    for row, code in enumerate(found.pool_outcomes):
        if OUTCOMES[code] is Outcome.AVOIDED:
            assert margin[row] < 1e-6
        elif OUTCOMES[code] is Outcome.KEPT:
            assert margin[row] > -1e-6
    possible = sum(OUTCOMES[code] is not Outcome.AVOIDED for code in found.pool_outcomes)
    assert len(found.kept_rows) == min(found.budget, possible)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(1, 5), st.integers(5, 12))
def test_the_floor_alone(seed, rows, count, budget):
    """With room for all, every target has an image, and what no target needs is there for its score."""
    data = made(seed, rows, count)
    found = select("floor", data, budget, "lda")
    assert found.served.all()
    plain = select("budget", data, budget, "lda")
    cut = sorted(plain.pool_scores, reverse=True)[found.budget - 1]
    for row in set(found.kept_rows) - set(plain.kept_rows):
        needs = [
            t for t in range(count) if row in np.argsort(-cosines(data["targets"], data["pool"])[t], kind="stable")[:5]
        ]
        assert needs, "only a target's own candidate comes before better scores"
        assert found.pool_scores[row] <= cut


PROGRAM = """
import hashlib, os, sys
os.sched_setaffinity(0, [int(core) for core in sys.argv[2].split(",")])
sys.path.insert(0, sys.argv[1])
import numpy as np
from lookalike.config.schemas import ScoringConfig
from lookalike.selection.scored import select_scored
from support.pools import planted

targets, pool, member = planted(targets=20, pool=5000, members=300)
config = ScoringConfig(budget=150, max_per_target=20, max_per_label=120, filter_by_label="true", dedup_threshold=0.001,
                       diversity=0.3, distance_threshold=0.9, min_similarity=0.05, splits=3)
found = select_scored(
    targets, pool, config, target_labels=[f"label {n % 3}" for n in range(20)],
    pool_labels=[f"LABEL {n % 4}" for n in range(5000)], excluded=np.arange(5000) % 11 == 0,
    keys=np.arange(5000) // 2, avoid=pool[:5], target_weights=np.arange(20) + 1.0,
)
digest = hashlib.sha256()
for name in sorted(vars(found)):
    value = getattr(found, name)
    if isinstance(value, np.ndarray):
        digest.update(name.encode() + value.tobytes())
digest.update(repr((found.choice, found.notes, found.cutoff)).encode())
print(digest.hexdigest(), len(found.kept_rows))
"""


def test_neither_the_order_of_dictionaries_nor_threads_decide():
    """All rules at once, in processes with other hashes and other numbers of cores."""
    tests = str(Path(__file__).parents[1])
    results = set()
    cores = sorted(os.sched_getaffinity(0))
    for seed, own in (("1", cores), ("2", cores[:1]), ("3", cores)):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, tests, ",".join(map(str, own))], capture_output=True, text=True,
            check=False, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.add(done.stdout)
    assert len(results) == 1
    assert len(next(iter(results)).split()[0]) == len(hashlib.sha256().hexdigest())
    assert int(next(iter(results)).split()[1]) > 20
