"""The page about encoders: every command in it is run, and its table is that of the benchmark's results.

A command stands in an `sh` block, one a line. `models/NAME` is a tiny model of the family of that name, written by the
benchmark's own modules; a part of it behind a slash is a file in it. The hub is one on this machine.
"""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks import encoders

from lookalike.encoders.families import FAMILIES
from support.hub import serving
from support.inprocess import call_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("encoders-*.json"))


def plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


@pytest.fixture
def reader(tmp_path, images, monkeypatch):
    """A working folder as the page describes it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "pool")
    (tmp_path / "weak").mkdir()
    for path in sorted(images.iterdir())[:3]:
        shutil.copy(path, tmp_path / "weak")
    boards = [path.relative_to(tmp_path).as_posix() for path in sorted((tmp_path / "pool").iterdir())[:6]]
    boxes = [(board, x, 2, 16, 16) for board in boards for x in (0, 8)]
    with (tmp_path / "boards.csv").open("w") as stream:
        print("filepath,x,y,w,h", *(",".join(map(str, box)) for box in boxes), sep="\n", file=stream)
    every = {plain(name): family for name, family in encoders.families().items()}
    with contextlib.ExitStack() as tiny:
        yield _with_models(tmp_path, every, tiny)


def _with_models(folder, every, tiny):
    """Write the models that the page names; tiny ones stay loadable as long as `tiny` is open."""
    for context in {family.tiny for family in every.values()}:
        tiny.enter_context(context())
    for name in set(re.findall(r"\bmodels/([\w-]+)", "\n".join(LINES))):
        place = folder / "models" / name
        place.mkdir(parents=True)
        every[plain(name)].write(place, True)
    return folder


def test_its_commands_run(reader, monkeypatch, capsys):
    with serving() as hub:
        hub.repositories["facebook/dinov2-base"] = reader / "models" / "siglip"
        hub.use(monkeypatch)
        for line in LINES:
            done = call_command(monkeypatch, capsys, *shlex.split(line))
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    mined = next(reader.glob("work/mining_results/*/mined.parquet"))
    assert "#xywh=" in pq.read_table(mined).column("filepath")[0].as_py()
    assert pq.read_schema("work/components.parquet").field("embedding").type == pa.list_(pa.float32())


def test_every_family_has_a_place_on_the_page():
    headings = " ".join(re.findall(r"^### (.*)$", PAGE, re.MULTILINE))
    for family in FAMILIES:
        assert plain(family) in plain(headings), f"docs/encoders.md has no section about {family}"


def test_the_benchmark_compares_a_family_with_its_library(images, monkeypatch):
    monkeypatch.setattr(encoders, "_SECONDS", 0.01)
    files = [str(path) for path in sorted(images.iterdir())]
    (model, family) = next(iter(encoders.chosen(["SigLIP"]).items()))
    row = encoders.measure(model, family, files, "cpu", tiny=True)
    assert row["least_cosine"] > 0.99999
    assert row["least_same_five"] == 1
    assert row["least_cosine_between_images"] < 0.999
    assert all(speed > 0 for speed in row["images_per_second"].values())
    others = [{"model": "X", "error": "x"}, {"model": "Y", "skipped": "no GPU"}]
    table = encoders.tables({"images": len(files), "device": "a processor", "rows": [row, *others]})
    assert "| SigLIP | SiglipVisionModel, 32-d | transformers" in table
    assert "| X | failed |" in table
    assert "| Y | not measured here: no GPU |" in table
    with pytest.raises(SystemExit, match="no such family: nothing"):
        encoders.chosen(["nothing"])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_its_table_is_that_of_the_results(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert encoders.tables(result) in PAGE, f"paste what `python -m benchmarks encoders` printed ({path.name})"
    for row in result["rows"]:
        assert row["least_cosine"] > 0.99999, row["model"]
        assert row["least_cosine_between_images"] < 0.999, "a model that gives all images one vector proves nothing"
