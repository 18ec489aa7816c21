"""The client before servers that are no gateway, and with a model in this process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_frame
from eval_server import ChatServer
from PIL import Image

import depthlm
from depthlm.asking import Canvas, ask_about
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import decode_rgb
from depthlm.photo import Lens, Photo
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.serving.client import image_bytes, to_json
from depthlm.serving.spatial_model import Question

FRAME = make_frame()
POINT = (100.0, 120.0)


def body(server: ChatServer) -> dict:
    return list(server.bodies.values())[-1]


def sent_image(server: ChatServer) -> np.ndarray:
    parts = body(server)["messages"][-1]["content"]
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    return decode_rgb(base64.b64decode(url.partition(",")[2]), "sent")


def says(text: str):
    return lambda body, _: [{"message": {"role": "assistant", "content": text}}] * body.get("n", 1)


def test_a_plain_server_is_sent_what_is_drawn_here(server):
    server.choices = says("3.25")
    server.models = ["Qwen2.5-VL-3B-Instruct"]
    with depthlm.Client(server.url) as client:
        found = client.measure(FRAME.image, [POINT], fov=70, names=["door"])
    assert (found.value, found.unit, found.model) == (3.25, "m", "Qwen2.5-VL-3B-Instruct")
    assert found.points[0]["name"] == "door"
    photo = Photo(FRAME.pixels(), Camera.from_fov(320, 240, 70))
    shown = ask_about([Canvas(photo, PROFILES.get("qwen2.5-vl-base"))], KINDS.get("distance"), [POINT])
    np.testing.assert_array_equal(sent_image(server), shown.images[0])
    asked = body(server)
    assert asked["messages"][-1]["content"][-1]["text"] == shown.texts[0]
    assert (asked["temperature"], asked["logprobs"], asked["model"]) == (0, True, "Qwen2.5-VL-3B-Instruct")


def test_an_unknown_model_is_asked_by_the_general_profile_and_says_so(server):
    server.choices = says("3.25")
    with depthlm.Client(server.url) as client:
        found = client.measure(FRAME.image, [POINT], fov=70)
    assert any("the general profile" in warning for warning in found.warnings)
    assert any("resize" in warning for warning in found.warnings)
    with depthlm.Client(server.url, profile="nano") as client:
        found = client.measure(FRAME.image, [POINT], fov=70)
    assert not any("profile" in warning for warning in found.warnings)
    assert sent_image(server).shape[:2] == (112, 168)


@pytest.mark.parametrize(
    ("asked", "kind", "unit"),
    [
        ({"points": [POINT]}, "distance", "m"),
        ({"points": [POINT, (200, 60)]}, "two_point", "m"),
        ({"points": [POINT], "time": 2}, "speed", "m/s"),
        ({"points": [POINT], "speed": 2}, "travel_time", "s"),
        ({"second_image": FRAME.image}, "camera_motion", "m"),
        ({"points": [POINT], "kind": "axis_distance"}, "axis_distance", "m"),
    ],
)
def test_what_is_given_tells_the_kind(server, asked, kind, unit):
    server.choices = says("1.5")
    with depthlm.Client(server.url, profile="nano") as client:
        found = client.measure(FRAME.image, fov=70, **asked)
    assert (found.kind, found.unit, found.value) == (kind, unit, 1.5)


def test_samples_are_drawn_where_they_are_asked_for(server):
    server.choices = lambda body, _: [{"message": {"content": str(1 + i)}} for i in range(body["n"])]
    with depthlm.Client(server.url, profile="nano") as client:
        found = client.measure(FRAME.image, [POINT], fov=70, samples=5)
    assert (found.value, found.interval) == (3, (1, 5))
    assert body(server)["temperature"] == 1


def test_a_provider_that_refuses_log_probabilities_is_asked_without(server):
    def act(question: str, attempt: int) -> str | None:
        return None

    server.choices = says("3.25")
    refused = []

    def send(handler, status, reply, headers=None, raw=b""):
        asked = list(server.bodies.values())
        if asked and "logprobs" in asked[-1] and "choices" in reply:
            refused.append(1)
            status, reply = 400, {"error": {"message": "logprobs is not supported with this model"}}
        plain(handler, status, reply, headers, raw)

    plain, server._send = server._send, send
    server.fault = act
    with depthlm.Client(server.url, profile="nano") as client:
        for _ in range(2):
            found = client.measure(FRAME.image, [POINT], fov=70)
            assert (found.value, found.interval) == (3.25, None)
            assert any("interval is not known" in warning for warning in found.warnings)
    assert len(refused) == 1, "the second question knows"


def test_any_form_of_image_is_taken(server, tmp_path):
    server.choices = says("1")
    pixels = FRAME.pixels()
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(pixels).copy())
    turned.getexif()[0x0112] = 6
    (tmp_path / "a.png").write_bytes(FRAME.image)
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), FRAME.image, pixels, image, image.convert("RGBA")):
        np.testing.assert_array_equal(decode_rgb(image_bytes(form), "a"), pixels)
    np.testing.assert_array_equal(decode_rgb(image_bytes(turned), "a"), pixels)
    for bad in (pixels[..., 0], pixels.astype(float), tmp_path / "none.png"):
        with pytest.raises(DepthLMError):
            image_bytes(bad)


def test_it_works_inside_a_running_event_loop(server):
    """As in a notebook."""
    server.choices = says("1")

    async def cell() -> float | None:
        with depthlm.Client(server.url, profile="nano") as client:
            return client.measure(FRAME.image, [POINT], fov=70).value

    assert asyncio.run(cell()) == 1


def test_many_questions_at_once(server):
    server.choices = says("1")
    server.delay_s = 0.1

    async def ask() -> list[float | None]:
        async with depthlm.AsyncClient(server.url, profile="nano") as client:
            found = await asyncio.gather(*(client.measure(FRAME.image, [(50 + i, 100)], fov=70) for i in range(8)))
            return [each.value for each in found]

    assert asyncio.run(ask()) == [1] * 8
    assert server.most_under_way > 2


def test_errors_are_clear_and_leave_nothing_open(server, monkeypatch):
    with pytest.raises(DepthLMError, match="nothing answers"), depthlm.Client("http://127.0.0.1:9"):
        pass
    with pytest.raises(DepthLMError, match="both named"):
        depthlm.Client("http://h", local="nano")
    client = depthlm.Client(server.url, profile="nano", api_key="s3cret", attempts=1)
    try:
        for wrong, told in [
            ({"points": [(999, 1)]}, "outside"),
            ({"points": []}, "about 1 point"),
            ({"points": [POINT], "time": 1, "speed": 1}, "give one of them"),
            ({"points": [(1, 2, 3)]}, "no pixel"),
            ({"points": [POINT], "kind": "depht"}, "did you mean|unknown|known"),
            ({"points": [POINT], "samples": 0}, "samples"),
            ({"points": [POINT], "fov": 70, "intrinsics": [500]}, "give one of them"),
        ]:
            with pytest.raises(DepthLMError, match=told):
                client.measure(FRAME.image, **wrong)
        with pytest.raises(DepthLMError, match="can't be decoded"):
            client.measure(b"no image", [POINT])
        assert not server.bodies, "nothing was sent"
        server.fault = lambda question, attempt: "400"
        with pytest.raises(DepthLMError, match="scripted 400"):
            client.measure(FRAME.image, [POINT], fov=70)
        assert server.headers[-1]["Authorization"] == "Bearer s3cret"
    finally:
        client.close()
        client.close()


def test_a_model_in_this_process_measures_and_says_how_sure_it_is():
    with depthlm.Client(local="nano") as client:
        found = client.measure(FRAME.image, [POINT], fov=70)
        assert found.model == "nano"
        assert found.interval is not None
        assert found.interval[0] <= found.value <= found.interval[1]
        assert 0 < found.value < 50
        assert found == client.measure(FRAME.pixels(), [POINT], fov=70), "greedy answers are the same"
        reasoned = client.measure(FRAME.image, [POINT], fov=70, time=2)
        assert reasoned.interval[1] - reasoned.interval[0] > 0, "arithmetic is sure, the distance is not"
        drawn = client.measure(FRAME.image, [POINT], fov=70, samples=8)
        assert drawn.interval[0] <= drawn.value <= drawn.interval[1]


def test_pictures_of_an_image_object_keep_their_exif():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[41989] = 36
    Image.new("RGB", (600, 400)).save(buffer, "JPEG", exif=exif)
    from depthlm.photo import exif_focal

    assert exif_focal(image_bytes(Image.open(io.BytesIO(buffer.getvalue())))) == pytest.approx(600)


def test_a_client_that_nobody_closes_holds_up_no_exit(server):
    server.choices = says("1")
    program = f"import depthlm; c = depthlm.Client({server.url!r}, profile='nano'); c.start(); print('done')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "Unclosed" not in done.stderr


def test_a_closed_client_opens_again(server):
    server.choices = says("1")
    client = depthlm.Client(server.url, profile="nano")
    for _ in range(2):
        assert client.measure(FRAME.image, [POINT], fov=70).value == 1
        client.close()


def test_a_field_of_view_of_0_is_told_to_the_gateway():
    """It refuses it; left out, the camera would be assumed."""
    question = Question("distance", [b""], [Lens(fov_deg=0)], [POINT])
    assert to_json(question)["images"][0]["fov"] == 0


def test_half_a_character_does_no_harm(server):
    server.choices = says("1.5 \ud800 m")
    with depthlm.Client(server.url, profile="nano") as client:
        found = client.measure(FRAME.image, [POINT], fov=70)
    assert found.value == 1.5
    assert json.dumps(found.to_dict(), ensure_ascii=False).encode()
