"""Snapshots that are damaged, that are not known, or that bring code: what is refused, what is run, what is said."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.encoder_models import MODELS, radio_reference
from PIL import Image
from safetensors.torch import load_file, save_file

from lookalike import ConfigError, EncoderError, embed_images

FAMILIES = ["CLIP", "SigLIP2: NaFlex", "DINOv2", "DINOv3", "C-RADIO"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return {name: MODELS[name](tmp_path_factory.mktemp("models") / "model", True) for name in FAMILIES}


@pytest.fixture
def copy(originals, tmp_path):
    """`copy(name)`: a tiny snapshot of the family, to be changed."""

    def make(name):
        # Where code is run, transformers makes a module of the folder's name.
        return Path(shutil.copytree(originals[name], tmp_path / tmp_path.name))

    return make


@pytest.fixture
def embed(tmp_path):
    def run(name, folder, count=3, **settings):
        random = np.random.default_rng(0)
        paths = [str(tmp_path / f"{number}.png") for number in range(count)]
        for path in paths:
            Image.fromarray(random.integers(0, 256, (50, 70, 3), np.uint8)).save(path)
        result = embed_images(
            pa.table({"filepath": paths}), tmp_path / "out.parquet", name.split(":")[0], str(folder),
            cache_dir="off", device="cpu", **settings,
        )  # fmt: skip
        return np.stack(pq.read_table(result.path).column("embedding").to_numpy()), result.identity, paths

    return run


class Payload:
    """A pickle that makes a file when it is opened."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f"open({self.marker!r}, 'w').close()",)


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Damaged, whatever the family; CLIP's are in the contract's tests


@pytest.mark.parametrize("name", FAMILIES[1:])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file(name, file, copy, embed):
    folder = copy(name)
    (folder / file).unlink()
    with pytest.raises(EncoderError) as refused:
        embed(name, folder)
    assert file in str(refused.value)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_truncated_weights(name, copy, embed):
    folder = copy(name)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])
    with pytest.raises(EncoderError, match="its weights cannot be loaded"):
        embed(name, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_another_dimension(name, copy, embed):
    folder = copy(name)
    config = json.loads((folder / "config.json").read_text())
    wide = {"hidden_size": 384 if name == "C-RADIO" else 64}
    if "vision_config" in config:
        wide = {"vision_config": {**config["vision_config"], **wide}}
    edit(folder / "config.json", **wide)
    with pytest.raises(EncoderError, match="weights are missing or of another shape"):
        embed(name, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pickle_that_runs_a_command_is_not_run(name, copy, embed, tmp_path):
    """Weights in PyTorch's old format are read as plain tensors or not at all."""
    folder, marker = copy(name), tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(marker)))  # it would work
    assert marker.exists()
    marker.unlink()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "x": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="could run code"):
        embed(name, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({**weights, "x": Payload(marker)}))
    with pytest.raises(EncoderError, match="its weights cannot be loaded"):
        embed(name, folder)
    assert not marker.exists()


def test_weights_in_the_old_format_without_code_are_read(copy, originals, embed):
    folder = copy("DINOv2")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(embed("DINOv2", folder)[0], embed("DINOv2", originals["DINOv2"])[0])


# Processors


@pytest.mark.parametrize("name", FAMILIES)
def test_a_processor_that_transformers_does_not_know(name, copy, embed):
    folder = copy(name)
    edit(folder / "preprocessor_config.json", image_processor_type="BrandNewImageProcessor")
    with pytest.raises(EncoderError, match="BrandNewImageProcessor") as refused:
        embed(name, folder)
    assert "update transformers" in str(refused.value)


@pytest.mark.parametrize("kind", ["ConvNextImageProcessor", "ViTImageProcessor"])
def test_a_processor_that_does_something_else(kind, copy, embed):
    """ConvNeXt's resizes by a crop percentage; ViT's is plain, and can be used."""
    folder = copy("DINOv3")
    size = {"shortest_edge": 32} if kind == "ConvNextImageProcessor" else {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, "size": size}))
    if kind == "ViTImageProcessor":
        assert embed("DINOv3", folder)[0].shape == (3, 32)
        return
    with pytest.raises(EncoderError, match="ConvNextImageProcessorPil does more than resize, crop and normalise"):
        embed("DINOv3", folder)


