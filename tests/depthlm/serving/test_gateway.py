"""What a gateway answers: chat with and without spatial parts, measurements, its other pages."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from gateway_runs import ASKED_AS, Model, Running, data_url, file_of, image_part, picture, sent_pixels, text_part
from PIL import Image

from depthlm.asking import Canvas
from depthlm.models.asked_as import AskedAs
from depthlm.photo import Lens, read_photo
from depthlm.profiles import NANO
from depthlm.serving.client import Client

PNG = file_of(picture())
SPATIAL = {"points": [{"x": 100, "y": 120, "name": "chair"}], "fov": 60}


def expected(data: bytes, points: list[tuple[float, float]], colours: list[str], lens: Lens) -> np.ndarray:
    return Canvas(read_photo(data, lens), NANO).mark(points, colours).pixels


@pytest.mark.parametrize("body", [
    b'{"messages":[{"role":"user","content":"hi \\u00e9"}],  "odd" : [1e2, null] , "model":"served"}',
    json.dumps({"messages": [{"role": "user", "content": [image_part(PNG), text_part("{chair}?")]}]}).encode(),
])  # fmt: skip
def test_without_spatial_the_bytes_pass_unchanged(model: Model, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer of-the-client", "X-Request-Id": "r7"}
    with Running(model.url) as running:
        answer = running.client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 200
    assert model.bodies == [body]
    assert model.headers[0]["x-request-id"] == "r7"
    assert "authorization" not in model.headers[0]
    assert answer.json()["choices"][0]["message"]["content"] == Model.answer
    assert "depthlm" not in answer.json() and "x-depthlm-warning" not in answer.headers


def test_spatial_parts_are_drawn_and_named(model: Model) -> None:
    second = file_of(picture(400, 300, 1), "JPEG")
    with Running(model.url) as running:
        answer = running.chat(
            image_part(PNG, SPATIAL),
            text_part("How far is {chair} from {a}, and {unknown} {}?"),
            image_part(PNG),
            image_part(second, {"points": [{"x": 200, "y": 150}], "intrinsics": [350]}),
            top_p=0.5,
        )
    sent = json.loads(model.bodies[0])
    assert sent["top_p"] == 0.5
    one, text, plain, two = sent["messages"][0]["content"]
    assert text["text"] == "How far is the point at the red arrow from the point at the blue arrow, and {unknown} {}?"
    assert plain == image_part(PNG)
    assert "spatial" not in one and "spatial" not in two
    assert np.array_equal(sent_pixels(one), expected(PNG, [(100, 120)], ["red"], Lens(fov_deg=60)))
    assert np.array_equal(sent_pixels(two), expected(second, [(200, 150)], ["blue"], Lens((350.0,))))
    told = answer.json()["depthlm"]
    assert told["warnings"] == ["messages.0: no point is called {unknown}"]
    assert answer.headers["x-depthlm-warning"] == told["warnings"][0]
    assert told["images"][0]["points"] == [{"name": "chair", "colour": "red", "x": 100, "y": 120}]
    assert told["images"][1]["camera"]["fx"] == 350 and told["images"][1]["camera"]["known_from"] == "given"


def test_a_warning_of_many_names_is_short(model: Model) -> None:
    text = text_part(" ".join(f"{{none{i}}}" for i in range(10_000)))
    with Running(model.url) as running:
        (warning,) = running.chat(image_part(PNG, SPATIAL), text).json()["depthlm"]["warnings"]
    assert warning.endswith("{none3}, {none4}, …")


def test_a_name_that_no_text_speaks_of_is_introduced(model: Model) -> None:
    points = [{"x": 100, "y": 120, "name": "my chair"}, {"x": 200, "y": 60, "name": "lamp"}]
    with Running(model.url) as running:
        running.chat(image_part(PNG, {"points": points, "fov": 60}), text_part("How far is my chair from {lamp}?"))
        running.chat(image_part(PNG, {"points": points[:1], "fov": 60}))
    first, second = (json.loads(body)["messages"][0]["content"] for body in model.bodies)
    assert first[1]["text"] == (
        "my chair is the point at the red arrow. How far is my chair from the point at the blue arrow?"
    )
    assert second[1] == {"type": "text", "text": "my chair is the point at the red arrow."}


def test_colours_go_on_over_messages_and_letters_begin_anew(model: Model) -> None:
    content = [image_part(PNG, {"points": [{"x": 100, "y": 120}], "fov": 60}), text_part("How far is {a}?")]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "2.00"}] * 2
    with Running(model.url) as running:
        assert running.client.post("/v1/chat/completions", json={"messages": turns[:3]}).status_code == 200
    sent = json.loads(model.bodies[0])["messages"]
    assert [sent[i]["content"][1]["text"] for i in (0, 2)] == [
        "How far is the point at the red arrow?", "How far is the point at the blue arrow?"
    ]  # fmt: skip
    assert sent[1] == turns[1]


@pytest.mark.parametrize("how", [ASKED_AS, AskedAs("nano", "both")])
def test_names_are_known_in_later_turns(model: Model, how: AskedAs) -> None:
    early = {"role": "user", "content": "not yet {chair}"}
    marked = {"role": "user", "content": [image_part(PNG, SPATIAL), text_part("How far is {chair}?")]}
    said = {"role": "assistant", "content": "2.00"}
    later = [{"role": "user", "content": "And {chair} in feet? {unknown}"}, {"role": "assistant", "content": None}]
    parts = {"role": "user", "content": ["or {chair}", text_part("is {chair} near?")]}
    with Running(model.url, how) as running:
        body = {"messages": [early, marked, said, *later, parts]}
        assert running.client.post("/v1/chat/completions", json=body).status_code == 200
    sent = json.loads(model.bodies[0])["messages"]
    assert [sent[i] for i in (0, 2, 4)] == [early, said, later[1]]
    assert sent[3]["content"] == "And the point at the red arrow in feet? {unknown}"
    assert sent[5]["content"] == ["or the point at the red arrow", text_part("is the point at the red arrow near?")]


def test_as_many_images_as_the_server_takes(model: Model) -> None:
    with Running(model.url, images=1) as running:
        assert running.chat(image_part(PNG), text_part("?")).status_code == 200
        many = running.chat(image_part(PNG), image_part(PNG), text_part("?"))
        both = {"kind": "camera_motion", "images": [{"url": data_url(PNG), "fov": 60}] * 2}
        moved = running.client.post("/v1/spatial/measure", json=both)
    assert [answer.status_code for answer in (many, moved)] == [400, 400]
    assert [answer.json()["error"]["param"] for answer in (many, moved)] == ["messages", "images"]
    assert len(model.bodies) == 1


def test_a_spatial_of_null_is_none(model: Model) -> None:
    parts = [{**image_part(PNG), "spatial": None}, {**text_part("hi"), "spatial": None}]
    with Running(model.url) as running:
        answer = running.chat(*parts)
    assert answer.status_code == 200 and "depthlm" not in answer.json()
    assert json.loads(model.bodies[0])["messages"][0]["content"] == parts


def test_a_model_taught_by_words_is_told_the_camera(model: Model) -> None:
    with Running(model.url, AskedAs("nano", "both", "coordinates")) as running:
        running.chat(image_part(PNG, SPATIAL), text_part("How far is {chair}?"))
    image, text = json.loads(model.bodies[0])["messages"][0]["content"]
    marked = Canvas(read_photo(PNG, Lens(fov_deg=60)), NANO, "both", "coordinates").mark([(100, 120)])
    assert np.array_equal(sent_pixels(image), marked.pixels)
    x, y = np.rint(marked.xy[0]).astype(int)
    assert text["text"].startswith("The image is ")
    assert "focal length of 128.0 pixels" in text["text"]
    assert text["text"].endswith(f"degrees. How far is the point at pixel ({x}, {y})?")


def test_an_unknown_camera_is_warned_of(model: Model) -> None:
    with Running(model.url) as running:
        answer = running.chat(image_part(PNG, {"points": []}), text_part("How far?"))
    assert "was assumed" in answer.headers["x-depthlm-warning"]
    assert "was assumed" in answer.json()["depthlm"]["warnings"][0]
    assert answer.json()["depthlm"]["images"][0]["camera"]["known_from"] == "assumed"


def test_points_lie_in_the_upright_image(model: Model) -> None:
    upright = picture(240, 320)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = file_of(Image.fromarray(upright).rotate(90, expand=True), "PNG", exif=exif)
    spatial = {"points": [{"x": 120, "y": 300}], "fov": 45}  # beyond the 240 rows of the file as it is stored
    with Running(model.url) as running:
        assert running.chat(image_part(turned, spatial), text_part("How far is {a}?")).status_code == 200
    image, _ = json.loads(model.bodies[0])["messages"][0]["content"]
    assert np.array_equal(sent_pixels(image), expected(file_of(upright), [(120, 300)], ["red"], Lens(fov_deg=45)))


def test_many_questions_about_an_image_decode_it_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counting(data: bytes, *args: Any, **more: Any) -> Any:
        decoded.append(data)
        return read_photo(data, *args, **more)

    monkeypatch.setattr("depthlm.serving.spatial_model.read_photo", counting)
    with Running(model.url, cache_bytes=3 << 20) as running:
        with ThreadPoolExecutor(8) as pool:
            asked = list(pool.map(lambda x: running.measure(data_url(PNG), (x, 120)), range(100, 116)))
        assert {answer.json()["value"] for answer in asked} == {3.25}
        assert len(decoded) == 1
        for seed in range(1, 30):
            running.measure(data_url(file_of(picture(seed=seed))), (100, 120))
        assert 1 < len(running.gateway.model.canvases) < 12
        running.measure(data_url(PNG), (100, 120))
        assert len(decoded) == 31  # it had to make room


def test_small_photos_that_are_kept_are_marked_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others by the threads: the loop never decodes, nor draws what takes long."""
    with Running(model.url) as running:
        drawn, aside = running.gateway._drawn, []

        def counting(job: Any) -> Any:
            aside.append(job)
            return drawn(job)

        monkeypatch.setattr(running.gateway, "_drawn", counting)

        def handed_over(data: bytes, x: float, text: str = "How far is {a}?", **spatial: Any) -> int:
            before = len(aside)
            known = {"points": [{"x": x, "y": 120}], "intrinsics": [300], **spatial}
            assert running.chat(image_part(data, known), text_part(text)).status_code == 200
            image, _ = json.loads(model.bodies[-1])["messages"][0]["content"]
            lens = Lens(tuple(known["intrinsics"]), None, tuple(known.get("distortion", ())))
            assert np.array_equal(sent_pixels(image), expected(data, [(x, 120)], ["red"], lens))
            return len(aside) - before

        small, large = file_of(picture()), file_of(picture(1280, 960))
        assert [handed_over(small, x) for x in (100, 130, 60)] == [1, 0, 0]
        assert [handed_over(small, x, intrinsics=[310]) for x in (100, 130)] == [1, 0]  # another camera
        assert [handed_over(small, x, distortion=[0.01, 0, 0, 0]) for x in (100, 130)] == [1, 1]
        assert [handed_over(large, x, intrinsics=[900]) for x in (400, 430)] == [1, 1]
        assert [handed_over(small, 90, "{a}" * times) for times in (1000, 30_000)] == [0, 1]
        before = len(aside)
        for count in (2, 3):  # places for many markers are searched for
            known = {"points": [{"x": 60 + 60 * i, "y": 120} for i in range(count)], "intrinsics": [300]}
            assert running.chat(image_part(small, known), text_part("How far?")).status_code == 200
        assert len(aside) - before == 1


