"""The CUDA path; skipped where there is no GPU. Needs no network, no extra packages and no hub."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

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
    # Batches of two, so that most of them are replayed from a CUDA graph.
    results = {
        (device, precision): embed_images(
            table,
            tmp_path / f"{device}-{precision}.parquet",
            model,
            folder,
            device=device,
            precision=precision,
            batch_size=2,
        )
        for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16"))
    }
    reference = results["cpu", "fp32"]
    for key, least in ((("cuda", "fp32"), 0.99999), (("cuda", "bf16"), 0.999), (("cuda", "fp16"), 0.9999)):
        assert cosines(vectors_of(reference), vectors_of(results[key])).min() > least, key
        assert results[key].identity.fingerprint == reference.identity.fingerprint
        assert results[key].identity.numerics.runtime == "torch-cuda"


def test_auto_takes_the_card_in_bf16(clip_snapshot, images, tmp_path):
    result = embed_images(images, tmp_path / "out.parquet", "CLIP", str(clip_snapshot), precision="auto")
    assert result.identity.numerics.runtime == "torch-cuda"
    assert result.identity.numerics.precision == "bf16"


def test_a_card_that_is_not_there_is_named(clip_snapshot, images, tmp_path):
    from lookalike import ConfigError

    with pytest.raises(ConfigError, match="cuda:0"):
        embed_images(images, tmp_path / "out.parquet", "CLIP", str(clip_snapshot), device="cuda:99")


def jpeg(path, height, width, seed, **options):
    """A photo-like picture: noise at several scales."""
    random = np.random.default_rng(seed)
    layers = [
        Image.fromarray(random.integers(0, 256, (max(2, height // scale), max(2, width // scale), 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for scale in (4, 16, 64)
    ]
    picture = Image.fromarray(np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0).astype(np.uint8))
    picture.convert(options.pop("mode", "RGB")).save(path, options.pop("format", "JPEG"), **options)


@pytest.fixture
def mixed(tmp_path):
    """Files for nvJPEG, files for Pillow, and bad files, mixed."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(20):
        jpeg(folder / f"plain{number}.jpg", 300 + 7 * (number % 3), 500, number, quality=90)
    for number, sampling in enumerate(("4:4:4", "4:2:2", "4:2:0") * 2):
        jpeg(folder / f"sampling{number}.jpg", 201 + number, 303 - number // 3, number, subsampling=sampling)
    jpeg(folder / "upscaled.jpg", 33, 41, 6, subsampling="4:2:0")
    jpeg(folder / "restarts.jpg", 200, 300, 7, restart_marker_blocks=5)
    jpeg(folder / "grey.jpg", 200, 300, 1, mode="L")
    jpeg(folder / "progressive.jpg", 200, 300, 2, progressive=True)
    jpeg(folder / "cmyk.jpg", 200, 300, 3, mode="CMYK")
    jpeg(folder / "png.jpg", 200, 300, 4, format="PNG")
    jpeg(folder / "small.jpg", 9, 5, 5)
    whole = (folder / "plain0.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "damaged.jpg").write_bytes(whole[:300] + b"\xff\xd9")
    (folder / "text.jpg").write_text("text")
    return folder


@pytest.mark.parametrize(("model", "snapshot"), [("CLIP", "clip_snapshot"), ("SigLIP", "siglip_snapshot")])
def test_decoding_on_the_card_agrees_with_pillow(model, snapshot, mixed, tmp_path, request):
    """Same rows, same quarantine, same vectors but for the order of sums; the decoder stands in the numerics."""
    folder = str(request.getfixturevalue(snapshot))
    settings = {"device": "cuda", "precision": "fp32", "batch_size": 8}
    pillow = embed_images(mixed, tmp_path / "pillow.parquet", model, folder, decoder="pillow", **settings)
    card = embed_images(mixed, tmp_path / "card.parquet", model, folder, decoder="nvjpeg", **settings)
    assert card.identity.numerics.decoder == "nvjpeg"
    assert card.identity.fingerprint == pillow.identity.fingerprint
    paths = [pq.read_table(result.path).column("filepath").to_pylist() for result in (pillow, card)]
    assert paths[0] == paths[1]
    assert [(image.row, image.reason) for image in card.quarantined] == [
        (image.row, image.reason) for image in pillow.quarantined
    ]
    assert cosines(vectors_of(pillow), vectors_of(card)).min() > 0.999999


def test_the_pixels_of_the_card_are_pillows(mixed, siglip_snapshot):
    """Byte for byte, for every file that the card takes."""
    from lookalike.embedding.card import CardPreparer
    from lookalike.embedding.prepare import CacheLookup, PillowPreparer
    from lookalike.encoders.base import LoadRequest
    from lookalike.encoders.load import load_encoder
    from lookalike.images.decode import DecodeSettings, decode
    from lookalike.images.locate import ReadSettings

    decoding = DecodeSettings("ignore", "clip", 10**8)
    encoder = load_encoder("SigLIP", LoadRequest(str(siglip_snapshot), "", "cuda", "fp32", decoding))
    files = sorted(map(str, mixed.iterdir()))
    cache = CacheLookup(None, files, 10**8, by_path=True)
    reading = ReadSettings("", 10**8, 0)
    alone = PillowPreparer(files, encoder, decoding, reading, len(files), cache)
    prepare = CardPreparer(alone, encoder, decoding, reading, len(files), cache)
    group = prepare(range(len(files)))
    assert len(group.rows) == 33
    for row, pixels in zip(group.rows, group.pixels.cpu().numpy(), strict=True):
        expected = encoder.preprocessing(decode(Path(files[row]).read_bytes(), decoding).image)
        np.testing.assert_array_equal(pixels, expected, err_msg=files[row])


def test_memory_that_runs_out_halves_the_batch(siglip_snapshot, images, tmp_path, caplog):
    """With little memory left, the run goes on in smaller steps, says so once, and gives the same vectors."""
    files = sorted(map(str, images.iterdir())) * 200
    files[5] = str(tmp_path / "missing.png")  # from here on, batches are made of two groups
    table = pa.table({"filepath": files})
    settings = {"device": "cuda", "precision": "fp32", "batch_size": 1024, "cache_dir": "off"}
    plenty = embed_images(table, tmp_path / "plenty.parquet", "SigLIP", str(siglip_snapshot), **settings)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((held + 40 * 2**20) / total)
    try:
        scarce = embed_images(table, tmp_path / "scarce.parquet", "SigLIP", str(siglip_snapshot), **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [record.levelname for record in caplog.records if "memory ran out" in record.message].count("WARNING") == 1
    assert cosines(vectors_of(plenty), vectors_of(scarce)).min() > 0.999999


def test_a_model_that_cannot_be_recorded_is_called_plainly():
    """It waits for the device in the middle; nothing is left behind that later work could trip over."""
    from lookalike.encoders.graph import GraphedForward

    def forward(batch):
        return batch * batch.sum().item()

    graphed, stream = GraphedForward(forward), torch.cuda.current_stream()
    for number in range(1, 6):
        batch = torch.full((2, 2), float(number), device="cuda")
        torch.testing.assert_close(graphed(batch), forward(batch))
    assert torch.cuda.current_stream() == stream


def test_a_recorded_model_gives_each_batch_its_own_vectors():
    from lookalike.encoders.graph import GraphedForward

    graphed = GraphedForward(torch.nn.Linear(3, 4).cuda().requires_grad_(False))
    batches = [torch.randn(5, 3, device="cuda") for _ in range(8)]
    given = [graphed(batch) for batch in batches]
    for batch, vectors in zip(batches, given, strict=True):
        torch.testing.assert_close(vectors, graphed._forward(batch))
    assert graphed._graph is not None
