"""From the command to the gallery: `lookalike mine` on the demo's solar cells with a warm cache.

Each run is the installed command in a process of its own, as a user starts it, with a cache of its own. Two ways take
turns, so that what else the machine does meets both: the model is remembered (the usual case), and it is not, so that
torch and the model are loaded though no image needs them (as on a machine with a GPU).
User CPU seconds are noted beside those of the clock: they say more on a machine that is not idle.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import summary

BOUND_SECONDS = 10.0
_TARGETS, _TOPN, _SEED = 100, 5, 0


def measure_command(runs: int) -> dict[str, Any]:
    """Seconds of the clock and of the processor for both ways, and the seconds of the steps of the last runs."""
    from lookalike.embedding.cache_folder import MEMORY_SUFFIX

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = _prepare(folder)
        for _ in range(2):  # the first one fills the cache; a model that was just written is not yet remembered
            _timed(command, folder)
        done: dict[str, list[dict[str, Any]]] = {"remembered": [], "loaded": []}
        for _ in range(runs):
            for way, measured in done.items():
                if way == "loaded":
                    for memory in (folder / "cache").glob(f"*{MEMORY_SUFFIX}"):
                        memory.unlink()
                measured.append(_timed(command, folder))
    return {
        "targets": _TARGETS,
        "topn": _TOPN,
        **{
            way: {
                **{key: summary([one[key] for one in measured]) for key in ("seconds", "user", "system", "load")},
                "steps": measured[-1]["steps"],
            }
            for way, measured in done.items()
        },
    }


def show_command(result: dict[str, Any]) -> None:
    """Print what was measured."""
    for way, words in (("remembered", "the model is remembered"), ("loaded", "the model is loaded")):
        clock, user = result[way]["seconds"], result[way]["user"]["median"]
        print(f"from the command to the gallery, {words}: {clock['median']:.1f} s, {user:.1f} s of user CPU time")
    kept = result["remembered"]["seconds"]["median"] < BOUND_SECONDS
    print(f"bound {BOUND_SECONDS:g} s: {'kept' if kept else 'BROKEN'}")


def _prepare(folder: Path) -> list[str]:
    """Write the demo's tables and encoder; return the command."""
    from lookalike.tables.pair_table import write_table
    from lookalike.workflow.demo_data import solar, write_encoder

    for name, table in zip(("targets", "pool"), solar().split(_TARGETS, _SEED), strict=True):
        write_table(table, folder / f"{name}.parquet")
    program = str(Path(sys.executable).with_name("lookalike"))
    return [
        program, "mine", "--targets", str(folder / "targets.parquet"), "--pool", str(folder / "pool.parquet"),
        "--out", str(folder / "out"), "--model", "timm", "--model-path", str(write_encoder(folder / "encoder")),
        "--topn", str(_TOPN),
    ]  # fmt: skip


def _timed(command: list[str], folder: Path) -> dict[str, Any]:
    """Run the command once, to its end; the gallery must be there."""
    load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "LOOKALIKE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    run = Path(done.stdout.splitlines()[-1])
    assert (run / "gallery.html").exists()
    return {
        "seconds": seconds,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "load": load,
        "steps": json.loads((run / "run.json").read_text())["seconds"],
    }
