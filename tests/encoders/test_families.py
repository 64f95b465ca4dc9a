"""Every family that transformers loads against transformers' own code, by default and with each of its settings."""

import importlib.util
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from benchmarks.encoder_models import MODELS, REFERENCES, by_transformers
from PIL import Image
from torch.nn.functional import layer_norm

from lookalike import ConfigError, EncoderError, embed_images
from lookalike.workflow.demo_data import solar
from support import snapshots

NAMES = list(MODELS)
#: What each class of vision tower is called in the identity.
CLASSES = {
    "CLIP": "CLIPVisionModelWithProjection",
    "SigLIP": "SiglipVisionModel",
    "SigLIP2": "SiglipVisionModel",
    "SigLIP2: NaFlex": "Siglip2VisionModel",
    "DINOv2": "Dinov2Model",
    "DINOv2: registers": "Dinov2WithRegistersModel",
    "DINOv3": "DINOv3ViTModel",
    "DINOv3: ConvNeXt": "DINOv3ConvNextModel",
    "C-RADIO": "RadioModel",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty-four pictures of many shapes: real cells, noise, grey and colour, one of them a thin strip."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = solar().table.column("filepath").to_pylist()[:12]
    for number, (height, width) in enumerate([(40, 90), (90, 40), (33, 31), (8, 200), (64, 64), (120, 50)]):
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        for name, image in (
            ("noise", Image.fromarray(noise)),
            ("smooth", Image.fromarray(noise[:4, :4]).resize((width, height), 3).convert("L")),
        ):
            paths.append(str(folder / f"{number} {name}.png"))
            image.save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """`snapshot(name)`: the folder of a tiny model of the family, made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = MODELS[name](tmp_path_factory.mktemp("models") / "model", True)
        return made[name]

    return make


@pytest.fixture
def embed(tmp_path):
    """`embed(name, folder, paths, **settings)`: vectors and identity, without a cache."""

    def run(name, folder, paths, **settings):
        table = pa.table({"filepath": paths})
        settings = {"cache_dir": "off", "device": "cpu", "batch_size": 7, **settings}
        result = embed_images(table, tmp_path / "out.parquet", name.split(":")[0], str(folder), **settings)
        return np.stack(pq.read_table(result.path).column("embedding").to_numpy()), result.identity

    return run


def cosines(one, two):
    one, two = one.astype(np.float64), two.astype(np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def nearest(vectors):
    """The five nearest others of each vector, by cosine."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    return np.argsort(-likeness, axis=1)[:, :5]


def assert_same(ours, reference):
    """The same vectors up to rounding, with the same neighbours; and not all alike, so that it means something."""
    assert ours.shape == reference.shape
    assert cosines(ours, reference).min() > 0.999999
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * np.abs(reference).max())
    np.testing.assert_array_equal(nearest(ours), nearest(reference))
    assert cosines(reference[:1], reference[1:]).min() < 0.9999


# By default


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_transformers(name, snapshot, pictures, embed):
    folder = snapshot(name)
    ours, identity = embed(name, folder, pictures)
    assert_same(ours, REFERENCES[name](folder, pictures))
    assert identity.model.architecture == CLASSES[name]
    assert identity.model.dimension == ours.shape[1]
    assert identity.model.normalisation == "none"


