"""Models that are one file: ONNX, TorchScript, exported programs."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.encoder_files import MODELS, REFERENCES

import lookalike
from support.exported import SIZE, network, reference, write_processor

TRUST = {"trust_remote_code": True}


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """The plain network as an ONNX file, exported once."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(network(), path)
    return path


def write_onnx(module, path, *, batch=None, external=False):
    """Export for `batch` images only, or for any number."""
    dynamic = None if batch else ({0: torch.export.Dim("images", min=1, max=64)},)
    program = torch.onnx.export(
        module, (torch.zeros(batch or 2, 3, SIZE, SIZE),), dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    program.save(str(path), external_data=external)


def write_script(module, path):
    torch.jit.save(torch.jit.trace(module, torch.zeros(2, 3, SIZE, SIZE), strict=False), str(path))


def write_program(module, path, batch=None):
    dynamic = None if batch else ({0: torch.export.Dim("images", min=1, max=64)},)
    torch.export.save(
        torch.export.export(module, (torch.zeros(batch or 2, 3, SIZE, SIZE),), dynamic_shapes=dynamic), str(path)
    )


WRITERS = {
    "ONNX": (write_onnx, "model.onnx", {}),
    "TorchScript": (write_script, "model.ts", TRUST),
    "ExportedProgram": (write_program, "model.pt2", TRUST),
}


@pytest.fixture
def embed(images, tmp_path):
    def run(model, path, **settings):
        paths = sorted(map(str, images.iterdir()))
        table = pa.table({"filepath": paths})
        out = tmp_path / "out.parquet"
        result = lookalike.embed_images(table, out, model, str(path), **{"batch_size": 5, **settings})
        return np.stack(pq.read_table(result.path).column("embedding").to_numpy()), result, paths

    return run


def cosines(one, two):
    one, two = one.astype(np.float64), two.astype(np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.mark.parametrize("outputs", ["one", "hidden"])
@pytest.mark.parametrize("family", WRITERS)
def test_vectors_are_those_of_the_model(family, outputs, embed, tmp_path):
    """The one output that is images x dimension, alone or among others, behind the processor beside the file."""
    write, name, trust = WRITERS[family]
    write(network(outputs), tmp_path / name)
    write_processor(tmp_path)
    ours, result, paths = embed(family, tmp_path / name, **trust)
    expected = reference(network(), paths)
    assert cosines(ours, expected).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-4)
    assert result.identity.model.family == family
    assert result.identity.model.dimension == 20
    assert cosines(ours[:1], ours[1:]).min() < 0.999


@pytest.mark.parametrize("family", MODELS)
def test_parity_of_the_benchmarks_models(family, images, tmp_path):
    """The models that the parity table measures at full size."""
    path = MODELS[family](tmp_path, True)
    paths = sorted(map(str, images.iterdir()))
    ours = lookalike.embed_images(
        pa.table({"filepath": paths}), tmp_path / "out.parquet", family, str(path), **WRITERS[family][2]
    )
    vectors = np.stack(pq.read_table(ours.path).column("embedding").to_numpy())
    assert cosines(vectors, REFERENCES[family](path, paths)).min() > 0.99999
    assert cosines(vectors[:1], vectors[1:]).min() < 0.9999


@pytest.mark.parametrize(("family", "batch"), [("ONNX", 4), ("ExportedProgram", 4), ("ONNX", 1)])
def test_a_model_for_a_fixed_number_of_images(family, batch, embed, tmp_path):
    write, name, trust = WRITERS[family]
    write(network(), tmp_path / name, batch=batch)
    write_processor(tmp_path)
    ours, _, paths = embed(family, tmp_path / name, **trust)
    assert cosines(ours, reference(network(), paths)).min() > 0.99999


def test_augment_and_normalize(embed, onnx_file, tmp_path):
    shutil.copy(onnx_file, tmp_path)
    write_processor(tmp_path)
    ours, result, paths = embed("ONNX", tmp_path / "model.onnx", augment="flip", normalize="true")
    module = network()
    expected = reference(lambda pixels: module(pixels) + module(pixels.flip(-1)), paths)
    assert cosines(ours, expected).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    assert (result.identity.model.pooling, result.identity.model.normalisation) == ("model, mean of flip", "l2")


def test_timms_configuration_beside_a_model(embed, tmp_path, images):
    import timm
    from PIL import Image

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=0).eval()
    cfg = {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "crop_pct": 0.9,
           "interpolation": "bicubic", "crop_mode": "center"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": cfg}))
    torch.jit.save(torch.jit.trace(model, torch.zeros(2, 3, 64, 64)), str(tmp_path / "model.pt"))
    ours, _, paths = embed("TorchScript", tmp_path / "model.pt", **TRUST)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))
    with torch.inference_mode():
        expected = model(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])).numpy()
    assert cosines(ours, expected).min() > 0.99999


@pytest.mark.parametrize("family", WRITERS)
def test_several_vectors_are_refused_and_listed(family, embed, tmp_path):
    write, name, trust = WRITERS[family]
    write(network("two"), tmp_path / name)
    write_processor(tmp_path)
    with pytest.raises(lookalike.EncoderError, match=r"several of its outputs .*(2, 20).*(2, 20)"):
        embed(family, tmp_path / name, **trust)


@pytest.mark.parametrize("family", WRITERS)
def test_no_vector_at_all_is_refused_and_listed(family, embed, tmp_path):
    write, name, trust = WRITERS[family]
    write(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8)).eval(), tmp_path / name)
    write_processor(tmp_path)
    with pytest.raises(lookalike.EncoderError, match=r"none of its outputs .*\(2, 4, 4, 4\)"):
        embed(family, tmp_path / name, **trust)


