"""Chromium, headless: one browser for all tests, a context of its own for each."""

import os
from pathlib import Path

import pytest
from benchmarks.chromium import ABSENT, FLAGS, find_chromium


@pytest.fixture(scope="session")
def chromium():
    """The browser; tests that need it are skipped where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip(ABSENT)
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """What a page did that it must not do."""

    def __init__(self):
        self.requests, self.errors, self.dialogs = [], [], []

    def follow(self, page):
        """Note errors and dialogs of a page."""
        page.on("console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    @property
    def network(self):
        """Requests for what is not on disk or in the page itself."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture
def open_page(chromium):
    """Open a file or an address in a context of its own; at the end nothing may have gone wrong on any page."""
    opened = []

    def open_(where, *, network=False, script=None, **settings):
        settings = {"viewport": {"width": 1400, "height": 900}, "accept_downloads": True, **settings}
        context = chromium.new_context(**settings)
        context.set_default_timeout(10_000)
        watched = Watched()
        opened.append((context, watched, network))
        context.on("request", lambda request: watched.requests.append(request.url))
        context.on("page", watched.follow)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(where if isinstance(where, str) else where.absolute().as_uri())
        return page

    yield open_
    for context, watched, network in opened:
        context.close()
        assert not watched.dialogs
        assert not watched.errors
        assert network or not watched.network


@pytest.fixture
def screenshot(tmp_path):
    """Keep a picture of a page in `LOOKALIKE_SCREENSHOTS`, or in the test's folder."""
    folder = Path(os.environ.get("LOOKALIKE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png")
