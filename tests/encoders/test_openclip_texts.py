"""The text side of OpenCLIP models against open_clip's own `encode_text` and tokenizers, and what is refused."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.encoder_models_tao import openclip_snapshot, randomise
from safetensors.torch import load_file, save_file

import lookalike
from support.parity import check_parity
from support.tokenizers import gemma_tokenizer

open_clip = pytest.importorskip("open_clip")

TEXTS = ["lifted lead", "side light", "Solder bridge, two pins.", "lifted lead", "a dark crack " * 40, "x"]
#: open_clip's own tokenizer has 49,408 tokens.
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
PLAIN = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}
#: As SigLIP's configurations have it, with a tokenizer of transformers.
OTHER = {
    **TEXT,
    "vocab_size": 128,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "proj_type": "linear",
}
CONFIGS = {
    "CLIP": PLAIN,
    "quick GELU, custom text": {**PLAIN, "quick_gelu": True, "custom_text": True},
    "class token and tokens, as CoCa": {
        **PLAIN, "custom_text": True, "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    },
    "a tokenizer of transformers": {
        **PLAIN, "custom_text": True,
        "text_cfg": {**OTHER, "hf_tokenizer_name": "made/up", "tokenizer_kwargs": {"clean": "canonicalize"}},
    },
}  # fmt: skip


def snapshot(folder, config):
    made = openclip_snapshot(folder, config, {})
    if config["text_cfg"].get("hf_tokenizer_name"):
        gemma_tokenizer(made)
    return made


def embed(folder, tmp_path, texts=TEXTS, **settings):
    result = lookalike.embed_texts(
        pa.table({"text": texts}), tmp_path / "texts.parquet", "OpenCLIP", str(folder), **settings
    )
    column = pq.read_table(result.path).column("embedding")
    return result, np.stack(column.to_numpy(zero_copy_only=False))


def reference(model, name):
    """What `encode_text` gives for the tokens of `get_tokenizer`."""
    with torch.inference_mode():
        vectors = model.eval().encode_text(open_clip.get_tokenizer(name)(TEXTS))
    return (vectors[0] if isinstance(vectors, tuple) else vectors).numpy()


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_are_those_of_encode_text(kind, tmp_path):
    """Cut, padded, raw; batches and repeats change nothing; the identity names the image side."""
    folder = snapshot(tmp_path / "model", CONFIGS[kind])
    result, ours = embed(folder, tmp_path, batch_size=2)
    check_parity(ours, reference(open_clip.create_model(f"local-dir:{folder}"), f"local-dir:{folder}"))
    np.testing.assert_array_equal(ours[0], ours[3])
    assert np.abs(ours[0] - ours[1]).max() > 1e-3
    cut = 2 if "transformers" in kind else 1  # its tokens are letters
    assert any(f"{cut} texts are longer than the 16 tokens" in warning for warning in result.warnings)
    assert result.identity.origin.libraries["open_clip"] == open_clip.__version__


def test_a_checkpoint_file_with_a_name(tmp_path, monkeypatch):
    name = "ViT-S-32"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, PLAIN)
    model = randomise(open_clip.create_model(name, load_weights=False))
    state = {f"module.{key}": weight for key, weight in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "epoch_1.pt")
    _, ours = embed(tmp_path / "epoch_1.pt", tmp_path, architecture=name)
    check_parity(ours, reference(model, name))


def test_texts_are_compared_with_images_of_their_model(tmp_path, images):
    """No word about different encoders with the same model, and a refusal with another."""
    folder = snapshot(tmp_path / "model", PLAIN)
    texts = embed(folder, tmp_path)[0].path
    for one, other in (
        (folder, False),
        (snapshot(tmp_path / "other", {**PLAIN, "vision_cfg": {**VIT, "layers": 1}}), True),
    ):
        pool = lookalike.embed_images(str(images), tmp_path / f"{other}.parquet", "OpenCLIP", str(one)).path
        if other:
            with pytest.raises(lookalike.EncoderMismatch):
                lookalike.mine(pool, texts, tmp_path / "mined.parquet", topn=1)
        else:
            assert not lookalike.mine(pool, texts, tmp_path / "mined.parquet", topn=1).warnings


def test_the_run_mines_by_texts(run_command, tmp_path, images):
    folder = snapshot(tmp_path / "model", PLAIN)
    done = run_command(
        "lookalike", "mine", "--text", "a dark crack", "--pool", str(images), "--out", "results", "--model", "openclip",
        "--model-path", str(folder), "--run-dir", "run", "topn=2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pairs = pq.read_table(tmp_path / "run" / "mined_pairs.parquet").to_pandas()
    assert set(pairs.target_filepath) == {"a dark crack"}


def edit(folder, **settings):
    """Change `text_cfg` of a snapshot."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(settings)
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "settings",
    [{"tokenizer_kwargs": {"clean": "whitespace"}}, {"pool_type": "first"}, {"no_causal_mask": False}, {"heads": 4}],
    ids=str,
)
def test_what_weights_do_not_tell_is_in_the_identity(settings, tmp_path):
    """The tokenizer, and the settings of the text tower: with others, the same weights give other vectors."""
    folder = snapshot(tmp_path / "model", CONFIGS["a tokenizer of transformers"])
    before, _ = embed(folder, tmp_path)
    edit(folder, **settings)
    after, _ = embed(folder, tmp_path)
    assert before.identity.fingerprint != after.identity.fingerprint
    assert before.identity.model.weights == after.identity.model.weights


