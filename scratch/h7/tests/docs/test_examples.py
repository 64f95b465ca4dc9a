"""Every example in the documentation is run, in order, in a folder where the README's reader would stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generate import PAGE, settings_page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<skip><!-- not run: .+ -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def blocks(page, kind):
    found = [match for match in BLOCK.finditer(page.read_text(encoding="utf-8")) if not match["skip"]]
    return "\n".join(match["code"] for match in found if match["kind"] == kind)


@pytest.fixture
def reader(tmp_path, images, siglip_snapshot):
    """A working folder as the README describes it; the hub id is a local folder with a tiny model."""
    shutil.copytree(images, tmp_path / "pool")
    (tmp_path / "weak").mkdir()
    for path in sorted(images.iterdir())[:3]:
        shutil.copy(path, tmp_path / "weak")
    shutil.copytree(siglip_snapshot, tmp_path / "google" / "siglip-base-patch16-224")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.name)
def test_shell_examples_run(page, reader):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks(page, "bash")],
        cwd=reader, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dropins = len(re.findall(r"^(?:embedding|tmm) ", blocks(page, "bash"), re.MULTILINE))
    assert done.stdout.count("Execution status: PASS") >= min(3, dropins)
    assert (reader / "work" / "mined.parquet").exists()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, reader):
    done = subprocess.run(
        [sys.executable, "-c", blocks(page, "python")], cwd=reader, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (reader / "work" / "mined.parquet").exists()


def test_the_settings_page_is_not_stale():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_links_between_the_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
