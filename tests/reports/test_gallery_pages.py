"""The gallery as a file: what is in it, its links, its size, and the runs that have little to show."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.errors import TableError
from lookalike.reports import gallery_data, markdown
from lookalike.reports.gallery import write_gallery
from lookalike.reports.gallery_data import image_link, load
from lookalike.reports.thumbnails import Reading, make_thumbnails, small_copy
from support.runs import make_images, make_run


def content(path):
    """The JSON of a page."""
    html = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_command_writes_it_and_says_where(run_command, tmp_path):
    run = make_run(tmp_path / "run")
    done = run_command("lookalike", "gallery", run.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run.gallery}\n"
    before = run.gallery.read_bytes()
    write_gallery(run)
    assert run.gallery.read_bytes() == before, "the same run gives the same page"


def test_neighbours_are_in_the_order_of_their_distance(tmp_path):
    """Also those that were selected by their score from beyond a target's neighbours, which have no rank."""
    for name, targets in (("one", 1), ("several", 4)):
        run = make_run(tmp_path / name, targets=targets, pool=40, topn=2, scoring="lda", candidates=3, budget=30)
        write_gallery(run)
        found = content(run.gallery)["targets"]
        ranks = [[pair[2] for pair in target[3]] for target in found]
        assert any(None in of_target for of_target in ranks)
        for target, of_target in zip(found, ranks, strict=True):
            distances = [pair[3] for pair in target[3]]
            assert distances == sorted(distances)
            known = [rank for rank in of_target if rank is not None]
            assert known == sorted(known)


def test_nothing_of_the_data_ends_the_script_or_gets_into_the_markup(tmp_path):
    evil = "</script><script>alert(1)</script>&\u2028\u2029<!--"
    run = make_run(tmp_path / "run", pool=2, pool_paths=[evil, "/b.png"], target_paths=["/a.png"], topn=2,
                   target_labels=[evil], warnings=[evil])  # fmt: skip
    write_gallery(run)
    html = run.gallery.read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 3
    assert "alert(1)</script>" not in html
    data = content(run.gallery)
    assert evil in [image[0] for image in data["images"]]
    assert data["targets"][0][2] == evil
    block = html.split('id="data">')[1].split("</script>")[0]
    assert not set(block) & set("<>&\u2028\u2029")


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "run")
    write_gallery(run)
    html = run.gallery.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data: file: 'self'; ")
    assert "unsafe" not in policy
    for text in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", html, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)


def test_every_image_is_stored_once(tmp_path):
    run = make_run(tmp_path / "run", targets=6, pool=4, topn=4)
    write_gallery(run)
    images = [image[0] for image in content(run.gallery)["images"]]
    assert len(images) == len(set(images)) == 10


@pytest.mark.parametrize(
    ("path", "root", "link"),
    [
        ("/data/a b#1?%.png", "", "file:///data/a%20b%231%3F%25.png"),
        ("/data/电.png", "", "file:///data/%E7%94%B5.png"),
        ("/runs/one/images/a'b.png", "", "images/a%27b.png"),
        ("/runs/one/a:b.png", "", "a%3Ab.png"),
        ("/runs/one/../two/a.png", "", "file:///runs/two/a.png"),
        ("sub/a.png", "/data", "file:///data/sub/a.png"),
        ("file:///data/a.png", "", "file:///data/a.png"),
        ("https://example.org/a.png?b=1", "", "https://example.org/a.png?b=1"),
        ("a.png", "https://example.org/pool", "https://example.org/pool/a.png"),
        ("s3://bucket/a.png", "", ""),
        ("javascript://%0aalert(1)", "", ""),
    ],
)
def test_links_lead_to_the_image(path, root, link, tmp_path):
    assert image_link(path, root, Path("/runs/one")) == link


def test_a_path_that_looks_like_a_script_is_a_file(tmp_path):
    assert image_link("javascript:alert(1)", "", tmp_path / "run").startswith("file:///")


def test_relative_paths_start_in_the_root_of_the_run(tmp_path):
    make_images(tmp_path / "images", 3, "pool")
    run = make_run(tmp_path / "run", pool_paths=[f"pool_{number:03d}.png" for number in range(3)], topn=3,
                   targets=1)  # fmt: skip
    record = json.loads(run.record.read_text())
    record["settings"]["embedding"] = {"root": str(tmp_path / "images")}
    run.record.write_text(json.dumps(record))
    write_gallery(run)
    images = {path: (link, data) for path, link, _, data, _ in content(run.gallery)["images"]}
    link, data = images["pool_001.png"]
    assert link == (tmp_path / "images" / "pool_001.png").as_uri()
    assert data


def test_a_run_without_anything_mined_says_so(tmp_path):
    run = make_run(tmp_path / "run", distance_threshold=0.0, warnings=["w"])
    write_gallery(run)
    html = run.gallery.read_text(encoding="utf-8")
    assert "No pool image was kept for your 4 targets" in html
    assert '<div class="look"><dt>No image of their own</dt><dd>4</dd>' in html


def test_targets_for_which_nothing_was_found_are_there(tmp_path):
    run = make_run(tmp_path / "run", targets=2, pool=3, target_labels=["a", "z"], pool_labels=["a"] * 3,
                   within_label=True, topn=2)  # fmt: skip
    write_gallery(run)
    targets = content(run.gallery)["targets"]
    assert [len(pairs) for *_, pairs, _ in targets] == [2, 0]


