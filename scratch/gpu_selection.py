"""Selection on a GPU: the same as on the processor on 50,000 rows, then seconds and memory on 1,000,000 rows.

    PYTHONPATH=src:. python scratch/gpu_selection.py [--rows 1000000] [--folder DIR] [--skip-agreement] [--profile]

Prints one JSON object on stdout (talk goes to stderr). Agreement runs first; it also fills Triton's cache on disk, so
that the timed children do not wait for the compiler. Every timed run is a process of its own.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 768


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--skip-agreement", action="store_true")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="one more auto run each, under cProfile")
    parser.add_argument("--child")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(json.loads(asked.child))))
        return
    result: dict[str, Any] = {"machine": machine()}
    if not asked.skip_agreement:
        result["agreement"] = agreement(asked.small)
        print(json.dumps(result["agreement"], indent=1), file=sys.stderr, flush=True)
    result["timed"] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)) / str(asked.rows)
        from benchmarks.search_stream import write_shards

        started = time.perf_counter()
        write_shards(folder, asked.rows, DIMENSION, 0)
        print(f"pool written in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        runs = [(scoring, False) for scoring in ("auto", "density_ratio", "lda") for _ in range(asked.repeat)]
        runs += [("auto", True), ("density_ratio", True)] if asked.profile else []
        for scoring, profiled in runs:
            given = {"pool": str(folder), "targets": asked.targets, "scoring": scoring, "profile": profiled}
            result["timed"].append(in_child(given))
            brief = {key: value for key, value in result["timed"][-1].items() if key != "profile"}
            print(json.dumps(brief), file=sys.stderr, flush=True)
            if profiled:
                print(result["timed"][-1].get("profile"), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


def machine() -> dict[str, Any]:
    import torch

    return {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cores": os.cpu_count(),
        "numpy": np.__version__, "gpu_free": torch.cuda.mem_get_info()[0],
    }  # fmt: skip


def planted(targets: int, pool: int) -> tuple[Any, Any]:
    """Random images about a few thousand centres; the class differs in few of many directions of unequal size."""
    random = np.random.default_rng(0)
    sizes = np.float32(10.0) ** np.linspace(1, -1, DIMENSION, dtype=np.float32)
    member = random.random(pool) < 0.02
    centres = random.standard_normal((2000, DIMENSION), dtype=np.float32)

    def images(classes: Any) -> Any:
        count = len(classes)
        vectors = random.standard_normal((count, DIMENSION), dtype=np.float32)
        vectors += 0.7 * centres[random.integers(0, len(centres), count)]
        vectors[:, 100:104] += 2.5 * np.asarray(classes, np.float32)[:, None]
        return vectors * sizes

    target, source = images(np.ones(targets)), images(member)
    source[-200:] = source[:200]  # exact copies: ties
    source[-400:-200] = target[:200] if targets >= 200 else source[200:400]
    return target, source


def agreement(rows: int) -> list[dict[str, Any]]:
    """CPU against GPU, setting by setting."""
    from lookalike.config.schemas import ScoringConfig
    from lookalike.selection.scored import select_scored

    target, source = planted(300, rows)
    random = np.random.default_rng(1)
    weights, excluded = random.uniform(0.1, 3, 300), random.random(rows) < 0.1
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"scoring": "auto"}, {}),
        ({"scoring": "density_ratio", "components": "64", "background": 10_000}, {"excluded": excluded}),
        ({"scoring": "density_ratio", "components": "32", "background": 5000}, {"target_weights": weights}),
        ({"scoring": "lda", "components": "128"}, {"avoid": source[::5000]}),
        ({"scoring": "nearest"}, {"excluded": excluded}),
        ({"scoring": "lda", "components": "64", "dedup_threshold": 0.01, "diversity": 0.3}, {}),
    ]
    found = []
    for settings, given in cases:
        seconds, results = {}, {}
        for device in ("cuda", "cpu"):
            started = time.perf_counter()
            results[device] = select_scored(target, source, ScoringConfig(device=device, **settings), **given)
            seconds[device] = round(time.perf_counter() - started, 2)
        there, here = results["cuda"], results["cpu"]
        again = select_scored(target, source, ScoringConfig(device="cuda", **settings), **given)
        kept = set(there.kept_rows.tolist()), set(here.kept_rows.tolist())
        finite = np.isfinite(here.pool_scores)
        figures = [np.array([(one.log_rank, one.found) for one in r.choice.tried]) for r in (there, here)]
        found.append(
            {
                "settings": settings,
                "given": sorted(given),
                "chosen": [str(there.choice.option), str(here.choice.option)],
                "same_choice": there.choice.option == here.choice.option,
                "same_order_of_options": [o.option for o in there.choice.tried] == [o.option for o in here.choice.tried],
                "held_out_difference": float(np.abs(figures[0] - figures[1]).max()) if figures[0].size else 0.0,
                "kept": len(kept[0]),
                "kept_differ": len(kept[0] ^ kept[1]),
                "kept_order_same": bool(np.array_equal(there.kept_rows, here.kept_rows)),
                "score_difference": float(np.abs(there.pool_scores[finite] - here.pool_scores[finite]).max()),
                "scores_bit_equal": float((there.pool_scores[finite] == here.pool_scores[finite]).mean()),
                "nearest_target_differs": int((there.pool_targets != here.pool_targets).sum()),
                "distance_difference": float(np.nanmax(np.abs((there.pool_distances - here.pool_distances)[finite]))),
                "again_is_equal": bool(
                    np.array_equal(there.pool_scores, again.pool_scores, equal_nan=True)
                    and np.array_equal(there.kept_rows, again.kept_rows)
                ),
                "seconds": seconds,
            }
        )
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def in_child(asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(asked)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {**asked, "failed": done.stderr[-3000:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """One timed selection; torch is imported within it, as it is for a user."""
    from lookalike.config.schemas import ScoringConfig
    from lookalike.selection.scored import select_scored
    from lookalike.tables.embedding_stream import EmbeddingStream

    pool = EmbeddingStream(asked["pool"], "embedding")
    targets = np.random.default_rng(7).standard_normal((asked["targets"], pool.dimension), dtype=np.float32)
    profile = cProfile.Profile()
    started = time.perf_counter()
    if asked["profile"]:
        profile.enable()
    found = select_scored(targets, pool, ScoringConfig(device="auto", scoring=asked["scoring"]))
    profile.disable()
    seconds = time.perf_counter() - started
    text = io.StringIO()
    if asked["profile"]:
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(30)
    import torch

    return {
        "scoring": asked["scoring"],
        "rows": pool.rows,
        "seconds": round(seconds, 2),
        "steps": {step: round(spent, 2) for step, spent in found.seconds.items()},
        "host_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "gpu_peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "gpu_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "chosen": str(found.choice.option),
        "kept": len(found.kept_rows),
        "kept_digest": int(found.kept_rows.astype(np.int64).sum()),
        "served": float(found.served.mean()),
        "widened": found.certificate.widened,
        "profile": text.getvalue()[-6000:],
    }


if __name__ == "__main__":
    main()