def test_measure(model: Model) -> None:
    with Running(model.url) as running:
        answer = running.measure(data_url(PNG), (100, 120), samples=3, return_images=True).json()
    sent = json.loads(model.bodies[0])
    assert sent["n"] == 3 and sent["model"] == "served"
    assert answer["value"] == 3.25 and answer["interval"] == [3.25, 3.25] and answer["unit"] == "m"
    shown = {"image_url": {"url": answer["images"][0]}}
    assert np.array_equal(sent_pixels(shown), sent_pixels(sent["messages"][-1]["content"][0]))
    assert answer["points"] == [{"name": "red", "colour": "red", "x": 100, "y": 120}]


def test_the_client_measures_through_a_gateway(model: Model) -> None:
    with Running(model.url) as running, Client(running.url) as client:
        found = client.measure(PNG, [(100, 120)], names=["chair"], fov=60)
        speed = client.measure(PNG, [(100, 120)], fov=60, time=2.0)
        moved = client.measure(PNG, second_image=PNG, fov=60)
        unnamed = client.measure(PNG, [(100, 120), (200, 60)], names=["", "lamp"], fov=60)
    assert found.value == 3.25 and found.points[0]["name"] == "chair" and found.model == "served"
    assert (speed.kind, moved.kind) == ("speed", "camera_motion")
    assert "2.0 seconds" in speed.question
    assert [point["name"] for point in unnamed.points] == ["red", "lamp"]


