"""The gateway: an OpenAI-compatible interface in front of a model's server, which marks points and measures.

Requests without a ``spatial`` object reach the server as they came, once it is sure that they make it load nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.responses import Response

from depthlm import __version__
from depthlm.errors import DepthLMError
from depthlm.serving.gateway.faults import add_handlers
from depthlm.serving.gateway.guard import Guard
from depthlm.serving.gateway.interface import CHAT_DOCUMENT, describe
from depthlm.serving.gateway.limits import Bodies, Keys, Slots
from depthlm.serving.gateway.pages import Gateway, Settings
from depthlm.serving.gateway.schema import MeasureAnswer, MeasureRequest, SpatialTold
from depthlm.serving.gateway.upstream import Upstream

logger = logging.getLogger(__name__)

CHAT, MEASURE, SPATIAL, MODELS = "/v1/chat/completions", "/v1/spatial/measure", "/v1/spatial", "/v1/models"
LIMITED = CHAT, MEASURE, MODELS
HEALTH, METRICS = "/healthz", "/metrics"
DOCS, DOCS_FILES = "/docs", "/docs/files"
OPEN = (
    HEALTH,
    DOCS,
    "/openapi.json",
    *(f"{DOCS_FILES}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")),
)


def make_app(
    settings: Settings, upstream: Upstream, on_failure: Callable[[DepthLMError], None] | None = None
) -> FastAPI:
    """The gateway as an ASGI application; its lifespan looks after ``upstream``.

    Args:
        on_failure: called when ``upstream`` can't be used at all.
    """
    gateway = Gateway(settings, upstream)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def run() -> None:
            try:
                await upstream.run()
            except DepthLMError as error:
                logger.error("%s", error)
                if on_failure is not None:
                    on_failure(error)

        running = asyncio.ensure_future(run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await gateway.close()

    app = FastAPIOffline(  # whose page fetches nothing from outside
        docs_url=DOCS,
        redoc_url=None,
        static_url=DOCS_FILES,
        title="DepthLM gateway",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _add_routes(app, gateway)
    add_handlers(app)
    describe(app, OPEN, LIMITED)
    paths = (CHAT, MEASURE, SPATIAL, MODELS, HEALTH, METRICS, DOCS, "/openapi.json")
    app.add_middleware(
        Guard,  # type: ignore[arg-type]
        keys=Keys(settings.keys),
        slots=Slots(settings.per_client, settings.queue),
        bodies=Bodies(settings.max_body, settings.max_bodies),
        gauges=gateway.gauges,
        timeout_s=settings.timeout_s,
        limited=LIMITED,
        open_paths=OPEN,
        known=paths,
    )
    app.state.gateway = gateway
    return app


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    @app.post(CHAT, openapi_extra=CHAT_DOCUMENT, summary="Chat completion", tags=["OpenAI"])
    async def chat(request: Request) -> Response:
        """As OpenAI's interface; an image part may carry a `spatial` object beside its `image_url`."""
        return await gateway.chat(request)

    @app.get(MODELS, summary="Models", tags=["OpenAI"])
    async def models() -> Response:
        """As OpenAI's interface."""
        return await gateway.models()

    @app.post(MEASURE, response_model=MeasureAnswer, summary="Measure", tags=["spatial"])
    async def measure(asked: MeasureRequest) -> dict[str, Any]:
        """Ask about points of an image in their original pixels; the answer is a number in SI units."""
        return await gateway.measure(asked)

    @app.get(SPATIAL, response_model=SpatialTold, summary="Whom this gateway asks, and how", tags=["spatial"])
    async def spatial() -> dict[str, Any]:
        return gateway.spatial()

    starting = {503: {"description": "The model's server starts, or was lost."}}

    @app.get(HEALTH, responses=starting, summary="Whether questions are answered", tags=["operation"])
    async def health() -> Response:
        """200, or 503 while the model's server starts."""
        ready = gateway.upstream.ready
        return Response(
            json.dumps({"status": "ok" if ready else "starting"}), 200 if ready else 503, None, "application/json"
        )

    @app.get(METRICS, summary="Metrics for Prometheus", tags=["operation"])
    async def metrics() -> Response:
        content, kind = gateway.gauges.text()
        return Response(content, 200, {"Content-Type": kind})
