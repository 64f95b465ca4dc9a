"""Section 6 of the drop-in contract: what a CLIP or SigLIP vector is, and which models are refused."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike

TAO_NEEDS_ITS_SPEC = "model_config_path is required when model_path is a TAO checkpoint"


@pytest.fixture
def embed(tmp_path, images):
    """Embed all images, or those given, in this process; returns the vectors as a matrix."""

    def run(model, model_path, filepaths=None, **settings):
        table = pa.table({"filepath": list(map(str, filepaths or sorted(images.iterdir())))})
        result = lookalike.embed_images(table, tmp_path / "e.parquet", model, str(model_path), **settings)
        column = pq.read_table(result.path).column("embedding")
        assert column.type == pa.list_(pa.float32())
        return np.stack(column.to_numpy(zero_copy_only=False))

    return run


@pytest.fixture
def edited(tmp_path):
    """A copy of a snapshot with some values of one of its JSON files changed."""

    def copy(snapshot, file=None, **values):
        folder = tmp_path / "edited"
        shutil.copytree(snapshot, folder)
        if file:
            content = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({**content, **values}))
        return folder

    return copy


def edit_weights(folder, edit):
    """Change the weights of a snapshot: `edit` gets and changes a dict of tensors."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reference(family, snapshot, filepaths):
    """The vectors of transformers' own model and Pillow processor."""
    import torch
    from transformers import AutoImageProcessor, CLIPModel, SiglipModel

    processor = AutoImageProcessor.from_pretrained(snapshot, backend="pil")
    model = {"CLIP": CLIPModel, "SigLIP": SiglipModel}[family].from_pretrained(snapshot, dtype=torch.float32).eval()
    vectors = []
    for filepath in filepaths:
        with Image.open(filepath) as image, torch.inference_mode():
            pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
            vision = model.vision_model(pixel_values=pixels).pooler_output
            vectors.append((model.visual_projection(vision) if family == "CLIP" else vision)[0].numpy())
    return np.stack(vectors)


# What a vector is


def test_clip_vectors(embed, clip_snapshot, images):
    """Section 6: CLIP is the pooled class token, final layer norm, visual projection; preprocessed by its processor."""
    expected = reference("CLIP", clip_snapshot, sorted(images.iterdir()))
    np.testing.assert_allclose(embed("CLIP", clip_snapshot), expected, rtol=1e-3, atol=1e-5)
    assert expected.shape == (12, 24)


def test_siglip_vectors(embed, siglip_snapshot, images):
    """Section 6: SigLIP is the attention-pooling head's output; preprocessed by the repository's own processor."""
    expected = reference("SigLIP", siglip_snapshot, sorted(images.iterdir()))
    np.testing.assert_allclose(embed("SigLIP", siglip_snapshot), expected, rtol=1e-3, atol=1e-5)
    assert expected.shape == (12, 32)


def test_vectors_are_not_normalised(embed, clip_snapshot, siglip_snapshot):
    """Section 6: vectors are stored raw, not L2-normalised."""
    for vectors in (embed("CLIP", clip_snapshot), embed("SigLIP", siglip_snapshot)):
        lengths = np.linalg.norm(vectors, axis=1)
        assert (np.abs(lengths - 1) > 1e-2).all()
        assert np.ptp(lengths) > 1e-4


def test_weights_of_half_precision(embed, edited, clip_snapshot):
    """Section 6: stored fp32: a snapshot in half precision is computed and stored in float32."""
    folder = edited(clip_snapshot)
    edit_weights(folder, lambda weights: weights.update({key: value.half() for key, value in weights.items()}))
    np.testing.assert_allclose(embed("CLIP", folder), embed("CLIP", clip_snapshot), rtol=0.1, atol=0.02)


