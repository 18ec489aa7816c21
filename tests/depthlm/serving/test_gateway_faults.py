"""The model's server goes away, dies, hangs, answers nonsense: what clients are told, and that it comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_runs import ASKED_AS, Model, Running, Serving, data_url, file_of, picture, reply, wait_until

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.models.nano import make_nano
from depthlm.serving.client import Client
from depthlm.serving.gateway import own_server
from depthlm.serving.gateway.app import make_app
from depthlm.serving.gateway.command import add, warn_if_open
from depthlm.serving.gateway.events import LONGEST_EVENT, Events
from depthlm.serving.gateway.faults import GatewayError
from depthlm.serving.gateway.own_server import OwnServer
from depthlm.serving.gateway.pages import Settings
from depthlm.serving.gateway.upstream import Upstream
from depthlm.serving.vllm_process import VLLMServer

PNG = file_of(picture())
HI = {"messages": [{"role": "user", "content": "hi"}]}
STAND_IN = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status); self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def do_GET(self):
        self.reply(200, {"data": [{"id": "x"}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(float(body.get("delay", 0)))
        self.reply(200, {"choices": [{"message": {"role": "assistant", "content": "2.50"}, "finish_reason": "stop"}]})
time.sleep(START_S)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


class StandIn(VLLMServer):
    """A small script in vLLM's place."""

    start_s = 0.5

    def command(self) -> list[str]:
        script = STAND_IN.replace("PORT", str(self.port)).replace("START_S", str(self.start_s))
        return [sys.executable, "-c", script]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Made:
    """Makes stand-ins and keeps them."""

    def __init__(self, nano: Path, **attributes: Any) -> None:
        self.nano, self.attributes, self.all = nano, attributes, list[StandIn]()

    def __call__(self) -> StandIn:
        self.all.append(StandIn(self.nano))
        for name, value in self.attributes.items():
            setattr(self.all[-1], name, value)
        return self.all[-1]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("model") / "nano", corpus=["How many metres away is it?"])


def test_a_server_killed_under_load_comes_back(nano: Path) -> None:
    made = Made(nano)
    with Running(OwnServer(made)) as running, ThreadPoolExecutor(8) as pool:
        port = made.all[-1].port
        asked = [pool.submit(running.client.post, "/v1/chat/completions", json={**HI, "delay": 30}) for _ in range(8)]
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(made.all[-1].pid, signal.SIGKILL)
        answers = [future.result() for future in asked]
        assert time.monotonic() - began < 2
        for answer in (*answers, running.client.post("/v1/chat/completions", json=HI), running.measure(data_url(PNG))):
            assert answer.status_code == 503 and answer.json()["error"]["type"] == "server_error"
            assert int(answer.headers["retry-after"]) >= 1
        assert running.client.get("/healthz").status_code == 503
        assert running.client.get("/v1/spatial").status_code == 200
        wait_until(lambda: running.client.get("/healthz").status_code == 200, 30)
        assert running.client.post("/v1/chat/completions", json=HI).status_code == 200
        assert running.measure(data_url(PNG), (100, 120)).json()["value"] == 2.5
        assert "depthlm_gateway_model_restarts_total 1.0" in running.client.get("/metrics").text
        assert made.all[-1].port != port
    assert not any(server.running for server in made.all)


def test_a_server_that_hangs_is_started_again(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_server, "HUNG_S", 1.0)
    monkeypatch.setattr(own_server, "HEALTH_S", 0.2)
    monkeypatch.setattr(own_server, "LOOK_TIMEOUT_S", 0.5)
    made = Made(nano)
    with Running(OwnServer(made)) as running:
        os.kill(made.all[-1].pid, signal.SIGSTOP)
        wait_until(lambda: running.client.get("/healthz").status_code == 503, 10)
        wait_until(lambda: running.client.get("/healthz").status_code == 200, 30)


def test_a_first_start_that_fails_is_told(nano: Path) -> None:
    failures: list[DepthLMError] = []
    with Serving(make_app(Settings(ASKED_AS), OwnServer(Made(nano, start_s="int('x')")), failures.append)):
        wait_until(lambda: failures)
    assert "ended with status" in str(failures[0])


