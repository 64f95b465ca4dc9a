"""Memory does not grow with the pool: measured in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.tables.vectors import list_array

#: Rows of the small pool, which is larger than a chunk of the search already, and how many times as large the other is.
ROWS, TIMES = 15_000, 9
#: What the other may take more: less than half of what its vectors are more. Libraries keep some memory for later.
MOST = (TIMES - 1) * ROWS * 512 * 4 // 2

CHILD = """
import json, resource, sys
import numpy as np
from lookalike.config.schemas import ScoringConfig
from lookalike.selection.scored import select_scored
from lookalike.tables.embedding_stream import EmbeddingStream
target = np.random.default_rng(1).standard_normal((12, 512), dtype=np.float32)
config = ScoringConfig(scoring="density_ratio", components="8", background=1000, memory_limit=128 << 20)
peaks = []
for path in sys.argv[1:]:
    found = select_scored(target, EmbeddingStream(path, "embedding"), config)
    assert found.background == 1000 and len(found.kept_rows) == found.budget
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux gives it")
def test_memory_does_not_grow_with_the_pool(tmp_path):
    schema = pa.schema([("embedding", pa.list_(pa.float32()))])
    vectors = np.random.default_rng(0).standard_normal((ROWS, 512), dtype=np.float32)
    for name, copies in (("small", 1), ("large", TIMES)):
        with pq.ParquetWriter(tmp_path / name, schema, compression="none", use_dictionary=False) as writer:
            for copy in range(copies):
                writer.write_table(pa.table({"embedding": list_array(vectors + np.float32(copy / 100))}))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in ("small", "small", "large"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    assert peaks[2] - peaks[1] < MOST, peaks
