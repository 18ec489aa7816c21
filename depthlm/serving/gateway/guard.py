"""What stands before every page: keys, limits, time-outs, clients that go away, and the last word on errors."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depthlm.serving.gateway.faults import GatewayError
from depthlm.serving.gateway.gauges import Gauges
from depthlm.serving.gateway.limits import BODY, JOBS, Bodies, Disconnected, Keys, Slots, check_values, close_after

logger = logging.getLogger(__name__)

# What nobody receives, and the logs' word for it (nginx's): the client had gone.
CLIENT_CLOSED = 499
BODY_TIMEOUT_S = 60.0


class Guard:
    """ASGI middleware.

    Args:
        limited: paths whose requests reach the model's server: they take slots, have bodies, and end by ``timeout_s``.
        open_paths: need no key.
        known: paths that are told apart in metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        slots: Slots,
        bodies: Bodies,
        gauges: Gauges,
        timeout_s: float,
        *,
        limited: Iterable[str],
        open_paths: Iterable[str],
        known: Iterable[str],
    ) -> None:
        self.app, self.keys, self.slots, self.bodies, self.gauges = app, keys, slots, bodies, gauges
        self.timeout_s = timeout_s
        self.limited, self.open_paths, self.known = set(limited), set(open_paths), set(known)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.known else "other"
        sender = _Sender(send)
        with ExitStack() as held:
            held.callback(self._count, path, sender, time.monotonic())
            self.gauges.in_flight.inc()
            sender.at_end = held.close  # before the last byte: who has the whole answer may ask again at once
            try:
                await self._answer(scope, receive, sender, held)
            except GatewayError as error:
                await sender.fail(error, scope, receive)
            except Disconnected:
                sender.status = sender.status or CLIENT_CLOSED
            except Exception:
                logger.exception("%s %s failed", scope["method"], path)
                await sender.fail(GatewayError(500, "the gateway failed", code="internal_error"), scope, receive)

    def _count(self, path: str, sender: _Sender, began: float) -> None:
        self.gauges.in_flight.dec()
        self.gauges.latency.labels(path).observe(time.monotonic() - began)
        self.gauges.requests.labels(path, str(sender.status or CLIENT_CLOSED)).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: _Sender, held: ExitStack) -> None:
        headers = dict(scope["headers"])
        key = None if scope["path"] in self.open_paths else self.keys.check(headers.get(b"authorization", b""))
        if scope["path"] not in self.limited:
            await self.app(scope, receive, send)
            return
        client = key or (scope["client"] or ("unknown",))[0]
        taken, jobs = ExitStack(), list[Any]()
        held.callback(close_after, taken, jobs)
        taken.enter_context(self.slots.take(client))
        body = taken.enter_context(self.bodies.hold())
        JOBS.set(jobs)
        BODY.set(body)
        try:
            async with asyncio.timeout(min(BODY_TIMEOUT_S, self.timeout_s)):
                content = await body.read(receive, headers.get(b"content-length", b""))
        except TimeoutError as error:
            raise GatewayError(408, "the request's body did not arrive in time", code="timeout") from error
        check_values(content)
        await self._watched(self.app(scope, _Replay(content), send), receive)

    async def _watched(self, answering: Any, receive: Receive) -> None:
        """Answer while the client is there and time is left; what it asked is given up else, upstream too."""
        app, gone = asyncio.ensure_future(answering), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({app, gone}, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if app.done():
                app.result()
            elif gone.done():
                raise Disconnected
            else:
                raise GatewayError(504, f"no answer within {self.timeout_s:g} s", code="timeout")
        finally:
            app.cancel()
            gone.cancel()
            await asyncio.gather(app, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Replay:
    """A body that was read already; then nothing more, for the guard itself sees a client go."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    async def __call__(self) -> Message:
        if self._content is None:
            await asyncio.get_running_loop().create_future()
        content, self._content = self._content, None
        return {"type": "http.request", "body": content, "more_body": False}


class _Sender:
    """Sends an answer, and knows how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self._stream, self._ended = send, 0, False, False
        self.at_end: Callable[[], None] = lambda: None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._stream = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
            )
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if self._ended:
                self.at_end()
        await self._send(message)

    async def fail(self, error: GatewayError, scope: Scope, receive: Receive) -> None:
        """Tell an error: as the answer, or at the end of a stream that has begun."""
        if not self.status:
            await error.response()(scope, receive, self)
        elif self._stream and not self._ended:
            event = b"data: " + json.dumps(error.body()).encode() + b"\n\n"
            await self({"type": "http.response.body", "body": event})