def test_images_that_are_not_resized_cannot_make_a_batch(copy, embed):
    folder = copy("DINOv2")
    edit(folder / "preprocessor_config.json", do_resize=False)
    with pytest.raises(EncoderError, match="does not resize"):
        embed("DINOv2", folder)


def test_c_radio_is_resized_even_so(copy, originals, embed):
    """Its published configuration leaves resizing to the caller, and names a size."""
    folder = copy("C-RADIO")
    edit(folder / "preprocessor_config.json", do_resize=False)
    np.testing.assert_array_equal(embed("C-RADIO", folder)[0], embed("C-RADIO", originals["C-RADIO"])[0])


# C-RADIO as NVIDIA publishes it: no model_type, the names of its own code's weights, and code beside


@pytest.fixture
def published(copy):
    """The tiny C-RADIO in that layout; its code would write a file `ran` if it were run."""
    from transformers import RadioModel

    folder = copy("C-RADIO")
    weights = {}
    model = RadioModel.from_pretrained(folder)
    renames = {
        "embeddings.patch_projection": "radio_model.model.patch_generator.embedder",
        "embeddings.position_embedding": "radio_model.model.patch_generator.pos_embed",
        "embeddings.cls_register_token": "radio_model.model.patch_generator.cls_token.token",
        "encoder.layer": "radio_model.model.blocks",
        "attention.o_proj": "attn.proj",
        "input_conditioner": "radio_model.input_conditioner",
        "summary_idxs": "radio_model.summary_idxs",
    }
    # NVIDIA's model has no scales.
    state = model.state_dict()
    for layer in model.encoder.layer:
        torch.nn.init.ones_(layer.layer_scale1.lambda1)
        torch.nn.init.ones_(layer.layer_scale2.lambda1)
    for key, value in state.items():
        name = key
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        if "q_proj" in name:
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            weights[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif not any(part in name for part in ("layer_scale", "k_proj", "v_proj")):
            weights[name] = value.clone()
    model.save_pretrained(folder / "reference")
    shutil.copy(folder / "preprocessor_config.json", folder / "reference")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "hf_model.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["RADIOModel"], "args": {"model": "vit_tiny_patch16_224"}, "max_resolution": 64,
                "auto_map": {"AutoConfig": "hf_model.RADIOConfig", "AutoModel": "hf_model.RADIOModel"}, "patch_size": 8,
                "vitdet_window_size": None, "feature_normalizer_config": None, "version": "c-radio_v3-b",
            }
        )
    )  # fmt: skip
    return folder


def test_c_radio_as_published_is_read_without_its_code(published, embed):
    ours, identity, paths = embed("C-RADIO", published)
    np.testing.assert_allclose(ours, radio_reference(published / "reference", paths), rtol=0, atol=2e-5)
    assert identity.model.architecture == "RadioModel"
    assert embed("auto", published)[1].fingerprint == identity.fingerprint
    assert not (published / "ran").exists()


@pytest.mark.parametrize("change", ["window", "weights", "width", "shards"])
def test_a_c_radio_that_needs_its_code_names_the_setting(change, published, embed):
    weights = load_file(published / "model.safetensors")
    if change == "window":
        edit(published / "config.json", vitdet_window_size=16)
    elif change == "weights":
        weights["radio_model.model.norm.weight"] = torch.ones(192)
    elif change == "width":
        pos = "radio_model.model.patch_generator.pos_embed"
        weights[pos] = torch.zeros(1, 64, 200)
    save_file(weights, published / "model.safetensors", {"format": "pt"})
    if change == "shards":
        (published / "model.safetensors").rename(published / "model-00001-of-00002.safetensors")
    with pytest.raises(EncoderError, match=r"(?s)code of its own.*trust_remote_code=true"):
        embed("C-RADIO", published)
    assert not (published / "ran").exists()


# Code of a model

