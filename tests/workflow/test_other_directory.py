"""A run with relative paths, looked at from another folder: gallery, view, atlas and check find its images."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected
from lookalike.reports.atlas import write_atlas
from lookalike.tables.run_folder import RunFolder, read_record
from lookalike.workflow.check import check_run
from lookalike.workflow.gallery import remake_gallery
from lookalike.workflow.viewer import open_site

PLAIN = {"cache_dir": "off", "leak_reads": 0, "scoring": "nearest", "self_match": "keep", "topn": 2}


def content(page):
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


@pytest.fixture(params=["", "images"], ids=["no root", "a relative root"])
def elsewhere(request, place, monkeypatch):
    """A finished run with relative paths; this process has gone to another folder."""
    for name in ("targets", "pool"):
        table = pq.read_table(f"{name}.parquet")
        start = place / request.param
        paths = [Path(path).relative_to(start).as_posix() for path in table.column("filepath").to_pylist()]
        pq.write_table(table.set_column(0, "filepath", [paths]), f"{name}.parquet")
    run = lookalike.run("targets.parquet", "pool.parquet", run_dir="run", root=request.param, **PLAIN)
    (place / "other").mkdir()
    monkeypatch.chdir(place / "other")
    return RunFolder(run.folder.path)


def test_gallery_view_atlas_and_check_find_the_images(elsewhere):
    before = elsewhere.gallery.read_bytes()
    remake_gallery(elsewhere.path)
    assert elsewhere.gallery.read_bytes() == before
    links = [link for _, link, *_ in content(elsewhere.gallery)["images"]]
    assert all(Path(link.removeprefix("file://")).is_file() for link in links)
    site = open_site(elsewhere.path)
    assert site.images
    assert all(read_bytes(path, site.data.reading.files) for path in site.images.values())
    atlas = write_atlas(elsewhere, sample=0)
    assert not any(picture is None for picture in pq.read_table(atlas.path).column("picture").to_pylist())
    assert check_run(elsewhere.path) == []


def test_a_good_gallery_is_not_replaced_by_one_without_pictures(elsewhere, place, run_command):
    before = elsewhere.gallery.read_bytes(), elsewhere.record.read_bytes()
    (place / "images").rename(place / "away")
    done = run_command("lookalike", "gallery", elsewhere.path, cwd=place / "other")
    assert done.returncode == 1
    assert "images can be read, and the gallery that is there has its pictures" in done.stderr
    assert (elsewhere.gallery.read_bytes(), elsewhere.record.read_bytes()) == before
    elsewhere.gallery.unlink()
    remake_gallery(elsewhere.path)
    assert not any(picture for _, _, _, picture, _ in content(elsewhere.gallery)["images"])
    remake_gallery(elsewhere.path)


def test_a_project_that_was_moved_is_looked_at_from_its_new_place(elsewhere, place, tmp_path_factory, monkeypatch):
    moved = tmp_path_factory.mktemp("moved") / "project"
    shutil.move(place, moved)
    monkeypatch.chdir(moved)
    remake_gallery(moved / "run")
    assert all(picture for _, _, _, picture, _ in content(moved / "run" / "gallery.html")["images"])


def test_the_record_has_the_folder_that_relative_paths_start_in(elsewhere, place):
    record = read_record(elsewhere)
    assert (record.cwd, record.start) == (str(place), str(place))


def test_relative_paths_start_where_they_are_told_to(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    free = ReadSettings("", 10, 0, str(tmp_path))
    bound = ReadSettings("in", 10, 0, str(tmp_path))
    assert [read_bytes(path, free) for path in ("in/a", "b", str(tmp_path / "b"))] == [b"a", b"b", b"b"]
    assert read_bytes("a", bound) == b"a"
    with pytest.raises(ImageRejected, match="outside"):
        read_bytes("../b", bound)
