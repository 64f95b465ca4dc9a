"""`embedding_dtype=float16`: half the bytes, the same neighbours as brute force on what is stored, no infinity."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from lookalike import ImagesFailed, embed_images
from support import snapshots


def matrix(path):
    return np.stack(pq.read_table(path).column("embedding").to_numpy())


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_what_is_stored_can_be_mined_exactly(metric, run_command, images, clip_snapshot, tmp_path):
    settings = (f"input_parquet={images}", "output_parquet=pool.parquet", "model=CLIP", f"model_path={clip_snapshot}")
    done = run_command("embedding", "image_embeddings", *settings, "embedding_dtype=float16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = matrix(tmp_path / "pool.parquet")
    assert stored.dtype == np.float16
    done = run_command(
        "tmm", "nearest_neighbors", "source_parquet=pool.parquet", "target_parquet=pool.parquet",
        "output_parquet=mined.parquet", "topn=4", f"knn_metric={metric}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exact = stored.astype(np.float64)
    one, two = exact[:, None], exact[None]
    distances = {
        "euclidean": np.sqrt(((one - two) ** 2).sum(2)),
        "manhattan": np.abs(one - two).sum(2),
        "cosine": 1 - (one * two).sum(2) / np.linalg.norm(one, axis=2) / np.linalg.norm(two, axis=2),
    }[metric]
    pairs = pq.read_table(tmp_path / "mined_pairs.parquet")
    rows = pairs.column("source_row").to_numpy().reshape(-1, 4)
    found = pairs.column("distance").to_numpy().reshape(-1, 4)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :4], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows[:, 1:], np.argsort(distances, axis=1, kind="stable")[:, 1:4])


def test_values_are_those_of_float32_rounded_and_other_columns_stay(images, clip_snapshot, tmp_path):
    table = pa.table({"filepath": sorted(map(str, images.iterdir())), "label": [str(n) for n in range(12)]})
    wide = embed_images(table, tmp_path / "wide.parquet", "CLIP", str(clip_snapshot), shard_rows=5)
    half = embed_images(
        table, tmp_path / "half.parquet", "CLIP", str(clip_snapshot), shard_rows=5, embedding_dtype="float16"
    )
    np.testing.assert_array_equal(matrix(half.path), matrix(wide.path).astype(np.float16))
    without = [pq.read_table(result.path).drop_columns(["embedding"]) for result in (wide, half)]
    assert without[0].equals(without[1])
    assert half.columns == wide.columns


def test_a_half_table_can_be_reused_with_a_warning_where_more_digits_are_wanted(images, clip_snapshot, tmp_path):
    half = embed_images(images, tmp_path / "half.parquet", "CLIP", str(clip_snapshot), embedding_dtype="float16")
    same = embed_images(
        images, tmp_path / "same.parquet", "CLIP", str(clip_snapshot), reuse=half.path, embedding_dtype="float16"
    )
    assert (same.reused, same.warnings) == (12, ())
    assert same.path.read_bytes() == half.path.read_bytes()
    wide = embed_images(images, tmp_path / "wide.parquet", "CLIP", str(clip_snapshot), reuse=half.path)
    assert wide.reused == 12
    assert "embedding_dtype" in wide.warnings[0]
    np.testing.assert_array_equal(matrix(wide.path), matrix(half.path).astype(np.float32))


@pytest.fixture
def loud(tmp_path):
    """A CLIP model whose first value is multiplied by a million: beyond the range of float16 for most images."""
    folder = snapshots.clip(tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0] *= 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["projection_dim"] == 24
    return folder


def test_a_vector_beyond_the_range_is_set_aside_and_never_infinite(loud, images, tmp_path):
    wide = embed_images(images, tmp_path / "wide.parquet", "CLIP", str(loud))
    beyond = (np.abs(matrix(wide.path)) > 65_519).any(axis=1)
    assert 0 < beyond.sum() < 12, "the test needs some of both"
    half = embed_images(images, tmp_path / "half.parquet", "CLIP", str(loud), embedding_dtype="float16", shard_rows=4)
    assert [image.row for image in half.quarantined] == np.flatnonzero(beyond).tolist()
    assert {str(image.reason) for image in half.quarantined} == {"bad_vector"}
    assert "embedding_dtype=float32" in half.quarantined[0].detail
    assert np.isfinite(matrix(half.path)).all()
    assert pq.read_table(half.quarantine_path).num_rows == beyond.sum()
    with pytest.raises(ImagesFailed, match="does not fit float16"):
        embed_images(
            images, tmp_path / "strict.parquet", "CLIP", str(loud), embedding_dtype="float16", on_error="raise",
            shard_rows=4,
        )  # fmt: skip
    finished = {marker.name for marker in tmp_path.glob(".strict.parquet.work/shard-*.json")}
    before = {f"shard-{number:05d}.json" for number in range(int(beyond.argmax()) // 4)}
    assert finished == before, "the run ends at the shard of the first, and not when the table is made"
