"""A model that is remembered: not loaded where the cache knows all images, and never believed where it changed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.encoder_models import MODELS
from PIL import Image

from lookalike import embed_images
from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding import remembered
from lookalike.embedding.cache_folder import clear
from lookalike.errors import EncoderError
from support import snapshots

OLD = 1_600_000_000 * 10**9


def picture(path, number):
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(OLD, OLD))


@pytest.fixture
def model(tmp_path, clip_snapshot):
    return shutil.copytree(clip_snapshot, tmp_path / "model")


@pytest.fixture
def embed(tmp_path, model, monkeypatch):
    """Embed twelve pictures with one cache; returns how often the model was loaded, and the vectors."""
    (tmp_path / "pool").mkdir()
    for number in range(12):
        picture(tmp_path / "pool" / f"{number:02}.png", number)
    monkeypatch.setattr(remembered, "_SETTLED_NS", 0)
    loads = []
    load = remembered.load_model
    monkeypatch.setattr(remembered, "load_model", lambda *given: (loads.append(given), load(*given))[1])

    def run(family="CLIP", **settings):
        loads.clear()
        table = pa.table({"filepath": sorted(map(str, (tmp_path / "pool").iterdir()))})
        settings = {"cache_dir": str(tmp_path / "cache"), "device": "cpu", **settings}
        path = embed_images(table, tmp_path / "out.parquet", family, str(model), **settings).path
        return len(loads), np.stack(pq.read_table(path).column("embedding").to_numpy())

    return run


def memory(tmp_path):
    return list((tmp_path / "cache").glob("*.encoder.json"))


def test_a_run_with_a_warm_cache_does_not_even_load_torch(embed, model, tmp_path):
    _, vectors = embed()
    before = (tmp_path / "out.parquet").read_bytes()
    program = (
        "import sys, lookalike; lookalike.embed_images(*sys.argv[1:3], 'CLIP', sys.argv[3], cache_dir=sys.argv[4], "
        "device='cpu'); print({'torch', 'transformers'} & set(sys.modules))"
    )
    arguments = (tmp_path / "pool", tmp_path / "out.parquet", model, tmp_path / "cache")
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert (tmp_path / "out.parquet").read_bytes() == before  # with the same identity, too
    assert len(vectors) == 12


def hub_snapshot(home, model, commit):
    """Put a snapshot into the cache of the hub's library, and let the name stand for it from now on."""
    place = home / "hub" / "models--acme--tiny"
    shutil.copytree(model, place / "snapshots" / commit)
    for file in (place / "snapshots" / commit).iterdir():
        os.utime(file, ns=(OLD, OLD))
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)


