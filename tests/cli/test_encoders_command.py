"""`lookalike encoders`: the table, one model in detail, and snapshots for machines without a network.

Most calls are made in this process, where the hub's client is pointed to the test's hub; one is the installed command.
"""

import json
import shutil

import huggingface_hub
import pytest

from lookalike import EncoderError, embed_images
from lookalike.encoders.catalogue import advice, known_models
from lookalike.encoders.families import FAMILIES
from lookalike.encoders.fetch import MANIFEST, needed_files
from lookalike.workflow import encoders
from support.hub import COMMIT, serving
from support.inprocess import call_lookalike

FETCH = ("encoders", "fetch", "google/tiny", "--to", "carried")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Call the command; `fails` is what it says when it fails."""
    monkeypatch.chdir(tmp_path)

    def command(*words, fails=""):
        done = call_lookalike(monkeypatch, capsys, *words)
        assert done.returncode == (1 if fails else 0), done.stderr
        assert fails in done.stderr
        assert "Traceback" not in done.stderr
        return done

    return command


@pytest.fixture
def hub(siglip_snapshot, tmp_path, monkeypatch):
    """A hub with one model, which has files that are not needed beside those that are."""
    folder = tmp_path / "repository"
    shutil.copytree(siglip_snapshot, folder)
    (folder / "README.md").write_text("a card")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x" * 20_000)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 20_000)
    with serving() as served:
        served.repositories["google/tiny"] = folder
        served.use(monkeypatch)
        yield served


def test_the_table_has_every_family_and_what_to_pick(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = call("encoders")
    for family in FAMILIES:
        assert family in done.stdout
    for model in known_models():
        assert model.path in done.stdout
    assert "For inspection images (AOI)" in done.stdout


def test_the_table_as_json(call):
    found = json.loads(call("encoders", "--json").stdout)
    assert [row["model"] for row in found["families"]] == list(FAMILIES)
    assert all(row["is_installed"] for row in found["families"] if row["model"] in ("CLIP", "SigLIP", "timm"))
    assert {row["place"] for row in found["models"]} <= {"here", "the hub"}
    assert all(line["what"] and line["why"] for line in found["advice"])


def test_a_family_whose_package_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(encoders, "_version", lambda package: None if package == "timm" else "1")
    rows = {row.model: row for row in encoders.overview().families}
    assert not rows["timm"].is_installed
    assert rows["timm"].installed == "no: pip install timm"
    assert rows["SigLIP"].is_installed


def test_a_package_is_known_by_the_name_that_is_imported():
    """OpenCLIP is `open_clip_torch` on PyPI, and `open_clip` in Python; Pillow is `PIL`."""
    assert encoders._version("PIL") == encoders._version("pillow") is not None
    assert encoders._version("no_such_package_at_all") is None


def test_without_a_gpu_the_smaller_model_is_named():
    with_gpu, without = (" ".join(f"{line.what} {line.why}" for line in advice(has_gpu)) for has_gpu in (True, False))
    if "DINOv2" in FAMILIES:
        assert "dinov2-base" in with_gpu
        assert "dinov2-small" in without


def test_a_model_in_the_hubs_cache_is_here(hub, tmp_path, monkeypatch):
    """Its configuration and its weights are: one of them alone loads nothing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    path = known_models()[0].path
    hub.repositories[path] = hub.repositories["google/tiny"]
    places = []
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(path, name, cache_dir=tmp_path / "cache")
        places.append({row.model.path: row.place for row in encoders.overview().models}[path])
    assert places == ["the hub", "here"]


def test_show_tells_what_the_embedding_step_would_record(siglip_snapshot, images, call, tmp_path):
    words = ("--model", "siglip", "--model-path", siglip_snapshot, "augment=flip", "normalize=true", "--device", "cpu")
    done = call("encoders", "show", *words)
    result = embed_images(
        images, tmp_path / "out.parquet", "SigLIP", str(siglip_snapshot), augment="flip", normalize="true"
    )
    shown = dict(line.split(maxsplit=1) for line in done.lines)
    assert shown["Fingerprint:"] == result.identity.fingerprint
    assert shown["Dimension:"] == "32"
    assert shown["Pooling:"] == "attention, mean of flip"
    assert shown["Normalisation:"] == "l2"
    assert shown["Preprocessing:"].startswith("RGB; resized to 32 x 32, whatever its shape, bicubic; ")
    assert "augment=none|flip|rot90" in shown["Takes:"]


def test_show_takes_a_model_by_its_name_alone(siglip_snapshot, call):
    named = call("encoders", "show", siglip_snapshot, "augment=flip")
    spelled = call("encoders", "show", "--model", "SigLIP", "--model-path", siglip_snapshot, "augment=flip")
    assert "Pooling:        attention, mean of flip" in named.lines
    assert [line for line in named.lines if "Fingerprint" in line] == [
        line for line in spelled.lines if "Fingerprint" in line
    ]
    same = call("encoders", "show", siglip_snapshot, "--model", "siglip", "augment=flip")
    assert same.lines == named.lines


def test_show_describes_a_crop_of_the_middle(clip_snapshot, call):
    done = call("encoders", "show", "--model", "CLIP", "--model-path", clip_snapshot)
    assert "shortest edge resized to 32, bicubic; the middle 32 x 32 cut out; " in done.stdout


