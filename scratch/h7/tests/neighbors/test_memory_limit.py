"""The memory limit holds: measured in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.tables.vectors import list_array

LIMIT = 128 << 20

CHILD = """
import json, resource, sys
import numpy as np
from lookalike import nearest_neighbors
target = np.random.default_rng(1).standard_normal((64, 256), dtype=np.float32)
settings = {"metric": "cosine", "memory_limit": int(sys.argv[2])}
nearest_neighbors(target, sys.argv[3], 5, **settings)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = nearest_neighbors(target, sys.argv[1], 5, **settings)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"bytes": (after - before) * 1024, "rows": found.rows.tolist()}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux gives it")
@pytest.mark.parametrize("group", [10_000, 1 << 20])
def test_a_pool_larger_than_the_limit(group, tmp_path):
    """400 MB of vectors under a limit of 128 MiB; the neighbours are those of a search in memory."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((400_000, 256), dtype=np.float32)
    folder = tmp_path / "pool"
    folder.mkdir()
    for first in range(0, len(vectors), 200_000):
        part = pa.table({"embedding": list_array(vectors[first : first + 200_000])})
        pq.write_table(part, folder / f"{first:06}.parquet", row_group_size=group)
    pq.write_table(pa.table({"embedding": list_array(vectors[:5_000])}), tmp_path / "small.parquet")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(LIMIT), str(tmp_path / "small.parquet")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["bytes"] < LIMIT
    target = np.random.default_rng(1).standard_normal((64, 256), dtype=np.float32)
    scores = (target / np.linalg.norm(target, axis=1)[:, None]) @ vectors.T / np.linalg.norm(vectors, axis=1)
    assert [row[0] for row in found["rows"]] == scores.argmax(axis=1).tolist()