@pytest.mark.parametrize(("change", "status", "param"), [
    ({"points": []}, 400, "question distance"),
    ({"points": [{"x": 500, "y": 1}]}, 400, "point 1"),
    ({"points": [{"x": 1, "y": 1, "z": 1}]}, 422, "points.0.z"),
    ({"points": [{"x": "1", "y": 1}]}, 422, "points.0.x"),
    ({"points": [{"x": 1, "y": 1, "name": "{a}"}]}, 422, "points.0.name"),
    ({"points": [{"x": 1, "y": 1, "name": "a\nb"}]}, 422, "points.0.name"),
    ({"points": [{"x": 1e400, "y": 1}]}, 400, None),
    ({"kind": "colour"}, 422, "kind"),
    ({"time": 1}, 422, None),
    ({"kind": "speed"}, 400, "question speed"),
    ({"kind": "speed", "time": 0.123}, 400, "question speed"),
    ({"samples": 65}, 422, "samples"),
    ({"samples": True}, 422, "samples"),
    ({"more": 1}, 422, "more"),
    ({"images": []}, 422, "images"),
    ({"images": [{"url": "data:,x"}]}, 400, "images.0.url"),
    ({"images": [{"url": "data:image/png;base64,A"}]}, 400, "images.0.url"),
    ({"images": [{"url": "/etc/hostname"}]}, 400, "images.0.url"),
    ({"images": [{"url": data_url(PNG), "fov": 60, "intrinsics": [1]}]}, 422, "images.0"),
    ({"images": [{"url": data_url(PNG), "intrinsics": [1, 2, 3]}]}, 422, "images.0"),
    ({"images": [{"url": data_url(PNG), "intrinsics": [300], "distortion": [1]}]}, 422, "images.0"),
    ({"images": [{"url": data_url(PNG), "fov": 180}]}, 422, "images.0.fov"),
    ({"images": [{"url": data_url(PNG), "intrinsics": [-5]}]}, 400, "camera"),
])  # fmt: skip
def test_bad_measurements_are_refused(
    plain: tuple[Running, Model], change: dict[str, Any], status: int, param: str | None
) -> None:
    running, model = plain
    before = len(model.bodies)
    body = {"images": [{"url": data_url(PNG), "fov": 60}], "points": [{"x": 100, "y": 120}], **change}
    content = json.dumps(body).replace("Infinity", "1e400")
    answer = running.client.post("/v1/spatial/measure", content=content, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code in ((status,) if param else (400, 422)), error
    assert param is None or error["param"] == param
    assert error["type"] == "invalid_request_error" and error["message"]
    assert len(model.bodies) == before


def test_every_example_of_the_document_runs(model: Model) -> None:
    count = 0
    with Running(model.url) as running:
        document = running.client.get("/openapi.json").json()
        for path, page in document["paths"].items():
            content = page.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, example in content.get("examples", {}).items():
                answer = running.client.post(path, json=example["value"])
                assert answer.status_code == 200, (path, name, answer.text)
                count += 1
        for example in document["components"]["schemas"]["MeasureRequest"]["examples"]:
            assert running.client.post("/v1/spatial/measure", json=example).status_code == 200
        assert running.client.get("/docs").status_code == 200
    assert count >= 8


def test_the_document_tells_of_each_page_what_it_may_refuse(model: Model) -> None:
    with Running(model.url) as running:
        pages = running.client.get("/openapi.json").json()["paths"]
    refusals = {"400", "401", "413", "422", "429", "503", "504"}
    for path, method in (("/v1/chat/completions", "post"), ("/v1/spatial/measure", "post"), ("/v1/models", "get")):
        assert set(pages[path][method]["responses"]) == {"200", *refusals}
        assert "security" in pages[path][method]
    for path in ("/v1/spatial", "/metrics"):
        assert set(pages[path]["get"]["responses"]) == {"200", "401"}
    assert set(pages["/healthz"]["get"]["responses"]) == {"200", "503"}
    assert "security" not in pages["/healthz"]["get"]


def test_other_pages(model: Model) -> None:
    with Running(model.url, notes=["told"], images=2) as running:
        get = running.client.get
        kept = {"id": "served", "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 4096}
        assert get("/v1/models").json() == {"object": "list", "data": [kept]}
        told = get("/v1/spatial").json()
        assert (told["object"], told["model"], told["profile"]) == ("spatial", "served", ASKED_AS.profile)
        kinds = {kind["name"]: kind for kind in told["kinds"]}
        assert kinds["speed"] == {"name": "speed", "unit": "m/s", "points": 1, "images": 1, "states": "time"}
        assert kinds["travel_time"]["states"] == "speed" and kinds["camera_motion"]["images"] == 2
        assert kinds["distance"]["states"] is None
        assert told["notes"] == ["told"] and told["limits"]["images"] == 2
        assert get("/healthz").status_code == 200
        running.measure(data_url(PNG), (100, 120))
        metrics = get("/metrics").text
        assert 'depthlm_gateway_requests_total{path="/v1/spatial/measure",status="200"} 1.0' in metrics
        assert "depthlm_gateway_model_ready 1.0" in metrics
        for answer, status in ((get("/nothing/here"), 404), (get("/v1/chat/completions"), 405)):
            assert answer.status_code == status
            assert answer.json()["error"]["message"]


def test_streams_come_piece_by_piece(model: Model) -> None:
    model.stream_gap_s = 0.15
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    with Running(model.url) as running, running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = []
        for chunk in answer.iter_raw():
            pieces.append(chunk)
            if len(pieces) == 1:
                assert model.under_way == 1  # the first is here while the model still answers
    assert len(pieces) >= 6
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


def test_openai_package(model: Model) -> None:
    content = [image_part(PNG, {"points": [{"x": 100, "y": 120}]}), text_part("How far is {a}?")]
    asked: Any = {"model": "served", "messages": [{"role": "user", "content": content}]}
    with Running(model.url) as running:
        options: Any = {"base_url": running.url + "/v1", "api_key": "none", "max_retries": 0}
        found = openai.OpenAI(**options, http_client=httpx.Client(trust_env=False))
        answer = found.chat.completions.create(**asked)
        raw = found.chat.completions.with_raw_response.create(**asked)
        stream = found.chat.completions.create(**asked, stream=True)
        text = "".join((chunk.choices[0].delta.content or "") + " " for chunk in stream)
        later, pieces = asyncio.run(openai_async(options, asked))
        with pytest.raises(openai.BadRequestError) as caught:
            found.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": [{"type": "x"}]}]})
    assert answer.choices[0].message.content == Model.answer == later.choices[0].message.content
    assert answer.model_extra is not None and "was assumed" in answer.model_extra["depthlm"]["warnings"][0]
    assert "was assumed" in raw.headers["x-depthlm-warning"]
    assert text.split() == Model.answer.split() and len(pieces) == len(Model.answer.split()) + 1
    assert caught.value.param == "messages.0.content.0.type"
    assert len(model.bodies) == 5 and all(b"the point at the red arrow" in body for body in model.bodies)


async def openai_async(options: Any, asked: Any) -> tuple[Any, list[Any]]:
    async with openai.AsyncOpenAI(**options, http_client=httpx.AsyncClient(trust_env=False)) as found:
        answer = await found.chat.completions.create(**asked)
        return answer, [chunk async for chunk in await found.chat.completions.create(**asked, stream=True)]