def test_later_starts_are_tried_again(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_server, "FIRST_PAUSE_S", 0.1)
    made = Made(nano)
    with Running(OwnServer(made)) as running:
        made.attributes["start_s"] = "int('x')"
        os.kill(made.all[-1].pid, signal.SIGKILL)
        wait_until(lambda: len(made.all) >= 5)
        made.attributes.clear()
        wait_until(lambda: running.client.get("/healthz").status_code == 200, 30)


def test_the_gateway_ends_while_its_server_starts(nano: Path) -> None:
    made = Made(nano, start_s=60)
    with Serving(make_app(Settings(ASKED_AS), OwnServer(made))) as serving:
        answer = httpx.post(serving.url + "/v1/chat/completions", json=HI, trust_env=False)
        assert answer.status_code == 503 and "retry-after" in answer.headers
        wait_until(lambda: made.all[-1].running)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert not made.all[-1].running


def test_a_broken_stream_ends_with_an_error(model: Model) -> None:
    model.break_stream = True
    with Running(model.url) as running:
        answer = running.client.post("/v1/chat/completions", json={**HI, "stream": True})
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_unavailable"


def test_an_error_within_a_stream_tells_no_path(model: Model) -> None:
    model.stream_error = {"message": "scripted, of /srv/models/secret.bin", "type": "BadRequestError", "code": 400}
    with Running(model.url) as running:
        answer = running.client.post("/v1/chat/completions", json={**HI, "stream": True})
    *before, error, done = (event.removeprefix("data: ") for event in answer.text.strip().split("\n\n"))
    assert done == "[DONE]" and [json.loads(event)["choices"][0]["delta"]["content"] for event in before] == ["The"]
    assert json.loads(error)["error"] == {
        "message": "scripted, of …", "type": "invalid_request_error", "param": None, "code": "refused"
    }  # fmt: skip


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_events_come_one_by_one_wherever_they_are_cut(end: bytes) -> None:
    told = [b'data: {"n": 1}', b": ping", b'data: {"choices": "\\"error\\""}', b"data: [DONE]"]
    stream = b"".join(event + end for event in told)
    for size in (1, 3, len(stream)):
        events = Events()
        pieces = [events.feed(stream[i : i + size]) for i in range(0, len(stream), size)]
        assert b"".join(pieces) == stream and events.rest() == b""
        if size == 1:
            assert [piece for piece in pieces if piece] == [event + end for event in told], "none waits for another"


