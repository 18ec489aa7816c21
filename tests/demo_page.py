"""The web page, served for a test; and a visitor to it, in a real browser."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anyio.from_thread import start_blocking_portal
from PIL import ExifTags, Image

from depthlm.serving.demo.command import serve_page

# Gradio ends its stream of answers after the last one, which a browser calls aborted.
ENDED = "/gradio_api/queue/data"
# Gradio's own stub, when the stream of an upload's progress ends; and Chromium's advice on the speed of WebGL, where it
# has no graphics card.
KNOWN = ("Method not implemented.", "GPU stall due to ReadPixels")


class Visitor:
    """A browser at the page; what it complains of is collected."""

    def __init__(self, browser: Any) -> None:
        self.browser, self.page = browser, browser.page
        self.failed: list[str] = []
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", lambda r: self.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def visit(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.page.goto("about:blank")
        self.page.wait_for_timeout(300)  # the page before lets go of its server
        for told in (self.browser.complaints, self.browser.requests, self.failed):
            told.clear()
        self.browser.open(url, width, height, dark)
        self.page.wait_for_selector("#ask")

    def check(self, url: str) -> None:
        """Nothing was complained of, nothing failed, and nobody else was asked."""
        assert [text for text in self.browser.complaints if not any(known in text for known in KNOWN)] == []
        assert [text for text in self.failed if ENDED not in text] == []
        assert all(each.startswith((url, "data:", "blob:" + url)) for each in self.browser.requests)
        assert self.browser.run("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"

    def upload(self, data: bytes, name: str = "photo.jpg", box: str = "#photo") -> None:
        files = [{"name": name, "mimeType": "image/jpeg", "buffer": data}]
        self.page.set_input_files(f"{box} input[type=file]", files)
        self.page.wait_for_selector(f"{box} img")

    def example(self, number: int) -> None:
        self.page.locator("#examples .thumbnail-item").nth(number).click()
        self.page.wait_for_selector("#photo img")
        self.says("#points", "Click|Add")

    def click(self, x: float, y: float) -> None:
        """Click at shares of the photo's width and height."""
        box = self.drawn()
        self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def drawn(self) -> dict[str, float]:
        """Where the photo's pixels are: not the whole of its element, which keeps its own aspect."""
        loaded = "(e => e?.complete && Math.max(e.naturalWidth, e.naturalHeight) === 1280)"
        self.page.wait_for_function(f"{loaded}(document.querySelector('#photo img'))")
        return self.browser.run("""(() => { const e = document.querySelector('#photo img');
            e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();
            const s = Math.min(r.width / e.naturalWidth, r.height / e.naturalHeight);
            const [w, h] = [s * e.naturalWidth, s * e.naturalHeight];
            return {x: r.x + (r.width - w) / 2, y: r.y + (r.height - h) / 2, width: w, height: h} })()""")

    def choose(self, box: str, value: str) -> None:
        self.page.locator(f"{box} label", has=self.page.locator(f"input[value={value}]")).click()

    def says(self, box: str, pattern: str, seconds: float = 60) -> str:
        """Wait until a part's text fits the pattern; returns the text."""
        script = "([box, pattern]) => new RegExp(pattern, 's').test(document.querySelector(box)?.innerText ?? '')"
        self.page.wait_for_function(script, arg=[box, pattern], timeout=1000 * seconds)
        return self.page.inner_text(box)

    def points(self, count: int) -> list[tuple[float, float]]:
        """The points that were clicked, once there are so many, px."""
        told = self.says("#points", r"px.*" * count)
        return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+), ([\d.]+) px", told)]

    def ask(self) -> tuple[float, str, float, float]:
        """Value, unit and interval of the answer."""
        self.page.click("#ask")
        text = self.says("#answer", r"of its answers")
        found = re.search(r"([\d.]+) (m/s|m|s)\s+90% of its answers: ([\d.]+) to ([\d.]+) \2", text)
        assert found, text
        return float(found[1]), found[2], float(found[3]), float(found[4])

    def keep(self, name: str) -> None:
        if folder := os.environ.get("DEPTHLM_SCREENSHOTS"):
            self.page.mouse.move(0, 0)
            self.page.wait_for_timeout(500)
            self.browser.photograph(Path(folder) / name)
            with Image.open(Path(folder) / name) as image:
                small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            small.save(Path(folder) / name, optimize=True)


@contextmanager
def at_page(opening: Any, *args: Any) -> Iterator[str]:
    with start_blocking_portal("asyncio") as portal:
        model = portal.call(opening, *args)
        with serve_page(model, portal) as url:
            yield url.rstrip("/")
        portal.call(model.answerer.close)


def photo_file(width: int = 1500, height: int = 1000, exif: bool = True) -> bytes:
    """A JPEG of stripes whose EXIF tells a focal length of 24 mm (35 mm equivalent)."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x // 50 + y // 50) % 2 * 200], 2).astype(np.uint8)
    tags = Image.Exif()
    if exif:
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 24
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()
