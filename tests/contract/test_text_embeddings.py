"""Section 2 of the drop-in contract, `embedding text_embeddings`, and texts as targets of `tmm nearest_neighbors`."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.encoder_models import MODELS

import lookalike
from support import snapshots
from support.tokenizers import gemma_tokenizer

PASS, FAIL = "Execution status: PASS", "Execution status: FAIL"
TEXTS = ["lifted lead", "side light", "Solder bridge, two pins.", "lifted lead", "a dark crack " * 40, "x"]


def vectors(path):
    column = pq.read_table(path).column("embedding")
    assert column.type == pa.list_(pa.float32())
    return np.stack(column.to_numpy(zero_copy_only=False))


def reference(folder, texts, length):
    """What transformers' own whole model and tokenizer give."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        return model.get_text_features(**inputs).pooler_output.numpy()


def cosines(one, two):
    one, two = one.astype(np.float64), two.astype(np.float64)
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.fixture(scope="session")
def small_letters(tmp_path_factory, siglip_snapshot):
    """A SigLIP2 snapshot of fixed resolution, whose tokenizer tells capital letters from small ones."""
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip2"
    shutil.copytree(siglip_snapshot, folder, ignore=shutil.ignore_patterns("spiece.model", "tokenizer*", "special*"))
    gemma_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def naflex(tmp_path_factory):
    """A SigLIP2 snapshot of variable resolution, with its own kind of tokenizer."""
    folder = MODELS["SigLIP2: NaFlex"](tmp_path_factory.mktemp("models"), True)
    gemma_tokenizer(folder, "Siglip2Tokenizer")
    return folder


@pytest.mark.parametrize(
    ("model", "snapshot", "length"),
    [
        ("CLIP", "clip_snapshot", 77),
        ("SigLIP", "siglip_snapshot", 64),
        ("sig-lip_2", "small_letters", 64),
        ("SigLIP2", "naflex", 64),
        ("auto", "naflex", 64),
    ],
)
def test_vectors_are_those_of_get_text_features(model, snapshot, length, tmp_path, request):
    """Padded to the full length, cut, raw, float32; batches and repeats change nothing."""
    folder = request.getfixturevalue(snapshot)
    result = lookalike.embed_texts(
        pa.table({"text": TEXTS}), tmp_path / "texts.parquet", model, str(folder), batch_size=2
    )
    ours, expected = vectors(result.path), reference(folder, TEXTS, length)
    assert cosines(ours, expected).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-4)
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).min() > 1e-3
    np.testing.assert_array_equal(ours[0], ours[3])
    # A random model could map all texts to one vector, and then any texts would agree.
    assert cosines(ours[:1], ours[1:3]).max() < 0.9999
    assert any("1 texts are longer than the" in warning for warning in result.warnings)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "txt"])
def test_every_kind_of_table(kind, clip_snapshot, tmp_path):
    """`text`, `embedding`, then the other columns by position; what looks like a number or NaN stays text."""
    rows = pd.DataFrame({"label": ["7", "08", "NA"], "text": ["01", "lifted lead", "nan"], "embedding": [1, 2, 3]})
    given = tmp_path / f"texts.{kind}"
    if kind == "parquet":
        rows.to_parquet(given)
    elif kind == "jsonl":
        rows.to_json(given, orient="records", lines=True)
    elif kind == "txt":
        given.write_text("# comment\n01\n\nlifted lead\nnan\n", encoding="utf-8")
    else:
        rows.to_csv(given, index=False, sep={"csv": ",", "tsv": "\t"}[kind])
    result = lookalike.embed_texts(given, tmp_path / "new" / "out.parquet", "CLIP", str(clip_snapshot))
    table = pq.read_table(result.path)
    columns = ["text", "embedding"] if kind == "txt" else ["text", "embedding", "label"]
    assert table.column_names == list(result.columns) == columns
    assert table.column("text").to_pylist() == ["01", "lifted lead", "nan"]
    if kind != "txt":
        assert table.column("label").to_pylist() == ["7", "08", "NA"]