def test_show_refuses_what_embedding_refuses(siglip_snapshot, call):
    for words, message in (
        (("--model", "SigLIP"), "model_path"),
        (("--model", "CLIP", "--model-path", siglip_snapshot), "model_type='siglip'"),
        (("--model", "SigLIP", "--model-path", siglip_snapshot, "pooling=nothing"), "pooling='nothing'"),
        ((siglip_snapshot, "--model-path", siglip_snapshot), "leave one out"),
        (("no/such-folder/here",), "no/such-folder/here"),
    ):
        call("encoders", "show", *words, fails=message)


def test_fetch_makes_a_snapshot_that_loads_and_verifies(hub, siglip_snapshot, images, run_command, call, tmp_path):
    done = run_command("lookalike", *FETCH, cwd=tmp_path, env=hub.environment())
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "carried"
    kept = ["README.md", "config.json", MANIFEST, "model.safetensors", "preprocessor_config.json", "tokenizer.json"]
    texts = ["spiece.model", "tokenizer_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept + texts), (
        "neither the second copy of the weights, nor what the client keeps for itself"
    )
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["model"], manifest["revision"], manifest["licence"]) == ("google/tiny", COMMIT, "apache-2.0")
    assert "apache-2.0" in done.stdout
    assert not any("pytorch_model" in line for line in hub.asked)
    call("encoders", "verify", "carried")
    own = embed_images(images, tmp_path / "own.parquet", "SigLIP", str(siglip_snapshot))
    carried = embed_images(images, tmp_path / "carried.parquet", "SigLIP", str(folder))
    assert carried.identity.fingerprint == own.identity.fingerprint
    shown = call("encoders", "show", "--model", "SigLIP", "--model-path", "carried")
    assert f"fetched from google/tiny at {COMMIT}, licence apache-2.0" in shown.stdout
    asked = [one for one in hub.asked if "google/tiny" in one]  # the client may ask for things of its own, too
    call(*FETCH)
    again = [one for one in hub.asked if "google/tiny" in one]
    assert len(again) == len(asked) + 1, "the same snapshot is there already"
    hub.repositories["google/other"] = hub.repositories["google/tiny"]
    call("encoders", "fetch", "google/other", "--to", "carried", fails="has google/tiny at")


def test_a_file_that_arrives_damaged_is_refused(hub, call, tmp_path):
    hub.damaged.add("model.safetensors")
    call(*FETCH, fails="model.safetensors arrived damaged")
    assert not (tmp_path / "carried" / MANIFEST).exists()
    hub.damaged.clear()
    call(*FETCH)


def test_fetch_says_what_the_hub_said(hub, call, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    hub.repositories["meta/gated"] = hub.repositories["google/tiny"]
    hub.gated.add("meta/gated")
    for model, to, message in (
        ("nobody/nothing", "new", "check the id and the revision"),
        ("not a name", "new", "check the id and the revision"),
        ("meta/gated", "new", "accept its terms"),
        ("google/tiny", "full", "is not empty"),
        ("google/tiny", "full/mine.txt", "is a file, and a folder is needed"),
    ):
        call("encoders", "fetch", model, "--to", to, fails=message)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    call(*FETCH, fails="run this on a machine that reaches it")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    call(*FETCH, fails="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")


@pytest.fixture
def carried(hub, call, tmp_path):
    call(*FETCH)
    return tmp_path / "carried"


def test_a_changed_file_is_found_by_verify(carried, call):
    (carried / "tokenizer.json").write_text("[]")
    call("encoders", "verify", "carried", fails="tokenizer.json has other content")
    (carried / MANIFEST).write_text("{")
    call("encoders", "verify", "carried", fails="cannot be read")
    (carried / MANIFEST).unlink()
    call("encoders", "verify", "carried", fails="nothing to compare")


def test_a_snapshot_that_lost_a_file_says_which_and_how_to_bring_it(carried, images, tmp_path):
    (carried / "tokenizer.json").unlink()
    with (carried / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(EncoderError) as refused:
        embed_images(images, tmp_path / "out.parquet", "SigLIP", str(carried))
    for words in (
        "model.safetensors has ", "tokenizer.json is missing",
        f"lookalike encoders fetch google/tiny --revision {COMMIT} --to FOLDER",
    ):  # fmt: skip
        assert words in str(refused.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_says_which(name, siglip_snapshot, images, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(siglip_snapshot, folder)
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=f"the folder has no {name}; `lookalike encoders fetch ID"):
        embed_images(images, tmp_path / "out.parquet", "SigLIP", str(folder))


def test_an_id_without_a_network_says_how_to_carry_the_model(images, run_command, tmp_path):
    done = run_command(
        "embedding", "image_embeddings", f"input_parquet={images}", "output_parquet=out.parquet", "model=SigLIP",
        "model_path=google/siglip-base-patch16-224", cwd=tmp_path, env={"HF_HOME": str(tmp_path / "empty")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "lookalike encoders fetch google/siglip-base-patch16-224 --to FOLDER" in done.stderr


def test_one_kind_of_weights_is_needed():
    both = ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "config.json", "a/config.json"]
    assert needed_files("m", both) == ["config.json", "model.safetensors"]
    assert needed_files("m", both, open_clip=True) == ["config.json", "open_clip_model.safetensors"]
    assert needed_files("m", ["pytorch_model.bin", "modeling.py", "model.fp16.safetensors"]) == [
        "modeling.py", "pytorch_model.bin",
    ]  # fmt: skip
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed_files("m", parts) == parts
    with pytest.raises(EncoderError, match="no weights"):
        needed_files("m", ["tf_model.h5", *parts[:2]])