def test_a_name_of_the_hub_is_remembered_with_its_snapshot(model, tmp_path):
    """Each call in a process of its own: the hub's library reads its settings when it is imported."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        picture(tmp_path / "pool" / f"{number}.png", number)
    program = (
        "import sys, lookalike; path = lookalike.embed_images(*sys.argv[1:3], 'CLIP', 'acme/tiny', device='cpu', "
        "cache_dir=sys.argv[3]).path; print('transformers' in sys.modules)"
    )
    arguments = (tmp_path / "pool", tmp_path / "out.parquet", tmp_path / "cache")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}

    def loaded():
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip() == "True", (tmp_path / "out.parquet").read_bytes()

    hub_snapshot(tmp_path / "home", model, "a" * 40)
    (first, vectors), (second, again) = loaded(), loaded()
    assert (first, second) == (True, False)
    assert vectors == again
    snapshots.clip(tmp_path / "other", seed=1)
    hub_snapshot(tmp_path / "home", tmp_path / "other", "b" * 40)
    third, others = loaded()
    assert third, "the name stands for another snapshot"
    assert others != vectors


@pytest.mark.parametrize("name", ["SigLIP2: NaFlex", "DINOv3"])
def test_a_model_with_a_preprocessing_of_its_own_is_remembered(name, embed, model, tmp_path):
    """Patches of a variable grid, and a resize of numbers: what is remembered of them is whole."""
    shutil.rmtree(model)
    MODELS[name](model, True)
    loads, vectors = embed(family="auto")
    again, same = embed(family="auto")
    assert (loads, again) == (1, 0)
    np.testing.assert_array_equal(same, vectors)
    picture(tmp_path / "pool" / "new.png", 99)
    assert len(embed(family="auto")[1]) == 13


def test_other_weights_in_the_same_folder_are_loaded(embed, model, tmp_path):
    assert embed()[0] == 1
    times, vectors = embed()
    assert times == 0
    snapshots.clip(tmp_path / "other", seed=1)
    weights = model / "model.safetensors"
    stamp = weights.stat()
    shutil.copyfile(tmp_path / "other" / "model.safetensors", weights)
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same size and modification time
    assert weights.stat().st_size == stamp.st_size
    times, others = embed()
    assert times == 1
    assert not np.allclose(vectors, others, atol=1e-3)


def test_a_new_image_needs_the_model(embed, tmp_path, monkeypatch):
    """Also one that the sample does not show, in the middle of the run."""
    embed()
    picture(tmp_path / "pool" / "055.png", 99)
    monkeypatch.setattr(remembered, "_SAMPLE", 2)
    times, vectors = embed()
    assert times == 1
    assert len(memory(tmp_path)) == 1
    np.testing.assert_allclose(vectors, embed(cache_dir="off")[1], rtol=1e-4, atol=1e-5)
    assert embed()[0] == 0
    picture(tmp_path / "pool" / "000.png", 100)
    assert embed()[0] == 1


def test_a_dry_run_leaves_what_is_remembered(embed, model, tmp_path):
    embed()
    (file,) = memory(tmp_path)
    before = file.read_bytes()
    settings = ImageEmbeddingsConfig("", "", "CLIP", str(model), cache_dir=str(tmp_path / "cache"), device="cpu")
    for paths in ([str(tmp_path / "new.png")], [str(tmp_path / "pool" / "00.png")]):
        remembered.open_encoder(settings, "cpu", [paths], remember=False)
        assert file.read_bytes() == before


def test_an_image_that_cannot_be_read_needs_no_model(embed, tmp_path):
    (tmp_path / "pool" / "055.png").write_bytes(b"no picture")
    assert embed()[0] == 1
    times, vectors = embed()
    assert (times, len(vectors)) == (0, 12)


def test_a_model_that_is_another_one_when_it_is_needed_ends_the_run(embed, model, tmp_path, monkeypatch):
    embed()
    picture(tmp_path / "pool" / "055.png", 99)
    monkeypatch.setattr(remembered, "_SAMPLE", 2)
    snapshots.clip(tmp_path / "other", seed=1)
    state = remembered._state

    def change_then(files):  # the state of before, and other weights from then on
        found = state(files)
        shutil.copyfile(tmp_path / "other" / "model.safetensors", model / "model.safetensors")
        return found

    monkeypatch.setattr(remembered, "_state", change_then)
    with pytest.raises(EncoderError, match="not the one that it was when the run began"):
        embed()
    monkeypatch.setattr(remembered, "_state", state)
    times, vectors = embed()
    assert (times, len(vectors)) == (1, 13)
    np.testing.assert_allclose(vectors, embed(cache_dir="off")[1], rtol=1e-4, atol=1e-5)


def test_it_is_not_believed_where_it_cannot_be_sure(embed, tmp_path, monkeypatch):
    embed()
    (file,) = memory(tmp_path)
    file.write_text("{}")
    assert embed()[0] == 1  # damaged
    assert embed(verify="content")[0] == 1  # the images have to be read
    assert embed(cache_dir="off")[0] == 1
    monkeypatch.setattr(remembered, "_version", lambda package: "another")
    assert embed()[0] == 1


def test_a_model_that_was_just_written_is_not_remembered(embed, tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "_SETTLED_NS", 3600 * 10**9)
    embed()
    assert not memory(tmp_path)
    assert embed()[0] == 1


def test_clearing_the_cache_forgets_the_model(embed, tmp_path):
    embed()
    clear(tmp_path / "cache")
    assert not memory(tmp_path)
    assert embed()[0] == 1
