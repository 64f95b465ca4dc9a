"""OpenVINO on the CPU: the same vectors as transformers and timm in fp32, one identity, and what is refused."""

import importlib.util
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, SiglipModel

from lookalike import ConfigError, MissingDependency, embed_images, mine
from lookalike.workflow.demo_data import solar, write_encoder

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs openvino: pip install 'lookalike[openvino]'"
)
KINDS = [("CLIP", "clip_snapshot", CLIPModel), ("SigLIP", "siglip_snapshot", SiglipModel)]


def vectors_of(result):
    return np.stack(pq.read_table(result.path).column("embedding").to_numpy())


def cosines(one, two):
    one, two = one.astype(np.float64), two.astype(np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def has_bf16():
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def cells():
    """Nineteen real images: neither a whole number of batches nor of slices."""
    return solar().table.column("filepath").to_pylist()[:19]


@pytest.fixture(scope="module")
def listing(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_text("\n".join(cells))
    return path


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """The real EfficientNet-Lite0 weights as a timm snapshot."""
    return write_encoder(tmp_path_factory.mktemp("lite0"))


@needs_openvino
@pytest.mark.parametrize(("model", "snapshot", "kind"), KINDS)
def test_transformers_families_agree_with_transformers(model, snapshot, kind, cells, listing, tmp_path, request):
    """fp32 is really fp32: what bf16 would give is ten times further away."""
    folder = request.getfixturevalue(snapshot)
    result = embed_images(
        listing, tmp_path / "o.parquet", model, str(folder), runtime="openvino", device="cpu", batch_size=10
    )
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=[Image.open(cell).convert("RGB") for cell in cells], return_tensors="pt")
    with torch.no_grad():
        reference = kind.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(vectors_of(result), reference, rtol=0, atol=1e-5 * np.abs(reference).max())
    # Random models could map all images to one vector, and then any images would agree.
    assert cosines(reference[:1], reference[1:]).min() < 0.9999


@needs_openvino
def test_timm_agrees_with_timm_on_real_weights(lite0, cells, listing, tmp_path):
    result = embed_images(
        listing, tmp_path / "o.parquet", "timm", str(lite0), runtime="openvino", device="cpu", precision="auto"
    )
    model = timm.create_model(f"local-dir:{lite0}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        reference = model(torch.stack([transform(Image.open(cell).convert("RGB")) for cell in cells])).numpy()
    assert cosines(vectors_of(result), reference).min() > 0.999999
    assert result.identity.numerics.precision == "fp32"


@needs_openvino
@pytest.mark.parametrize(("model", "snapshot", "kind"), KINDS)
def test_the_identity_says_what_was_computed(model, snapshot, kind, listing, tmp_path, request):
    """Another runtime and precision: the same fingerprint, other numerics, and a warning where they are mixed."""
    folder = str(request.getfixturevalue(snapshot))

    def run(name, **settings):
        return embed_images(listing, tmp_path / f"{name}.parquet", model, folder, device="cpu", **settings)

    torch_run = run("torch")
    fp32, auto = run("fp32", runtime="openvino"), run("auto", runtime="openvino", precision="auto")
    assert fp32.identity.fingerprint == auto.identity.fingerprint == torch_run.identity.fingerprint
    assert {run.identity.numerics.runtime for run in (fp32, auto)} == {"openvino-cpu"}
    assert "openvino" in fp32.identity.origin.libraries
    assert fp32.identity.numerics.precision == "fp32"
    assert auto.identity.numerics.precision == ("bf16" if has_bf16() else "fp32")
    likeness = cosines(vectors_of(auto), vectors_of(torch_run))
    assert likeness.min() > 0.999
    # bf16 that is not bf16 would be as near as fp32 is.
    assert (np.abs(vectors_of(auto) - vectors_of(fp32)).max() > 0) == has_bf16()
    mined = mine(auto.path, torch_run.path, tmp_path / "mined.parquet")
    assert any("runtime" in warning for warning in mined.warnings)


@needs_openvino
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_vector_does_not_depend_on_the_batch(batch_size, siglip_snapshot, listing, tmp_path):
    settings = {"runtime": "openvino", "device": "cpu", "cache_dir": "off"}
    one = embed_images(listing, tmp_path / "a.parquet", "SigLIP", str(siglip_snapshot), batch_size=19, **settings)
    two = embed_images(
        listing, tmp_path / "b.parquet", "SigLIP", str(siglip_snapshot), batch_size=batch_size, **settings
    )
    np.testing.assert_allclose(vectors_of(one), vectors_of(two), rtol=0, atol=1e-5)


@needs_openvino
def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(siglip_snapshot, listing, tmp_path, monkeypatch):
    def runtime():
        result = embed_images(
            listing, tmp_path / "o.parquet", "SigLIP", str(siglip_snapshot), device="cpu", runtime="auto"
        )
        return result.identity.numerics.runtime

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert runtime() == "openvino-cpu"
    monkeypatch.setattr("platform.machine", lambda: "riscv64")  # not measured there
    assert runtime() == "torch-cpu"


def test_auto_without_the_extra_takes_torch(siglip_snapshot, listing, tmp_path, monkeypatch):
    without_openvino(monkeypatch)
    result = embed_images(listing, tmp_path / "o.parquet", "SigLIP", str(siglip_snapshot), device="cpu", runtime="auto")
    assert result.identity.numerics.runtime == "torch-cpu"


def test_the_missing_extra_is_named_before_any_work(tmp_path, monkeypatch):
    without_openvino(monkeypatch)
    with pytest.raises(MissingDependency, match=r"pip install 'lookalike\[openvino\]'"):
        embed_images("no-such-file.csv", tmp_path / "o.parquet", "SigLIP", "no-such-model", runtime="openvino")


@pytest.mark.parametrize("settings", [{"device": "cuda"}, {"device": "mps"}, {"precision": "fp16"}])
def test_what_it_cannot_compute_is_refused_before_any_work(settings, tmp_path):
    (key,) = settings
    with pytest.raises(ConfigError, match=key):
        embed_images(
            "no-such-file.csv", tmp_path / "o.parquet", "SigLIP", "no-such-model", runtime="openvino", **settings
        )


@needs_openvino
def test_the_command_takes_the_runtime_and_reports_to_nobody(run_command, siglip_snapshot, listing, tmp_path):
    (tmp_path / "home").mkdir()
    settings = (f"input_parquet={listing}", "output_parquet=out.parquet", "model=SigLIP")
    done = run_command(
        "embedding", "image_embeddings", *settings, f"model_path={siglip_snapshot}", "runtime=openvino", "device=cpu",
        cwd=tmp_path, env={"HOME": str(tmp_path / "home"), "CI": None},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # OpenVINO's telemetry, when it is on, keeps a number of the user here.
    assert not (tmp_path / "home/intel").exists()
    assert b"openvino-cpu" in pq.read_schema(tmp_path / "out.parquet").metadata[b"lookalike"]


def without_openvino(monkeypatch):
    """As if the extra was not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "openvino" else find_spec(name, *rest)
    )
    monkeypatch.setitem(sys.modules, "openvino", None)
