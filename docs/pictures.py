"""`python docs/pictures.py RUN`: the pictures of docs/gallery.md, taken of a run's gallery in headless Chromium.

Only images of `conformal-clip-data` (MIT) may be in the run: mine them with relative paths, so that no folder of the
machine is in the picture.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
MOST_BYTES = 400_000
#: For each picture: the settings of the browser, and the keys that are pressed first.
PICTURES: dict[str, tuple[dict[str, object], str]] = {
    "gallery": ({"viewport": {"width": 1400, "height": 1180}}, ""),
    "gallery_phone": (
        {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
         "color_scheme": "dark"},
        "jyyxyj",
    ),
}  # fmt: skip


def take(browser: Browser, page_url: str, name: str) -> None:
    """Take one picture; where its file is too large, with 256 colours."""
    settings, keys = PICTURES[name]
    context = browser.new_context(**settings)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(page_url)
    page.select_option("#sort", "nearest")
    page.wait_for_timeout(500)
    for number, decision in enumerate(("keep", "keep", "drop", "keep", "keep", "drop")[: 0 if keys else 6]):
        page.locator(f".tile .do.{decision}").nth(number).click()
    page.evaluate("scrollTo(0, 0)")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_timeout(5_000)  # until the last message is gone
    path = HERE / f"{name}.png"
    page.screenshot(path=path)
    context.close()
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    whole.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        whole.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {whole.width} x {whole.height}, {path.stat().st_size / 1e3:.0f} kB")  # noqa: T201


def main(run: str) -> None:
    """Take all pictures."""
    program = shutil.which("chromium") or sys.exit("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for name in PICTURES:
            take(browser, (Path(run) / "gallery.html").absolute().as_uri(), name)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
