"""Images from elsewhere: refused by default; where they are allowed never from inside the network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from gateway_runs import Model, Running, file_of, image_part, picture, sent_pixels, text_part, wait_until

from depthlm.serving.gateway.faults import GatewayError
from depthlm.serving.gateway.remote_images import RemoteImages, is_public

PNG = file_of(picture())


class Host(ThreadingHTTPServer):
    """Serves a picture, and other things that an address may lead to."""

    def __init__(self) -> None:
        host = self
        self.seen: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                host.seen.append((self.path, self.headers["Host"]))
                status, headers, body = 200, {}, PNG
                if self.path == "/redirect":
                    status, headers, body = 302, {"Location": "/picture.png"}, b""
                elif self.path == "/gzip":
                    headers = {"Content-Encoding": "gzip"}
                elif self.path == "/large":
                    body = PNG + bytes(2_000_000)
                elif self.path.startswith("/slow"):
                    threading.Event().wait(3)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # not everything is read
                    self.wfile.write(body)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.shutdown()
    found.server_close()


class Names:
    """A name server whose answers are written down, in order; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, _: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def fetch(remote: RemoteImages, url: str) -> bytes:
    async def run() -> bytes:
        try:
            return (await remote.fetch_all({url: "param"}))[url]
        finally:
            await remote.close()

    return asyncio.run(run())


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "fec0::1",
    "::7f00:1", "2001:db8::1", "192.0.0.9", "192.88.99.1", "3fff:fff::1", "168.63.129.16",
    "::ffff:168.63.129.16", "x", "", "2130706433",
])  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host_name", [
    "127.0.0.1", "localhost", "2130706433", "127.1", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0",
    "１２７.0.0.1", "127.0.0.1.", "localhost.",
])  # fmt: skip
def test_this_machine_is_never_asked(host: Host, host_name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        fetch(RemoteImages(1 << 20, ports=[host.server_port]), f"http://{host_name}:{host.server_port}/picture.png")
    assert caught.value.status == 400 and not host.seen
    assert "127" not in caught.value.message


@pytest.mark.parametrize("url", [
    "file:///etc/passwd", "ftp://example.com/a", "gopher://example.com", "//example.com/a", "http://", "http:///a",
    "http://user:word@example.com/a", "http://[::1", "http://a:99999/", "x" * 5000, "", "unix:///run/x",
])  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(GatewayError) as caught:
        fetch(RemoteImages(1 << 20, look_up=Names(["8.8.8.8"]), timeout_s=0.2), url)
    assert caught.value.status == 400


def test_a_name_with_one_inner_address_is_refused(host: Host) -> None:
    names = Names(["93.184.216.34", "127.0.0.1"])
    with pytest.raises(GatewayError):
        remote = RemoteImages(1 << 20, look_up=names, timeout_s=1, ports=[host.server_port])
        fetch(remote, f"http://images.test:{host.server_port}/picture.png")
    assert names.asked == 1 and not host.seen


def test_a_name_that_changes_its_mind(host: Host) -> None:
    """The check saw 127.0.0.5 (here taken for public), so the connection goes there, not to what comes later."""
    names = Names(["127.0.0.5"], ["127.0.0.1"])
    permitted = {"permitted": lambda address: address == "127.0.0.5", "ports": [host.server_port]}
    remote = RemoteImages(1 << 20, look_up=names, timeout_s=1, **permitted)
    with pytest.raises(GatewayError):  # nothing listens there
        fetch(remote, f"http://images.test:{host.server_port}/picture.png")
    assert names.asked == 1 and not host.seen


def inside(host: Host, **more: Any) -> RemoteImages:
    """Takes this machine for a public one."""
    options = {"permitted": lambda address: address == "127.0.0.1", "ports": [host.server_port], **more}
    return RemoteImages(1 << 20, look_up=Names(["127.0.0.1"]), **options)


def test_a_public_image_is_fetched(host: Host) -> None:
    assert fetch(inside(host), f"http://images.test:{host.server_port}/picture.png") == PNG
    assert host.seen == [("/picture.png", f"images.test:{host.server_port}")]


@pytest.mark.parametrize(("path", "status"), [("redirect", 400), ("gzip", 400), ("large", 413), ("slow", 400)])
def test_what_is_not_followed_or_read(host: Host, path: str, status: int) -> None:
    with pytest.raises(GatewayError) as caught:
        fetch(inside(host, timeout_s=1), f"http://images.test:{host.server_port}/{path}")
    assert caught.value.status == status
    assert [seen[0] for seen in host.seen] == [f"/{path}"]


def several(remote: RemoteImages, *urls: str) -> dict[str, bytes]:
    async def run() -> dict[str, bytes]:
        try:
            return await remote.fetch_all({url: f"param {i}" for i, url in enumerate(urls)})
        finally:
            await remote.close()

    return asyncio.run(run())


def test_another_port_is_refused(host: Host) -> None:
    with pytest.raises(GatewayError) as caught:
        fetch(inside(host, ports=(80, 443)), f"http://images.test:{host.server_port}/picture.png")
    assert caught.value.code == "remote_images_refused" and not host.seen


def test_images_of_a_request_together_have_a_limit(host: Host) -> None:
    urls = [f"http://images.test:{host.server_port}/{i}.png" for i in range(4)]
    remote = inside(host)
    assert several(remote, *urls) == dict.fromkeys(urls, PNG)
    remote.max_bytes = 3 * len(PNG)
    with pytest.raises(GatewayError) as caught:
        several(remote, *urls)
    assert caught.value.status == 413


def test_images_of_a_request_are_fetched_side_by_side(host: Host) -> None:
    began = time.monotonic()
    with pytest.raises(GatewayError):
        several(inside(host, timeout_s=1), *(f"http://images.test:{host.server_port}/slow?{i}" for i in range(4)))
    assert time.monotonic() - began < 2
    assert len(host.seen) == 4


def test_nothing_is_fetched_for_a_model_that_is_away(model: Model, host: Host) -> None:
    url = f"http://images.test:{host.server_port}/picture.png"
    with Running(model.url, remote=inside(host)) as running:
        running.upstream.url = "http://127.0.0.1:9/v1"
        wait_until(lambda: running.client.get("/healthz").status_code == 503)
        assert running.chat({"type": "image_url", "image_url": {"url": url}}, text_part("?")).status_code == 503
        assert running.measure(url, (90, 90)).status_code == 503
    assert not host.seen


def test_a_gateway_fetches_and_sends_the_image_itself(model: Model, host: Host) -> None:
    url = f"http://images.test:{host.server_port}/picture.png"
    drawn = {"type": "image_url", "image_url": {"url": url}, "spatial": {"points": [{"x": 90, "y": 90}], "fov": 60}}
    with Running(model.url, remote=inside(host)) as running:
        assert running.chat({"type": "image_url", "image_url": {"url": url}}, text_part("?")).status_code == 200
        assert running.chat(drawn, text_part("?")).status_code == 200
        assert running.chat(image_part(PNG, drawn["spatial"]), text_part("?")).status_code == 200
        assert running.measure(url, (90, 90)).json()["value"] == 3.25
        bad = f"http://images.test:{host.server_port}/redirect"
        assert running.chat({"type": "image_url", "image_url": {"url": bad}}).status_code == 400
    plain, marked, same, _ = (json.loads(body)["messages"][0]["content"][0] for body in model.bodies)
    assert "images.test" not in str(model.bodies)
    assert (sent_pixels(plain) == picture()).all()
    assert (sent_pixels(marked) == sent_pixels(same)).all()


def test_fetched_images_count_among_all_bodies(model: Model, host: Host) -> None:
    url = f"http://images.test:{host.server_port}/picture.png"
    size = len(file_of(picture()))
    with Running(model.url, remote=inside(host), max_bodies=size) as running:
        answer = running.chat({"type": "image_url", "image_url": {"url": url}}, text_part("?"))
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
        assert running.chat(text_part("hi")).status_code == 200
    with Running(model.url, remote=inside(host), max_bodies=size + 1000) as running:
        for _ in range(3):  # what was held is given back
            answer = running.chat({"type": "image_url", "image_url": {"url": url}}, text_part("?"))
            assert answer.status_code == 200


def test_a_gateway_with_remote_images_refuses_its_own_network(model: Model, host: Host) -> None:
    port = int(model.url.rpartition(":")[2])
    with Running(model.url, remote=RemoteImages(1 << 20, ports=[host.server_port, port])) as running:
        for url in (f"http://127.0.0.1:{host.server_port}/picture.png", "file:///etc/passwd", model.url + "/v1/models"):
            answer = running.chat({"type": "image_url", "image_url": {"url": url}}, text_part("?"))
            assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages.0.content.0"
            assert running.measure(url, (90, 90)).status_code == 400
    assert not host.seen and not model.bodies