@pytest.mark.parametrize("family", WRITERS)
def test_what_has_to_be_beside_the_file_is_named(family, embed, tmp_path):
    write, name, trust = WRITERS[family]
    write(network(), tmp_path / name)
    with pytest.raises(lookalike.EncoderError, match=r"put preprocessor_config\.json .* or timm's config\.json"):
        embed(family, tmp_path / name, **trust)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')  # not timm's
    with pytest.raises(lookalike.EncoderError, match=r"put preprocessor_config\.json"):
        embed(family, tmp_path / name, **trust)


@pytest.mark.parametrize("family", WRITERS)
def test_a_preprocessing_of_another_size_is_refused(family, embed, tmp_path):
    write, name, trust = WRITERS[family]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 5)).eval()
    write(module, tmp_path / name)
    write_processor(tmp_path, size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    with pytest.raises(lookalike.EncoderError, match="40 x 40"):
        embed(family, tmp_path / name, **trust)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("content", [b"", b"no model at all", "cut"])
def test_a_damaged_file_is_an_error_without_traceback(family, content, embed, tmp_path):
    write, name, trust = WRITERS[family]
    write(network(), tmp_path / name)
    write_processor(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(lookalike.EncoderError, match=r"cannot (load|read) it"):
        embed(family, tmp_path / name, **trust)


def test_a_state_dict_is_no_program(embed, tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    write_processor(tmp_path)
    with pytest.raises(lookalike.EncoderError, match="a state dict is no program"):
        embed("TorchScript", tmp_path / "model.pt", **TRUST)


@pytest.mark.parametrize(
    ("family", "name"), [("ONNX", "model.pt"), ("TorchScript", "model.onnx"), ("ONNX", "none.onnx")]
)
def test_a_file_of_another_kind_or_none(family, name, embed, tmp_path):
    (tmp_path / "model.pt").touch()
    (tmp_path / "model.onnx").touch()
    with pytest.raises(lookalike.EncoderError, match=r"takes a file whose name ends in|does not exist"):
        embed(family, tmp_path / name, **(TRUST if family == "TorchScript" else {}))


@pytest.mark.parametrize("family", ["TorchScript", "ExportedProgram"])
def test_programs_need_trust(family, embed, tmp_path):
    """Without it, nothing of the file is read: a program that writes a file when it is used writes none."""

    mark = tmp_path / "written"
    _, name, trust = WRITERS[family]
    if family == "TorchScript":
        holder = torch.jit.script(torch.nn.Module())
        holder.define(
            f'def forward(self, pixels: Tensor) -> Tensor:\n    torch.save(pixels, "{mark}")\n'
            "    return pixels.mean([2, 3])\n"
        )
        torch.jit.save(holder, str(tmp_path / name))
    else:
        write_program(network(), tmp_path / name)
    write_processor(tmp_path)
    with pytest.raises(lookalike.ConfigError, match="if you trust whoever made the file, add trust_remote_code=true"):
        embed(family, tmp_path / name)
    assert not mark.exists()
    if family == "TorchScript":  # that trusting it is needed is no empty word
        embed(family, tmp_path / name, **trust)
        assert mark.exists()


def test_weights_in_another_file_are_part_of_the_identity(embed, tmp_path):
    write_onnx(network(), tmp_path / "model.onnx", external=True)
    write_processor(tmp_path)
    data = tmp_path / "model.onnx.data"
    _, before, _ = embed("ONNX", tmp_path / "model.onnx", cache_dir="off")
    content = bytearray(data.read_bytes())
    content[-4:] = np.float32(3).tobytes()
    data.write_bytes(content)
    _, after, _ = embed("ONNX", tmp_path / "model.onnx", cache_dir="off")
    assert before.identity.fingerprint != after.identity.fingerprint
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(lookalike.EncoderError, match=r"its weights are in 'model.onnx.data', which does not exist"):
        embed("ONNX", tmp_path / "model.onnx")


def test_settings_that_a_file_cannot_follow(embed, onnx_file, tmp_path):
    shutil.copy(onnx_file, tmp_path)
    write_processor(tmp_path)
    for settings, words in (
        ({"precision": "bf16"}, "computes as it was exported"),
        ({"device": "cuda"}, "device='cuda'"),
        ({"runtime": "openvino"}, "not possible with model=ONNX"),
        ({"trust_remote_code": True}, "runs no code of a model"),
        ({"architecture": "resnet18"}, "architecture is for"),
    ):
        with pytest.raises(lookalike.ConfigError, match=words):
            embed("ONNX", tmp_path / "model.onnx", **settings)


def test_an_edited_preprocessing_is_another_encoder(embed, onnx_file, tmp_path):
    """Also when the vectors of the file were known: what lies beside it counts."""
    shutil.copy(onnx_file, tmp_path)
    write_processor(tmp_path)
    _, before, _ = embed("ONNX", tmp_path / "model.onnx")
    write_processor(tmp_path, image_mean=[0.1, 0.2, 0.3])
    _, after, _ = embed("ONNX", tmp_path / "model.onnx")
    assert before.identity.fingerprint != after.identity.fingerprint
    assert after.cached == 0


def test_onnx_without_its_package(embed, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name))
    write_processor(tmp_path)
    with pytest.raises(lookalike.MissingDependency, match=r"pip install 'lookalike\[onnx\]'"):
        embed("ONNX", tmp_path / "model.onnx")
