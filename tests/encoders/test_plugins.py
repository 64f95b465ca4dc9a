"""Encoders of other packages: the example in `examples/encoder_plugin`, really built and installed, and broken ones."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "encoder_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example, as pip installs it."""
    place = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", str(place), str(EXAMPLE)],
        check=True, capture_output=True,
    )  # fmt: skip
    return place


def write_plugin(place, name, content, entry=None):
    """A package with an entry point, as its installed files."""
    module = f"{name.lower()}_plugin"
    (place / f"{module}.py").write_text(content)
    info = place / f"{module}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[lookalike.encoders]\n{name} = {entry or f'{module}:FAMILY'}\n")


@pytest.fixture
def embed(run_command, images, tmp_path):
    def run(model, place, *words, path="weights"):
        inherited = os.environ.get("PYTHONPATH")
        return run_command(
            "embedding", "image_embeddings", f"input_parquet={images}", "output_parquet=out.parquet", f"model={model}",
            f"model_path={path}", *words, cwd=tmp_path,
            env={"PYTHONPATH": os.pathsep.join([str(place), *([inherited] if inherited else [])])},
        )  # fmt: skip

    return run


def test_the_example_embeds(embed, installed, images, tmp_path):
    """Its vectors are the mean colours of each image, and its name counts in any spelling."""
    done = embed("colour-grid", installed)
    assert done.last_line == "Execution status: PASS", done.stderr
    ours = np.stack(pq.read_table(tmp_path / "out.parquet").column("embedding").to_numpy())
    assert ours.shape == (12, 192)
    for vector, path in zip(ours, sorted(images.iterdir()), strict=True):
        small = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        pixels = np.asarray(small, np.float64).reshape(8, 8, 8, 8, 3) / 255
        np.testing.assert_allclose(vector, pixels.mean((1, 3)).transpose(2, 0, 1).ravel(), atol=1e-5)


def test_a_changed_plugin_is_asked_again(embed, installed, tmp_path, images):
    """Its identity is not remembered over its own code."""
    place = tmp_path / "site"
    place.mkdir()
    code = (installed / "lookalike_colour_grid.py").read_text()
    (tmp_path / "weights").touch()
    cached = f"cache_dir={tmp_path / 'cache'}"
    write_plugin(place, "Grid", code)
    assert embed("Grid", place, cached).last_line.endswith("PASS")
    assert "From the cache: 12 images" in embed("Grid", place, cached).stdout
    (place / "grid_plugin.py").write_text(code.replace("CELLS = 8", "CELLS = 4"))
    done = embed("Grid", place, cached)
    assert "From the cache: 0 images" in done.stdout, done.stderr
    assert len(pq.read_table(tmp_path / "out.parquet").column("embedding")[0].as_py()) == 48


def ask(place, code):
    """What some code prints, with a folder of packages on the path."""
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("content", "entry", "words"),
    [
        ("import no_such_package_at_all", None, "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("1 / 0", None, "ZeroDivisionError"),
        ("FAMILY = 7", None, "is a int, not a Family"),
        ("", "broken_plugin:NOTHING", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_named(content, entry, words, tmp_path):
    write_plugin(tmp_path, "Broken", content, entry)
    code = (
        "from lookalike.encoders.families import find_family\n"
        "from lookalike.errors import EncoderError\n"
        "try:\n    find_family('broken')\nexcept EncoderError as error:\n    print(error)"
    )
    said = ask(tmp_path, code)
    assert "the plug-in Broken of broken-plugin 2.0" in said
    assert words in said


def test_a_broken_plugin_breaks_nothing_else(embed, clip_snapshot, tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    write_plugin(place, "Broken", "import no_such_package_at_all")
    done = embed("broken", place)
    assert (done.returncode, done.last_line) == (1, "Execution status: FAIL")
    assert "the plug-in Broken of broken-plugin 2.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert embed("CLIP", place, path=clip_snapshot).last_line == "Execution status: PASS"
    unknown = embed("CLAP", place)
    assert "Broken" in unknown.stderr.split("Known: ")[1]


def test_a_plugin_cannot_take_a_name_of_lookalike(tmp_path):
    write_plugin(tmp_path, "CLIP", "raise RuntimeError('imported')")
    code = "from lookalike.encoders.families import find_family\nprint(find_family('clip').module)"
    assert ask(tmp_path, code) == "lookalike.encoders.huggingface"


def test_two_packages_of_one_name_are_refused(embed, installed, tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    write_plugin(place, "One", "FAMILY = 7")
    write_plugin(place, "Two", "FAMILY = 7")
    (place / "two_plugin-2.0.dist-info" / "entry_points.txt").write_text(
        "[lookalike.encoders]\nOne = two_plugin:FAMILY\n"
    )
    done = embed("one", place)
    assert "two packages bring an encoder One: " in done.stderr
    assert "one-plugin 2.0" in done.stderr
    assert "two-plugin 2.0" in done.stderr


def test_families_lists_the_broken_ones_too(installed, tmp_path):
    """What a table of families is made of."""
    write_plugin(tmp_path, "Broken", "1 / 0")
    code = (
        "from lookalike.encoders.families import all_families\n"
        "found = all_families()\n"
        "print(found['ColourGrid'].what, '|', type(found['Broken']).__name__, '|', found['CLIP'].name)"
    )
    said = ask(os.pathsep.join([str(installed), str(tmp_path)]), code)
    assert said == "the mean colours of 8 x 8 cells | EncoderError | CLIP"
