"""What the benchmarks share: the machine's description, medians, one child process a measurement, the JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from lookalike.cores import usable_cores

RESULTS = Path(__file__).parent / "results"
#: Both slow NumPy's own BLAS where a machine sets them; they are unset for measurements only.
_BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
#: Of the read-ahead alone, where a ceiling is measured.
LIMITS: dict[str, Any] = {"time_limit": 600.0, "on_timeout": lambda given: None}
_PACKAGES = ("numpy", "torch", "transformers", "timm", "scikit-learn", "faiss-cpu", "pillow", "pyarrow", "openvino")


def measure_in_child(module: str, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run `python -m MODULE --child ARGUMENTS` and return the JSON of its last line.

    A process of its own for every measurement: peak memory is then that measurement's alone. `environment` is added to
    this process's own.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _BLAS_SETTINGS} | (environment or {})
    command = [sys.executable, "-m", module, "--child", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and largest of several runs."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": len(values)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": usable_cores(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write the JSON of a benchmark."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=2, default=str) + "\n")
    print(f"written: {path}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
