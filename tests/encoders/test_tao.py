"""TAO checkpoints against the libraries' own code with the same weights, and what is refused."""

import math
import os
import pickle

import numpy as np
import pytest
import torch
import yaml
from benchmarks import encoder_models_tao as models

from lookalike import ConfigError, EncoderError, MissingDependency
from lookalike.encoders import tao, tao_openclip
from lookalike.encoders.checkpoints import read_state
from lookalike.workflow.demo_data import solar
from support.parity import check_parity, embedded

open_clip = pytest.importorskip("open_clip")

#: What a script for TAO names, and the family that agrees with the training spec.
NAMES = {
    "TAO: SigLIP2": ("SigLIP", "CLIP", "SigLIP2", "auto", "TAO"),
    "TAO: OpenCLIP": ("CLIP", "SigLIP", "OpenCLIP"),
    "TAO: RADIO": ("SigLIP", "C-RADIO", "tao"),
    "TAO: Visual ChangeNet, ViT": ("DINOv2", "TAO"),
    "TAO: Visual ChangeNet, C-RADIO": ("C-RADIO", "TAO"),
}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Real model types stand for tiny models."""
    with models.tiny_types():
        yield


@pytest.fixture(scope="module")
def cells():
    """Twelve real images."""
    return solar().table.column("filepath").to_pylist()[:12]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One checkpoint of every kind."""
    return {kind: models.MODELS[kind](tmp_path_factory.mktemp("tao"), True) for kind in NAMES}


@pytest.fixture
def edited(checkpoints, tmp_path):
    """Makes a checkpoint of a kind with another state or training spec."""

    def edit(kind, *, state=lambda state: state, spec=lambda spec: spec):
        path = checkpoints[kind]
        weights = torch.load(path, weights_only=False)["state_dict"]
        written = yaml.safe_load(models.spec_of(path).read_text())
        return models.write_checkpoint(tmp_path / "edited", state(dict(weights)), spec(written))

    return edit


def embed(cells, folder, path, model="SigLIP", **settings):
    settings.setdefault("model_config_path", str(models.spec_of(path)))
    return embedded(cells, folder, model, path, **settings)


@pytest.mark.parametrize("kind", NAMES)
def test_the_vectors_are_those_of_the_library(kind, checkpoints, cells, tmp_path):
    path = checkpoints[kind]
    reference = models.REFERENCES[kind](path, cells)
    prints = set()
    for model in NAMES[kind]:
        result, ours = embed(cells, tmp_path, path, model)
        prints.add(result.identity.fingerprint)
    check_parity(ours, reference)
    assert len(prints) == 1, "what the user calls it changes nothing"
    identity = result.identity.model
    changenet = "ChangeNet" in kind
    assert (identity.family, identity.normalisation) == ("TAO", "none" if changenet else "l2")
    spec = yaml.safe_load(models.spec_of(path).read_text())["model"]
    assert identity.architecture == (spec["backbone"]["type"] if changenet else spec["type"])
    if not changenet:
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)


def test_a_changenet_backbone_inside_an_adapter(edited, cells, tmp_path):
    """The adapter takes the class token away, but not its position: the patches are averaged."""

    def state(weights):
        weights.pop("model.backbone.cls_token"), weights.pop("model.backbone.register_tokens")
        return {
            **weights,
            "model.backbone.level_embed": torch.ones(3, 32),
            "model.backbone.norm1.weight": torch.ones(3),
        }

    path = edited("TAO: Visual ChangeNet, ViT", state=state)
    result, ours = embed(cells, tmp_path, path, "TAO")
    weights = models.state_at(path, "model.backbone.")
    model = models._dinov2(tiny=True)
    model.pos_embed.data = weights["pos_embed"][:, 1:]
    own = {name: weight for name, weight in weights.items() if name in model.state_dict() and name != "pos_embed"}
    assert {"cls_token", "reg_token", "pos_embed"} == model.state_dict().keys() - own.keys()
    model.load_state_dict(own, strict=False)

    def vectors(batch):
        """Without any token but the patches."""
        tokens = model.patch_embed(batch).flatten(1, -2) + model.pos_embed
        return model.norm(model.blocks(tokens)).mean(1)

    check_parity(ours, models.batches(cells, models._imagenet_transform(56), vectors))
    assert result.identity.model.pooling == "mean"