@pytest.mark.parametrize(("family", "sees_the_rim"), [("CLIP", False), ("SigLIP", True)])
def test_crop_and_squash(embed, clip_snapshot, siglip_snapshot, tmp_path, family, sees_the_rim):
    """Section 6: CLIP resizes the shortest edge and crops the centre; SigLIP squashes the whole image."""
    plain = np.random.default_rng(5).integers(0, 256, (32, 128, 3), dtype=np.uint8)
    rimmed = plain.copy()
    rimmed[:, :24] = 255  # outside the central square
    for name, pixels in (("plain", plain), ("rimmed", rimmed)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    snapshot = clip_snapshot if family == "CLIP" else siglip_snapshot
    one, two = embed(family, snapshot, [tmp_path / "plain.png", tmp_path / "rimmed.png"])
    assert np.allclose(one, two, atol=1e-6) != sees_the_rim


@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"rescale_factor": 0.01},
        {"resample": 0},
        {"size": {"shortest_edge": 48}},
        {"do_center_crop": False, "size": {"height": 32, "width": 32}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_processor_settings_come_from_the_repository(embed, edited, clip_snapshot, images, values):
    """Section 6: rescale, mean, std, filter and sizes come from the processor's config."""
    folder = edited(clip_snapshot, "preprocessor_config.json", **values)
    vectors = embed("CLIP", folder)
    expected = reference("CLIP", folder, sorted(images.iterdir()))
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(vectors, embed("CLIP", clip_snapshot), atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA"])
def test_images_are_seen_in_rgb(embed, siglip_snapshot, images, tmp_path, mode):
    """Section 6: preprocessing is on RGB: an image of another mode has the vector of its RGB version."""
    with Image.open(images / "board_02.png") as image:
        other = image.convert(mode)
    path = tmp_path / ("other.tif" if mode == "CMYK" else "other.png")
    other.save(path)
    with Image.open(path) as stored:
        stored.convert("RGB").save(tmp_path / "rgb.png")
    one, two = embed("SigLIP", siglip_snapshot, [path, tmp_path / "rgb.png"])
    np.testing.assert_allclose(one, two, atol=1e-5)


# Names of families, and models that are not of the family


@pytest.mark.parametrize("name", ["CLIP", "clip", "Cl-ip", "_CLIP"])
def test_names_of_clip(embed, clip_snapshot, images, name):
    """Section 6: in `model`, case, `-` and `_` do not matter."""
    assert embed(name, clip_snapshot, [images / "board_00.png"]).shape == (1, 24)


@pytest.mark.parametrize("name", ["SigLIP", "siglip", "SIGLIP", "sig_lip", "Sig-LIP"])
def test_names_of_siglip(embed, siglip_snapshot, images, name):
    """Section 6: in `model`, case, `-` and `_` do not matter."""
    assert embed(name, siglip_snapshot, [images / "board_00.png"]).shape == (1, 32)


@pytest.mark.parametrize("name", ["", "resnet", "CLIP2", "open clip"])
def test_unknown_family(embed, clip_snapshot, name):
    """Section 6: a family that is not known is refused; the message names it and those that are."""
    with pytest.raises(lookalike.ConfigError) as refused:
        embed(name, clip_snapshot)
    assert [part for part in (repr(name), "CLIP", "SigLIP") if part not in str(refused.value)] == []


@pytest.mark.parametrize("asked", ["CLIP", "SigLIP"])
def test_snapshot_of_another_family(embed, clip_snapshot, siglip_snapshot, asked):
    """Section 8: the architecture is read from the model's own config and must agree with `model`."""
    snapshot, found = (siglip_snapshot, "siglip") if asked == "CLIP" else (clip_snapshot, "clip")
    with pytest.raises(lookalike.EncoderError) as refused:
        embed(asked, snapshot)
    message = str(refused.value)
    right = "CLIP" if asked == "SigLIP" else "SigLIP"
    assert [
        part for part in (str(snapshot), f"model={asked}", repr(found), f"model={right}") if part not in message
    ] == []


@pytest.mark.parametrize("model_type", ["vit", "siglip2", "dinov99"])
def test_snapshot_of_no_known_family(embed, edited, siglip_snapshot, model_type):
    """Section 8: a model of neither family is refused, and its own type is named."""
    folder = edited(siglip_snapshot, "config.json", model_type=model_type)
    with pytest.raises(lookalike.EncoderError, match=model_type):
        embed("SigLIP", folder)


def test_fixed_resolution_siglip2_loads_as_siglip(embed, edited, siglip_snapshot, images):
    """Section 6: fixed-resolution SigLIP2 loads as `SigLIP`: SigLIP's classes, bilinear, another tokenizer."""
    folder = edited(
        siglip_snapshot, "preprocessor_config.json", resample=2, do_convert_rgb=None, processor_class="SiglipProcessor"
    )
    expected = reference("SigLIP", folder, sorted(images.iterdir()))
    np.testing.assert_allclose(embed("SigLIP", folder), expected, rtol=1e-3, atol=1e-5)


# Snapshots that are not whole


def test_missing_weight(embed, edited, clip_snapshot):
    """Section 8: a snapshot that lacks a weight of the vision tower is refused, and the weight is named."""
    folder = edited(clip_snapshot)
    edit_weights(folder, lambda weights: weights.pop("vision_model.post_layernorm.weight"))
    with pytest.raises(lookalike.EncoderError, match=r"post_layernorm\.weight") as refused:
        embed("CLIP", folder)
    assert str(folder) in str(refused.value)


def test_weight_of_another_shape(embed, edited, siglip_snapshot):
    """Section 8: a snapshot whose weights do not fit its config is refused."""
    folder = edited(siglip_snapshot)
    edit_weights(folder, lambda weights: weights.update({"vision_model.head.probe": weights["logit_scale"].clone()}))
    with pytest.raises(lookalike.EncoderError, match=r"head\.probe") as refused:
        embed("SigLIP", folder)
    assert str(folder) in str(refused.value)


def test_text_tower_is_not_needed(embed, edited, clip_snapshot):
    """Section 6: images need the vision tower alone: a snapshot without text weights gives the same vectors."""
    folder = edited(clip_snapshot)

    def drop_text(weights):
        for key in [key for key in weights if key.startswith("text_")]:
            del weights[key]

    edit_weights(folder, drop_text)
    np.testing.assert_array_equal(embed("CLIP", folder), embed("CLIP", clip_snapshot))


@pytest.mark.parametrize("size", [0, 4, 1000, -100])
def test_truncated_weights(embed, edited, clip_snapshot, size):
    """Section 8: a weights file that is not whole is refused, and the folder is named."""
    folder = edited(clip_snapshot)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:size])
    with pytest.raises(lookalike.EncoderError) as refused:
        embed("CLIP", folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("content", [None, "", "{", "{}"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_or_damaged_file(embed, edited, clip_snapshot, file, content):
    """Section 8: a snapshot that lacks a file, or holds a damaged one, is refused, and the folder is named."""
    folder = edited(clip_snapshot)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(lookalike.EncoderError) as refused:
        embed("CLIP", folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [{"crop_size": {"height": 48, "width": 48}}, {"do_center_crop": False, "size": {"height": 40, "width": 32}}],
    ids=lambda values: next(iter(values)),
)
def test_processor_of_another_image_size(embed, edited, clip_snapshot, values):
    """Section 8: a processor that makes images of a size that the model does not take is refused."""
    folder = edited(clip_snapshot, "preprocessor_config.json", **values)
    with pytest.raises(lookalike.EncoderError, match="32") as refused:
        embed("CLIP", folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [{"image_mean": None}, {"image_std": [1.0]}, {"resample": "bicubic"}, {"resample": None}, {"rescale_factor": "x"},
     {"image_mean": ["red"] * 3}, {"crop_size": {"height": 32}}],
    ids=str,
)  # fmt: skip
def test_processor_with_a_value_of_the_wrong_kind(embed, edited, clip_snapshot, values):
    """Section 8: what cannot be preprocessing is refused, and the folder is named."""
    folder = edited(clip_snapshot, "preprocessor_config.json", **values)
    with pytest.raises(lookalike.EncoderError) as refused:
        embed("CLIP", folder)
    assert str(folder) in str(refused.value)


def test_model_that_is_nowhere(embed):
    """Section 8: a model path that is no folder and no hub id is refused with a hint."""
    with pytest.raises(lookalike.EncoderError, match="no such folder") as refused:
        embed("CLIP", "no/such/folder")
    assert "no/such/folder" in str(refused.value)


# TAO checkpoints


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".PTH", ".CKPT", ".Pth", ".cKpT"])
def test_tao_checkpoint_needs_its_training_spec(embed, tmp_path, suffix):
    """Section 6: `.pth` and `.ckpt` in any case are TAO checkpoints, and `model_config_path` is required."""
    checkpoint = tmp_path / f"epoch_9{suffix}"
    checkpoint.touch()
    with pytest.raises(lookalike.LookalikeError) as refused:
        embed("SigLIP", checkpoint)
    assert TAO_NEEDS_ITS_SPEC in str(refused.value)


def test_tao_message_on_the_command_line(run_command, tmp_path):
    """Section 6: the message about `model_config_path` is printed, with FAIL and exit status 1."""
    (tmp_path / "list.txt").write_text("a.jpg\n")
    settings = ("input_parquet=list.txt", "output_parquet=e.parquet", "model=SigLIP", "model_path=epoch_9.pth")
    done = run_command("embedding", "image_embeddings", *settings, cwd=tmp_path)
    assert (done.returncode, done.last_line) == (1, "Execution status: FAIL")
    assert TAO_NEEDS_ITS_SPEC in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("there", ["epoch_9.ckpt", "train.yaml"])
def test_missing_tao_file_is_named(embed, tmp_path, there):
    """Section 6: a missing checkpoint or config file is named, the one that is there is not blamed."""
    (tmp_path / there).touch()
    (absent,) = {"epoch_9.ckpt", "train.yaml"} - {there}
    with pytest.raises(lookalike.LookalikeError) as refused:
        embed("SigLIP", tmp_path / "epoch_9.ckpt", model_config_path=str(tmp_path / "train.yaml"))
    assert f"{absent}: does not exist" in str(refused.value)
    assert there not in str(refused.value)


@pytest.mark.parametrize("name", ["epoch_9.pt", "epoch_9.pth.tar", "epoch_9.ckpt.bak", "pth"])
def test_other_suffixes_are_no_tao_checkpoints(embed, tmp_path, name):
    """Section 6: the suffix decides, and `.pt` does not count: the path is taken for a snapshot or a hub id."""
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(lookalike.EncoderError) as refused:
        embed("CLIP", tmp_path / name)
    assert "TAO" not in str(refused.value)
    assert name in str(refused.value)


def test_snapshot_folder_may_contain_dots(embed, clip_snapshot, images, tmp_path):
    """Section 6: a snapshot folder is loaded whatever its name, with `model_config_path` ignored."""
    folder = tmp_path / "clip v1.0.pt"
    shutil.copytree(clip_snapshot, folder)
    vectors = embed("CLIP", folder, [images / "board_00.png"], model_config_path="ignored.yaml")
    assert vectors.shape == (1, 24)
