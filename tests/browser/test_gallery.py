"""The gallery in a real browser: what is shown, keys, decisions, export, hostile names, looks, and a phone."""

import csv
import shlex
import shutil
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.reports import gallery_data
from lookalike.reports.captions import plot_captions
from lookalike.reports.gallery import write_gallery
from lookalike.reports.plots import write_plots
from lookalike.reports.report import write_report
from support.runs import make_images, make_run

#: Texts that would do harm, or lead astray, where one of the layers forgot to escape.
NAMES = (
    "<img src=x onerror=alert(1)>.png",
    "\"double\" and 'single'.png",
    "space 100% sure #1?&amp;.png",
    "%3Cscript%3E %00.png",
    "电路板 缺陷.png",
    "a,b;c.png",
    "</script><script>alert(2)</script><!--.png",
)
LABELS = ["scratch", "dent", "scratch", "<b>odd</b>"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four targets of three labels, twelve pool images; every rule drops something."""
    random = np.random.default_rng(3)
    folder = make_run(
        tmp_path_factory.mktemp("gallery") / "run", pool=12, target_labels=LABELS,
        pool_labels=["scratch", "dent", "scratch", "<b>odd</b>"] * 3, topn=6, filter_by_label=True,
        distance_threshold=1.1, warnings=["one warning <of> the run"],
        vectors=(random.standard_normal((4, 8)), random.standard_normal((12, 8))),
    )  # fmt: skip
    write_plots(folder)
    write_gallery(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(run):
    """The pair table."""
    return pq.read_table(run.pairs).to_pandas()


@pytest.fixture
def page(open_page, run):
    """The gallery, opened from disk."""
    return open_page(run.gallery)


def tiles(page):
    """The file names of the tiles, target by target."""
    drawn(page)
    return page.eval_on_selector_all(
        ".target", "all => all.map(one => [...one.querySelectorAll('.tile .name')].map(name => name.textContent))"
    )


def flat(page):
    """The file names of all tiles."""
    return [name for target in tiles(page) for name in target]


def drawn(page):
    """Wait until what was asked for is drawn: filters draw once a frame."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def names(frame):
    """The same from the pair table."""
    return [path.rsplit("/", 1)[1] for path in frame.source_filepath]


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def current(page):
    """The path that the tray shows."""
    return page.inner_text("#current-path")


def exported(page, tmp_path):
    """Export by the button and return the rows."""
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "decisions.csv"
    download.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as stream:
        return path, list(csv.DictReader(stream))


def test_it_shows_the_run(page, run, pairs, screenshot):
    kept = pairs[pairs.outcome == "kept"]
    assert set(pairs.outcome) == {"kept", "label_mismatch", "over_distance", "duplicate"}
    assert page.inner_text("h1") == f"{len(kept)} of 12 pool images mined for your 4 targets"
    assert "one warning <of> the run" in page.inner_text(".eye")
    assert "acme/tiny-clip" in page.inner_text(".facts")
    assert "cosine ≤ 1.1" in page.inner_text(".facts")
    assert tiles(page) == [names(kept[kept.target_row == row]) for row in range(4)]
    shown = page.locator(".tile").first
    assert shown.locator(".far").inner_text() == f"{kept.distance.iloc[0]:.4f}"
    assert shown.locator(".tag").inner_text() == kept.source_label.iloc[0]
    assert shown.locator(".rank").inner_text() == str(kept["rank"].iloc[0])
    assert shown.locator("img").evaluate("image => image.complete && image.naturalWidth") == 64
    shown = [image.get_attribute("alt") for image in page.locator(".plots img").all()]
    assert shown == [plot.alt for plot in plot_captions(run)]
    screenshot(page, "gallery_light")


def test_what_needs_a_persons_eye_is_at_the_top_and_can_be_folded_away(open_page, tmp_path, screenshot):
    """The findings of the report, as many, and in its words."""
    vectors = np.random.default_rng(1).standard_normal((16, 8))
    vectors[:, 0] = 5
    vectors[3, 0] = -5  # this target has nothing near
    run = make_run(
        tmp_path / "run", pool=12, vectors=(vectors[:4], vectors[4:]), distance_threshold=1.1, warnings=["<b>one</b>"]
    )
    report = write_report(run).read_text(encoding="utf-8")
    write_gallery(run)
    page = open_page(run.gallery)
    screenshot(page, "gallery_findings")
    found = page.locator(".eye li").all_inner_texts()
    assert len(found) >= 3
    assert page.inner_text(".eye summary") == f"{len(found)} things need a person’s eye"
    assert f"; {len(found)} things need a person's eye.**" in report
    assert found[0].startswith(
        "1 target left with nothing: none of its neighbours was kept, or is a duplicate or near-duplicate of "
        "a kept image"
    )
    assert page.locator(".eye li code").first.inner_text().endswith("/images/target_003.png")
    assert found[-1] == "<b>one</b>"
    assert page.locator(".eye li b").count() == report.split("## Inputs")[0].count("\n- **")
    assert not any(mark in text for text in found for mark in ("**", "`", "\\"))
    assert page.locator(".eye").bounding_box()["y"] < page.locator(".tools").bounding_box()["y"]
    page.locator(".eye summary").focus()
    press(page, "Enter")
    assert not page.locator(".eye li").first.is_visible()
    press(page, "Space")
    assert page.locator(".eye li").first.is_visible()


def test_nothing_is_said_where_nothing_needs_an_eye(open_page, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((24, 8))
    vectors[:4] = vectors[4:8] + 0.01
    run = make_run(tmp_path / "run", vectors=(vectors[:4], vectors[4:]), topn=1)
    write_gallery(run)
    assert open_page(run.gallery).locator(".eye").count() == 0


def test_commands_work_from_anywhere(open_page, tmp_path, run_command, monkeypatch):
    """A run in a folder whose name needs quotes: what the page shows can be pasted into a shell."""
    monkeypatch.setattr(gallery_data, "MOST_TARGETS", 3)
    run = make_run(tmp_path / "a run's $HOME <b>", targets=4, pool=8)
    write_gallery(run)
    page = open_page(run.gallery)
    press(page, "j", "x", "?")
    review = shlex.split(page.locator("#help code").first.inner_text())
    assert review == ["lookalike", "review", str(run.path), "decisions.csv"]
    assert shlex.split(page.inner_text(".notice code")) == ["lookalike", "gallery", str(run.path), "--gallery-all"]
    press(page, "Escape")
    path, _ = exported(page, tmp_path)
    said = page.inner_text("#toast")
    assert shlex.split(said[said.index("lookalike") :])[:3] == review[:3]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(path, elsewhere)
    done = run_command(*review, cwd=elsewhere)
    assert done.returncode == 0, done.stderr


def test_dropped_pairs_come_on_demand_with_their_rule(page, pairs, screenshot):
    page.click("#dropped")
    assert tiles(page) == [names(pairs[pairs.target_row == row]) for row in range(4)]
    for outcome, words in (
        ("label_mismatch", "its label is not the target's"),
        ("over_distance", "farther than the threshold of 1.1"),
        ("duplicate", "the same image is kept already"),
    ):
        assert page.locator(".why", has_text=words).count() == (pairs.outcome == outcome).sum()
    screenshot(page, "gallery_dropped")
    page.click("#dropped")
    page.click(".chip[data-outcome=kept]")
    page.click(".chip[data-outcome=over_distance]")
    assert flat(page) == names(pairs[pairs.outcome == "over_distance"])


def test_a_duplicate_leads_to_where_it_was_kept(page, pairs):
    press(page, "d")
    page.locator(".jump").first.click()
    path = current(page)
    assert ((pairs.source_filepath == path) & (pairs.outcome == "kept")).any()
    assert page.evaluate("document.activeElement.matches('.tile.kept')")


def test_filters_by_label_distance_and_path(page, pairs):
    kept = pairs[pairs.outcome == "kept"]
    page.select_option("#label", "target:scratch")
    drawn(page)
    assert page.locator(".target").count() == 2
    page.select_option("#label", "source:<b>odd</b>")
    assert flat(page) == names(kept[kept.source_label == "<b>odd</b>"])
    page.click("#reset")
    least, most = float(pairs.distance.min()), float(pairs.distance.max())
    step = int(200 * (kept.distance.median() - least) / (most - least)) + 1
    page.locator("#distance").fill(str(step))
    bound = least + (most - least) * step / 200
    near = kept[kept.distance <= bound]
    assert 0 < len(near) < len(kept)
    assert flat(page) == names(near)
    assert f"{near.target_row.nunique()} of 4 targets, {len(near)} images" in page.inner_text("#shown")
    page.click("#reset")
    page.fill("#search", kept.source_filepath.iloc[-1].rsplit("/", 1)[1].upper())
    assert flat(page) == names(kept.tail(1))
    page.fill("#search", "no such path")
    drawn(page)
    assert page.is_visible("#nothing")


def test_targets_are_sorted(page, pairs):
    kept = pairs[pairs.outcome == "kept"].groupby("target_row").size().reindex(range(4), fill_value=0)
    nearest = pairs.groupby("target_row").distance.min()

    def order():
        return [
            int(name.removeprefix("target-")) for name in page.eval_on_selector_all(".target", "a => a.map(t => t.id)")
        ]

    for how, wanted in (
        ("nearest", nearest.sort_values(kind="stable").index),
        ("farthest", nearest.sort_values(ascending=False, kind="stable").index),
        ("most", kept.sort_values(ascending=False, kind="stable").index),
        ("fewest", kept.sort_values(kind="stable").index),
        ("order", range(4)),
    ):
        page.select_option("#sort", how)
        drawn(page)
        assert order() == list(wanted), how


def test_keys_move_decide_and_undo(page, pairs):
    kept = pairs[pairs.outcome == "kept"]
    paths = kept.source_filepath.tolist()
    press(page, "j")  # the first move shows where one is
    assert current(page) == paths[0]
    press(page, "l")
    assert current(page) == paths[1]
    press(page, "ArrowLeft", "ArrowLeft")
    assert current(page) == paths[0]
    press(page, "j")
    second = kept[kept.target_row == kept.target_row.unique()[1]] if 1 in set(kept.target_row) else None
    assert second is None or current(page) == second.source_filepath.iloc[0]
    press(page, "Home", "x")
    assert current(page) == paths[1], "the next image is up after a decision"
    press(page, "Enter", "h")
    assert page.locator(".chose-drop").count() == 1
    assert page.locator(".chose-keep").count() == 1
    assert page.inner_text("#tally").split() == ["✓", "1", "keep", "✕", "1", "drop", str(len(paths) - 2), "open"]
    press(page, "u", "u", "u")
    assert page.locator(".chose-drop, .chose-keep").count() == 0
    press(page, "Home", "Shift+X")
    first = kept[kept.target_row == kept.target_row.iloc[0]]
    assert page.locator(".chose-drop").count() == len(first) > 1
    press(page, "u")
    assert page.locator(".chose-drop").count() == 0, "all of a target is one step"


def test_only_mined_images_are_decided(page):
    press(page, "j", "d")
    page.locator(".tile.dropped").first.click()
    press(page, "x")
    assert "only mined images are decided" in page.inner_text("#toast")
    assert page.is_disabled("#export")


def test_help_search_and_closer_look_by_key(page, run, screenshot):
    press(page, "?")
    assert page.is_visible("#help")
    screenshot(page, "gallery_help")
    press(page, "x", "Escape")
    assert not page.is_visible("#help")
    assert page.locator(".chose-drop").count() == 0, "keys do nothing behind the help"
    press(page, "/")
    page.keyboard.type("xyjk")
    assert page.input_value("#search") == "xyjk", "letters are letters there"
    page.fill("#search", "")
    press(page, "Enter", "Space")
    page.wait_for_function("() => document.getElementById('closer-source').naturalWidth === 64")
    assert page.get_attribute("#closer-source", "src").startswith("file:///")
    before = page.inner_text("#closer-facts")
    press(page, "x")
    assert page.inner_text("#closer-facts") != before, "the next one is up"
    screenshot(page, "gallery_closer")
    press(page, "Escape", "h")
    assert page.evaluate("document.activeElement.matches('.tile.chose-drop')"), "the focus is back in the gallery"


def test_single_keys_can_be_switched_off(page):
    press(page, "j", "?")
    page.uncheck("#shortcuts")
    press(page, "Escape", "x", "y")
    assert page.locator(".chose-drop, .chose-keep").count() == 0
    press(page, "Enter")
    assert page.locator(".chose-keep").count() == 1


def test_everything_can_be_done_with_the_keyboard(page, tmp_path):
    press(page, "Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press(page, "Enter", "ArrowDown", "x", "y")
    for _ in range(40):
        press(page, "Tab")
        if page.evaluate("document.activeElement.id") == "export":
            break
    with page.expect_download() as download:
        press(page, "Enter")
    rows = list(csv.DictReader(download.value.path().open(encoding="utf-8")))
    assert [row["decision"] for row in rows] == ["drop", "keep"]


def test_decisions_last_and_the_review_takes_the_export(page, run, pairs, run_command, tmp_path):
    kept = pairs[pairs.outcome == "kept"].reset_index()
    press(page, "j", "x", "y", "l", "x")
    page.reload()
    assert page.locator(".chose-drop").count() == 2
    page.select_option("#decision", "drop")
    assert flat(page) == names(kept.iloc[[0, 3]])
    path, rows = exported(page, tmp_path)
    assert list(rows[0]) == ["filepath", "decision", "target_filepath", "rank", "distance"]
    for row, number, decision in zip(rows, (0, 1, 3), ("drop", "keep", "drop"), strict=True):
        pair = kept.iloc[number]
        assert (row["filepath"], row["decision"]) == (pair.source_filepath, decision)
        assert (row["target_filepath"], int(row["rank"])) == (pair.target_filepath, pair["rank"])
        assert np.float32(row["distance"]) == pair.distance
    copy = shutil.copytree(run.path, tmp_path / "copy")
    done = run_command("lookalike", "review", copy, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reviewed = pq.read_table(copy / "mined_reviewed.parquet").column("filepath").to_pylist()
    assert reviewed == kept.source_filepath.drop([0, 3]).tolist()


def test_an_export_can_be_imported_elsewhere(page, open_page, run, tmp_path):
    press(page, "j", "x", "y")
    path, _ = exported(page, tmp_path)
    path.write_text(path.read_text() + "/not/here.png,keep,/a.png,1,0.5\n")
    other = open_page(run.gallery)
    assert other.locator(".chose-drop").count() == 0
    other.set_input_files("#import-file", path)
    other.wait_for_selector(".chose-drop")
    assert "Imported 2 decisions; 1 rows are not of this page" in other.inner_text("#toast")
    assert other.locator(".chose-keep").count() == 1


def test_two_open_pages_of_a_run_do_not_undo_each_other(page, run):
    other = page.context.new_page()
    other.goto(run.gallery.as_uri())
    press(page, "j", "x")
    press(other, "j", "l", "y")
    page.reload()
    assert page.locator(".chose-drop").count() == 1
    assert page.locator(".chose-keep").count() == 1


def test_a_browser_that_keeps_nothing_says_so(open_page, run, tmp_path):
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
    page = open_page(run.gallery, script=forbid)
    press(page, "j", "x")
    assert page.locator(".chose-drop").count() == 1
    assert "export before you close it" in page.inner_text("#unkept")
    assert len(exported(page, tmp_path)[1]) == 1


def test_hostile_names_are_text_and_their_links_open_the_right_file(open_page, tmp_path, run_command):
    folder = tmp_path / "im#ges 50%"
    sources = []
    for number, name in enumerate(NAMES):
        path = folder / name  # one name holds slashes: its parts are folders
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + number, 8), (number * 20, 90, 90)).save(path, "PNG")
        sources.append(str(path))
    vectors = (np.ones((1, 4)), np.ones((len(NAMES), 4)))
    run = make_run(
        tmp_path / "run", target_paths=sources[:1], pool_paths=sources, vectors=vectors, topn=len(NAMES),
        target_labels=["<script>alert(3)</script>"], pool_labels=["</script><b>"] * len(NAMES),
        warnings=["<script>alert(4)</script>", "**bold** `code` \\ & _low_ [x](y) ``"],
    )  # fmt: skip
    write_gallery(run)
    page = open_page(run.gallery)
    told = page.locator(".eye li").all_inner_texts()
    assert told[-2:] == ["<script>alert(4)</script>", "**bold** `code` \\ & _low_ [x](y) ``"]
    links = page.locator(".tile a.name")
    for number, path in enumerate(sources):
        link = links.nth(number)
        assert link.inner_text() == path.rsplit("/", 1)[1]
        assert link.get_attribute("title") == path
        with page.context.expect_page() as opened:
            link.click()
        image = opened.value
        image.wait_for_load_state()
        assert unquote(urlsplit(image.url).path) == path
        assert image.evaluate("document.images[0].naturalWidth") == 10 + number
        image.close()
    press(page, "Home", *"y" * len(sources))
    path, rows = exported(page, tmp_path)
    assert [row["filepath"] for row in rows] == sources
    done = run_command("lookalike", "review", run.path, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Kept:       {len(sources)}" in done.stdout


def test_links_into_the_run_folder_are_relative(open_page, tmp_path):
    inside = tmp_path / "run" / "images"
    run = make_run(tmp_path / "made", pool_paths=make_images(tmp_path / "later", 6, "pool"), topn=2)
    # The images move into the folder, as a run on copied images has them.
    inside.parent.mkdir()
    paths = make_images(inside, 3, "a b#")
    for file in run.path.iterdir():
        shutil.copy(file, inside.parent)
    run = type(run)(inside.parent)
    table = pq.read_table(run.pairs)
    wanted = pa.array([paths[row % 3] for row in range(table.num_rows)])
    pq.write_table(table.set_column(3, "source_filepath", wanted), run.pairs)
    write_gallery(run)
    moved = (inside.parent).rename(tmp_path / "moved")
    page = open_page(moved / "gallery.html")
    link = page.locator(".tile a.name").first
    assert link.get_attribute("href").startswith("images/a%20b%23_")
    with page.context.expect_page() as opened:
        link.click()
    opened.value.wait_for_load_state()
    assert opened.value.evaluate("document.images[0].naturalWidth") == 64


def test_what_cannot_be_shown_has_a_placeholder_with_the_reason(open_page, tmp_path):
    paths = make_images(tmp_path / "images", 3, "pool")
    (tmp_path / "broken.png").write_bytes(b"no image")
    run = make_run(
        tmp_path / "run", pool_paths=[*paths, str(tmp_path / "broken.png"), "javascript://%0aalert(5)"], topn=5
    )
    Path(paths[0]).unlink()
    write_gallery(run)
    page = open_page(run.gallery)
    words = " ".join(page.locator(".gone").all_inner_texts())
    assert "the file is not there any more" in words
    assert "the file is not an image" in words
    assert page.locator(".name", has_text="alert(5)").evaluate_all("all => all.every(one => one.tagName === 'SPAN')")


def test_a_target_with_nothing_says_why(open_page, tmp_path):
    run = make_run(tmp_path / "run", targets=1, pool=5, distance_threshold=0.0)
    write_gallery(run)
    page = open_page(run.gallery)
    assert page.inner_text(".empty") == "Nothing was kept for this target: 3 too far."
    press(page, "j", "x")
    assert "This is a target" in page.inner_text("#toast")


def test_scores_and_rules_of_other_selections_are_shown(open_page, tmp_path):
    run = make_run(tmp_path / "run", targets=2, pool=6, topn=3)
    table = pq.read_table(run.pairs)
    outcomes = ["kept", "too_similar", "kept"] * 2
    table = table.set_column(8, "score", pa.array([0.25] * 6, pa.float32()))
    table = table.set_column(9, "outcome", pa.array(outcomes).dictionary_encode())
    pq.write_table(table, run.pairs)
    write_gallery(run)
    page = open_page(run.gallery)
    assert page.locator(".score").first.inner_text() == "score 0.2500"
    press(page, "d")
    assert page.locator(".why", has_text="by the rule “too similar”").count() == 2


def test_large_runs_are_sampled_or_paged(open_page, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_data, "MOST_TARGETS", 3)
    run = make_run(tmp_path / "run", targets=8, pool=12, topn=2)
    pages = write_gallery(run, every=True)
    assert [path.name for path in pages] == ["gallery.html", "gallery_2.html", "gallery_3.html"]
    page = open_page(pages[0])
    assert "Page 1 of 3: 3 of 8 targets" in page.inner_text(".notice")
    assert "Of the 16 pairs of the run this page has 6." in page.inner_text(".tools")
    press(page, "j", "x")
    page.click("nav[aria-label=Pages] >> text=3")
    assert page.eval_on_selector_all(".target", "a => a.map(t => t.id)") == ["target-6", "target-7"]
    page.locator(".tile.kept").first.click()
    press(page, "y")
    assert [row["decision"] for row in exported(page, tmp_path)[1]] in (["drop", "keep"], ["keep", "drop"])
    assert write_gallery(run) == [run.gallery]
    assert not pages[1].exists(), "pages of an earlier call would show another state"
    page = open_page(run.gallery)
    assert "3 of 8 targets, spread evenly" in page.inner_text(".notice")
    assert page.eval_on_selector_all(".target", "a => a.map(t => t.id)") == ["target-0", "target-4", "target-7"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_looks(open_page, run, scheme, screenshot):
    """WCAG AA, of the colours that the browser really draws, on every text of the page."""
    page = open_page(run.gallery, color_scheme=scheme)
    press(page, "j", "d", "x", "y", "Shift+Y")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    screenshot(page, f"gallery_{scheme}")
    poor = page.evaluate(CONTRAST)
    assert poor["texts"] > 60
    assert not poor["poor"]
    press(page, "?")
    assert not page.evaluate(CONTRAST)["poor"]


def test_the_look_can_be_switched_and_stays(open_page, run):
    page = open_page(run.gallery, color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    assert page.inner_text("#theme-name") == "Dark"


def test_a_phone_shows_it_without_scrolling_sideways(open_page, run, screenshot):
    page = open_page(run.gallery, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.tap("#dropped")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".tile.kept .do.drop").first.tap()
    assert page.locator(".chose-drop").count() == 1
    page.locator(".chose-drop").scroll_into_view_if_needed()
    screenshot(page, "gallery_phone")
    page.tap("#help-open")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_every_control_and_image_has_a_name(page):
    press(page, "d")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, select, img, [role=group], [role=img], dialog')]
        .filter(one => one.getClientRects().length && !(one.ariaLabel || one.alt || one.textContent.trim()
          || one.labels?.length || one.getAttribute('aria-labelledby'))).map(one => one.outerHTML)"""
    )
    assert not nameless
    assert page.locator("main").count() == page.locator("h1").count() == 1


def test_the_view_shows_full_images(open_page, run, start_command, tmp_path):
    process = start_command("lookalike", "view", run.path, "--no-browser", "--port", "0", cwd=tmp_path)
    page = open_page(process.stdout.readline().strip(), network=True)
    press(page, "j", "Space")
    page.wait_for_function("() => document.getElementById('closer-source').naturalWidth === 64")
    assert "/image/" in page.evaluate("document.getElementById('closer-source').currentSrc")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert all(name.startswith((urljoin(page.url, "/"), "data:")) for name in loaded)
    press(page, "x", "Escape")
    page.reload()
    assert page.locator(".chose-drop").count() == 1


#: Every visible text with too little contrast to the first opaque background behind it.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const top = document.querySelector('dialog[open]') ?? document.body;
  const walk = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
  const poor = [];
  let texts = 0;
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || one.closest('script, option, :disabled, .skip, #toast')) continue;
    if (!one.getClientRects().length) continue;
    let behind = one;
    while (behind && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const style = getComputedStyle(one);
    const ground = getComputedStyle(behind ?? document.documentElement).backgroundColor;
    const [high, low] = [style.color, ground].map((colour) => light(parts(colour))).sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    texts += 1;
    if (ratio < (large ? 3 : 4.5)) poor.push(`${walk.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return { texts, poor };
}"""


def test_a_text_stands_where_a_target_has_its_picture(open_page, tmp_path, screenshot):
    """As text, whatever it holds; it is no link, and the keys work as for images."""
    texts = ["<img src=x onerror=alert(1)> lifted lead / side light, " * 6, "crack"]
    folder = make_run(tmp_path / "run", target_paths=texts, pool=6, topn=2)
    table = pq.read_table(folder.targets)
    pq.write_table(table.rename_columns(["text", *table.column_names[1:]]), folder.targets)
    write_gallery(folder)
    page = open_page(folder.gallery)
    said = page.locator(".query .said")
    assert said.all_inner_texts() == [" ".join(text.split()) for text in texts]
    assert page.locator(".query a").count() == 0
    box, shot = said.first.bounding_box(), page.locator(".query .shot").first.bounding_box()
    assert box["height"] <= shot["height"]
    assert box["width"] <= shot["width"]
    screenshot(page, "texts")
