"""Keys, sizes, counts and times: what a gateway refuses, and that a refusal frees what was taken."""

from __future__ import annotations

import base64
import json
import logging
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from gateway_runs import Model, Running, data_url, file_of, image_part, picture, text_part, wait_until
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.serving.gateway import pages
from depthlm.serving.gateway.faults import told
from depthlm.serving.gateway.limits import KEYS_VARIABLE, read_keys
from depthlm.serving.gateway.pages import as_header

PNG = file_of(picture())
KEY, OTHER = "0123456789abcdef-one", "0123456789abcdef-two"
HI = {"messages": [{"role": "user", "content": "hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys(model: Model) -> None:
    with Running(model.url, keys=[KEY, OTHER]) as running:
        ask = running.client.post
        for key in (KEY, OTHER):
            assert ask("/v1/chat/completions", json=HI, headers=bearer(key)).status_code == 200
        wrong = [
            {},
            bearer(KEY[:-1]),
            bearer(KEY + "x"),
            {"Authorization": "Bearer"},
            {"Authorization": KEY},
            bearer("\xfc" * 20),
        ]
        for headers in wrong:
            for path in ("/v1/chat/completions", "/v1/spatial/measure", "/v1/none"):
                answer = ask(path, json=HI, headers={k: v.encode("latin-1") for k, v in headers.items()})
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        for path in ("/v1/models", "/v1/spatial", "/metrics"):
            assert running.client.get(path).status_code == 401
            assert running.client.get(path, headers=bearer(KEY)).status_code == 200
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert running.client.get(path).status_code == 200
        assert KEY not in running.client.get("/metrics", headers=bearer(KEY)).text
    assert len(model.bodies) == 2
    assert not any("authorization" in headers for headers in model.headers)


def test_keys_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n {OTHER} \n")
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert read_keys(file) == [KEY, OTHER] and read_keys(None) == []
    monkeypatch.setenv(KEYS_VARIABLE, f" {KEY} ,, {OTHER}")
    assert read_keys(None) == [KEY, OTHER]
    monkeypatch.delenv(KEYS_VARIABLE)
    for content in ("", "# none\n", "tiny", "with a space inside it", "ünïcödé-key-of-some-length"):
        file.write_text(content)
        with pytest.raises(DepthLMError) as caught:
            read_keys(file)
        assert content.strip("# \n") == "" or content not in str(caught.value), content


def test_a_body_over_the_limit(model: Model) -> None:
    with Running(model.url, max_body=100_000) as running:
        body = json.dumps({"messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
        told_length = running.client.post("/v1/chat/completions", content=body)
        trickled = running.client.post(
            "/v1/chat/completions", content=(body[i : i + 9000] for i in range(0, 200_000, 9000))
        )
        for answer in (told_length, trickled):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert running.client.post("/v1/chat/completions", json=HI).status_code == 200
    assert len(model.bodies) == 1


def test_all_bodies_together_have_a_limit_and_free_it(model: Model) -> None:
    model.delay_s = 0.5
    body = {"messages": [{"role": "user", "content": "x" * 60_000}]}
    with Running(model.url, max_bodies=100_000) as running, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: running.client.post("/v1/chat/completions", json=body), range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
        for _ in range(3):
            assert running.client.post("/v1/chat/completions", json=body).status_code == 200


def png_header(width: int, height: int) -> bytes:
    """A PNG of this size whose pixels are as good as nothing: a bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(4_000_000), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (7000, 7000)])
def test_an_image_bomb_takes_no_memory(model: Model, size: tuple[int, int]) -> None:
    bomb = png_header(*size)
    with Running(model.url) as running:
        running.measure(data_url(PNG), (100, 120))
        before = psutil.Process().memory_info().rss
        answers = [
            running.measure(data_url(bomb), (100, 120)),
            running.chat(image_part(bomb, {"points": []}), text_part("?")),
            running.chat(image_part(bomb), text_part("?")),
        ]
        grown = psutil.Process().memory_info().rss - before
    assert [answer.status_code for answer in answers] == [413] * 3
    assert {answer.json()["error"]["code"] for answer in answers} == {"image_too_large"}
    assert grown < 60 << 20
    assert len(model.bodies) == 1


def test_an_image_of_two_formats_is_refused(plain: tuple[Running, Model]) -> None:
    running, model = plain
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(file_of(noise, "WEBP", lossless=True))
    assert running.chat(image_part(bytes(data)), text_part("?")).status_code == 200
    before = len(model.bodies)
    data[2048:2052] = b"PCD_"  # a Photo CD of 768x512 to who takes all formats, a WebP of 64x64 to who takes ours
    answer = running.chat(image_part(bytes(data)), text_part("?"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
    assert len(model.bodies) == before


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = file_of(picture(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def test_a_jpeg_of_many_scans_is_not_decoded(plain: tuple[Running, Model]) -> None:
    running, model = plain
    before = len(model.bodies)
    for scans, status in ((20, 200), (200, 400)):
        bomb = scan_bomb(scans)
        answers = [
            running.measure(data_url(bomb), (100, 120)),
            running.chat(image_part(bomb, {"points": [], "fov": 60}), text_part("?")),
            running.chat(image_part(bomb), text_part("?")),
        ]
        assert [answer.status_code for answer in answers] == [status] * 3
    assert {answer.json()["error"]["code"] for answer in answers} == {"unreadable_image"}
    assert len(model.bodies) == before + 3


def test_a_slot_is_held_until_its_thread_is_free(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    with Running(model.url, timeout_s=0.5, per_client=1, max_bodies=100_000) as running:
        get = running.gateway.model.canvases.get
        monkeypatch.setattr(running.gateway.model.canvases, "get", lambda *key: (free.wait(30), get(*key))[1])
        try:
            assert running.measure(data_url(PNG), (100, 120)).status_code == 504
            assert running.measure(data_url(PNG), (100, 120)).json()["error"]["code"] == "concurrency_limit"
        finally:
            free.set()
        wait_until(lambda: running.measure(data_url(PNG), (100, 120)).status_code == 200)


def test_requests_of_one_client_and_in_all_have_limits(model: Model) -> None:
    model.delay_s = 1.0
    ask = {"keys": [KEY, OTHER], "per_client": 2, "queue": 3}
    with Running(model.url, **ask) as running, ThreadPoolExecutor(8) as pool:
        post = running.client.post
        first = [pool.submit(post, "/v1/chat/completions", json=HI, headers=bearer(KEY)) for _ in range(2)]
        wait_until(lambda: model.under_way == 2)
        refused = post("/v1/chat/completions", json=HI, headers=bearer(KEY))
        second = pool.submit(post, "/v1/chat/completions", json=HI, headers=bearer(OTHER))
        wait_until(lambda: model.under_way == 3)
        full = post("/v1/spatial/measure", json=HI, headers=bearer(OTHER))
        assert running.client.get("/v1/spatial", headers=bearer(KEY)).status_code == 200
        assert [future.result().status_code for future in (*first, second)] == [200] * 3
        assert post("/v1/chat/completions", json=HI, headers=bearer(KEY)).status_code == 200
    for answer, code in ((refused, "concurrency_limit"), (full, "queue_full")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, code)
        assert int(answer.headers["retry-after"]) >= 1
    assert len(model.bodies) == 4


def test_an_answer_that_does_not_come_is_given_up(model: Model) -> None:
    model.hang = True
    with Running(model.url, timeout_s=0.5, per_client=1) as running:
        for _ in range(2):  # the slot of the first is free again
            began = time.monotonic()
            answer = running.client.post("/v1/chat/completions", json=HI)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
            assert time.monotonic() - began < 2
        wait_until(lambda: model.abandoned == 2)


def test_the_list_of_models_has_limits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LIST_TIMEOUT_S", 1.0)
    with Running(model.url, per_client=1) as running, ThreadPoolExecutor(2) as pool:
        model.list_delay_s = 5
        answers = list(pool.map(running.client.get, ["/v1/models"] * 2))
        assert sorted(answer.status_code for answer in answers) == [429, 504]
        model.list_delay_s = 0
        assert running.client.get("/v1/models").status_code == 200


def test_a_stream_that_does_not_end_is_told_so(model: Model) -> None:
    model.stream_gap_s = 0.3
    with Running(model.url, timeout_s=0.5) as running:
        answer = running.client.post("/v1/chat/completions", json={**HI, "stream": True})
        wait_until(lambda: model.abandoned == 1)
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"


def test_a_body_that_does_not_arrive(model: Model) -> None:
    with Running(model.url, timeout_s=0.5) as running, socket.socket() as slow:
        host, port = running.url.removeprefix("http://").split(":")
        slow.connect((host, int(port)))
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert slow.recv(20).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_slot(model: Model, stream: bool) -> None:
    model.hang, model.stream_gap_s = not stream, 30
    with Running(model.url, per_client=1) as running:
        with socket.socket() as client:
            host, port = running.url.removeprefix("http://").split(":")
            client.connect((host, int(port)))
            body = json.dumps({**HI, "stream": stream}).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body))
            client.sendall(b"Content-Type: application/json\r\n\r\n" + body)
            wait_until(lambda: model.under_way == 1)
            assert running.client.post("/v1/chat/completions", json=HI).status_code == 429
        wait_until(lambda: model.abandoned == 1)
        model.hang = False
        wait_until(lambda: running.client.post("/v1/chat/completions", json=HI).status_code == 200)
        status = 200 if stream else 499
        assert f'path="/v1/chat/completions",status="{status}"' in running.client.get("/metrics").text


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe{\x00}\x00", b'{"messages":NaN}', b'{"a":1e999999999, "messages":[]}',
    b"[" * 200_000, b'{"a":' * 200_000, b'{"n":' + b"9" * 10_000 + b"}",
    b'{"messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","content":"b"}]}',
    b'{"messages":[]}', b'{"messages":{}}', b'{"messages":[1]}', b'{"messages":[{"role":"user","content":7}]}',
    b'{"messages":[{"role":"user","content":[7]}]}', b'{"messages":[{"role":"user","content":"x"}],"n":129}',
    b'{"messages":[{"role":"user","content":"x"}],"mm_processor_kwargs":{"min_pixels":1e12}}',
    b'{"messages":[' + b'{"role":"user","content":"x"},' * 256 + b'{"role":"user","content":"x"}]}',
])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/spatial/measure"])
def test_bodies_that_are_none(plain: tuple[Running, Model], path: str, body: bytes) -> None:
    running, model = plain
    before = len(model.bodies)
    answer = running.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(answer.content) < 2000
    assert len(model.bodies) == before


@pytest.mark.parametrize("more", [
    {"n": "16384"}, {"n": 1.0}, {"n": True}, {"n": 0}, {"n": [1]},
    {"kv_transfer_params": {}}, {"ec_transfer_params": {}}, {"vllm_xargs": {}}, {"priority": -1}, {"request_id": "x"},
    {"session_id": "x"}, {"chat_template": "{{ messages }}"}, {"logits_processors": []}, {"use_beam_search": True},
    {"prompt_logprobs": 0}, {"structured_outputs": {"regex": "a*"}}, {"guided_json": {}}, {"guided_regex": "a*"},
    {"response_format": {"type": "json_schema", "json_schema": {}}}, {"response_format": {"type": "structural_tag"}},
    {"response_format": "json_schema"},
])  # fmt: skip
def test_fields_that_harm_others_are_refused(plain: tuple[Running, Model], more: dict[str, Any]) -> None:
    running, model = plain
    before = len(model.bodies)
    answer = running.chat("hi", **more)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == next(iter(more))
    assert len(model.bodies) == before


def test_a_cpu_server_of_its_own_gets_no_seed_to_draw_by(model: Model) -> None:
    def sent(**more: Any) -> dict[str, Any]:
        assert running.chat("hi", **more).status_code == 200
        return json.loads(model.bodies[-1])

    with Running(model.url) as running:
        assert sent(seed=1)["seed"] == 1
        running.upstream.on_cpu = True
        assert "seed" not in sent(seed=1) and "seed" not in sent(seed=1, temperature=0.5, n=2)
        assert sent(seed=1, temperature=0)["seed"] == 1
        assert sent(n=2, response_format={"type": "text"}, user="x")["user"] == "x"
        parts = [image_part(file_of(picture())), text_part("hi")]  # an image passes through as it came
        assert running.chat(*parts, seed=1).status_code == 200
        passed = json.loads(model.bodies[-1])
        assert passed["messages"][0]["content"] == parts and "seed" not in passed


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/spatial/measure"])
def test_json_of_many_values_is_not_parsed(
    plain: tuple[Running, Model], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Any] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda data, *_, **more: (parsed.append(len(data)), loads(data, **more))[1])
    for filling in (b"[]," * 5_000_000, b'{"a":1},' * 2_000_000, b"1," * 8_000_000):
        body = b'{"messages":[' + filling + b"1]}"
        answer = plain[0].client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert not any(size > 10_000 for size in parsed)


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}},
    {"type": "image_url", "image_url": "http://example.com/a.png"},
    {"image_url": "http://example.com/a.png"},
    {"type": "text", "text": "x", "uuid": "u", "image_url": "http://example.com/a.png"},
    {"type": "text", "text": "x", "image_url": {"url": "file:///etc/passwd"}},
    {"type": "input_image", "image_url": "http://169.254.169.254/"},
    {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    {"type": "image_url", "image_url": {"url": " data:image/png;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": data_url(PNG)}, "uuid": "someone-elses"},
    {"type": "image_url", "image_url": {"url": data_url(PNG), "spatial": {"points": []}}},
    {"type": "image_url", "image_url": {"url": data_url(PNG)}, "spatial": {"fov": float(10**9)}},
    {"type": "image_url", "image_url": {"url": data_url(PNG)}, "spatial": {"points": [{"x": 1, "y": 1}] * 9}},
    {"type": "image_url"}, {"type": "image_url", "image_url": 3}, {"type": ["text"]}, {"type": "banana"}, {},
    {"type": "text", "text": "x", "spatial": {}},
    {"type": "video_url", "video_url": {"url": "http://example.com/a.mp4"}},
    {"type": "audio_url", "audio_url": {"url": data_url(PNG)}},
    {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
    {"type": "text", "text": "x", "video_url": "http://example.com/a.mp4"},
    {"type": "image_embeds", "image_embeds": "AAAA"},
    {"type": "file", "file": {"file_id": "x"}},
])  # fmt: skip
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_what_would_make_the_server_load_something_is_refused(
    plain: tuple[Running, Model], part: Any, role: str
) -> None:
    running, model = plain
    before = len(model.bodies)
    body = {"messages": [{"role": role, "content": [text_part("hi"), part]}]}
    answer = running.client.post("/v1/chat/completions", json=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"].startswith("messages.0.content.1")
    assert len(model.bodies) == before


def gif() -> bytes:
    frames = [Image.fromarray(picture(seed=i)).convert("P") for i in range(3)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(/etc/passwd) (r) file\n%%EOF\n"
ODD_IMAGES: dict[str, tuple[bytes, str, bool]] = {
    "truncated JPEG": (file_of(picture(), "JPEG")[:-2000], "image/jpeg", False),
    "nothing": (b"", "image/png", False),
    "text": (b"hello", "image/png", False),
    "1x1": (file_of(picture(1, 1)), "image/png", True),
    "65535x1": (file_of(picture(65535, 1)), "image/png", False),
    "SVG": (SVG, "image/svg+xml", False),
    "EPS": (EPS, "image/png", False),
    "CMYK": (file_of(Image.fromarray(picture()).convert("CMYK"), "JPEG"), "image/jpeg", True),
    "16 bits": (file_of(Image.new("I;16", (320, 240), 3000)), "image/png", True),
    "animated GIF": (gif(), "image/gif", True),
    "with alpha": (file_of(Image.fromarray(picture()).convert("RGBA")), "image/png", True),
    "palette": (file_of(Image.fromarray(picture()).convert("P")), "image/png", True),
    "wrong type": (file_of(picture(), "JPEG"), "text/html", True),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images(plain: tuple[Running, Model], name: str) -> None:
    data, mime, good = ODD_IMAGES[name]
    at = (100, 120) if good and name != "1x1" else (0, 0)
    measured = plain[0].measure(data_url(data, mime), at)
    drawn = plain[0].chat(image_part(data, {"points": [], "fov": 60}, mime), text_part("?"))
    for answer in (measured, drawn):
        assert (answer.status_code == 200) is good and answer.status_code < 500, answer.text
        if not good:
            assert "/" not in answer.json()["error"]["message"].replace("data:image/jpeg;base64", "")


def test_errors_tell_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(DepthLMError(tmp_path / "encoder.safetensors", "is broken")) is None
    (tmp_path / "chair").mkdir()
    monkeypatch.chdir(tmp_path)  # what lies here is nothing to a client's error
    named = told(DepthLMError("chair", "is marked twice"))
    assert named is not None and named.status == 400 and named.message == "chair: is marked twice"
    found = told(DepthLMError("image 1", "can't be read: /srv/models/secret/file.bin is gone", kind="unreadable image"))
    assert found is not None and "secret" not in found.message and found.status == 400


def test_an_unexpected_failure_is_logged_and_not_told(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the secret of /srv/models")

    with Running(model.url) as running, caplog.at_level(logging.ERROR):
        monkeypatch.setattr(running.gateway.model.canvases, "get", fail)
        answer = running.measure(data_url(PNG), (100, 120))
        monkeypatch.undo()
        assert answer.status_code == 500
        assert answer.json()["error"] == {
            "message": "the gateway failed", "type": "server_error", "param": None, "code": "internal_error"
        }  # fmt: skip
        assert "the secret" in caplog.text
        assert running.measure(data_url(PNG), (100, 120)).status_code == 200


def test_warnings_as_headers() -> None:
    assert as_header("a\r\nSet-Cookie: x\x00é") == "a??Set-Cookie: x??"
    assert len(as_header("x" * 9999)) == 1000


def test_a_refused_upload_does_not_hang_the_connection(model: Model) -> None:
    with Running(model.url, keys=[KEY]) as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        body = base64.b64encode(bytes(3_000_000))
        assert client.post("/v1/chat/completions", content=body).status_code == 401
        assert client.get("/healthz").status_code == 200