CODE = """
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel
from .parts import scaled

class OwnConfig(PretrainedConfig):
    model_type = "own"
    def __init__(self, factor=2.0, **kwargs):
        self.factor = factor
        super().__init__(**kwargs)

class RADIOModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.project = torch.nn.Linear(3, 5)
        self.post_init()
        pathlib.Path(MARKER).touch()
    def _init_weights(self, module):
        pass
    def forward(self, x):
        features = self.project(x.flatten(2).transpose(1, 2))
        return scaled(features.mean(1), self.config.factor), features
"""


@pytest.fixture
def own(copy, tmp_path):
    """A snapshot that only its own code can load: it writes a file when it is run."""
    folder = copy("C-RADIO")
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 5)
    save_file(
        {f"project.{key}": value.detach() for key, value in layer.state_dict().items()},
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    (folder / "hf_model.py").write_text(f"MARKER = {str(tmp_path / 'ran')!r}\n{CODE}")
    (folder / "parts.py").write_text("def scaled(values, factor):\n    return values * factor\n")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["RADIOModel"], "factor": 3.0,
                "auto_map": {"AutoConfig": "hf_model.OwnConfig", "AutoModel": "hf_model.RADIOModel"},
            }
        )
    )  # fmt: skip
    return folder, layer


@pytest.fixture(autouse=True, scope="module")
def own_modules(tmp_path_factory):
    """transformers copies code that it runs to a folder of the user's: here to one of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        patch.setattr("sys.path", list(sys.path))
        yield


@pytest.mark.parametrize("model", ["C-RADIO", "auto"])
def test_code_of_a_model_is_refused(model, own, embed, tmp_path):
    with pytest.raises(EncoderError, match=r"(?s)does not run unless you allow it.*trust_remote_code=true"):
        embed(model, own[0])
    assert not (tmp_path / "ran").exists()


def test_code_of_a_model_runs_where_the_user_says_so(own, embed, tmp_path):
    folder, layer = own
    ours, identity, paths = embed("C-RADIO", folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    expected = []
    for path in paths:
        pixels = np.asarray(Image.open(path).resize((32, 32), 3), np.float32) / 255
        with torch.no_grad():
            expected.append(3 * layer(torch.from_numpy(pixels.reshape(-1, 3))).mean(0).numpy())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    assert "trust_remote_code=true" in identity.model.architecture
    mean = embed("C-RADIO", folder, trust_remote_code=True, pooling="mean")
    np.testing.assert_allclose(mean[0] * 3, ours, atol=1e-5)
    # Other code is another encoder, also in a file beside.
    (folder / "parts.py").write_text("def scaled(values, factor):\n    return values + factor\n")
    other = embed("C-RADIO", folder, trust_remote_code=True)
    assert other[1].fingerprint != identity.fingerprint
    assert not np.allclose(other[0], ours)


def test_code_that_fails_is_no_traceback(own, embed):
    (own[0] / "hf_model.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(EncoderError, match=r"(?s)own code failed.*a_package_that_nobody_has"):
        embed("C-RADIO", own[0], trust_remote_code=True)
    (own[0] / "hf_model.py").write_text(
        f"MARKER = '/dev/null'\n{CODE}".replace("return scaled", "return 1 / 0, scaled")
    )
    with pytest.raises(EncoderError, match="own code failed: ZeroDivisionError"):
        embed("C-RADIO", own[0], trust_remote_code=True)


def test_trust_for_a_model_without_code_is_refused(originals, embed):
    with pytest.raises(ConfigError, match="brings no code"):
        embed("C-RADIO", originals["C-RADIO"], trust_remote_code=True)
    with pytest.raises(ConfigError, match="trust_remote_code=true is not possible with model=DINOv2"):
        embed("DINOv2", originals["DINOv2"], trust_remote_code=True)


def test_code_of_a_model_is_not_converted(own, embed):
    pytest.importorskip("openvino")
    with pytest.raises(ConfigError, match="runtime=openvino is not possible with trust_remote_code=true"):
        embed("C-RADIO", own[0], trust_remote_code=True, runtime="openvino")
    assert embed("C-RADIO", own[0], trust_remote_code=True, runtime="auto")[1].numerics.runtime == "torch-cpu"
