"""`pooling`, `layer` and `image_size` of timm models against timm's own code, and what is refused."""

import numpy as np
import pytest
import timm
import torch
from benchmarks.encoder_models_tao import randomise
from PIL import Image

from lookalike import ConfigError
from lookalike.workflow.demo_data import solar, write_encoder
from support.parity import check_parity, embedded

#: Of the real EfficientNet-Lite0 weights with all settings at their defaults. It may never change: tables of users
#: carry it.
FINGERPRINT = "b20765ba5586b7d77ebd9a385e9041bb6fa80fa8401419fffbb88ea2abb0ca6a"


@pytest.fixture(scope="module")
def cells():
    """Twelve real images."""
    return solar().table.column("filepath").to_pylist()[:12]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Makes a random model of a name once: its checkpoint and the model."""
    folder, made = tmp_path_factory.mktemp("timm"), {}

    def make(name):
        if name not in made:
            model = randomise(timm.create_model(name, num_classes=0))
            torch.save(model.state_dict(), folder / f"{name}.pth")
            made[name] = folder / f"{name}.pth"
        model = timm.create_model(name, num_classes=0).eval()
        model.load_state_dict(torch.load(made[name], weights_only=True))
        return made[name], model

    return make


def pixels_of(model, cells, side=None):
    """timm's own evaluation transform."""
    settings = timm.data.resolve_data_config({"img_size": side} if side else {}, model=model)
    transform = timm.data.create_transform(**settings)
    return torch.stack([transform(Image.open(cell).convert("RGB")) for cell in cells])


def pooled(tokens, pooling):
    """The definition: class token, mean, or cube root of the mean of cubes, of images x positions x channels."""
    tokens = tokens.double()
    return {
        "cls": lambda: tokens[:, 0],
        "mean": lambda: tokens.mean(1),
        "gem": lambda: (tokens.clamp(min=1e-6) ** 3).mean(1) ** (1 / 3),
    }[pooling]().numpy()


def test_the_defaults_keep_the_fingerprint(cells, tmp_path):
    result, _ = embedded(cells[:1], tmp_path, "timm", write_encoder(tmp_path / "lite0"))
    assert result.identity.model.pooling == "model"
    assert result.identity.fingerprint == FINGERPRINT


@pytest.mark.parametrize("pooling", ["cls", "mean", "gem"])
def test_tokens_of_a_transformer_are_pooled(pooling, cells, checkpoints, tmp_path):
    """After the last norm, and the mean is of the patches: neither class token nor registers."""
    path, model = checkpoints("test_vit" if pooling == "cls" else "test_vit4")
    result, ours = embedded(cells, tmp_path, "timm", path, architecture=path.stem, pooling=pooling)
    with torch.no_grad():
        tokens = model.forward_features(pixels_of(model, cells))
    check_parity(ours, pooled(tokens if pooling == "cls" else tokens[:, model.num_prefix_tokens :], pooling))
    assert result.identity.model.pooling == pooling


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout"])
@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_feature_maps_are_pooled(name, pooling, cells, checkpoints, tmp_path):
    """Whether timm has the channels first or, as in MambaOut, last."""
    path, model = checkpoints(name)
    _, ours = embedded(cells, tmp_path, "timm", path, architecture=name, pooling=pooling)
    with torch.no_grad():
        maps = model.forward_features(pixels_of(model, cells))
    maps = maps if name == "test_mambaout" else maps.permute(0, 2, 3, 1)
    check_parity(ours, pooled(maps.flatten(1, 2), pooling))


@pytest.mark.parametrize("pooling", ["model", "cls", "mean"])
def test_a_block_of_a_transformer(pooling, cells, checkpoints, tmp_path):
    """timm's intermediate features, with its norm; the model's own pooling is the class token here."""
    path, model = checkpoints("test_vit")
    result, ours = embedded(cells, tmp_path, "timm", path, architecture=path.stem, layer=3, pooling=pooling)
    with torch.no_grad():
        ((patches, prefix),) = model.forward_intermediates(
            pixels_of(model, cells), indices=[3], norm=True, output_fmt="NLC", return_prefix_tokens=True,
            intermediates_only=True,
        )  # fmt: skip
    check_parity(ours, pooled(patches, "mean") if pooling == "mean" else pooled(prefix, "cls"))
    assert result.identity.model.pooling == f"{pooling} of layer 3"


def test_a_stage_of_a_convolutional_model(cells, checkpoints, tmp_path):
    path, model = checkpoints("test_resnet")
    result, ours = embedded(cells, tmp_path, "timm", path, architecture=path.stem, layer=2, pooling="mean")
    with torch.no_grad():
        (stage,) = model.forward_intermediates(pixels_of(model, cells), indices=[2], intermediates_only=True)
    check_parity(ours, stage.mean((2, 3)).numpy())
    assert result.identity.model.dimension == model.feature_info[2]["num_chs"]


def test_another_size_of_a_transformer_interpolates_its_positions(cells, checkpoints, tmp_path):
    path, model = checkpoints("test_vit")
    result, ours = embedded(cells, tmp_path, "timm", path, architecture=path.stem, image_size=96)
    resized = timm.create_model(path.stem, num_classes=0, img_size=96).eval()
    from timm.models.vision_transformer import checkpoint_filter_fn

    resized.load_state_dict(checkpoint_filter_fn(model.state_dict(), resized))
    with torch.no_grad():
        reference = resized(pixels_of(model, cells, 96)).numpy()
    check_parity(ours, reference)
    plain, _ = embedded(cells[:1], tmp_path, "timm", path, architecture=path.stem)
    assert plain.identity.fingerprint != result.identity.fingerprint


def test_another_size_of_a_convolutional_model(cells, checkpoints, tmp_path):
    path, model = checkpoints("test_resnet")
    _, ours = embedded(cells, tmp_path, "timm", path, architecture=path.stem, image_size=96)
    with torch.no_grad():
        check_parity(ours, model(pixels_of(model, cells, 96)).numpy())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("test_resnet", {"pooling": "cls"}, "no class token"),
        ("test_resnet", {"layer": 2}, "needs a pooling"),
        ("test_resnet", {"layer": 5, "pooling": "mean"}, "use 0 to 4"),
        ("test_vit", {"layer": 6}, "use 0 to 5"),
        ("test_vit", {"image_size": 230}, "multiple of 16"),
        ("pit_ti_224", {"image_size": 192}, "not possible with this model"),
    ],
)
def test_what_a_model_does_not_have_is_refused(name, settings, said, cells, checkpoints, tmp_path):
    path, _ = checkpoints(name)
    with pytest.raises(ConfigError, match=said):
        embedded(cells[:1], tmp_path, "timm", path, architecture=name, **settings)


def test_settings_together_are_all_in_the_identity(cells, checkpoints, tmp_path):
    path, _ = checkpoints("test_vit")
    result, vectors = embedded(
        cells, tmp_path, "timm", path, architecture=path.stem, layer=3, pooling="gem", image_size=64, augment="flip",
        normalize="true",
    )  # fmt: skip
    model = result.identity.model
    assert (model.pooling, model.normalisation) == ("gem of layer 3, mean of flip", "l2")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
