"""The gateway in front of vLLM itself, with the nano model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import hypothesis
import openai
import psutil
import pytest
import schemathesis
from gateway_runs import Running, data_url, file_of, image_part, picture, text_part, wait_until
from PIL import Image
from schemathesis import GenerationMode

from data_gen.readers.procedural import ProceduralReader
from depthlm.serving.client import Client
from depthlm.serving.gateway.own_server import OwnServer
from depthlm.serving.vllm_process import VLLMServer

pytestmark = pytest.mark.slow

READER = ProceduralReader(1, views=1, width=640, height=480, seed=1)
PHOTO = READER.read(next(iter(READER.keys()))).image
SPATIAL = {"points": [{"x": 200, "y": 260, "name": "door"}], "fov": 70}
ASKED: Any = [
    {
        "role": "user",
        "content": [image_part(PHOTO, SPATIAL, "image/jpeg"), text_part("How many metres is {door} from the camera?")],
    }
]
# Seconds of work, also for so small a model.
LONG = {"messages": ASKED, "max_tokens": 3000, "min_tokens": 3000, "temperature": 1.0}
# Of each page.
FUZZED = 700


class Kept:
    """Makes vLLM servers, and remembers the last."""

    last: VLLMServer

    def __call__(self) -> VLLMServer:
        self.last = VLLMServer("nano", images_per_prompt=4)
        return self.last


@pytest.fixture(scope="module")
def made() -> Kept:
    return Kept()


@pytest.fixture(scope="module")
def running(made: Kept) -> Iterator[Running]:
    with Running(OwnServer(made), start_s=600) as found:
        yield found


def vllm_gauge(made: Kept, name: str) -> float:
    text = httpx.get(made.last.base_url.removesuffix("/v1") + "/metrics", trust_env=False).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def test_openai_package(running: Running) -> None:
    options: Any = {"base_url": running.url + "/v1", "api_key": "none", "max_retries": 0}
    found = openai.OpenAI(**options, http_client=httpx.Client(trust_env=False, timeout=120))
    asked: Any = {"model": found.models.list().data[0].id, "messages": ASKED, "max_tokens": 16, "temperature": 0}
    answer = found.chat.completions.create(**asked)
    text = answer.choices[0].message.content
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in found.chat.completions.create(**asked, stream=True)
    )

    async def awaited() -> Any:
        async with openai.AsyncOpenAI(**options, http_client=httpx.AsyncClient(trust_env=False, timeout=120)) as client:
            return await client.chat.completions.create(**asked)

    assert text and text == streamed == asyncio.run(awaited()).choices[0].message.content
    assert answer.model_extra is not None and answer.model_extra["depthlm"]["images"][0]["points"][0]["name"] == "door"


def test_measuring_here_and_there_is_the_same(running: Running, made: Kept) -> None:
    asked: list[dict[str, Any]] = [
        {"points": [(200, 260)], "fov": 70},
        {"points": [(610, 60)]},  # the window moves, the camera is assumed
        {"points": [(200, 260), (420, 300)], "intrinsics": (457.0, 457.0, 319.5, 239.5), "names": ["a", "b"]},
        {"points": [(200, 260)], "fov": 70, "time": 2.5},
    ]
    with Client(running.url) as gateway, Client(made.last.base_url, profile="nano") as direct:
        for options in asked:
            assert gateway.measure(PHOTO, **options).to_dict() == direct.measure(PHOTO, **options).to_dict()
        drawn = gateway.measure(PHOTO, [(200, 260)], fov=70, samples=8)
        assert drawn.interval is not None and drawn.interval[0] <= (drawn.value or 0) <= drawn.interval[1]


def test_requests_side_by_side_are_answered_as_alone(running: Running) -> None:
    points = [(100 + 20 * i, 150 + 10 * i) for i in range(16)]
    alone = [running.measure(data_url(PHOTO), point).json()["text"] for point in points]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda point: running.measure(data_url(PHOTO), point).json()["text"], points))
    # what is batched together is computed in another order: a digit may turn
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 14
    assert len(set(alone)) > 1


ODD = {
    "1x1": file_of(picture(1, 1)),
    "2x2": file_of(picture(2, 2)),
    "65535x1": file_of(picture(65535, 1)),
    "1x65535": file_of(picture(1, 65535)),
    "8000x30": file_of(picture(8000, 30)),
    "CMYK": file_of(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    "16 bits": file_of(Image.new("I;16", (320, 240), 3000)),
    "GIF": file_of(Image.fromarray(picture()).convert("P"), "GIF"),
    "truncated": file_of(picture(), "JPEG")[:-3000],
    "PNG without its end": file_of(picture())[:3000],
    "TIFF": file_of(picture(), "TIFF"),
    "float TIFF": file_of(Image.new("F", (64, 64), 0.5), "TIFF"),
    "bits": file_of(Image.new("1", (64, 64))),
    "alpha": file_of(Image.fromarray(picture()).convert("RGBA")),
    "nothing": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images(running: Running, name: str) -> None:
    """Also those that pass as they are: whatever vLLM makes of them, the fault is the client's."""
    answers = [
        running.chat(image_part(ODD[name]), text_part("How far?"), max_tokens=4),
        running.chat(image_part(ODD[name], {"points": [], "fov": 60}), text_part("How far?"), max_tokens=4),
        running.measure(data_url(ODD[name]), (0, 0)),
    ]
    assert all(answer.status_code < 500 for answer in answers), [answer.text for answer in answers]
    if name in ("CMYK", "16 bits", "GIF", "TIFF", "alpha"):
        assert [answer.status_code for answer in answers[:2]] == [200, 200]
    if name in ("truncated", "nothing", "PNG without its end"):
        assert {answer.status_code for answer in answers} == {400}
    for answer in answers:
        assert answer.status_code == 200 or set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def test_malformed_requests_are_the_clients_fault(running: Running) -> None:
    statuses = fuzzed(running, "/v1/chat/completions") + fuzzed(running, "/v1/spatial/measure")
    assert sum(400 <= status < 500 for status in statuses) >= 1000
    assert running.client.get("/healthz").status_code == 200


