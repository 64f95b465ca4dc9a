"""OpenCLIP models against open_clip's own loading, transform and forward pass, and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from benchmarks.encoder_models_tao import batches, openclip_reference, openclip_snapshot, randomise
from PIL import Image

from lookalike import ConfigError, EncoderError, MissingDependency
from lookalike.encoders.openclip import build_tower, read_preprocessing
from lookalike.workflow.demo_data import solar
from support.parity import check_parity, embedded

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
PLAIN = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}
CONFIGS = {
    "ViT": PLAIN,
    "CLIPA": {
        **PLAIN, "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
                                "pos_embed_type": "sin_cos_2d"},
    },
    "quick GELU, custom text": {**PLAIN, "quick_gelu": True, "custom_text": True},
    "ResNet": {**PLAIN, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}},
    "timm": {**PLAIN, "vision_cfg": TIMM, "custom_text": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    """Twelve real images."""
    return solar().table.column("filepath").to_pylist()[:12]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """A tiny OpenCLIP model as a snapshot folder."""
    return openclip_snapshot(tmp_path_factory.mktemp("openclip") / "model", PLAIN, {})


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_snapshot_agrees_with_open_clip(kind, cells, tmp_path):
    folder = openclip_snapshot(tmp_path / "model", CONFIGS[kind], {"interpolation": "bicubic"})
    result, ours = embedded(cells, tmp_path, "OpenCLIP", folder)
    check_parity(ours, openclip_reference(folder, cells))
    model = result.identity.model
    pooling = "model, quick GELU" if "quick GELU" in kind else "model"
    assert (model.family, model.dimension, model.pooling, model.normalisation) == ("OpenCLIP", 24, pooling, "none")
    assert result.identity.origin.libraries["open_clip"] == open_clip.__version__


def test_a_pickled_snapshot_is_the_same_model(snapshot, cells, tmp_path):
    """`open_clip_pytorch_model.bin`: the same weights, so the same fingerprint; `auto` knows a snapshot of OpenCLIP."""
    first, _ = embedded(cells[:2], tmp_path, "auto", snapshot)
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text((snapshot / "open_clip_config.json").read_text())
    model = open_clip.create_model(f"local-dir:{snapshot}")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    second, _ = embedded(cells[:2], tmp_path, "OpenCLIP", folder)
    assert first.identity.fingerprint == second.identity.fingerprint


def test_another_gelu_is_another_model(snapshot, cells, tmp_path):
    """The same weights, so only the architecture tells them apart."""
    first, one = embedded(cells[:2], tmp_path, "OpenCLIP", snapshot)
    quick = shutil.copytree(snapshot, tmp_path / "quick")
    config = json.loads((quick / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (quick / "open_clip_config.json").write_text(json.dumps(config))
    second, two = embedded(cells[:2], tmp_path, "OpenCLIP", quick)
    assert first.identity.model.weights == second.identity.model.weights
    assert first.identity.fingerprint != second.identity.fingerprint
    assert np.abs(one - two).max() > 1e-4


def test_a_checkpoint_file_with_a_name_agrees_with_open_clip(cells, tmp_path, monkeypatch):
    """A training checkpoint: weights under `state_dict`, each name with `module.`"""
    name = "ViT-S-32"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, PLAIN)
    model = randomise(open_clip.create_model(name, load_weights=False))
    state = {f"module.{key}": weight for key, weight in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1, "name": name}, tmp_path / "epoch_1.pt")
    result, ours = embedded(cells, tmp_path, "OpenCLIP", tmp_path / "epoch_1.pt", architecture=name)
    own, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(tmp_path / "epoch_1.pt"))
    check_parity(ours, batches(cells, transform, own.eval().encode_image))
    assert result.identity.model.architecture == name


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shape", [(300, 300), (301, 418), (417, 302), (20, 31), (1, 1)])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_preprocessing_is_open_clips_own_bit_for_bit(resize, shape, mode):
    filters = {"shortest": "bicubic", "squash": "bilinear", "longest": "random"}
    pixels = {"resize_mode": resize, "mean": (0.5, 0.4, 0.3), "std": 0.5, "interpolation": filters[resize]}
    tower = build_tower(PLAIN, "here")
    random = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image = Image.fromarray(random).convert(mode)
    settings = open_clip.transform.PreprocessCfg(**{**pixels, "size": 32})
    expected = open_clip.transform.image_transform_v2(settings, is_train=False)(image.convert("RGB")).numpy()
    np.testing.assert_array_equal(read_preprocessing(tower, pixels, "here")(image), expected)


@pytest.mark.parametrize("kind", ["ViT", "timm"])
def test_another_image_size_agrees_with_open_clips_forced_size(kind, cells, tmp_path):
    folder = openclip_snapshot(tmp_path / "model", CONFIGS[kind], {})
    side = 64 if kind == "ViT" else 96
    result, ours = embedded(cells, tmp_path, "OpenCLIP", folder, image_size=side)
    own, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", force_image_size=side)
    check_parity(ours, batches(cells, transform, own.eval().encode_image))
    plain, _ = embedded(cells[:1], tmp_path, "OpenCLIP", folder)
    assert plain.identity.fingerprint != result.identity.fingerprint


def test_a_size_that_the_tower_does_not_take_is_refused(cells, tmp_path):
    folder = openclip_snapshot(tmp_path / "model", CONFIGS["ResNet"], {})
    with pytest.raises(EncoderError, match="image_size"):
        embedded(cells[:1], tmp_path, "OpenCLIP", folder, image_size=96)


def test_the_extra_is_named_where_the_package_is_missing(snapshot, cells, tmp_path, monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "open_clip" else real(name))
    with pytest.raises(MissingDependency, match=r"lookalike\[openclip\]"):
        embedded(cells[:1], tmp_path, "OpenCLIP", snapshot)


@pytest.mark.parametrize("file", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_file_that_a_snapshot_lacks_is_named(file, snapshot, cells, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for other in snapshot.iterdir():
        if other.name != file:
            (folder / other.name).write_bytes(other.read_bytes())
    with pytest.raises(EncoderError, match=file):
        embedded(cells[:1], tmp_path, "OpenCLIP", folder)


def test_weights_of_another_model_are_refused(snapshot, cells, tmp_path):
    folder = openclip_snapshot(tmp_path / "model", {**PLAIN, "vision_cfg": {**VIT, "layers": 3}}, {})
    (folder / "open_clip_config.json").write_text((snapshot / "open_clip_config.json").read_text())
    with pytest.raises(EncoderError, match=r"unexpected \(visual\.transformer\.resblocks\.2"):
        embedded(cells[:1], tmp_path, "OpenCLIP", folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": {"vision_cfg": {"no such": 1}, "embed_dim": 3}}'])
def test_a_damaged_config_is_refused(content, snapshot, cells, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes((snapshot / "open_clip_model.safetensors").read_bytes())
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"open_clip_config\.json|open_clip cannot build"):
        embedded(cells[:1], tmp_path, "OpenCLIP", folder)


def test_a_name_that_open_clip_does_not_have_names_near_ones(cells, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="ViT-B-32"):
        embedded(cells[:1], tmp_path, "OpenCLIP", tmp_path / "model.pt", architecture="ViT-B-23")
    with pytest.raises(ConfigError, match="architecture=NAME"):
        embedded(cells[:1], tmp_path, "OpenCLIP", tmp_path / "model.pt")


def test_a_hub_id_without_a_network_says_what_to_do(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="copy a snapshot"):
        embedded(cells[:1], tmp_path, "OpenCLIP", "nobody/no-such-model")


def test_text_models_are_neither_built_nor_loaded(cells, tmp_path):
    """The text tower of some models is a Hugging Face model, which open_clip would look up on the hub."""
    folder = openclip_snapshot(tmp_path / "model", PLAIN, {})
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "nobody/no-such-model", "hf_tokenizer_name": "nobody/none"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    _, ours = embedded(cells[:2], tmp_path, "OpenCLIP", folder)
    assert ours.shape == (2, 24)
    assert "open_clip" in sys.modules
