"""Copies of protected images are found among real images, and real images are not taken for copies."""

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from lookalike.config.schemas import BarringConfig, RunConfig
from lookalike.embedding.images import embed_images
from lookalike.embedding.remembered import open_encoder
from lookalike.errors import TableError
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.workflow.barring.pool import bar_pool
from lookalike.workflow.demo_data import solar, textile, write_encoder

WAYS = {
    "renamed": "protected_bytes",
    "bmp": "protected_pixels",
    "q85": "protected_near",
    "smaller": "protected_near",
    "mirrored": "protected_near",
    "mirrored_q85": "protected_near",
}
PROTECTED, OTHERS = 4, 12


def copy_of(path, way, folder):
    """A copy of an image as `way` says."""
    name = folder / f"{len(list(folder.iterdir()))}_{way}"
    if way == "renamed":
        return str(shutil.copy(path, f"{name}.dat"))
    picture = Image.open(path)
    if "mirrored" in way:
        picture = ImageOps.mirror(picture)
    if way == "smaller":
        picture = picture.resize((round(picture.width * 0.75), round(picture.height * 0.75)), Image.Resampling.BICUBIC)
    target = f"{name}.{'jpg' if 'q85' in way else 'bmp' if way == 'bmp' else 'png'}"
    picture.save(target, **({"quality": 85} if "q85" in way else {}))
    return target


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Real images of two products, copies of the protected ones among them, and their embeddings."""
    folder = tmp_path_factory.mktemp("leak")
    (folder / "copies").mkdir()
    protected, others = [], []
    for dataset in (solar(), textile()):
        drawn = np.random.default_rng(1).permutation(dataset.table.num_rows)[: PROTECTED + OTHERS]
        paths = dataset.table.column("filepath").take(pa.array(drawn)).to_pylist()
        protected += paths[:PROTECTED]
        others += paths[PROTECTED:]
    copies = [(way, path, copy_of(path, way, folder / "copies")) for way in WAYS for path in protected]
    model = {"model": "timm", "model_path": str(write_encoder(folder / "lite0"))}
    config = RunConfig("", "", **model, cache_dir="off")
    paths = others + [copy for _, _, copy in copies]
    tables = [
        embed_images(pa.table({"filepath": rows}), folder / f"{name}.parquet", **model, cache_dir="off").path
        for name, rows in (("protected", protected), ("pool", paths))
    ]
    return SimpleNamespace(
        config=config, protected=tables[0], pool=tables[1], paths=paths, others=len(others), copies=copies,
        encoder=open_encoder(config.embedding("", ""), "cpu"),
    )  # fmt: skip


def bars_of(scene, pool=None, **settings):
    given = {key: settings.pop(key) for key in ("encoder", "protect") if key in settings}
    config = BarringConfig(**({"protect": str(scene.protected)} | settings))
    return bar_pool(EmbeddingStream(str(pool or scene.pool), "embedding"), None, config, inputs=scene.config, **given)


def missed(scene, bars):
    """The ways of the copies that are not barred."""
    return [way for row, (way, _, _) in enumerate(scene.copies, scene.others) if not bars.mask[row]]


def test_every_copy_is_barred_by_its_original_and_nothing_else_is(scene):
    bars = bars_of(scene)
    table = bars.table(EmbeddingStream(str(scene.pool), "embedding")).to_pylist()
    assert [row["source_filepath"] for row in table] == [copy for _, _, copy in scene.copies]
    assert [row["rule"] for row in table] == [WAYS[way] for way, _, _ in scene.copies]
    assert [row["barred_by"] for row in table] == [path for _, path, _ in scene.copies]
    assert bars.counts == {"protected_bytes": 8, "protected_pixels": 8, "protected_near": 32}
    assert bars.read == len(scene.paths) - 8, "files with the same bytes are not decoded"
    assert not bars.notes
    vectors = _vectors(scene.protected, scene.pool)
    for row in table[16:]:
        one, two = vectors[row["source_filepath"]], vectors[row["barred_by"]]
        cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert row["distance"] == pytest.approx(1 - cosine, abs=1e-5)


def _vectors(*tables):
    """The vector of every path of some embedding tables."""
    read = [read_embedding_table(str(table), "embedding") for table in tables]
    return {
        path: row.astype(float)
        for one in read
        for path, row in zip(one.filepaths.to_pylist(), one.vectors, strict=True)
    }


def test_a_pool_in_parts_and_a_second_time_gives_the_same(scene, tmp_path):
    whole = bars_of(scene)
    table = pq.read_table(scene.pool)
    for first in range(0, table.num_rows, 17):
        pq.write_table(table.slice(first, 17), tmp_path / f"{first:04d}.parquet", row_group_size=5)
    for again in (bars_of(scene), bars_of(scene, tmp_path, memory_limit=128 << 20)):
        assert again.rule.tolist() == whole.rule.tolist()
        assert again.by == whole.by
        np.testing.assert_array_equal(again.distances, whole.distances)


def test_of_a_large_pool_only_what_is_near_is_read_and_views_find_smaller_copies(scene):
    """A smaller picture of cloth is far away for this encoder; the encoder finds it from a smaller original."""
    alone = bars_of(scene, leak_reads=50)
    helped = bars_of(scene, leak_reads=50, encoder=scene.encoder)
    assert 0 < alone.read <= 50
    assert 0 < helped.read <= 50
    assert "smaller" in missed(scene, alone)
    assert "smaller" not in missed(scene, helped)
    for bars in (alone, helped):
        assert not bars.mask[: scene.others].any()
        assert any("more than leak_reads=50" in note for note in bars.notes)


def test_an_image_table_is_embedded_where_an_encoder_is_at_hand(scene):
    paths = pa.table({"filepath": [path for _, path, _ in scene.copies[: 2 * PROTECTED]]})
    with_encoder = bars_of(scene, protect=paths, encoder=scene.encoder)
    without = bars_of(scene, protect=paths)
    assert with_encoder.rule.tolist() == without.rule.tolist() == bars_of(scene).rule.tolist()
    assert not with_encoder.notes
    assert not without.notes
    assert np.isnan(without.distances).all()
    assert (with_encoder.distances[16:] >= 0).all()
    nothing = bars_of(scene, protect=paths, leak_reads=10)
    assert nothing.counts == {"protected_bytes": 8}
    assert any("only paths and bytes are compared" in note for note in nothing.notes)


def test_without_pixels_the_distance_decides_and_real_images_are_not_barred(scene, tmp_path):
    """Files that are gone: the same vector and what is nearer than pool images are to each other."""
    table = pq.read_table(scene.pool)
    gone = pa.array([f"gone/{row}.png" for row in range(table.num_rows)])
    pq.write_table(table.set_column(0, "filepath", gone), tmp_path / "gone.parquet")
    bars = bars_of(scene, tmp_path / "gone.parquet")
    assert bars.counts["protected_near"] >= 16, "renamed copies and those in another format have the same vector"
    assert not bars.mask[: scene.others].any()
    assert any("the distance decides" in note for note in bars.notes)


def test_a_threshold_bars_whatever_the_pixels_say(scene):
    loose = bars_of(scene, protect_threshold=0.02)
    assert loose.mask[: scene.others].any(), "real images of the same product are as near as that"
    assert (loose.distances[loose.rows < scene.others] <= 0.02).all()
    with pytest.raises(TableError, match="protect bars every row"):
        bars_of(scene, protect_threshold=2)


def test_targets_and_their_copies_are_recognised(scene):
    protected = read_embedding_table(str(scene.protected), "embedding")
    pool = EmbeddingStream(str(scene.pool), "embedding")
    bars = bar_pool(pool, protected, BarringConfig(), inputs=scene.config)
    assert set(missed(scene, bars)) <= {"smaller"}, "they are not among the nearest, and not mined for that target"
    assert not bars.mask[: scene.others].any()
    assert set(bars.counts) == {"self_match", "self_twin"}
    assert bars.counts["self_match"] == 16
    kept = bar_pool(pool, protected, BarringConfig(self_match="keep"), inputs=scene.config)
    assert not kept.mask.any()