def test_spec_file_and_flags(run_command, clip_snapshot, tmp_path):
    """As every drop-in command: spec < override, what it prints, `--cfg=job`, `--help`, unknown and missing keys."""
    (tmp_path / "texts.txt").write_text("lifted lead\nside light\n")
    (tmp_path / "spec.yaml").write_text(
        f"input_parquet: texts.txt\noutput_parquet: spec.parquet\nmodel: CLIP\nmodel_path: {clip_snapshot}\n"
    )
    words = ("embedding", "text_embeddings", "-e", "spec.yaml")
    done = run_command(*words, "output_parquet=new/override.parquet", "model=c_lip", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert "Embeddings saved to: new/override.parquet" in done.lines
    assert "Rows: 2" in done.lines
    assert "Columns: ['text', 'embedding']" in done.lines
    assert pq.read_schema(tmp_path / "new" / "override.parquet").names == ["text", "embedding"]
    assert not (tmp_path / "spec.parquet").exists()
    shown = run_command(*words, "--cfg=job", cwd=tmp_path)
    assert "batch_size: 64" in shown.body
    assert "text_embeddings" in run_command("embedding", "--help", cwd=tmp_path).stdout
    assert "batch_size (int, default 64)" in run_command(*words[:2], "--help", cwd=tmp_path).stdout
    unknown = run_command(*words, "batchsize=3", cwd=tmp_path)
    assert (unknown.returncode, unknown.last_line) == (1, FAIL)
    assert "did you mean 'batch_size'?" in unknown.stderr
    missing = run_command(*words[:2], "model=CLIP", cwd=tmp_path)
    assert "MissingMandatoryValue" in missing.stderr


def test_empty_long_and_capital_texts_are_counted(small_letters, tmp_path):
    texts = ["", "  ", "Lifted lead", "side light", "a" * 300, "B" * 64]
    result = lookalike.embed_texts(pd.DataFrame({"text": texts}), tmp_path / "t.parquet", "SigLIP", str(small_letters))
    assert result.rows == 6
    assert np.isfinite(vectors(result.path)).all()
    empty, long, capital = result.warnings
    assert empty.startswith("2 texts are empty")
    assert long.startswith("1 texts are longer than the 64 tokens")
    assert capital.startswith("2 texts have capital letters")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"text": ["a", None, "b", float("nan")]}), r"column 'text' has 2 nulls, first in rows \[1, 3\]"),
        (pa.table({"text": pa.array([], pa.string())}), "has no rows"),
        (pa.table({"filepath": ["a.png"]}), "has no column 'text'"),
        (pa.table({"text": [1, 2]}), "column 'text' holds int64, not text"),
    ],
)
def test_tables_that_are_refused(table, words, clip_snapshot, tmp_path):
    with pytest.raises(lookalike.TableError, match=words):
        lookalike.embed_texts(table, tmp_path / "out.parquet", "CLIP", str(clip_snapshot))
    assert not (tmp_path / "out.parquet").exists()