def test_a_pair_table_may_have_no_score(tmp_path):
    run = make_run(tmp_path / "run")
    pq.write_table(pq.read_table(run.pairs).drop_columns(["score"]), run.pairs)
    write_gallery(run)
    assert {pair[4] for *_, pairs, _ in content(run.gallery)["targets"] for pair in pairs} == {None}


def test_the_sample_is_spread_and_wide_runs_have_fewer_targets_on_a_page(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", targets=10, pool=5, topn=4)
    data = load(run)
    assert [page.tolist() for page in data.pages(every=False)] == [list(range(10))]
    monkeypatch.setattr(gallery_data, "MOST_PAIRS", 12)  # three targets of four pairs
    assert [page.tolist() for page in data.pages(every=False)] == [[0, 4, 9]]
    assert [len(page) for page in data.pages(every=True)] == [3, 3, 3, 1]
    assert np.concatenate(data.pages(every=True)).tolist() == list(range(10))


def test_a_page_is_whole_or_absent(tmp_path):
    run = make_run(tmp_path / "run")
    run.gallery.mkdir()
    with pytest.raises(TableError, match="cannot be written"):
        write_gallery(run)
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_tables_of_another_run_are_refused(tmp_path):
    run, small = make_run(tmp_path / "run"), make_run(tmp_path / "small", targets=2)
    small.targets.replace(run.targets)
    with pytest.raises(TableError, match="the two tables are of different runs"):
        write_gallery(run)
    pq.write_table(pq.read_table(run.pairs).drop_columns(["rank", "score"]), run.pairs)
    with pytest.raises(TableError, match="has no column 'rank'"):
        write_gallery(run)
    run.pairs.write_bytes(b"no table")
    with pytest.raises(TableError, match=r"mined_pairs\.parquet: cannot be read"):
        write_gallery(run)


def test_thumbnails_are_small_copies_in_order_and_say_why_there_is_none(tmp_path):
    paths = make_images(tmp_path, 3, "a", size=(640, 480))
    (tmp_path / "empty.png").write_bytes(b"")
    Image.open(paths[0]).save(tmp_path / "large.jpg", quality=95)
    made = make_thumbnails([*paths, str(tmp_path / "none.png"), str(tmp_path / "empty.png")], Reading.of({}))
    assert [bool(one.data) for one in made] == [True] * 3 + [False] * 2
    assert [one.reason.split(":")[0] for one in made[3:]] == [
        "the file is not there any more", "the file is not an image"
    ]  # fmt: skip
    assert len({one.data for one in made[:3]}) == 3
    bound = Reading.of({"max_pixels": 1000})
    assert make_thumbnails(paths[:1], bound)[0].reason.startswith("the image is too large: 640 x 480")
    plain, shortened = (
        np.asarray(small_copy(str(path), 128, Reading.of({})), float) for path in (paths[0], tmp_path / "large.jpg")
    )
    assert plain.shape == shortened.shape == (96, 128, 3)
    assert np.abs(plain - shortened).mean() < 6, "a JPEG that is decoded small looks the same"


def test_the_palette_has_enough_contrast():
    """WCAG AA by the numbers in the style sheet; tests/browser looks at what is drawn."""
    from lookalike.reports.gallery import _TEMPLATES

    style = (_TEMPLATES / "gallery.css").read_text(encoding="utf-8")
    looks = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
             for block in re.findall(r"color-scheme: (?:light|dark);(.*?)\}", style, re.DOTALL)]  # fmt: skip
    assert len(looks) == 2
    pairs = [(ink, paper, 4.5) for ink in ("ink", "soft", "accent", "good", "bad") for paper in ("paper", "card")]
    pairs += [("ink", "sunk", 4.5), ("soft", "sunk", 4.5), ("warn", "warn-wash", 4.5), ("warn", "paper", 4.5),
              ("good", "good-wash", 4.5), ("bad", "bad-wash", 4.5), ("on-accent", "accent", 4.5),
              ("edge", "card", 3), ("edge", "paper", 3), ("bar", "paper", 2.5)]  # fmt: skip
    for look in looks:
        for one, other, least in pairs:
            assert contrast(look[one], look[other]) >= least, (one, other, contrast(look[one], look[other]))


def contrast(one, other):
    """The ratio of WCAG 2."""

    def light(colour):
        values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_values_come_back_from_markdown_as_they_were():
    """The gallery shows the findings of the report, whose values are escaped for Markdown."""
    for value in (
        "plain", "/a|b_c_.png", "`tick`", "``two`` `", "**not bold**", "a\\b\\", "<img src=x>", "&amp; $HOME ~",
        "[x](y)", "_low_", "*", "**", "`", " pad ", "划痕", "\\`*", "a `code` b",
    ):  # fmt: skip
        expected = " ".join(value.split())
        assert "".join(text for _, text in markdown.pieces(markdown.plain(value, 99))) == expected
        assert markdown.pieces(f"{markdown.code(value, 99)} x")[0] == ("code", value)
    assert markdown.pieces("**3 `odd` things**: `a` and `b`.") == [
        ("bold", "3 "), ("code", "odd"), ("bold", " things"), ("text", ": "), ("code", "a"), ("text", " and "),
        ("code", "b"), ("text", "."),
    ]  # fmt: skip


def test_a_folder_without_its_vectors_has_a_gallery_without_findings(tmp_path, caplog):
    run = make_run(tmp_path / "run", warnings=["w"])
    run.pool.unlink()
    write_gallery(run)
    assert 'class="eye"' not in run.gallery.read_text(encoding="utf-8")
    assert "the gallery has no findings" in caplog.text
