"""Every family that transformers loads on a CUDA device: the CPU's vectors; skipped where there is no GPU."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.encoder_models import MODELS
from PIL import Image

from lookalike import embed_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """JPEG and PNG files of several shapes, so that the engines of the card get some and Pillow the others."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for number in range(16):
        size = [(64, 48), (48, 64), (80, 80)][number % 3]
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        path = folder / f"{number}.{'png' if number % 4 == 0 else 'jpg'}"
        small.resize(size, 3).save(path)
        paths.append(str(path))
    return paths


def cosines(one, two):
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.mark.parametrize("settings", [{}, {"pooling": "mean"}, {"image_size": 96}, {"augment": "rot90"}], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_cuda_agrees_with_the_cpu(name, settings, pictures, tmp_path):
    """Batches of two, so that most of them are replayed from a CUDA graph where the family has one."""
    folder = MODELS[name](tmp_path / "model", True)

    def embed(device, precision):
        result = embed_images(
            pa.table({"filepath": pictures}), tmp_path / f"{device}-{precision}.parquet", name.split(":")[0],
            str(folder), device=device, precision=precision, batch_size=2, cache_dir="off", **settings,
        )  # fmt: skip
        vectors = np.stack(pq.read_table(result.path).column("embedding").to_numpy(zero_copy_only=False))
        return vectors.astype(np.float64), result.identity

    reference, before = embed("cpu", "fp32")
    for precision, least in (("fp32", 0.99999), ("bf16", 0.99)):
        vectors, identity = embed("cuda", precision)
        assert cosines(reference, vectors).min() > least, precision
        assert identity.fingerprint == before.fingerprint
