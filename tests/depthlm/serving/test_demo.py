"""The web page in a real browser, asked as a visitor asks it; the models are nano, and a server that means harm.

DEPTHLM_SCREENSHOTS=DIR keeps pictures of the page: docs/images/demo.png and demo-phone.png.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from PIL import ExifTags, Image

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.serving.demo.actions import Actions
from depthlm.serving.demo.cloud import write_solid
from depthlm.serving.demo.command import add, open_endpoint, open_local, serve_page
from depthlm.serving.demo.disk import EACH_BYTES, Disk
from depthlm.serving.demo.picture import Form, Picture
from depthlm.serving.demo.text import problem_text

if TYPE_CHECKING:
    from browser import Browser

pytest.importorskip("gradio")
pytest.importorskip("playwright")

# Gradio ends its stream of answers after the last one, which a browser calls aborted.
ENDED = "/gradio_api/queue/data"
# Gradio's own stub, when the stream of an upload's progress ends; and Chromium's advice on the speed of WebGL, where it
# has no graphics card.
KNOWN = ("Method not implemented.", "GPU stall due to ReadPixels")
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> **3.50** ${7*7} {{7*7}}"
LEAST_TARGET = 40


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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page of nano."""
    with at_page(open_local, "nano") as url:
        yield url


@pytest.fixture(scope="module")
def visitor(chromium: Browser) -> Visitor:
    chromium.page.set_default_timeout(60_000)
    return Visitor(chromium)


@pytest.fixture
def page(visitor: Visitor, url: str) -> Iterator[Visitor]:
    visitor.visit(url)
    yield visitor
    visitor.check(url)


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


def test_the_server_gives_out_nothing_else(url, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with httpx.Client(base_url=url, timeout=10) as client:
        home = client.get("/")
        assert home.status_code == 200 and "default-src 'self'" in home.headers["content-security-policy"]
        for path in (
            f"/gradio_api/file={secret}",
            f"/gradio_api/file={Path.cwd() / 'pyproject.toml'}",
            "/gradio_api/file=http://127.0.0.1:1/",
            "/gradio_api/proxy=http://127.0.0.1:1/",
            "/gradio_api/vibe-code",
            "/gradio_api/runs",
            "/monitoring",
            "/docs",
        ):
            assert client.get(path).status_code in (403, 404), path
        for stolen in ({"path": str(secret)}, {"path": "x", "url": f"file://{secret}"}):
            assert not call(client, "photo", [stolen | {"meta": {"_type": "gradio.FileData"}}, "distance"])["success"]
        large = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(43_000_000))})
        assert large.status_code == 413
        several = client.post("/gradio_api/upload", files=[("files", ("a.jpg", bytes(30_000_000)))] * 2)
        assert several.status_code == 413
        endless = client.post("/gradio_api/upload", content=iter([b"piece"]), headers={"Content-Type": "text/plain"})
        assert endless.status_code == 413


def test_a_visitor_can_not_name_a_file_of_the_host(url, tmp_path):
    secret, folder = tmp_path / "secret.png", tmp_path / "folder"
    secret.write_bytes(photo_file(exif=False))
    folder.mkdir()
    with httpx.Client(base_url=url, timeout=30) as client:
        (own,) = client.post("/gradio_api/upload", files={"files": ("a.jpg", photo_file())}).json()
        outside = [secret, tmp_path / "none.png", folder, "/etc/passwd", f"{own}/../../../../{secret}", "", "a\0b"]
        told = [call(client, "photo", [{"path": str(path)}, "distance"])["output"]["data"] for path in outside]
        assert all(each == told[0] for each in told), "whether a file exists is not told"
        assert told[0][0] is None and told[0][1] is None and "Photo: is no longer here" in json.dumps(told[0])
        assert call(client, "photo", [{"path": own}, "distance"])["output"]["data"][1]["path"], "the photo is shown"
        form = ["camera_motion", 2.0, "photo", 70, ""]
        told = [call(client, "ask", [None, *form, {"path": str(path)}])["output"]["data"] for path in outside[:-1]]
        assert all(each == told[0] for each in told) and "Photo: is no longer here" in told[0][0], told
        assert "of its answers" in call(client, "ask", [None, *form, {"path": own}])["output"]["data"][0]


