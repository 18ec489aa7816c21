"""vLLM replicas on the machines of a Ray cluster, behind one address: an upstream for the gateway.

    pip install 'ray[serve]'
    serve run --app-dir . docs.deploy.ray_serve:app model=runs/model replicas=4 gpus=1
    depthlm serve runs/model --upstream http://127.0.0.1:8000/v1 --port 8080

Each replica is a vLLM server of its own, on its own GPUs; Ray Serve sends a request to the less busy of two, starts
replicas that have died anew, and spreads them over the cluster.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from depthlm.serving.endpoint import KEEP_ALIVE_S
from depthlm.serving.vllm_process import VLLMServer

# Requests that a replica takes at once; vLLM makes batches of them.
AT_ONCE = 256
# What the gateway asks for; vLLM's other pages stay inside.
PAGES = ("/v1/chat/completions", "/v1/models")


@serve.deployment(max_ongoing_requests=AT_ONCE, health_check_period_s=5, graceful_shutdown_timeout_s=60)
class Replica:
    """A vLLM server, started and ended with the replica."""

    def __init__(self, model: str, vllm_args: str) -> None:
        self.server = VLLMServer(model, extra_args=shlex.split(vllm_args)).start()
        self.address = self.server.base_url.removesuffix("/v1")
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, request: Request) -> Response:
        """Pass a request on, and the answer back as it comes."""
        if request.url.path not in PAGES:
            return PlainTextResponse("not found", 404)
        kept = {name: value for name, value in request.headers.items() if name in ("content-type", "accept")}
        options = {"data": await request.body(), "headers": kept, "allow_redirects": False}
        answer = await self._connected().request(request.method, self.address + request.url.path, **options)
        return StreamingResponse(_pieces(answer), answer.status, media_type=answer.headers.get("content-type"))

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this fails."""
        async with self._connected().get(f"{self.address}/health", timeout=aiohttp.ClientTimeout(30)) as answer:
            answer.raise_for_status()

    def _connected(self) -> aiohttp.ClientSession:
        if self.session is None:  # only here there is an event loop
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None))
        return self.session

    def __del__(self) -> None:
        if hasattr(self, "server"):
            self.server.stop()


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The answer as it comes; a client that goes away ends it in vLLM, too."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    finally:
        answer.close()


def app(args: dict[str, Any]) -> serve.Application:
    """The application, from the arguments of ``serve run``: ``model``, and where they are given ``replicas`` (1), the
    ``gpus`` of each (1) and ``vllm_args``."""
    options = {
        "num_replicas": int(args.get("replicas", 1)),
        "ray_actor_options": {"num_gpus": float(args.get("gpus", 1))},
    }
    return Replica.options(**options).bind(args["model"], args.get("vllm_args", ""))