def test_normalize_false_gives_the_raw_vectors(checkpoints, cells, tmp_path):
    _, raw = embed(cells, tmp_path, checkpoints["TAO: SigLIP2"], normalize="false")
    _, unit = embed(cells, tmp_path, checkpoints["TAO: SigLIP2"])
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(raw / lengths, unit, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", [".pth", ".CKPT"])
def test_the_ending_counts_in_any_case(ending, checkpoints, cells, tmp_path):
    path = (tmp_path / "model").with_suffix(ending)
    path.write_bytes(checkpoints["TAO: SigLIP2"].read_bytes())
    spec = models.spec_of(checkpoints["TAO: SigLIP2"])
    result, _ = embed(cells[:2], tmp_path, path, model_config_path=str(spec))
    assert result.identity.model.family == "TAO"


def test_other_names_of_open_clip(cells, tmp_path):
    """A model type that open_clip has itself, timm trunk and custom text tower."""
    name = "ViT-B-16-SigLIP-256"
    config = {**open_clip.get_model_config(name), "text_cfg": models._TINY_TEXT}
    config["vision_cfg"] = {
        **config["vision_cfg"],
        "timm_model_name": "test_vit",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 160,
    }
    config.pop("custom_text")
    model = models.randomise(open_clip.CustomTextCLIP(**config))
    state = {f"model.backbone.model.{key}": weight for key, weight in model.state_dict().items()}
    path = models.write_checkpoint(tmp_path, state, {"model": {"type": name, "image_size": 160}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        _, ours = embed(cells, tmp_path, path)
    reference = models.batches(
        cells, models._clip_transform(160), lambda batch: model.encode_image(batch, normalize=True)
    )
    check_parity(ours, reference)


@pytest.mark.parametrize("side", [48, 64, 24])
def test_an_openclip_model_of_another_size(side, checkpoints, edited, cells, tmp_path):
    """The positions are interpolated as TAO does it: DINO's rule, at every forward pass of its own."""

    def spec(content):
        content["model"]["image_size"] = side
        return content

    path = edited("TAO: OpenCLIP", spec=spec)
    _, ours = embed(cells, tmp_path, path)
    config = tao_openclip.TYPES[models.CLIPA]
    model = open_clip.CLIP(**config, text_cfg=models._TINY_TEXT, init_logit_bias=-10).eval()
    model.load_state_dict(models.state_at(path, "model.backbone.model."))
    tower = model.visual

    def vectors(batch):
        """DINO's `interpolate_pos_encoding`, then what the tower does."""
        own, (across, down) = tower.positional_embedding, (size // 8 + 0.1 for size in batch.shape[-2:])
        count = len(own) - 1
        patches = torch.nn.functional.interpolate(
            own[1:].reshape(1, int(math.sqrt(count)), int(math.sqrt(count)), -1).permute(0, 3, 1, 2),
            scale_factor=(across / math.sqrt(count), down / math.sqrt(count)),
            mode="bicubic",
        )
        positions = torch.cat([own[:1], patches.permute(0, 2, 3, 1).reshape(-1, own.shape[-1])])
        tokens = tower.conv1(batch).flatten(2).transpose(1, 2)
        first = tower.class_embedding.expand(len(tokens), 1, -1)
        tokens = tower.transformer(tower.ln_pre(torch.cat([first, tokens], 1) + positions))
        return torch.nn.functional.normalize(tower.ln_post(tokens[:, 1:].mean(1)) @ tower.proj)

    check_parity(ours, models.batches(cells, models._clip_transform(side), vectors))


def test_without_a_size_an_openclip_model_takes_its_own(edited, cells, tmp_path):
    def spec(content):
        del content["model"]["image_size"]
        return content

    path = edited("TAO: OpenCLIP", spec=spec)
    result, ours = embed(cells, tmp_path, path)
    check_parity(ours, models.tao_openclip_reference(path, cells))
    assert result.identity.model.dimension == 24


@pytest.mark.parametrize("adaptor", [None, "siglip", "siglip2"])
def test_names_of_the_siglip_adaptor(adaptor, checkpoints, edited, cells, tmp_path):
    def spec(content):
        content["model"]["adaptor_name"] = adaptor
        return content

    result, _ = embed(cells[:2], tmp_path, edited("TAO: RADIO", spec=spec))
    assert result.identity.model.pooling == "class token of siglip2"


def test_each_adaptor_reads_its_own_class_token(edited, cells, tmp_path):
    """CLIP's is the first."""

    def spec(content):
        content["model"]["adaptor_name"] = "clip"
        return content

    def state(weights):
        return {name.replace("adaptors.siglip2.", "adaptors.clip."): weight for name, weight in weights.items()}

    path = edited("TAO: RADIO", state=state, spec=spec)
    _, ours = embed(cells, tmp_path, path)
    model = models.radio_by_transformers(models.state_at(path, "model.radio_model.model."), heads=4)
    head = models.state_at(path, "model.radio_model.adaptors.clip.head_mlp.")
    reference = models.batches(
        cells,
        models._clip_transform(64),
        lambda batch: torch.nn.functional.normalize(models.by_head(model(batch).last_hidden_state[:, 0], head)),
    )
    check_parity(ours, reference)


def test_a_timm_that_is_too_old_is_named(edited, cells, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.is_model", lambda name: False)
    with pytest.raises(MissingDependency, match="does not have vit_base_patch16_radio_v3") as error:
        embed(cells[:1], tmp_path, edited("TAO: RADIO"))
    assert "timm>=" in error.value.hint


def test_an_adaptor_that_is_not_in_the_checkpoint_is_named(edited, cells, tmp_path):
    def spec(content):
        content["model"]["adaptor_name"] = "clip"
        return content

    with pytest.raises(EncoderError, match="'clip' of the training spec is not in the checkpoint, which has siglip2"):
        embed(cells[:1], tmp_path, edited("TAO: RADIO", spec=spec))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TAO: SigLIP2", "model.backbone.inner.vision_model.head.probe"),
        ("TAO: OpenCLIP", "model.backbone.model.visual.ln_post.weight"),
        ("TAO: RADIO", "model.radio_model.model.patch_generator.pos_embed"),
        ("TAO: RADIO", "model.radio_model.model.blocks.1.mlp.fc2.bias"),
        ("TAO: RADIO", "model.radio_model.adaptors.siglip2.head_mlp.final.2.bias"),
        ("TAO: Visual ChangeNet, ViT", "model.backbone.blocks.1.norm2.bias"),
    ],
)
def test_missing_and_unexpected_weights_are_listed(kind, name, edited, cells, tmp_path):
    def without(state):
        state[f"{name}_renamed"] = state.pop(name)
        return state

    model = "TAO" if "ChangeNet" in kind else "SigLIP"
    with pytest.raises(EncoderError, match="1 weights missing") as refused:
        embed(cells[:1], tmp_path, edited(kind, state=without), model)
    said = str(refused.value)
    assert f"missing ({name})" in said
    assert f"1 weights unexpected ({name}_renamed)" in said


def test_a_weight_that_belongs_nowhere_is_named(edited, cells, tmp_path):
    path = edited("TAO: SigLIP2", state=lambda state: {**state, "model.lora_A.weight": torch.ones(2)})
    with pytest.raises(EncoderError, match=r"1 weights unexpected \(model.lora_A.weight\)"):
        embed(cells[:1], tmp_path, path)


def test_weights_of_another_shape_are_named(edited, cells, tmp_path):
    name = "model.backbone.inner.vision_model.post_layernorm.bias"
    path = edited("TAO: SigLIP2", state=lambda state: {**state, name: torch.ones(7)})
    with pytest.raises(EncoderError, match=r"post_layernorm.bias is \(7,\), not \(32,\)"):
        embed(cells[:1], tmp_path, path)


def test_the_text_side_may_be_missing(edited, cells, tmp_path):
    def image_only(state):
        return {name: weight for name, weight in state.items() if "text_model" not in name}

    embed(cells[:1], tmp_path, edited("TAO: SigLIP2", state=image_only))


@pytest.mark.parametrize(
    ("kind", "model", "type_"),
    [
        ("TAO: SigLIP2", "OpenCLIP", models.SIGLIP),
        ("TAO: RADIO", "DINOv2", models.RADIO),
        ("TAO: OpenCLIP", "TIMM", None),
        ("TAO: Visual ChangeNet, ViT", "CLIP", "vit_large_patch14_dinov2_swiglu"),
    ],
)
def test_a_model_that_contradicts_the_training_spec(kind, model, type_, checkpoints, cells, tmp_path):
    """Both are named; `timm` with a checkpoint file keeps its meaning, and asks for the name of the model."""
    with pytest.raises(ConfigError) as refused:
        embed(cells[:1], tmp_path, checkpoints[kind], model)
    if type_ is None:
        assert "architecture=NAME" in str(refused.value)
    else:
        assert f"model={model}" in str(refused.value)
        assert repr(type_) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: {}", "model.type is missing"),
        ("[]", "model.type is missing"),
        ("model: [1]", "model.type is missing"),
        ("model: {type: ", "cannot be read"),
        ("model: {type: siglip2-so400m-patch16-naflex}", "siglip2-so400m-patch14-384"),
        ("model: {type: c-radio_v9-b}", "c-radio_v3-b"),
        ("model: {type: ViT-L-14-SigLIP-CLIPA-225}", "ViT-L-14-SigLIP-CLIPA-224"),
        ("model: {backbone: {type: fan_small_12_p4_hybrid}}", "timm has no FAN"),
        ("!!python/object/apply:os.system ['touch ran']", "cannot be read"),
    ],
)
def test_a_training_spec_that_names_no_known_model(content, said, checkpoints, cells, tmp_path, monkeypatch):
    """Refused before the checkpoint is read, and nothing in the YAML is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(content)
    (tmp_path / "model.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=said):
        embed(cells[:1], tmp_path, tmp_path / "model.pth", "TAO", model_config_path=str(tmp_path / "spec.yaml"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", ["big", 0, True])
def test_a_size_that_is_none_is_refused(size, edited, cells, tmp_path):
    def spec(content):
        content["model"]["image_size"] = size
        return content

    with pytest.raises(ConfigError, match=r"model\.image_size"):
        embed(cells[:1], tmp_path, edited("TAO: OpenCLIP", spec=spec))


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Custom:
    """A class of the trainer that is not here to be trusted."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_not_run(zipped, checkpoints, cells, tmp_path):
    """In the zip format and the old one; the name of what it asked for is in the message."""
    content = torch.load(checkpoints["TAO: SigLIP2"], weights_only=False)
    content["hyper_parameters"] = Payload(tmp_path / "ran")
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EncoderError, match=r"it asks for (posix|nt|os)\.system"):
        embed(cells[:1], tmp_path, path, model_config_path=str(models.spec_of(checkpoints["TAO: SigLIP2"])))
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload works where it is let"


