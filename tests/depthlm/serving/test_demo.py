"""The web page in a real browser, asked as a visitor asks it; the models are nano, and a server that means harm.

DEPTHLM_SCREENSHOTS=DIR keeps pictures of the page: docs/images/demo.png and demo-phone.png.
"""

from __future__ import annotations

import io
import json
import os
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from demo_page import Visitor, at_page, photo_file
from PIL import Image

from depthlm.serving.demo.command import open_endpoint

if TYPE_CHECKING:
    from browser import Browser

pytest.importorskip("gradio")
pytest.importorskip("playwright")

HOSTILE = "<img src=x onerror=\"document.title='taken'\"> **3.50** ${7*7} {{7*7}}"
LEAST_TARGET = 40


@pytest.fixture(scope="module")
def visitor(chromium: Browser) -> Visitor:
    chromium.page.set_default_timeout(60_000)
    return Visitor(chromium)


@pytest.fixture
def page(visitor: Visitor, url: str) -> Iterator[Visitor]:
    visitor.visit(url)
    yield visitor
    visitor.check(url)


def test_upload_click_ask(page):
    page.upload(photo_file())
    page.says("#points", "Click a point")
    page.click(0.6, 0.7)
    (at,) = page.points(1)
    assert at == pytest.approx((0.6 * 1500 - 0.5, 0.7 * 1000 - 0.5), abs=3)
    value, unit, low, high = page.ask()
    assert unit == "m" and low <= value <= high and 0 < value < 100
    assert "camera is not known" not in page.page.inner_text("#answer"), "EXIF tells it"
    assert float(page.page.input_value("#text textarea").split()[0]) == value
    assert "red arrow" in page.page.input_value("#question textarea")
    shown = page.browser.run("(e => [e.naturalWidth, e.naturalHeight])(document.querySelector('#seen img'))")
    assert min(shown) > 50


def test_a_click_is_marked_in_the_picture_and_moves(page):
    page.upload(photo_file(exif=False))
    before = page.page.get_attribute("#photo img", "src")
    page.click(0.2, 0.2)
    page.points(1)
    page.page.wait_for_function("src => document.querySelector('#photo img').src !== src", arg=before)
    with Image.open(io.BytesIO(httpx.get(page.page.get_attribute("#photo img", "src")).content)) as marked:
        x, y = round(0.2 * marked.width), round(0.2 * marked.height)
        near = np.asarray(marked.convert("RGB"), int)[y - 30 : y + 30, x - 30 : x + 30]
    assert ((near[..., 0] > 200) & (near[..., 1:] < 90).all(2)).sum() > 50, "a red ring"
    page.click(0.8, 0.5)
    page.says("#points", "1 (119|120)")
    assert len(page.points(1)) == 1, "one point is asked about"
    page.ask()
    assert "was assumed" in page.page.inner_text("#answer"), "no EXIF, no encoder"
    page.page.click("#clear")
    page.says("#points", "Click a point")


def test_two_points_of_an_example_and_a_third_click(page):
    page.example(1)
    assert page.page.input_value("#intrinsics input, #intrinsics textarea").startswith("340.11")
    page.choose("#kind", "two_point")
    page.says("#points", "two points")
    page.click(0.3, 0.6)
    page.says("#points", "other")
    page.page.click("#ask")
    page.says("#answer", "needs two points")
    page.click(0.7, 0.7)
    page.points(2)
    _, unit, *_ = page.ask()
    assert unit == "m" and "blue arrow" in page.page.input_value("#question textarea")
    assert "not known" not in page.page.inner_text("#answer"), "the example's camera is"
    page.click(0.5, 0.5)
    page.says("#points", "other")
    assert len(page.points(1)) == 1, "a third click starts anew"


def test_speed_time_and_motion(page):
    page.example(2)
    page.click(0.5, 0.6)
    page.points(1)
    for kind, unit, said in (("speed", "m/s", "in 4.0 seconds"), ("travel_time", "s", "4.0 metres per second")):
        page.choose("#kind", kind)
        page.page.wait_for_selector("#given input")
        page.page.fill("#given input", "4")
        page.page.keyboard.press("Tab")
        page.page.click("#ask")
        page.page.wait_for_function(
            "said => document.querySelector('#question textarea').value.includes(said)", arg=said
        )
        assert f" {unit}\n" in page.page.inner_text("#answer")
    page.choose("#kind", "camera_motion")
    page.page.wait_for_selector("#second img")
    page.page.click("#ask")
    page.page.wait_for_function("document.querySelector('#question textarea').value.includes('two images')")


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, small as a file however large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def problem(page: Visitor, pattern: str) -> None:
    """One sentence that says what is wrong."""
    text = page.says("#answer .problem", pattern)
    assert text.endswith(".") and "Traceback" not in text and "/" not in text and len(text) < 250, text


