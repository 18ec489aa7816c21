"""A gateway on a port of its own, and a scripted model's server behind it that remembers what it was sent."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import httpx
import numpy as np
import uvicorn
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from depthlm.models.asked_as import AskedAs
from depthlm.serving.gateway.app import make_app
from depthlm.serving.gateway.pages import Settings
from depthlm.serving.gateway.upstream import Upstream

ASKED_AS = AskedAs("nano")


class Serving:
    """An ASGI application on a free port, in a thread."""

    def __init__(self, app: ASGIApp) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


class Model:
    """A server with an OpenAI-compatible face. Its faults are scripted:

    ``delay_s`` before an answer, ``list_delay_s`` before the list of models;
    ``status`` of the next ones; ``stream_gap_s`` between the pieces of a stream;
    ``break_stream`` after its first piece; ``hang``: no answer at all.
    """

    answer = "The point is 3.25 m away."
    names: Sequence[str] = ("served",)

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.delay_s = self.stream_gap_s = self.list_delay_s = 0.0
        self.status = 200
        self.hang = self.break_stream = False
        self.stream_error: dict[str, Any] | None = None
        self.under_way = self.abandoned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await asyncio.sleep(self.list_delay_s)
            data = [CARD | {"id": name} for name in self.names]
            return await reply(send, 200, {"object": "list", "data": data})
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        self.under_way += 1
        gone = asyncio.ensure_future(receive())
        answering = asyncio.ensure_future(self._answer(json.loads(body), send))
        await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
        self.under_way -= 1
        self.abandoned += not answering.done()
        answering.cancel()
        gone.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, body: dict[str, Any], send: Send) -> None:
        await asyncio.sleep(1000 if self.hang else self.delay_s)
        if self.status != 200:
            message = {
                "error": {
                    "message": f"scripted {self.status} of /srv/models/secret.bin",
                    "type": "BadRequestError",
                    "param": None,
                    "code": 1,
                }
            }
            return await reply(send, self.status, message)
        if body.get("stream"):
            return await self._stream(send)
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": self.answer}}
            for i in range(body.get("n", 1))
        ]
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "served", "choices": choices}
        await reply(send, 200, answer)

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for word in [*self.answer.split(), None]:
            delta = {"index": 0, "finish_reason": "stop" if word is None else None, "delta": {"content": word or ""}}
            piece = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "served", "choices": [delta]}
            data = b"data: " + json.dumps(piece).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
            if self.break_stream:
                raise ConnectionError("scripted")
            if self.stream_error:
                # in two pieces, as a network may cut it
                data = b"data: " + json.dumps({"error": self.stream_error}).encode() + b"\n\n"
                for piece in (data[:20], data[20:]):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    await asyncio.sleep(0.05)
                break
            await asyncio.sleep(self.stream_gap_s)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def reply(send: Send, status: int, body: Any) -> None:
    """Answer with JSON."""
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class Running(Serving):
    """A gateway before ``upstream``, with the settings of `depthlm.serving.gateway.pages.Settings`."""

    def __init__(
        self, upstream: Upstream | str, asked_as: AskedAs = ASKED_AS, start_s: float = 60, **settings: Any
    ) -> None:
        self._start_s = start_s
        self.upstream = Upstream(upstream + "/v1") if isinstance(upstream, str) else upstream
        self.app = make_app(Settings(asked_as, **settings), self.upstream)
        self.gateway = self.app.state.gateway
        super().__init__(self.app)

    def __enter__(self) -> Self:
        super().__enter__()
        wait_until(lambda: self.upstream.ready, self._start_s)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        super().__exit__()

    def chat(self, *content: Any, **more: Any) -> httpx.Response:
        """One user's message of these parts."""
        body = {"messages": [{"role": "user", "content": list(content)}], **more}
        return self.client.post("/v1/chat/completions", json=body)

    def measure(self, url: str, *points: tuple[float, float], **more: Any) -> httpx.Response:
        """A distance in an image with a field of view of 60 degrees."""
        body = {"images": [{"url": url, "fov": 60}], "points": [{"x": x, "y": y} for x, y in points], **more}
        return self.client.post("/v1/spatial/measure", json=body)


CARD = {
    "id": "served",
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": "/srv/secret",
    "parent": None,
    "max_model_len": 4096,
}


def wait_until(true: Any, timeout_s: float = 10.0) -> None:
    """Return once ``true()``; fail when it never is."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def picture(width: int = 320, height: int = 240, seed: int = 0) -> np.ndarray:
    """Coarse noise, (h, w, 3) uint8: every part of it can be told."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def file_of(pixels: np.ndarray | Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    """Pixels as the bytes of an image file."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **more)
    return buffer.getvalue()


def data_url(data: bytes, mime: str = "image/png") -> str:
    """A file as data URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, spatial: Any = None, mime: str = "image/png") -> dict[str, Any]:
    """An image part of a message."""
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_url(data, mime)}}
    return part if spatial is None else {**part, "spatial": spatial}


def text_part(text: str) -> dict[str, Any]:
    """A text part of a message."""
    return {"type": "text", "text": text}


def sent_pixels(part: dict[str, Any]) -> np.ndarray:
    """The image that a part holds, as it reached the model's server."""
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))).convert("RGB")
    )