def test_models_that_are_refused(clip_snapshot, siglip_snapshot, tmp_path):
    texts = pa.table({"text": ["a"]})
    with pytest.raises(lookalike.ConfigError, match="model=timm has no text side"):
        lookalike.embed_texts(texts, tmp_path / "out.parquet", "timm", "resnet18")
    with pytest.raises(lookalike.EncoderError, match="model=SigLIP was asked for"):
        lookalike.embed_texts(texts, tmp_path / "out.parquet", "SigLIP", str(clip_snapshot))
    images_only = tmp_path / "images only"
    shutil.copytree(clip_snapshot, images_only)
    from safetensors.torch import load_file, save_file

    weights = load_file(images_only / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("text_model")}
    save_file(kept, images_only / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(lookalike.EncoderError, match="weights are missing"):
        lookalike.embed_texts(texts, tmp_path / "out.parquet", "CLIP", str(images_only))


@pytest.mark.parametrize(
    ("model", "snapshot"), [("CLIP", "clip_snapshot"), ("SigLIP", "siglip_snapshot"), ("SigLIP2", "naflex")]
)
@pytest.mark.parametrize("kept", ["", "tokenizer_config.json"])
def test_a_snapshot_without_its_tokenizer(model, snapshot, kept, tmp_path, request):
    """transformers makes one of CLIP and of SigLIP2 that knows no word at all, and says nothing."""
    bare = tmp_path / "bare"
    shutil.copytree(request.getfixturevalue(snapshot), bare)
    for file in [*bare.glob("*token*"), *bare.glob("spiece*")]:
        if file.name != kept:
            file.unlink()
    with pytest.raises(lookalike.EncoderError, match="has no tokenizer that can be read"):
        lookalike.embed_texts(pa.table({"text": ["a"]}), tmp_path / "out.parquet", model, str(bare))


def test_a_tokenizer_of_another_model(clip_snapshot, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(clip_snapshot, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["x</w>"] = 100_000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(lookalike.EncoderError, match="gives the token number 100000, and the model knows 100"):
        lookalike.embed_texts(pa.table({"text": ["x"]}), tmp_path / "out.parquet", "CLIP", str(folder))


@pytest.mark.parametrize("package", ["sentencepiece", "protobuf"])
def test_siglips_tokenizer_without_its_packages(package, siglip_snapshot, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    name = {"protobuf": "google.protobuf"}.get(package, package)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module == name else find(module, *rest)
    )
    with pytest.raises(lookalike.MissingDependency, match=rf"(?s)'{package}' is needed .*'lookalike\[text\]'"):
        lookalike.embed_texts(pa.table({"text": ["a"]}), tmp_path / "out.parquet", "SigLIP", str(siglip_snapshot))


# Texts and images


@pytest.fixture
def sides(tmp_path, images):
    """A function that embeds texts and images with one or two models, and returns both tables."""

    def make(text_model, image_model, texts=None, **settings):
        table = pa.table(texts or {"text": ["lifted lead", "side light"], "label": ["a", "b"]})
        target = lookalike.embed_texts(table, tmp_path / "texts.parquet", "CLIP", str(text_model)).path
        pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", "CLIP", str(image_model), **settings).path
        return target, pool

    return make


def test_texts_find_images_of_their_model(sides, clip_snapshot, run_command, tmp_path):
    """Exactly the nearest by cosine; the pair table names each text; no word about different encoders."""
    target, pool = sides(clip_snapshot, clip_snapshot)
    done = run_command(
        "tmm", "nearest_neighbors", f"source_parquet={pool}", f"target_parquet={target}",
        "output_parquet=mined.parquet", "topn=3", "knn_metric=cosine", cwd=tmp_path,
    )  # fmt: skip
    assert done.last_line == PASS, done.stderr
    assert "different" not in done.stderr
    texts, pictures = vectors(target).astype(np.float64), vectors(pool).astype(np.float64)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    nearest = np.argsort(1 - texts @ pictures.T, axis=1, kind="stable")[:, :3]
    pairs = pq.read_table(tmp_path / "mined_pairs.parquet").to_pandas()
    assert pairs.source_row.tolist() == nearest.ravel().tolist()
    assert pairs.target_filepath.tolist() == ["lifted lead"] * 3 + ["side light"] * 3
    names = pq.read_table(pool).column("filepath").to_pylist()
    mined = pq.read_table(tmp_path / "mined.parquet").column("filepath").to_pylist()
    assert mined == list(dict.fromkeys(names[row] for row in nearest.ravel()))


def test_how_files_become_pixels_does_not_matter_to_a_text(sides, clip_snapshot, tmp_path):
    target, pool = sides(clip_snapshot, clip_snapshot, exif="apply", augment="flip", precision="bf16")
    assert not lookalike.mine(pool, target, tmp_path / "mined.parquet").warnings


@pytest.mark.parametrize("names", [("SigLIP", "SigLIP2"), ("SigLIP2", "auto")])
def test_one_model_by_two_names(names, small_letters, images, tmp_path):
    """A fixed-resolution SigLIP2 snapshot loads as SigLIP, too; both are one model."""
    texts = pa.table({"text": ["lifted lead"]})
    target = lookalike.embed_texts(texts, tmp_path / "texts.parquet", names[0], str(small_letters))
    pool = lookalike.embed_images(str(images), tmp_path / "pool.parquet", names[1], str(small_letters))
    assert not lookalike.mine(pool.path, target.path, tmp_path / "mined.parquet").warnings


def test_images_that_are_pooled_in_another_way_are_no_match(sides, clip_snapshot, tmp_path):
    texts, pool = sides(clip_snapshot, clip_snapshot)
    pooled = lookalike.embed_images(
        pa.table({"filepath": pq.read_table(pool).column("filepath")}), tmp_path / "mean.parquet", "CLIP",
        str(clip_snapshot), pooling="mean",
    )  # fmt: skip
    with pytest.raises(lookalike.EncoderMismatch, match="pooling"):
        lookalike.mine(pooled.path, texts, tmp_path / "mined.parquet")


def test_texts_of_another_model_are_refused(sides, clip_snapshot, tmp_path):
    other = snapshots.clip(tmp_path / "other", seed=1)
    target, pool = sides(other, clip_snapshot)
    with pytest.raises(lookalike.EncoderMismatch, match=r"differ in weights") as refused:
        lookalike.mine(pool, target, tmp_path / "mined.parquet")
    assert "texts" in str(refused.value)
    assert not (tmp_path / "mined.parquet").exists()


def test_images_of_length_1_are_compared_with_texts_of_length_1(sides, clip_snapshot, tmp_path):
    target, pool = sides(clip_snapshot, clip_snapshot, normalize="true")
    with pytest.raises(lookalike.EncoderMismatch, match="differ in normalisation"):
        lookalike.mine(pool, target, tmp_path / "mined.parquet")
    texts = pa.table({"text": ["lifted lead"]})
    again = lookalike.embed_texts(texts, tmp_path / "unit.parquet", "CLIP", str(clip_snapshot), normalize="true")
    np.testing.assert_allclose(np.linalg.norm(vectors(again.path), axis=1), 1, rtol=1e-6)
    lookalike.mine(pool, again.path, tmp_path / "mined.parquet")


def test_vectors_of_texts_are_never_taken_for_those_of_images(sides, clip_snapshot, images, tmp_path):
    """A table of captions has paths, too, and would be found by them."""
    paths = sorted(map(str, images.iterdir()))
    target, _ = sides(clip_snapshot, clip_snapshot, {"text": ["lifted lead"] * len(paths), "filepath": paths})
    with pytest.raises(lookalike.EncoderMismatch):
        lookalike.embed_images(
            str(images), tmp_path / "again.parquet", "CLIP", str(clip_snapshot), reuse=str(target), cache_dir="off"
        )


def test_the_identity_names_the_images_encoder(sides, clip_snapshot):
    target, pool = (
        json.loads(pq.read_schema(path).metadata[b"lookalike"]) for path in sides(clip_snapshot, clip_snapshot)
    )
    assert target["images"] == pool["model"]
    assert "images" not in pool
    assert target["model"]["architecture"] == "CLIPTextModelWithProjection"
    assert target["fingerprint"] != pool["fingerprint"]


def test_identities_of_images_are_as_they_were(tmp_path):
    """Tables of before stay readable, and their fingerprints stay."""
    text = json.dumps(
        {
            "version": 1,
            "fingerprint": "02975391db037b8d988100b77f27fda04dd0a945fb9ab8d10719eaf1a8e375c1",
            "model": {
                "family": "CLIP", "architecture": "CLIPVisionModelWithProjection", "dimension": 24, "weights": "a",
                "preprocessing": "b", "pooling": "class_token", "normalisation": "none",
            },
            "numerics": {"precision": "fp32", "runtime": "torch-cpu", "decoder": "pillow"},
            "origin": {"model_path": "m", "libraries": {}},
        },
        sort_keys=True,
    )  # fmt: skip
    identity = lookalike.EncoderIdentity.from_json(text, "here")
    assert identity.to_json() == text


def test_a_killed_run_goes_on(start_command, run_command, clip_snapshot, tmp_path):
    """Finished shards stay, and the result is that of an undisturbed run, byte for byte."""
    (tmp_path / "texts.txt").write_text("\n".join(f"text {row}" for row in range(60)))
    words = (
        "embedding", "text_embeddings", "input_parquet=texts.txt", "model=CLIP", f"model_path={clip_snapshot}",
        "shard_rows=5", "batch_size=1",
    )  # fmt: skip
    process = start_command(*words, "output_parquet=killed.parquet", cwd=tmp_path)
    markers = tmp_path / ".killed.parquet.work"
    while process.poll() is None and not list(markers.glob("shard-00002.json")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed.parquet").exists(), "too quick to be killed"
    done = run_command(*words, "output_parquet=killed.parquet", cwd=tmp_path)
    assert "going on with an unfinished run" in done.stderr
    run_command(*words, "output_parquet=whole.parquet", cwd=tmp_path)
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
