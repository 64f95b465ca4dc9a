"""The CUDA path; skipped where there is no GPU. Needs no network, no extra packages and no hub."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lookalike import embed_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def vectors_of(result):
    return np.stack(pq.read_table(result.path).column("embedding").to_numpy(zero_copy_only=False)).astype(np.float64)


def cosines(one, two):
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.mark.parametrize(("model", "snapshot"), [("CLIP", "clip_snapshot"), ("SigLIP", "siglip_snapshot")])
def test_cuda_agrees_with_the_cpu(model, snapshot, images, tmp_path, request):
    """fp32 on the card gives the CPU's vectors; the identity tells the two apart only in its numerics."""
    folder = str(request.getfixturevalue(snapshot))
    table = pa.table({"filepath": sorted(map(str, images.iterdir()))})
    results = {
        (device, precision): embed_images(
            table, tmp_path / f"{device}-{precision}.parquet", model, folder, device=device, precision=precision
        )
        for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16"))
    }
    reference = results["cpu", "fp32"]
    for key, least in ((("cuda", "fp32"), 0.99999), (("cuda", "bf16"), 0.999), (("cuda", "fp16"), 0.9999)):
        assert cosines(vectors_of(reference), vectors_of(results[key])).min() > least, key
        assert results[key].identity.fingerprint == reference.identity.fingerprint
        assert results[key].identity.numerics.runtime == "torch-cuda"


def test_auto_takes_the_card_in_bf16(clip_snapshot, images, tmp_path):
    result = embed_images(images, tmp_path / "out.parquet", "CLIP", str(clip_snapshot))
    assert result.identity.numerics.runtime == "torch-cuda"
    assert result.identity.numerics.precision == "bf16"


def test_a_card_that_is_not_there_is_named(clip_snapshot, images, tmp_path):
    from lookalike import ConfigError

    with pytest.raises(ConfigError, match="cuda:0"):
        embed_images(images, tmp_path / "out.parquet", "CLIP", str(clip_snapshot), device="cuda:99")