def test_what_can_not_be_asked_is_said_in_a_sentence(page):
    page.page.click("#ask")
    problem(page, "Photo: is missing; drop one")
    page.page.set_input_files("#photo input[type=file]", [{"name": "a.png", "mimeType": "image/png", "buffer": b"no"}])
    problem(page, "can't be decoded")
    page.page.set_input_files(
        "#photo input[type=file]", [{"name": "b.png", "mimeType": "image/png", "buffer": png(9000, 9000)}]
    )
    problem(page, "over the limit of 40 megapixels")
    page.example(0)
    page.page.click("#ask")
    problem(page, "needs one point; click on the photo")
    page.click(0.5, 0.5)
    page.points(1)
    for text, said in (("abc", "no 1, 2 or 4 numbers"), ("0, 0, 1, 1", "ocal length"), ("5 5 5", "numbers")):
        page.page.fill("#intrinsics input, #intrinsics textarea", text)
        page.page.keyboard.press("Tab")
        page.page.click("#ask")
        problem(page, said)
    page.choose("#camera", "fov")
    page.page.fill("#fov input", "200")
    page.page.keyboard.press("Tab")
    page.page.click("#ask")
    problem(page, "field of view")
    page.page.fill("#fov input", "60")
    page.page.keyboard.press("Tab")
    page.ask()


def test_a_point_cloud_is_made_shown_and_taken_home(page):
    page.example(0)
    page.click(0.54, 0.8)
    page.points(1)
    page.ask()
    page.page.locator("#more button[role=tab]").nth(1).click()
    columns = 32 if os.environ.get("DEPTHLM_SCREENSHOTS") else 8
    page.page.fill("#columns input[type=number]", str(columns))
    page.page.keyboard.press("Tab")
    page.page.click("#make")
    told = page.says("#told", r"\d+ points, .* m away", 400)
    page.page.wait_for_selector("#space canvas")
    page.page.wait_for_timeout(4000)
    seen = np.asarray(Image.open(io.BytesIO(page.page.locator("#space canvas").screenshot())).convert("RGB"), int)
    assert (seen.max(2) > 90).mean() > 0.01, "something is seen in the dark"
    found = {}
    for button in page.page.locator("#files button").all():
        with page.page.expect_download() as download:
            button.click()
        if download.value.suggested_filename.endswith("ply"):
            ply = Path(download.value.url.split("/file=")[1])
            assert list(ply.parents[2].rglob("*.ply")) == [ply], "it is kept once, where the limit holds"
        found[download.value.suggested_filename.rsplit(".", 1)[1]] = download.value.path().read_bytes()
    assert found["ply"].startswith(b"ply") and found["glb"].startswith(b"glTF")
    depth = np.load(io.BytesIO(found["npy"]), allow_pickle=False)
    assert depth.shape == (384, 512) and 0 < np.median(depth[depth > 0]) < 50
    known = (depth > 0).mean()
    assert (f"The depth map knows {known:.0%} of the pixels" in told) == (known < 0.5), "it is mostly unknown"
    assert columns > 8 or known < 0.5
    page.keep("demo.png")


def test_on_a_phone(visitor, url):
    visitor.visit(url, 390, 844)
    visitor.example(0)
    visitor.click(0.54, 0.8)
    (at,) = visitor.points(1)
    assert at == pytest.approx((0.54 * 512 - 0.5, 0.8 * 384 - 0.5), abs=3)
    visitor.ask()
    visitor.page.wait_for_selector("#seen img")
    targets = (
        "[...document.querySelectorAll('button, label:has(input[type=radio])')].filter(e => e.checkVisibility() && "
    )
    targets += "e.matches('#ask, #clear, #examples button, #kind label, #camera label')).map(e => e.offsetHeight)"
    assert min(visitor.browser.run(targets)) >= LEAST_TARGET
    visitor.keep("demo-phone.png")
    visitor.check(url)
    visitor.visit(url, 390, 844, dark=True)
    visitor.check(url)


class Liar(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model answers with markup."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        self._send(200 if known else 404, {"data": [{"id": "<b>liar</b>"}]} if known else {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, {"choices": [{"message": {"content": HOSTILE}, "finish_reason": "stop"}]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_what_a_model_says_is_text(visitor):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with at_page(open_endpoint, f"http://127.0.0.1:{server.server_port}", None, [], "nano") as url:
        visitor.visit(url)
        assert "<b>liar</b>" in visitor.page.inner_text("#head")
        visitor.example(3)
        visitor.click(0.5, 0.5)
        visitor.points(1)
        visitor.page.click("#ask")
        visitor.page.wait_for_function("document.querySelector('#text textarea').value.length > 5")
        assert visitor.page.input_value("#text textarea") == HOSTILE
        assert "the server tells no log-probabilities" in visitor.page.inner_text("#answer")
        assert visitor.browser.run("[document.title, document.querySelectorAll('img[src=x]').length]") == ["DepthLM", 0]
        visitor.check(url)
    server.shutdown()
    server.server_close()