def fuzzed(running: Running, path: str) -> list[int]:
    """What malformed requests to a page are answered with, none of them by a failure."""
    schema = schemathesis.openapi.from_url(running.url + "/openapi.json")
    operation = schema[path]["POST"]
    statuses: list[int] = []

    @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @hypothesis.settings(
        max_examples=FUZZED,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def fuzz(case: schemathesis.Case) -> None:
        answer = case.call(base_url=running.url, timeout=120)
        statuses.append(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
            assert not re.search(r"Traceback|\.py\b", answer.text), answer.text

    fuzz()
    return statuses


def test_a_client_that_goes_stops_the_answer(running: Running, made: Kept) -> None:
    address = running.url.removeprefix("http://").split(":")
    body = json.dumps(LONG).encode()
    before = vllm_gauge(made, "vllm:generation_tokens_total")
    with socket.socket() as client:
        client.connect((address[0], int(address[1])))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: running.gateway.gauges.in_flight._value.get() == 1)
        time.sleep(0.5)  # vLLM has begun; to ask it whether would take until it has ended
    tokens = "vllm:generation_tokens_total"
    time.sleep(1)
    stopped = vllm_gauge(made, tokens)
    time.sleep(1)
    assert before < vllm_gauge(made, tokens) == stopped < before + LONG["max_tokens"]
    assert 'status="499"' in running.client.get("/metrics").text


def test_vllm_killed_under_load_comes_back(running: Running, made: Kept) -> None:
    before = running.measure(data_url(PHOTO), (200, 260)).json()
    assert made.last._process is not None
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(timed, running, LONG) for _ in range(16)]
        wait_until(lambda: vllm_gauge(made, "vllm:num_requests_running") > 0, 60)
        process = psutil.Process(made.last._process.pid)
        killed = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60)
        died = time.monotonic() - killed
        ended = [future.result() for future in asked]
    failed = [(answer, at - killed) for answer, at in ended if answer.status_code != 200]
    assert failed
    assert {answer.status_code for answer, _ in failed} == {503}
    assert all(answer.json()["error"]["type"] == "server_error" for answer, _ in failed)
    slowest = max(seconds for _, seconds in failed)
    assert slowest < 2, f"the slowest after {slowest:.2f} s, the process had ended after {died:.2f} s"
    refused = running.client.post("/v1/chat/completions", json=LONG)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    wait_until(lambda: running.client.get("/healthz").status_code == 200, 600)
    assert running.measure(data_url(PHOTO), (200, 260)).json() == before


def timed(running: Running, body: dict[str, Any]) -> tuple[httpx.Response, float]:
    return running.client.post("/v1/chat/completions", json=body, timeout=300), time.monotonic()


def test_its_engine_killed_comes_back_too(running: Running, made: Kept) -> None:
    """vLLM's engine is a process of its own: the server that is left says 500, and ends."""
    wait_until(lambda: running.client.get("/healthz").status_code == 200, 600)
    first = made.last
    assert first._process is not None
    children = psutil.Process(first._process.pid).children(recursive=True)
    engines = [child for child in children if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name()]
    if not engines:
        pytest.skip(f"no engine process is told apart: {[child.name() for child in children]}")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(timed, running, LONG) for _ in range(8)]
        wait_until(lambda: vllm_gauge(made, "vllm:num_requests_running") > 0, 60)
        os.kill(engines[0].pid, signal.SIGKILL)
        statuses = {future.result()[0].status_code for future in asked}
    assert statuses <= {200, 503} and 503 in statuses
    wait_until(lambda: made.last is not first, 60)
    wait_until(lambda: running.client.get("/healthz").status_code == 200, 600)
    assert running.measure(data_url(PHOTO), (200, 260)).status_code == 200
