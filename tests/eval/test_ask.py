"""Asking over a real HTTP server: faults change nothing, a kill loses nothing, dead ends are said clearly."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from eval_server import write_suite

from depthlm.errors import DepthLMError
from depthlm.serving.endpoint import MESSAGE_CHARACTERS, Response
from depthlm.suite import Suite
from depthlm.suite_view import SuiteView
from eval.answer_file import read_answers
from eval.ask import ask_suite, limit_suite
from eval.engines import Reply
from eval.engines.baselines import best_constants, make_baseline, random_answer
from eval.engines.endpoint import EndpointEngine

ROOT = Path(__file__).parents[2]


def engine(url: str, timeout_s: float = 5.0, **options) -> EndpointEngine:
    return EndpointEngine(url, "served", timeout_s=timeout_s, backoff_s=0.01, **{"attempts": 4, **options})


def ask(suite: Suite, server, out: Path, **options):
    options = {"timeout_s": 5.0, **options}
    client = engine(server.url, options.pop("timeout_s"), **options.pop("engine", {}))
    return ask_suite(suite, client, out, progress=False, **{"concurrency": 4, **options})


def expected(suite: Suite) -> dict[str, str]:
    return {item.id: f"{int(item.id[1:]) + 0.5} is the answer to {item.id}" for item in suite.items}


def test_every_question_is_asked_once_with_its_image_and_settings(suite, server, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTHLM_API_KEY", "secret-4711")
    out = tmp_path / "run" / "answers.jsonl"
    summary = ask(suite, server, out)
    assert (summary.kept, summary.asked, summary.failures) == (0, 12, {})
    assert read_answers(out).texts == expected(suite)
    assert set(server.counts.values()) == {1} and len(server.counts) == 12
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-4711"}
    assert "secret-4711" not in out.read_text()
    body = server.bodies["q000"]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("served", 0, 0, 256)
    assert body["messages"][0] == {"role": "system", "content": "Answer with a number."}
    picture, text = body["messages"][1]["content"]
    stored = suite.items[0].image_paths[0].read_bytes()
    assert picture["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(stored).decode()
    assert text == {"type": "text", "text": suite.items[0].question}
    assert [m["role"] for m in server.bodies["q001"]["messages"]] == ["user"]


def test_faults_change_no_answer(suite, server, tmp_path):
    script = {"q001": ["500"], "q003": ["429"], "q005": ["truncated", "502"], "q007": ["dropped"], "q009": ["hang"]}
    server.fault = lambda question, n: (script.get(question, []) + [None] * n)[n - 1]
    summary = ask(suite, server, tmp_path / "a.jsonl", timeout_s=0.5)
    assert summary.failures == {}
    assert read_answers(tmp_path / "a.jsonl").texts == expected(suite)
    assert {q: server.counts[q] for q in script} == {q: len(faults) + 1 for q, faults in script.items()}
    first, second = server.times["q003"]
    assert second - first >= 0.3, "Retry-After was not waited for"


def test_a_fifth_of_all_requests_fails_and_no_answer_is_lost_or_doubled(tmp_path, server):
    """Status 500, 429, cut-off JSON, dropped and hanging connections: the result is that of an undisturbed run."""
    suite = write_suite(tmp_path / "suite", 60)
    kinds = ("500", "429", "truncated", "dropped", "hang")

    def fault(question: str, attempt: int) -> str | None:
        number = int(question[1:])
        return kinds[number // 5 % len(kinds)] if number % 5 == 0 and attempt <= 1 + number % 2 else None

    server.fault = fault
    summary = ask(suite, server, tmp_path / "a.jsonl", timeout_s=0.5, concurrency=16)
    assert summary.failures == {} and read_answers(tmp_path / "a.jsonl").texts == expected(suite)
    ids = [row["id"] for row in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()) if "id" in row]
    assert sorted(ids) == sorted(item.id for item in suite.items)
    assert sum(server.counts.values()) > 60


SERVER = """
import sys, threading
from eval_server import ChatServer
chat = ChatServer(int(sys.argv[1]))
chat.delay_s = 0.05
print("ready", flush=True)
threading.Event().wait()
"""


def start_server(port: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env=environment, stdout=-1, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_server_that_dies_and_comes_back_is_waited_for(tmp_path):
    suite, out = write_suite(tmp_path / "suite", 60), tmp_path / "a.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers, kept = [start_server(port)], []

    def restart() -> None:
        while not out.exists() or out.read_text().count("latency_s") < 15:
            time.sleep(0.01)
        servers[0].kill()
        servers[0].wait()
        kept.append(out.read_text().count("latency_s"))
        servers.append(start_server(port))

    thread = threading.Thread(target=restart)
    thread.start()
    client = EndpointEngine(f"http://127.0.0.1:{port}", "served", timeout_s=5, backoff_s=0.2, attempts=1)
    summary = ask_suite(suite, client, out, 8, progress=False)
    thread.join()
    servers[1].kill()
    servers[1].wait()
    assert 15 <= kept[0] < 60, "the server died before or after the run"
    assert summary.failures == {} and read_answers(out).texts == expected(suite)


def test_a_refusal_fails_at_once_with_the_servers_words_and_is_asked_again(suite, server, tmp_path):
    server.fault = lambda question, n: "400" if question == "q004" and n == 1 else None
    out = tmp_path / "a.jsonl"
    summary = ask(suite, server, out)
    assert list(summary.failures) == ["q004"] and "scripted 400" in summary.failures["q004"]
    assert server.counts["q004"] == 1
    answers = read_answers(out)
    assert "q004" not in answers.texts and "scripted 400" in answers.errors["q004"]
    summary = ask(suite, server, out)
    assert (summary.kept, summary.asked, summary.failures) == (11, 1, {})
    assert read_answers(out).texts == expected(suite) and read_answers(out).errors == {}


def test_attempts_are_bounded_and_a_broken_endpoint_stops_the_run(suite, server, tmp_path):
    server.fault = lambda question, n: "503"
    with pytest.raises(DepthLMError, match=r"3 questions in a row failed.*scripted 503"):
        ask(suite, server, tmp_path / "a.jsonl", concurrency=1, failures_in_row=3, engine={"attempts": 2})
    assert server.counts == {"q000": 2, "q001": 2, "q002": 2}


def test_a_hanging_endpoint_times_out(suite, server, tmp_path):
    server.fault = lambda question, n: "hang"
    began = time.monotonic()
    with pytest.raises(DepthLMError, match=r"gave no answer within 0\.2 s"):
        ask(suite, server, tmp_path / "a.jsonl", timeout_s=0.2, failures_in_row=2, engine={"attempts": 2})
    assert time.monotonic() - began < 5


def test_a_dead_port_is_found_before_the_first_question(suite, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DepthLMError, match=f"nothing answers at {url}/v1"):
            ask_suite(suite, engine(url), tmp_path / "a.jsonl", progress=False)
    assert not (tmp_path / "a.jsonl").exists()


def test_the_only_served_model_is_taken_and_several_are_listed(suite, server, tmp_path):
    ask_suite(limit_suite(suite, 1), EndpointEngine(server.url), tmp_path / "a.jsonl", progress=False)
    assert read_answers(tmp_path / "a.jsonl").header["model"] == "served"
    server.models = ["one", "two"]
    with pytest.raises(DepthLMError, match="one, two"):
        ask_suite(suite, EndpointEngine(server.url), tmp_path / "b.jsonl", progress=False)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://user:s3cret@h/v1",
        "http://u:s3cret@h:99999/v1",
        "http://:@h/v1",
        "http://xn--zzz--/v1",
        "http://h/v1?key=s3cret",
        "http://h#s3cret",
    ],
)
def test_a_bad_address_is_refused(url):
    with pytest.raises(DepthLMError, match="endpoint") as caught:
        EndpointEngine(url)
    assert "s3cret" not in str(caught.value), "the address may hold a key"


def test_the_environments_proxy_is_used_and_not_for_this_machine(suite, server, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("default login somebody password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("DEPTHLM_API_KEY", "secret-4711")
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:word@"))
    monkeypatch.setenv("no_proxy", "direct.invalid")
    few = limit_suite(suite, 2)
    ask_suite(few, engine("http://model.invalid"), tmp_path / "a.jsonl", progress=False)
    assert {headers["Host"] for headers in server.headers} == {"model.invalid"}
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-4711"}
    credentials = "Basic " + base64.b64encode(b"user:word").decode()
    assert {headers["Proxy-Authorization"] for headers in server.headers} == {credentials}
    with pytest.raises(DepthLMError, match=r"nothing answers at http://direct\.invalid/v1"):
        ask_suite(few, engine("http://direct.invalid"), tmp_path / "b.jsonl", progress=False)
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    assert ask(few, server, tmp_path / "c.jsonl").failures == {}


@pytest.fixture
def proxy():
    """A proxy that refuses: its address, and what it was sent."""
    seen: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.request.recv(1 << 16))
            self.request.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("credentials", ["", "user:w0rd@"])
def test_a_proxy_never_sees_the_key_of_an_encrypted_address(suite, tmp_path, monkeypatch, proxy, scheme, credentials):
    address, seen = proxy
    monkeypatch.setenv("DEPTHLM_API_KEY", "secret-4711")
    monkeypatch.setenv("https_proxy", scheme + credentials + address)
    with pytest.raises(DepthLMError, match="nothing answers") as caught:
        ask_suite(suite, engine("https://model.invalid"), tmp_path / "a.jsonl", progress=False)
    assert "407" in str(caught.value) and "w0rd" not in str(caught.value)
    (asked,) = seen
    assert asked.startswith(b"CONNECT model.invalid:443") and b"secret-4711" not in asked
    assert (b"Proxy-Authorization: Basic" in asked) is bool(credentials)


@pytest.mark.parametrize("proxy", ["http://proxy.corp:port", "proxy.corp:99999", "socks5://user:w0rd@proxy.corp:1080"])
def test_a_proxy_that_is_none_is_one_clear_error(suite, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(DepthLMError, match="http_proxy: is no address of an http proxy") as caught:
        ask_suite(suite, engine("http://model.invalid"), tmp_path / "a.jsonl", progress=False)
    assert "corp" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "model.invalid:80")
    with pytest.raises(DepthLMError, match="nothing answers"):
        ask_suite(suite, engine("http://model.invalid"), tmp_path / "a.jsonl", progress=False)


def test_a_server_without_encryption_is_told(suite, server, tmp_path):
    with pytest.raises(DepthLMError, match=r"nothing answers at https.*SSL"):
        ask_suite(suite, engine(server.url.replace("http:", "https:")), tmp_path / "a.jsonl", progress=False)


def test_a_redirect_is_not_followed(suite, server, tmp_path):
    server.fault = lambda question, n: "307"
    summary = ask(limit_suite(suite, 1), server, tmp_path / "a.jsonl", failures_in_row=5)
    assert "refused with status 307" in summary.failures["q000"], "the key would go to another server"


@pytest.mark.parametrize(
    "extra",
    [{"model": "x"}, {"messages": []}, {"stream": True}, {"api_key": "s3cret"}, {"a": [{"Authorization": "s3cret"}]}],
)
def test_fields_that_are_not_the_users_are_refused(extra):
    with pytest.raises(DepthLMError, match="request") as caught:
        EndpointEngine("http://host", extra=extra)
    assert "s3cret" not in str(caught.value)
    assert EndpointEngine("http://host", extra={"top_p": 1, "stop_token_ids": [1]}).settings["top_p"] == 1


@pytest.mark.parametrize("key", ["se cret", "secr\u00e9t", "sec\nret", "s3cret\u200b"])
def test_a_key_that_is_none_is_one_clear_error(suite, server, tmp_path, monkeypatch, key):
    monkeypatch.setenv("DEPTHLM_API_KEY", key)
    with pytest.raises(DepthLMError, match="DEPTHLM_API_KEY: holds") as caught:
        ask(suite, server, tmp_path / "a.jsonl")
    assert key not in str(caught.value) and not server.counts


def test_a_key_that_the_server_repeats_is_not_written(suite, server, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTHLM_API_KEY", " 400\n")
    server.fault = lambda question, n: "400" if question == "q004" else None
    summary = ask(suite, server, tmp_path / "a.jsonl")
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer 400"}
    assert "scripted ***" in summary.failures["q004"] and "scripted 400" not in (tmp_path / "a.jsonl").read_text()
    long = Response(400, {}, b"x" * (MESSAGE_CHARACTERS - 2) + b"400")
    client = engine(server.url)
    client._key = "400"
    assert client._message(long)[-2:] == "**", "half a key is hidden too"


def test_fewer_samples_than_asked_for_are_refused(suite, server, tmp_path):
    with pytest.raises(DepthLMError, match="gave 1 answers where 5 were asked for"):
        ask(suite, server, tmp_path / "a.jsonl", engine={"samples": 5}, failures_in_row=1)


def test_broken_connections_are_waited_for_beside_the_attempts(suite, server, tmp_path):
    suite = limit_suite(suite, 1)
    server.fault = lambda question, n: "dropped" if n < 6 else "500" if n < 8 else None
    options = {"attempts": 3, "patience_s": 30.0}
    assert ask(suite, server, tmp_path / "a.jsonl", engine=options).failures == {}
    assert server.counts == {"q000": 8}
    server.fault = lambda question, n: "dropped"
    began = time.monotonic()
    summary = ask(suite, server, tmp_path / "b.jsonl", engine={"patience_s": 0.3})
    assert "no answer in 0.3 s of waiting for the server" in summary.failures["q000"]
    assert 0.3 <= time.monotonic() - began < 5


def test_an_answer_that_was_cut_off_is_known(suite, server):
    item = suite.items[0]

    async def reply(reason: str) -> Reply:
        server.choices = lambda body, text: [{"message": {"content": text}, "finish_reason": reason}]
        client = engine(server.url)
        await client.start()
        try:
            return await client.ask(item, client.packer()(SuiteView(suite).show(item)), [])
        finally:
            await client.close()

    assert [asyncio.run(reply(reason)).cut for reason in ("length", "stop")] == [True, False]


def test_concurrency_is_bounded_and_used(suite, server, tmp_path):
    server.delay_s = 0.05
    ask(suite, server, tmp_path / "a.jsonl", concurrency=3)
    assert server.most_under_way == 3


CLIENT = """
import sys
from pathlib import Path
from depthlm.suite import read_suite
from eval.ask import ask_suite
from eval.engines.endpoint import EndpointEngine
ask_suite(read_suite(sys.argv[1]), EndpointEngine(sys.argv[2], "served"), Path(sys.argv[3]), 2, progress=False)
"""


def test_after_sigkill_only_what_is_missing_is_asked(suite, server, tmp_path):
    out = tmp_path / "a.jsonl"
    server.delay_s = 0.15
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CLIENT, str(suite.path), server.url, str(out)]
    client = subprocess.Popen(command, env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while sum(server.counts.values()) < 6:
        assert time.monotonic() < deadline and client.poll() is None
        time.sleep(0.01)
    client.send_signal(signal.SIGKILL)
    client.wait()
    with out.open("ab") as file:
        file.write(b'{"id": "q011", "text": "torn')  # what a kill within a write leaves
    kept = read_answers(out).texts
    assert 2 <= len(kept) < 12 and "q011" not in kept
    time.sleep(0.3)  # requests that died with the client have left the server
    server.delay_s = 0
    server.counts.clear()
    summary = ask(suite, server, out)
    assert (summary.kept, summary.asked) == (len(kept), 12 - len(kept))
    assert dict(server.counts) == {item.id: 1 for item in suite.items if item.id not in kept}
    assert read_answers(out).texts == expected(suite)
    ids = [row["id"] for row in map(json.loads, out.read_text().splitlines()) if "id" in row]
    assert sorted(ids) == [item.id for item in suite.items], "an answer was lost or doubled"
    assert read_answers(out).wall_s > 0.15, "the killed session's time counts"


def test_answers_of_another_run_are_not_mixed(suite, server, tmp_path):
    out = tmp_path / "a.jsonl"
    ask(suite, server, out)
    before = out.read_bytes()
    with pytest.raises(DepthLMError, match="model 'served', this run has 'truth'"):
        ask_suite(suite, make_baseline("truth", suite), out, progress=False)
    with pytest.raises(DepthLMError, match="suite_hash"):
        ask(limit_suite(suite, 3), server, out)
    with pytest.raises(DepthLMError, match="settings"):
        ask(suite, server, out, engine={"max_tokens": 8})
    with pytest.raises(DepthLMError, match="fingerprint"):
        ask(suite, server, out, header={"fingerprint": "new weights"})
    assert out.read_bytes() == before


def test_a_spoilt_answers_file_is_named_with_its_line(suite, server, tmp_path):
    out = tmp_path / "a.jsonl"
    ask(suite, server, out)
    lines = out.read_text().splitlines()
    lines[4] = lines[4][:-3]
    out.write_text("\n".join(lines) + "\n")
    with pytest.raises(DepthLMError, match=r"a\.jsonl line 5"):
        ask(suite, server, out)


def test_unwritable_output_is_found_before_asking(suite, server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthLMError, match="can't be written"):
        ask(suite, server, tmp_path / "file" / "a.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DepthLMError, match="can't be written"):
        ask(suite, server, tmp_path / "folder")
    assert not server.counts


def test_odd_characters_survive(suite, tmp_path):
    class Odd:
        model, settings = "odd", {}

        async def start(self): ...

        def packer(self): ...

        async def ask(self, item, packed, before):
            return Reply("1.5\u2028\r\nm \ud800 é", 0.0)

        async def close(self): ...

    ask_suite(suite, Odd(), tmp_path / "a.jsonl", progress=False)
    assert set(read_answers(tmp_path / "a.jsonl").texts.values()) == {"1.5\u2028\r\nm ? é"}


def test_a_limited_suite_is_spread_and_another_suite(suite):
    part = limit_suite(suite, 3)
    assert [item.id for item in part.items] == ["q000", "q004", "q008"]
    assert part.hash != suite.hash and limit_suite(suite, 99) is suite
    with pytest.raises(DepthLMError, match="--limit"):
        limit_suite(suite, 0)


def test_random_answers_depend_on_id_and_seed_alone(suite):
    values = [float(random_answer(f"q{i}", 0)) for i in range(4000)]
    assert random_answer("q7", 0) == f"{values[7]:.2f}" != random_answer("q7", 1)
    assert 0.5 <= min(values) < 0.52 and 48 < max(values) <= 50
    assert abs(sum(value < 5 for value in values) / 4000 - 0.5) < 0.03  # log-uniform: half below sqrt(0.5 * 50)


def test_best_constant_is_the_best_of_all_constants_for_each_kind():
    rng = np.random.default_rng(0)
    truths = {f"kind{n}": np.exp(rng.normal(n / 20, 0.8, n)) for n in (1, 2, 7, 60)}
    items = [SimpleNamespace(kind=kind, truth=float(t)) for kind, values in truths.items() for t in values]
    for kind, text in best_constants(items).items():
        c, t = float(text), truths[kind]
        reached = (np.maximum(c / t, t / c) < 1.25).sum()
        grid = np.exp(np.linspace(-4, 6, 20001))[:, None]
        assert reached >= (np.maximum(grid / t, t / grid) < 1.25).sum(1).max()


@pytest.mark.parametrize("spec", ["constant:", "constant:-1", "constant:nan", "constant:x", "oracle"])
def test_a_bad_baseline_is_refused(suite, spec):
    with pytest.raises(DepthLMError, match="--baseline"):
        make_baseline(spec, suite)