@pytest.mark.parametrize("name", ["SigLIP2: NaFlex", "DINOv2", "DINOv3", "C-RADIO"])
def test_weights_in_half_precision_are_computed_in_float32(name, snapshot, pictures, embed, tmp_path):
    """A snapshot that holds float16 and says so, on a CPU."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(snapshot(name), folder)
    weights = load_file(folder / "model.safetensors")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    ours, identity = embed(name, folder, pictures)
    assert identity.numerics.precision == "fp32"
    likeness = cosines(ours, embed(name, snapshot(name), pictures)[0])
    assert 0.999 < likeness.min() < 1


@pytest.mark.parametrize("name", NAMES)
def test_bf16_changes_rounding_only(name, snapshot, pictures, embed):
    fp32, before = embed(name, snapshot(name), pictures)
    bf16, identity = embed(name, snapshot(name), pictures, precision="bf16")
    assert identity.fingerprint == before.fingerprint
    assert 0.995 < cosines(fp32, bf16).min() < 1


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("CLIP", "SigLIP", "SigLIP2")])
def test_openvino_gives_the_same(name, snapshot, pictures, embed):
    """Also the default of `precision=auto` in float32, for families that are not known to keep bf16."""
    ours, identity = embed(name, snapshot(name), pictures, runtime="openvino", precision="fp32")
    assert_same(ours, REFERENCES[name](snapshot(name), pictures))
    assert identity.numerics.runtime == "openvino-cpu"


# Preprocessing


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(300, 300), (301, 418), (40, 7), (3, 500), (1, 1), (32, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_is_the_processors_own(name, size, mode, snapshot):
    """Bit for bit, where the processor works on 8-bit pixels; DINOv3's resizes numbers, in another order of sums."""
    from lookalike.encoders.naflex import unpack
    from lookalike.encoders.processor import read_preprocessing

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).convert(mode)
    processor = transformers.AutoImageProcessor.from_pretrained(snapshot(name), backend="pil")
    expected = processor(images=image.convert("RGB"), return_tensors="pt")
    ours = read_preprocessing(str(snapshot(name)))(image)
    if name == "SigLIP2: NaFlex":
        patches = unpack(torch.from_numpy(ours)[None])
        np.testing.assert_array_equal(patches.values, expected["pixel_values"])
        np.testing.assert_array_equal(patches.grids, expected["spatial_shapes"])
        np.testing.assert_array_equal(patches.present, expected["pixel_attention_mask"])
    elif name.startswith("DINOv3"):
        np.testing.assert_allclose(ours, expected["pixel_values"][0], rtol=0, atol=2e-6)
    else:
        np.testing.assert_array_equal(ours, expected["pixel_values"][0])


def test_the_grid_of_patches_is_that_of_transformers():
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    from lookalike.images.preprocess import _fitted

    random = np.random.default_rng(0)
    for width, height in [*random.integers(1, 5000, (300, 2)).tolist(), (1, 1), (1, 9000), (9000, 1)]:
        for patch, most in ((16, 256), (14, 729), (8, 24)):
            expected = get_image_size_for_max_num_patches(height, width, patch, most)
            assert _fitted(width, height, patch, most) == expected[::-1], (width, height, patch, most)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", [(1, 1), (1, 1000), (1000, 1), (127, 7), (31, 33)])
def test_the_grid_of_an_image_survives_every_type(grid, dtype):
    from lookalike.encoders.naflex import unpack
    from lookalike.images.preprocess import Preprocessing

    rows, columns = grid
    packing = Preprocessing("patches", (2, 2), 2, None, "floor", 1 / 255, (0.5,) * 3, (0.5,) * 3, most_patches=1024)
    packed = packing._in_patches(np.ones((3, 2 * rows, 2 * columns), np.float32))
    patches = unpack(torch.from_numpy(packed)[None].to(dtype))
    assert patches.grids.tolist() == [list(grid)]
    assert patches.present.sum() == rows * columns