def test_a_class_that_is_not_allowed_is_named(checkpoints, cells, tmp_path):
    content = torch.load(checkpoints["TAO: SigLIP2"], weights_only=False)
    content["hyper_parameters"] = {"spec": Custom()}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(EncoderError, match=r"it asks for test_tao\.Custom"):
        embed(
            cells[:1], tmp_path, tmp_path / "model.pth",
            model_config_path=str(models.spec_of(checkpoints["TAO: SigLIP2"])),
        )  # fmt: skip


def test_numpy_scalars_are_loaded(tmp_path):
    """Of every kind, as NumPy 2 writes them, and under the name that NumPy 1 wrote."""
    scalars = [np.dtype(kind).type(1) for kind in "?bhilqBHILQefdgFD"]
    content = {"state_dict": {"weight": torch.ones(2)}, "scalars": scalars, "dtype": np.dtype("float32")}
    torch.save(content, tmp_path / "model.pth")
    assert read_state(tmp_path / "model.pth")["weight"].tolist() == [1, 1]
    # The same file by the old name, in the format without a zip, where bytes can be changed in place.
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    written = (tmp_path / "old.pth").read_bytes()
    renamed = written.replace(b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar")
    assert renamed != written
    (tmp_path / "old.pth").write_bytes(renamed)
    assert read_state(tmp_path / "old.pth")["weight"].tolist() == [1, 1]


def test_an_array_is_more_than_a_scalar(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(2)}, "array": np.ones(2)}, tmp_path / "model.pth")
    with pytest.raises(EncoderError, match=r"it asks for numpy\._core\.multiarray\._reconstruct"):
        read_state(tmp_path / "model.pth")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no state", "numbers", "pickle"])
def test_a_damaged_checkpoint_is_refused(damage, checkpoints, cells, tmp_path):
    whole, path = checkpoints["TAO: SigLIP2"], tmp_path / "model.pth"
    if damage == "cut":
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}}))
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"no checkpoint")
    else:
        torch.save({"state_dict": {"weight": 1}} if damage == "numbers" else [1], path)
    with pytest.raises(EncoderError, match=r"cannot be read|holds no state dict"):
        embed(cells[:1], tmp_path, path, model_config_path=str(models.spec_of(whole)))


def test_kinds_are_told_by_the_type():
    for name, family in ((models.SIGLIP, "SigLIP2"), ("c-radio_v3-h", "C-RADIO"), ("ViT-B-32", "OpenCLIP")):
        assert tao.kind_of(tao.Spec("spec.yaml", name, {"type": name}, {})).family == family
