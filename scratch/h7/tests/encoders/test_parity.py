"""Vectors against each library's own reference, and what loading refuses."""

import contextlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from transformers import AutoImageProcessor, CLIPModel, SiglipModel

from lookalike import ConfigError, EncoderError, EncoderIdentity, embed_images, mine
from lookalike.encoders.timm import read_preprocessing
from lookalike.workflow.demo_data import solar, write_encoder


def vectors_of(result):
    return np.stack(pq.read_table(result.path).column("embedding").to_numpy())


def cosines(one, two):
    one, two = one.astype(np.float64), two.astype(np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.fixture(scope="module")
def cells():
    """Forty real images."""
    return solar().table.column("filepath").to_pylist()[:40]


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """The real EfficientNet-Lite0 weights as a timm snapshot."""
    return write_encoder(tmp_path_factory.mktemp("lite0"))


@pytest.mark.parametrize(
    ("model", "snapshot", "kind"), [("CLIP", "clip_snapshot", CLIPModel), ("SigLIP", "siglip_snapshot", SiglipModel)]
)
def test_transformers_families_agree_with_transformers(model, snapshot, kind, cells, tmp_path, request):
    """Section 6: the same vectors as transformers' PIL-backed processor and fp32 model, raw."""
    folder = request.getfixturevalue(snapshot)
    table = tmp_path / "list.txt"
    table.write_text("\n".join(cells))
    ours = vectors_of(embed_images(table, tmp_path / "out.parquet", model, str(folder), batch_size=16))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=[Image.open(cell).convert("RGB") for cell in cells], return_tensors="pt")
    with torch.no_grad():
        reference = kind.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output.numpy()
    assert cosines(ours, reference).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(reference, axis=1), rtol=1e-4)
    # Random models could map all images to one vector, and then any images would agree.
    assert cosines(ours[:1], ours[1:]).min() < 0.9999


@pytest.mark.parametrize(("model", "snapshot"), [("CLIP", "clip_snapshot"), ("SigLIP", "siglip_snapshot")])
def test_precision_is_in_the_identity_and_changes_rounding_only(model, snapshot, cells, tmp_path, request):
    folder = str(request.getfixturevalue(snapshot))
    (tmp_path / "list.txt").write_text("\n".join(cells))
    results = {
        precision: embed_images(
            tmp_path / "list.txt", tmp_path / f"{precision}.parquet", model, folder, precision=precision
        )
        for precision in ("fp32", "bf16", "auto")
    }
    fp32, bf16, auto = (results[precision] for precision in ("fp32", "bf16", "auto"))
    assert fp32.identity.fingerprint == bf16.identity.fingerprint
    assert (fp32.identity.numerics.precision, bf16.identity.numerics.precision) == ("fp32", "bf16")
    assert auto.identity.numerics.precision in ("fp32", "bf16")
    likeness = cosines(vectors_of(fp32), vectors_of(bf16))
    assert 0.999 < likeness.min() < 1
    mined = mine(bf16.path, fp32.path, tmp_path / "mined.parquet")
    assert any("different precision" in warning for warning in mined.warnings)


def test_timm_agrees_with_timm_on_real_weights(lite0, cells, tmp_path):
    """The pretrained EfficientNet-Lite0 through timm's own evaluation transform."""
    table = tmp_path / "list.txt"
    table.write_text("\n".join(cells))
    result = embed_images(table, tmp_path / "out.parquet", "timm", str(lite0))
    model = timm.create_model(f"local-dir:{lite0}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        reference = model(torch.stack([transform(Image.open(cell).convert("RGB")) for cell in cells])).numpy()
    assert cosines(vectors_of(result), reference).min() > 0.99999
    assert result.identity.model.dimension == reference.shape[1] == 1280
    assert result.identity.model.architecture == "tf_efficientnet_lite0"


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shape", [(300, 300), (301, 418), (417, 302), (61, 500), (1, 1)])
def test_timm_preprocessing_is_timms_own_bit_for_bit(lite0, shape, mode):
    model = timm.create_model(f"local-dir:{lite0}", num_classes=0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)).convert(mode)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    expected = transform(image.convert("RGB")).numpy()
    np.testing.assert_array_equal(read_preprocessing(model, "here")(image), expected)