@pytest.mark.parametrize("augment", ["flip", "rot90"])
def test_a_mean_over_turned_patches_is_that_of_the_images_turned_beforehand(augment, snapshot, embed, tmp_path):
    """Images that need no resize: resizing rounds one side before the other, and a turn exchanges them."""
    transpositions = {
        "flip": [Image.Transpose.FLIP_LEFT_RIGHT],
        "rot90": [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270],
    }
    folder = snapshot("SigLIP2: NaFlex")
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (32, 48, 3), np.uint8)) for _ in range(4)]
    found, plain = [], []
    for number, turn in enumerate([None, *transpositions[augment]]):
        paths = [str(tmp_path / f"{number} {name}.png") for name in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            (image if turn is None else image.transpose(turn)).save(path)
        plain.append(embed("SigLIP2", folder, paths)[0])
        if turn is None:
            found = embed("SigLIP2", folder, paths, augment=augment)[0]
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    np.testing.assert_allclose(found, np.mean(plain, axis=0), atol=1e-5)


# Pooling and layer

POOLED = [
    (name, pooling)
    for name in NAMES
    for pooling in ("cls", "mean", "gem")
    if pooling != "cls" or name in ("CLIP", "DINOv2", "DINOv2: registers", "DINOv3")
]


def patches_of(name, config):
    """How many tokens of transformers' last_hidden_state come before the patches."""
    if name == "C-RADIO":
        return config.num_cls_tokens + config.num_registers
    with_class = name in ("CLIP", "DINOv2", "DINOv2: registers", "DINOv3", "DINOv3: ConvNeXt")
    return with_class + getattr(config, "num_register_tokens", 0)


def pooled(tokens, pooling):
    """By its formula, in float64."""
    tokens = tokens.double()
    return tokens.mean(-2) if pooling == "mean" else tokens.clamp_min(1e-6).pow(3).mean(-2).pow(1 / 3)


def pooled_reference(name, folder, images, pooling):
    kind = transformers.CLIPVisionModel if name == "CLIP" else getattr(transformers, CLASSES[name])
    before = patches_of(name, kind.from_pretrained(folder).config)

    def vectors(model, inputs):
        tokens = model(**inputs).last_hidden_state
        return tokens[:, 0] if pooling == "cls" else pooled(tokens[:, before:], pooling)

    return by_transformers(folder, images, kind.from_pretrained, vectors)


def naflex_reference(folder, images, pooling):
    """One image at a time, and only its own patches."""
    model = transformers.Siglip2VisionModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = []
    for image in images:
        inputs = processor(images=Image.open(image).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            tokens = model(**inputs).last_hidden_state[0, : int(inputs["spatial_shapes"].prod())]
        found.append(pooled(tokens, pooling).float().numpy())
    return np.stack(found)


@pytest.mark.parametrize(("name", "pooling"), POOLED)
def test_pooling(name, pooling, snapshot, pictures, embed):
    folder = snapshot(name)
    ours, identity = embed(name, folder, pictures, pooling=pooling)
    if name == "SigLIP2: NaFlex":
        reference = naflex_reference(folder, pictures, pooling)
    else:
        reference = pooled_reference(name, folder, pictures, pooling)
    assert_same(ours, reference)
    assert identity.model.pooling == pooling
    assert identity.model.dimension == ours.shape[1]


@pytest.mark.parametrize("name", ["DINOv2", "DINOv2: registers", "DINOv3"])
def test_the_class_token_is_what_dino_pools_anyway(name, snapshot, pictures, embed):
    """So naming it changes nothing; nor does naming the last layer."""
    before = embed(name, snapshot(name), pictures[:1])[1]
    same = embed(name, snapshot(name), pictures[:1], pooling="cls", layer=1)[1]
    assert same.fingerprint == before.fingerprint
    other = embed(name, snapshot(name), pictures[:1], layer=0)[1]
    assert other.model.pooling == "cls of layer 0"
    assert other.fingerprint != before.fingerprint


@pytest.mark.parametrize("pooling", ["model", "mean", "gem"])
@pytest.mark.parametrize("name", ["DINOv2", "DINOv2: registers", "DINOv3"])
def test_layer_of_a_vit(name, pooling, snapshot, pictures, embed):
    """The output of the first block, through the final norm, as the Backbone classes of transformers do."""
    folder = snapshot(name)
    model = getattr(transformers, CLASSES[name]).from_pretrained(folder)
    norm = model.norm if name == "DINOv3" else model.layernorm
    before = patches_of(name, model.config)

    def vectors(model, inputs):
        hidden = model(**inputs, output_hidden_states=True).hidden_states[1]
        tokens = layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return tokens[:, 0] if pooling == "model" else pooled(tokens[:, before:], pooling)

    ours, _ = embed(name, folder, pictures, pooling=pooling, layer=0)
    assert_same(ours, by_transformers(folder, pictures, type(model).from_pretrained, vectors))


@pytest.mark.parametrize(("layer", "dimension"), [(0, 8), (2, 24)])
@pytest.mark.parametrize("pooling", ["model", "gem"])
def test_layer_of_a_convnext(pooling, layer, dimension, snapshot, pictures, embed):
    """The output of a stage, as it is."""
    folder = snapshot("DINOv3: ConvNeXt")

    def vectors(model, inputs):
        places = model(**inputs, output_hidden_states=True).hidden_states[layer + 1].flatten(2).transpose(1, 2)
        return pooled(places, "mean" if pooling == "model" else pooling)

    ours, identity = embed("DINOv3", folder, pictures, pooling=pooling, layer=layer)
    assert identity.model.dimension == ours.shape[1] == dimension
    assert_same(ours, by_transformers(folder, pictures, transformers.DINOv3ConvNextModel.from_pretrained, vectors))


def test_a_pooling_or_layer_that_a_model_does_not_have(snapshot, pictures, embed):
    with pytest.raises(ConfigError, match=r"(?s)pooling='cls' is not possible with model=SigLIP.*model, gem, mean"):
        embed("SigLIP", snapshot("SigLIP"), pictures[:1], pooling="cls")
    with pytest.raises(ConfigError, match="layer cannot be chosen with model=C-RADIO"):
        embed("C-RADIO", snapshot("C-RADIO"), pictures[:1], layer=0)
    with pytest.raises(ConfigError, match=r"(?s)cls.*no class token.*gem, mean"):
        embed("DINOv3", snapshot("DINOv3: ConvNeXt"), pictures[:1], pooling="cls")
    with pytest.raises(ConfigError, match=r"(?s)layer=2 .*2 blocks.*0 to 1"):
        embed("DINOv2", snapshot("DINOv2"), pictures[:1], layer=2)
    with pytest.raises(ConfigError, match=r"(?s)layer=4 .*4 stages.*0 to 3"):
        embed("DINOv3", snapshot("DINOv3: ConvNeXt"), pictures[:1], layer=4)


# Image size

SIZED = {
    "CLIP": (48, {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "SigLIP": (48, {"size": {"height": 48, "width": 48}}),
    "SigLIP2": (24, {"size": {"height": 24, "width": 24}}),
    "SigLIP2: NaFlex": (64, {"max_num_patches": 64}),
    "DINOv2": (64, {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}),
    "DINOv2: registers": (64, {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}),
    "DINOv3": (56, {"size": {"height": 56, "width": 56}}),
    "DINOv3: ConvNeXt": (96, {"size": {"height": 96, "width": 96}}),
    "C-RADIO": (40, {"size": {"height": 40, "width": 40}}),
}


@pytest.mark.parametrize("name", NAMES)
def test_image_size(name, snapshot, pictures, embed):
    """Another size than the model's own, with positions interpolated by transformers itself."""
    folder = snapshot(name)
    side, sizes = SIZED[name]

    def vectors(model, inputs):
        if name == "CLIP":
            return model.get_image_features(**inputs, interpolate_pos_encoding=True).pooler_output
        extra = {"interpolate_pos_encoding": True} if CLASSES[name] == "SiglipVisionModel" else {}
        output = model(**inputs, **extra)
        return output.summary if name == "C-RADIO" else output.pooler_output

    kind = transformers.CLIPModel if name == "CLIP" else getattr(transformers, CLASSES[name])
    reference = by_transformers(folder, pictures, kind.from_pretrained, vectors, **sizes)
    ours, identity = embed(name, folder, pictures, image_size=side)
    assert_same(ours, reference)
    own = embed(name, folder, pictures[:1])[1]
    assert identity.fingerprint != own.fingerprint
    assert identity.model.weights == own.model.weights


def test_an_own_size_that_is_no_multiple_of_the_patch(pictures, embed, tmp_path):
    """SigLIP So400m/14 has 384 pixels: the rim is left out, as transformers does."""
    folder = snapshots.siglip(tmp_path / "odd", image_size=36)
    reference = REFERENCES["SigLIP"](folder, pictures)
    assert_same(embed("SigLIP", folder, pictures)[0], reference)
    assert_same(embed("SigLIP", folder, pictures, image_size=36)[0], reference)


def test_a_size_that_is_the_models_own_changes_nothing(snapshot, pictures, embed):
    before = embed("CLIP", snapshot("CLIP"), pictures[:1])[1]
    assert embed("CLIP", snapshot("CLIP"), pictures[:1], image_size=32)[1].fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "name", ["CLIP", "SigLIP", "SigLIP2: NaFlex", "DINOv2", "DINOv3", "DINOv3: ConvNeXt", "C-RADIO"]
)
def test_a_size_that_does_not_fit_the_patches(name, snapshot, pictures, embed):
    size = 7 if name == "SigLIP2: NaFlex" else 45
    with pytest.raises(ConfigError, match=f"image_size={size}"):
        embed(name, snapshot(name), pictures[:1], image_size=size)


def test_a_snapshot_whose_processor_does_not_fit_the_patches(snapshot, pictures, embed, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(snapshot("C-RADIO"), folder)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 36, "width": 36}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match=r"(?s)36 x 36.*image_size=32"):
        embed("C-RADIO", folder, pictures[:1])


# auto, and contradictions


@pytest.mark.parametrize("name", NAMES)
def test_auto_reads_the_family_from_the_models_own_config(name, snapshot, pictures, embed, caplog):
    from lookalike.encoders import snapshot as module

    module._said.clear()
    named = embed(name, snapshot(name), pictures[:2])
    with caplog.at_level("INFO"):
        found = embed("auto", snapshot(name), pictures[:2])
    assert found[1].fingerprint == named[1].fingerprint
    np.testing.assert_array_equal(found[0], named[0])
    said = [record.getMessage() for record in caplog.records if "model=auto" in record.getMessage()]
    assert len(said) == 1
    assert "model_type" in said[0]


def test_siglip_by_either_name_is_one_model(snapshot, pictures, embed):
    """Fixed-resolution SigLIP2 says `siglip`: the same vectors, the same fingerprint."""
    one, two = (embed(name, snapshot("SigLIP2"), pictures[:1])[1] for name in ("SigLIP", "SigLIP2"))
    assert one.fingerprint == two.fingerprint
    assert one.model.family == "SigLIP"


@pytest.mark.parametrize(
    ("asked", "given", "right"),
    [
        ("SigLIP", "SigLIP2: NaFlex", "SigLIP2"), ("DINOv2", "DINOv3", "DINOv3"), ("DINOv3", "DINOv2", "DINOv2"),
        ("SigLIP2", "CLIP", "CLIP"), ("C-RADIO", "CLIP", "CLIP"), ("CLIP", "C-RADIO", "C-RADIO"),
        ("timm", "DINOv2", "DINOv2"),
    ],
)  # fmt: skip
def test_a_model_that_contradicts_the_snapshot(asked, given, right, snapshot, pictures, embed):
    says = json.loads((snapshot(given) / "config.json").read_text())["model_type"]
    with pytest.raises(
        EncoderError, match=rf"(?s)model={asked} was asked for.*model_type='{says}'.*write model={right},"
    ):
        embed(asked, snapshot(given), pictures[:1])


def test_auto_takes_a_timm_folder_and_names_what_it_does_not_know(pictures, embed, tmp_path):
    import timm

    from lookalike.config.schemas import ImageEmbeddingsConfig
    from lookalike.encoders.load import check_model

    folder = tmp_path / "timm"
    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=3), folder)
    assert embed("auto", folder, pictures[:2])[1].model.family == "timm"
    with pytest.raises(EncoderError, match=r"(?s)model=CLIP was asked for.*architecture='resnet10t'.*model=timm"):
        embed("CLIP", folder, pictures[:1])
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EncoderError, match=r"(?s)model_type='bert'.*dinov2"):
        embed("auto", folder, pictures[:1])
    (folder / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="neither model_type nor architecture"):
        embed("auto", folder, pictures[:1])
    with pytest.raises(ConfigError, match=r"(?s)is a file.*model=timm"):
        check_model(ImageEmbeddingsConfig(model="auto", model_path=str(folder / "config.json")))
