"""What the web page's server lets in and out: only the addresses that the page itself asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio import to_thread

API = "/gradio_api"
# Of a request: one photo, and a little beside it.
MOST_BYTES = 45_000_000
# Of Gradio's many addresses those that the page needs; among the others are ones that fetch from anywhere.
PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
FOLDERS = ("/assets/", "/static/", "/svelte/")
CALLS = ("/queue/join", "/queue/data", "/upload", "/upload_progress", "/run/predict", "/cancel", "/reset", "/info")
CALL_FOLDERS = ("/heartbeat/", "/file=/")
MORE_CALLS = ("/startup-events", "/theme.css", "/app_id", "/login_check")
# The browser refuses whatever is not of this server. Scripts in the page itself are Gradio's own.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def allowed(path: str) -> bool:
    """Whether an address is one that the page needs."""
    if not path.startswith(API):
        return path in PAGES or path.startswith(FOLDERS)
    call = path.removeprefix(API).rstrip("/") or "/"
    return call in CALLS or call in MORE_CALLS or path.removeprefix(API).startswith(CALL_FOLDERS)


class Guard:
    """ASGI middleware: 404 for what the page does not need, and headers that bind the browser to this server.

    Args:
        app: what is guarded.
        make_room: is called before whatever may write files.
    """

    def __init__(self, app: Any, make_room: Callable[[], None]) -> None:
        self.app, self.make_room = app, make_room

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not allowed(scope["path"]):
            await _refuse(send, 404, b"not found")
        elif scope["type"] == "http" and _too_large(dict(scope["headers"])):
            await _refuse(send, 413, b"too large")
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            if scope["type"] == "http" and scope["method"] == "POST":
                await to_thread.run_sync(self.make_room)
            await self.app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)


def _too_large(headers: dict[bytes, bytes]) -> bool:
    """Whether a request's body is, or does not tell its size."""
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or not length.isdigit() or int(length) > MOST_BYTES


async def _refuse(send: Any, status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


def _with_headers(send: Any) -> Any:
    async def out(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return out