@pytest.mark.parametrize(("photo", "label"), [("flower.jpg", "daisy"), ("china.jpg", "palace")])
def test_the_packaged_weights_classify(lite0, photo, label):
    """The weights that were matched by position really are ImageNet weights: they recognise scikit-learn's photos."""
    model = timm.create_model(f"local-dir:{lite0}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        best = model(transform(Image.fromarray(load_sample_image(photo)))[None]).argmax().item()
    assert timm.data.ImageNetInfo().index_to_description(best) == label


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_a_timm_checkpoint_file_with_a_name(name, cells, tmp_path):
    """A user's own checkpoint with another number of classes; the classifier is left out."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    checkpoint = tmp_path / "model.pth"
    torch.save(model.state_dict(), checkpoint)
    (tmp_path / "list.txt").write_text("\n".join(cells[:6]))
    result = embed_images(tmp_path / "list.txt", tmp_path / "out.parquet", "timm", str(checkpoint), architecture=name)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batch = torch.stack([transform(Image.open(cell).convert("RGB")) for cell in cells[:6]])
    with torch.no_grad():
        model.reset_classifier(0)
        reference = model(batch).numpy()
    assert cosines(vectors_of(result), reference).min() > 0.99999


def test_a_timm_checkpoint_without_architecture_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(ConfigError, match="architecture=NAME"):
        embed_images(tmp_path / "list.txt", tmp_path / "out.parquet", "timm", str(tmp_path / "model.pth"))


def test_a_timm_checkpoint_of_another_architecture_is_refused(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "model.pth")
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(EncoderError, match="does not fit resnet18"):
        embed_images(
            tmp_path / "list.txt", tmp_path / "o.parquet", "timm", str(tmp_path / "model.pth"), architecture="resnet18"
        )


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    """Loading weights runs no foreign code."""

    class Payload:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"x": Payload()}, tmp_path / "model.pth")
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(EncoderError, match="cannot be read"):
        embed_images(
            tmp_path / "list.txt", tmp_path / "o.parquet", "timm", str(tmp_path / "model.pth"), architecture="resnet18"
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_snapshot_with_code_in_it_is_not_run(file, siglip_snapshot, cells, tmp_path):
    """`auto_map` names Python files of the snapshot: they are not run, and nobody is asked."""
    folder = tmp_path / "snapshot"
    shutil.copytree(siglip_snapshot, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    content = json.loads((folder / file).read_text())
    content["auto_map"] = {"AutoConfig": "evil.Evil", "AutoImageProcessor": "evil.Evil"}
    (folder / file).write_text(json.dumps(content))
    with contextlib.suppress(EncoderError):
        identity_of("SigLIP", folder, cells, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_architecture_beside_a_model_name_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(ConfigError, match="architecture is for a checkpoint file"):
        embed_images(tmp_path / "list.txt", tmp_path / "o.parquet", "timm", "resnet18", architecture="resnet50")


def test_a_timm_name_that_does_not_exist_names_near_ones(tmp_path):
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(EncoderError, match="resnet50"):
        embed_images(tmp_path / "list.txt", tmp_path / "o.parquet", "timm", "resnet5O")


def identity_of(model, folder, cells, tmp_path, **settings):
    table = tmp_path / "list.txt"
    table.write_text("\n".join(cells[:2]))
    return embed_images(table, tmp_path / "out.parquet", model, str(folder), **settings).identity


def test_the_fingerprint_follows_the_weights_and_the_preprocessing_only(siglip_snapshot, cells, tmp_path):
    """Another place, batch size or file layout of one model: one fingerprint. Other weights or pixels: another."""
    first = identity_of("SigLIP", siglip_snapshot, cells, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(siglip_snapshot, copy)
    assert identity_of("siglip", copy, cells, tmp_path, batch_size=1).fingerprint == first.fingerprint
    assert identity_of("SigLIP", copy, cells, tmp_path, exif="apply").fingerprint != first.fingerprint
    processor = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 2}))
    assert identity_of("SigLIP", copy, cells, tmp_path).fingerprint != first.fingerprint
    (copy / "preprocessor_config.json").write_text(json.dumps(processor))
    weights = load_file(copy / "model.safetensors")
    weights["vision_model.head.mlp.fc1.bias"] += 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert identity_of("SigLIP", copy, cells, tmp_path).fingerprint != first.fingerprint


def test_the_identity_survives_its_json(siglip_snapshot, cells, tmp_path):
    identity = identity_of("SigLIP", siglip_snapshot, cells, tmp_path)
    assert EncoderIdentity.from_json(identity.to_json(), "here") == identity