@pytest.mark.parametrize("event", [
    b'event: error\ndata: {"error": {"message": "at /srv/models/x"}}',
    b'data: {"error": "at /srv/models/x"}',
    b'data: {"object": "error", "message": "at /srv/models/x"}',
    b'data:\r\ndata: {"error": {"message": "at /srv/models/x", "code": 404}}',
])  # fmt: skip
def test_errors_of_any_form_in_a_stream_tell_no_path(event: bytes) -> None:
    whole, cut = Events(), Events()
    assert cut.feed(event) == b""
    for said in (whole.feed(event + b"\n\n"), cut.rest()):
        assert b"/srv" not in said
        assert set(json.loads(said.removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}


def test_an_event_without_end_is_given_up() -> None:
    events = Events()
    with pytest.raises(GatewayError, match="without end"):
        for _ in range(LONGEST_EVENT // (1 << 16) + 1):
            events.feed(bytes(1 << 16))


@pytest.mark.parametrize(
    ("status", "chat", "measure"),
    [(400, 400, 400), (404, 404, 502), (401, 502, 502), (403, 502, 502), (429, 429, 429), (500, 502, 502)],
)
def test_the_servers_own_errors(model: Model, status: int, chat: int, measure: int) -> None:
    model.status = status
    with Running(model.url) as running:
        passed = running.client.post("/v1/chat/completions", json=HI)
        measured = running.measure(data_url(PNG), (100, 120))
    assert (passed.status_code, measured.status_code) == (chat, measure)
    for answer in (passed, measured):
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and isinstance(error["code"], str)
        assert ("of …" in error["message"]) is (400 <= answer.status_code < 429) and "/srv" not in answer.text


def test_an_answer_that_is_none(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(_: Any, send: Any) -> None:
        await reply(send, 200, {"choices": "none"})

    monkeypatch.setattr(model, "_answer", nonsense)
    with Running(model.url) as running:
        assert running.measure(data_url(PNG), (100, 120)).status_code == 502


def test_a_server_elsewhere_that_goes_and_comes(model: Model) -> None:
    upstream = Upstream(model.url + "/v1")
    with Running(upstream) as running:
        assert upstream.model == "served"
        original = upstream.url
        upstream.url = "http://127.0.0.1:9/v1"
        assert running.client.post("/v1/chat/completions", json=HI).status_code == 503
        wait_until(lambda: running.client.get("/healthz").status_code == 503)
        with pytest.raises(DepthLMError, match=r"not ready: .*try again later"), Client(running.url):
            pass
        upstream.url = original
        wait_until(lambda: running.client.get("/healthz").status_code == 200)
        assert running.client.post("/v1/chat/completions", json=HI).status_code == 200


class Forgetful(ThreadingHTTPServer):
    """Closes each connection when a second request comes on it, without a word, as a server does with an idle one."""

    def __init__(self) -> None:
        self.dropped = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            seen = 0

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.reply(b'{"data": [{"id": "served"}]}')

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.seen += 1
                if self.seen > 1:
                    server.dropped += 1
                    self.close_connection = True
                else:
                    self.reply(b"{}")

            def reply(self, data: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def test_an_idle_connection_that_was_closed_is_not_a_failure() -> None:
    with Forgetful() as server, Running(f"http://127.0.0.1:{server.server_port}") as running:
        for _ in range(6):
            assert running.client.post("/v1/chat/completions", json=HI).status_code == 200
        server.shutdown()
    assert server.dropped >= 2


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(("arguments", "says"), [
    ([], "MODEL"), (["nano", "--profile", "nanoo"], "did you mean nano"), (["/no/such/folder"], "/no/such/folder"),
    (["x", "--upstream", "http://h", "--adapter", "a"], "--adapter"), (["--upstream", "gopher://h"], "no http address"),
    (["--upstream", "http://127.0.0.1:9", "--api-keys-file", "/dev/null"], "no key"),
])  # fmt: skip
def test_bad_use_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments], {"serve": lambda: add}) == 2
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_anything_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "nano", "--port", str(port)], {"serve": lambda: add}) == 2
    err = capsys.readouterr().err
    assert f"port {port}: cannot be used: Address already in use" in err and "listens" not in err


def test_serve_by_the_command_line(model: Model, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    port = free_port()
    script = "import sys; from depthlm.cli import main; from depthlm.serving.gateway.command import add; "
    script += "sys.exit(main(sys.argv[1:], {'serve': lambda: add}))"
    command = ["serve", "--upstream", model.url, "--port", str(port), "--profile", "nano", "--api-keys-file", str(keys)]
    log = tmp_path / "log"

    async def run() -> int:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *command, stderr=output)
        try:
            await asyncio.to_thread(ask)
            process.send_signal(signal.SIGTERM)
            return await asyncio.wait_for(process.wait(), 10)
        finally:
            if process.returncode is None:
                process.kill()

    def ask() -> None:
        def healthy() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(healthy, 30)
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=HI, trust_env=False)
        assert answer.status_code == 401 and "server" not in answer.headers

    status = asyncio.run(run())
    assert status in (0, -signal.SIGTERM), log.read_text()
    assert "the gateway listens on" in log.read_text() and "Traceback" not in log.read_text()


def test_an_open_address_without_keys_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for host, keys, warned in (("0.0.0.0", False, True), ("::", False, True), ("0.0.0.0", True, False),
                               ("127.0.0.1", False, False), ("::1", False, False), ("localhost", False, False),
                               ("example.com", False, True)):  # fmt: skip
        caplog.clear()
        warn_if_open(host, keys)
        assert bool(caplog.records) is warned, host


def test_running_threads_end(model: Model) -> None:
    with Running(model.url) as running:
        running.measure(data_url(PNG), (100, 120))
    wait_until(lambda: not any(thread.name.startswith("rendering") for thread in threading.enumerate()))
