"""The gallery of a default run in a real browser: the numbers of the run, how each image was chosen, several pages."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lookalike.reports import gallery_data
from lookalike.reports.gallery import write_gallery
from support.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve targets, and ninety pool images, of which three are left out; a budget that serves not every target."""
    random = np.random.default_rng(3)
    return make_run(
        tmp_path_factory.mktemp("scored") / "run", targets=12, pool=90, topn=2, scoring="density_ratio", budget=14,
        components="4", vectors=(random.standard_normal((12, 12)), random.standard_normal((90, 12))), candidates=10,
        target_labels=["Dent", "dent ", "DENT", "hole"] * 3, pool_labels=["dent", "Hole", "hole"] * 30,
        barred={0: "protected_path", 1: "protected_path", 2: "self_match"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pairs(run):
    return pq.read_table(run.pairs).to_pandas()


@pytest.fixture
def page(open_page, run):
    write_gallery(run)
    return open_page(run.gallery)


def test_the_numbers_are_those_of_the_run(page, run, pairs, screenshot):
    screenshot(page, "gallery_scored")
    counts = {
        chip.get_attribute("data-outcome"): int(chip.locator("b").inner_text().replace(",", ""))
        for chip in page.locator(".chip").all()
    }
    assert counts == pairs.outcome.astype(str).value_counts().to_dict()
    assert page.inner_text("h1") == "14 of 87 pool images mined for your 12 targets"
    facts = dict(
        zip(page.locator(".facts dt").all_inner_texts(), page.locator(".facts dd").all_inner_texts(), strict=True)
    )
    assert (facts["Pool"], facts["Left out"], facts["Budget"], facts["Candidates each"]) == ("90", "3", "14", "10")
    assert "Neighbours each" not in facts
    assert "by score, density_ratio in 4 components" in page.inner_text(".lead")
    page.click("text=How it was made")
    assert "2 protected_path, 1 self_match" in page.inner_text(".made")


def test_what_is_not_drawn_is_counted_and_said(page, pairs):
    """The page draws the nearest only; every target says how many more pairs it has, and why they were dropped."""
    drawn = pairs[(pairs["rank"].between(1, 2)) | (pairs.outcome == "kept")]
    assert len(drawn) < len(pairs)
    words = f"Of the {len(pairs)} pairs of the run this page has {len(drawn)}: of each target the mined images"
    assert words in page.inner_text(".tools")
    assert page.locator(".rest:visible").count() == 0
    page.click("#dropped")
    page.wait_for_selector(".rest:visible")
    for row in range(12):
        own = pairs[pairs.target_row == row]
        box = page.locator(f"#target-{row}")
        box.scroll_into_view_if_needed()
        box.locator(".tally").wait_for()
        assert box.locator(".tally").text_content() == f"{(own.outcome == 'kept').sum()} of {len(own)} kept"
        tiles = box.locator(".tile").count()
        assert box.locator(".rest").text_content().startswith(f"{len(own) - tiles} farther pairs are not drawn: ")


def test_a_target_with_nothing_gives_all_reasons(page, pairs):
    bare = sorted(set(range(12)) - set(pairs[pairs.outcome == "kept"].target_row))
    assert bare
    own = pairs[pairs.target_row == bare[0]]
    page.locator(f"#target-{bare[0]}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#target-{bare[0]} .empty:visible")
    said = page.locator(f"#target-{bare[0]} .empty").text_content()
    words = {"over_budget": "over budget", "duplicate": "duplicate"}
    for outcome, number in own.outcome.astype(str).value_counts().items():
        assert f"{number} {words[outcome]}" in said


def test_a_tile_says_how_its_image_was_chosen(page, run, pairs):
    cutoff = np.float32(json.loads(run.record.read_text())["selection"]["cutoff"])
    for row in range(12):
        page.locator(f"#target-{row}").scroll_into_view_if_needed()
        page.locator(f"#target-{row} .tally").wait_for()
    kept = pairs[pairs.outcome == "kept"]
    by_score = int((kept.score >= cutoff).sum())
    assert 0 < by_score < len(kept)
    how = page.locator(".tile.kept .how").all_text_contents()
    assert (how.count("by its score"), how.count("for this target")) == (by_score, len(kept) - by_score)
    page.locator(".tile.kept .how", has_text="for this target").first.click()
    assert "mined: one of the nearest of this target, which had a claim on it" in page.inner_text("#current-facts")
    page.locator(".tile.kept .how", has_text="by its score").first.click()
    assert "mined: its score is among the best" in page.inner_text("#current-facts")


def test_labels_that_the_filter_takes_for_one_are_one_choice(page):
    choices = page.locator("#label option").all_inner_texts()
    assert [choice.lower() for choice in choices] == ["all labels", "dent", "hole", "dent", "hole"]
    page.select_option("#label", "target:Dent")
    page.wait_for_function("() => document.querySelectorAll('.target').length === 9")


def test_caps_lock_is_not_shift(page):
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.closest('.target').id")
    own = page.locator(f"#{first} .tile.kept").count()
    letter = "(key, shift) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, shiftKey: shift, "
    letter = f"([key, shift]) => ({letter}bubbles: true, cancelable: true}})))(key, shift)"
    page.evaluate(letter, ["X", False])
    assert page.locator(".chose-drop").count() == 1
    page.evaluate(letter, ["U", False])
    assert page.locator(".chose-drop").count() == 0
    page.locator(f"#{first} .tile.kept").first.click()
    page.evaluate(letter, ["x", True])  # Caps Lock and Shift give a small letter
    assert page.locator(".chose-drop").count() == own


def test_an_import_keeps_the_decisions_of_other_pages(open_page, tmp_path, monkeypatch, run_command):
    monkeypatch.setattr(gallery_data, "MOST_TARGETS", 2)
    run = make_run(tmp_path / "run", targets=4, pool=12, topn=2)
    first, last = write_gallery(run, every=True)
    kept = pq.read_table(run.pairs).to_pandas().query("outcome == 'kept'")
    rows = [kept.iloc[0], kept.iloc[-1]]
    given = tmp_path / "given.csv"
    with given.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "decision", "target_filepath", "rank", "distance"])
        for row in rows:
            writer.writerow([row.source_filepath, "drop", row.target_filepath, row["rank"], repr(float(row.distance))])
    page = open_page(first)
    page.set_input_files("#import-file", given)
    page.wait_for_selector(".chose-drop")
    assert "Imported 2 decisions, 1 of them of other pages" in page.inner_text("#toast")
    with page.expect_download() as download:
        page.click("#export")
    back = tmp_path / "back.csv"
    download.value.save_as(back)
    assert [row["filepath"] for row in csv.DictReader(back.open(encoding="utf-8", newline=""))] == [
        row.source_filepath for row in rows
    ]
    done = run_command("lookalike", "review", run.path, back, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page.goto(last.as_uri())
    page.wait_for_selector(".chose-drop")


def test_the_look_follows_the_system_until_somebody_chooses(open_page, run):
    write_gallery(run)
    page = open_page(run.gallery, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {ground} !== before", arg=light)
    assert page.inner_text("#theme-name") == "Light"
    page.click("#theme")
    assert page.evaluate(ground) == light
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => matchMedia('(prefers-color-scheme: dark)').matches")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(ground) == light, "what was chosen stays"