def test_texts_with_another_gelu_are_not_compared_with_its_images(tmp_path, images):
    """The same weights: without the GELU in the identity it would be one model."""
    folder = snapshot(tmp_path / "model", PLAIN)
    pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", "OpenCLIP", str(folder)).path
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(lookalike.EncoderMismatch, match="pooling"):
        lookalike.mine(pool, embed(folder, tmp_path)[0].path, tmp_path / "mined.parquet", topn=1)


def test_a_known_model_has_its_own_name(tmp_path):
    """Several models of open_clip have one image tower; which one it is, the text side tells."""
    from lookalike.encoders.openclip import _name_of

    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "ViT-SO400M-14-SigLIP-384"):
        assert _name_of(open_clip.get_model_config(name)) == name


def images_alone(folder):
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    save_file({name: weight for name, weight in weights.items() if name.startswith("visual.")}, path)


def no_text_config(folder):
    config = json.loads((folder / "open_clip_config.json").read_text())
    del config["model_cfg"]["text_cfg"]
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def few_tokens(folder):
    config = {**PLAIN, "text_cfg": {**TEXT, "vocab_size": 64}}
    shutil.rmtree(folder)
    snapshot(folder, config)


def hub_tower(folder):
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": str(folder / "nothing"), "hf_proj_type": "mlp"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (images_alone, "does not fit the text side"),
        (no_text_config, "has no text side"),
        (few_tokens, "the model knows 64"),
        (hub_tower, "cannot build its text side"),
        (lambda folder: edit(folder, widthh=3), "cannot build its text side"),
        (lambda folder: edit(folder, tokenizer_kwargs={"clean": "nothing"}), "has no tokenizer that can be read"),
        (lambda folder: edit(folder, tokenizer_kwargs={"reduction_mask": "random"}), "leaves out tokens"),
    ],
)
def test_a_model_without_a_text_side_that_can_be_used(change, words, tmp_path):
    folder = snapshot(tmp_path / "model", PLAIN)
    change(folder)
    with pytest.raises(lookalike.EncoderError, match=words):
        embed(folder, tmp_path)
    assert not (tmp_path / "texts.parquet").exists()


def test_the_tokenizer_of_a_checkpoint_is_named_where_it_cannot_be_fetched(tmp_path, monkeypatch):
    """With a slash in the name, too, which open_clip allows."""
    config = CONFIGS["a tokenizer of transformers"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-S-32", config)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else the hub is tried for 40 s
    model = randomise(open_clip.create_model("ViT-S-32", load_weights=False))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    with pytest.raises(lookalike.EncoderError, match="the tokenizer of this model cannot be loaded") as refused:
        embed(tmp_path / "epoch_1.pt", tmp_path, architecture="ViT-S/32")
    assert refused.value.where == "made/up"


def test_a_snapshot_without_its_tokenizer(tmp_path):
    folder = openclip_snapshot(tmp_path / "model", CONFIGS["a tokenizer of transformers"], {})
    with pytest.raises(lookalike.EncoderError, match="has no tokenizer that can be read"):
        embed(folder, tmp_path)