def test_nothing_is_fetched_for_a_visitor(url, monkeypatch):
    fetched = []

    async def fetch(address: str, cache_dir: str) -> str:
        fetched.append(address)
        return address

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    named = {"path": "http://example.org/a.jpg", "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=url, timeout=30) as client:
        for data in ([named, "distance"], [None, named]):
            assert not call(client, "photo", data)["success"]
    assert fetched == []


def call(client: httpx.Client, name: str, data: list[Any]) -> dict[str, Any]:
    """What comes of an event of a part, sent without the page: its first one."""
    config = client.get("/config").json()
    (part,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == name]
    event = next(each for each in config["dependencies"] if each["targets"] and each["targets"][0][0] == part)
    body = {"data": data, "fn_index": event["id"], "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
        told = next(line for line in stream.iter_lines() if "process_completed" in line)
    return json.loads(told.removeprefix("data: "))


def test_an_old_file_goes_before_a_new_one_comes(tmp_path):
    disk = Disk(tmp_path, most=10 * (100_000 + EACH_BYTES))
    (disk.uploads / "own.jpg").write_bytes(bytes(100_000))
    disk.keep()
    for i in range(20):
        folder = disk.new_folder(100_000 + EACH_BYTES)
        (folder / f"{i}.jpg").write_bytes(bytes(100_000))
        disk.read(next(disk.uploads.glob("*/0.jpg")))
        time.sleep(0.01)  # the clock of files is coarse
    left = {path.name for path in disk.uploads.rglob("*.jpg")}
    assert left == {"own.jpg", "0.jpg", *(f"{i}.jpg" for i in range(12, 20))}
    assert len(list(disk.uploads.iterdir())) == 10, "no empty folders"


def test_uploads_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr("depthlm.serving.demo.disk.MOST_BYTES", 3_000_000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with at_page(open_local, "nano") as url, httpx.Client(base_url=url, timeout=30) as client:
        (uploads,) = tmp_path.glob("depthlm-demo-*/uploads")
        page_own = {path for path in uploads.rglob("*") if path.is_file()}
        for i in range(10):
            (own,) = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes([i]) * 700_000)}).json()
        assert Path(own).exists() and all(path.exists() for path in page_own), "the examples stay"
        assert sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) < 3_700_000
    assert "GRADIO_TEMP_DIR" not in os.environ or not os.environ["GRADIO_TEMP_DIR"].startswith(str(tmp_path))


def test_problems_do_not_tell_the_server_s_files(tmp_path):
    weights = tmp_path / "my model" / "weights.safetensors"
    for error in (
        DepthLMError(weights, "is broken", "restore it"),
        DepthLMError("model", f"can't read {str(weights)!r}: gone", f"see {tmp_path}/a.log"),
        DepthLMError(r"C:\models\a", r"\\host\share\x is away", "look at ../b/c and ~/d."),
        DepthLMError("http://10.0.0.1:8000/v1", "connection to http://10.0.0.1:8000/v1 failed: refused"),
    ):
        text = problem_text(error).removesuffix("</p>")
        assert not re.search(r"[/\\]|weights|my model|10\.0|share", text), text
    assert problem_text(DepthLMError("speed", "9 m/s is too fast", "walk")).count("Speed: 9 m/s is too fast; walk.")


def test_a_click_between_pixels():
    picture = Picture(Path("x"), 5, 4, photo_file(50, 40))
    assert picture.clicked(25, 20, 2).points == ((2.0, 1.5),)
    assert picture.clicked(0, 0, 2).points == ((0.0, 0.0),) and picture.clicked(50, 40, 2).points == ((4.0, 3.0),)
    twice = picture.clicked(25, 20, 2).clicked(5, 4, 2)
    assert len(twice.points) == 2 and len(twice.clicked(10, 10, 2).points) == 1
    assert picture.clicked(25, 20, 0).points == ()


def test_forms_that_are_no_camera():
    assert Form("distance").lens().camera(10, 10) is None
    assert Form("distance", camera="intrinsics", intrinsics=" 100;100, 4.5 ,4.5").lens().intrinsics == (
        100,
        100,
        4.5,
        4.5,
    )
    for wrong in ("", "nan", "1,2,3", "1 2 3 4 5", "a"):
        with pytest.raises(DepthLMError, match="numbers"):
            Form("distance", camera="intrinsics", intrinsics=wrong).lens()
    with pytest.raises(DepthLMError, match="field of view"):
        Form("distance", camera="fov", fov=None).lens()


def test_a_photo_that_was_thrown_away(tmp_path):
    with pytest.raises(DepthLMError, match="no longer here"):
        Actions(None, None, Disk(tmp_path)).ask(Picture(tmp_path / "gone.jpg", 8, 8, b""), Form("distance"))  # type: ignore[arg-type]


def test_points_as_squares_keep_their_place(tmp_path):
    import trimesh

    write_solid(tmp_path / "a.glb", np.array([(0.0, 0, 2), (1, -0.5, 4)]), np.array([(255, 0, 0), (0, 255, 0)]), 0.1)
    (mesh,) = trimesh.load(tmp_path / "a.glb").geometry.values()
    assert mesh.vertices.reshape(2, 4, 3).mean(1) == pytest.approx(np.array([(0, 0, -2), (1, 0.5, -4)]))
    assert np.ptp(mesh.vertices[:4, 0]) == pytest.approx(0.92 * 0.2)


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command(tmp_path, told, status):
    # what is started in the background is deaf to SIGINT, and so would be its children
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from depthlm.cli import main; from depthlm.serving.demo.command import add; "
    program += "sys.exit(main(sys.argv[1:], {'demo': lambda: add}))"
    command = [sys.executable, "-c", program, "demo", "--port", "0"]
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "measures at" in line)
        address = re.search(r"http://\S+?(?=;)", line)
        assert address and httpx.get(address[0]).status_code == 200
        process.send_signal(told)
        try:
            assert process.wait(30) == status
        finally:
            process.kill()
    assert not [path for path in tmp_path.iterdir() if "demo" in path.name], "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "nothing answers"),
        (["--endpoint", "http://127.0.0.1:9", "--vllm"], "--vllm"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--host", "192.0.2.1"], "cannot be used"),
    ],
)
def test_bad_use_is_told_in_a_line(arguments, said, capsys):
    assert main(["demo", *arguments], {"demo": lambda: add}) == 2
    assert said in capsys.readouterr().err
