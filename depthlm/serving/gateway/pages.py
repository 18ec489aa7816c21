"""What a gateway answers, page by page; `depthlm.serving.gateway.app` puts them together."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import aiohttp
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from depthlm.measuring import Measurement
from depthlm.models.asked_as import AskedAs
from depthlm.photo import Photo
from depthlm.questions import KINDS
from depthlm.serving.answerers import ServerAnswerer
from depthlm.serving.chat_request import encode
from depthlm.serving.gateway.canvases import DEFAULT_BYTES, CachedModel, CanvasCache
from depthlm.serving.gateway.chat_images import ImagePart, check_count, find_images, read_json, without_seed
from depthlm.serving.gateway.chat_rewrite import Prepared, prepare
from depthlm.serving.gateway.events import Events
from depthlm.serving.gateway.faults import Away, GatewayError
from depthlm.serving.gateway.files import Files
from depthlm.serving.gateway.gauges import Gauges
from depthlm.serving.gateway.images import fetch_all, file_bytes, is_data
from depthlm.serving.gateway.limits import JOBS
from depthlm.serving.gateway.remote_images import RemoteImages
from depthlm.serving.gateway.schema import MAX_POINTS, MeasureRequest
from depthlm.serving.gateway.upstream import Upstream, UpstreamEndpoint, refusal
from depthlm.serving.spatial_model import MAX_SAMPLES, Question
from depthlm.shown import Shown

T = TypeVar("T")

WARNING_HEADER = "x-depthlm-warning"
LONGEST_HEADER = 1000
# Of a request and of an answer; the rest is between the two sides of the gateway.
PASSED_ON = ("content-type", "accept", "x-request-id", "traceparent", "tracestate")
PASSED_BACK = ("content-type", "x-request-id", "retry-after")
# Of a model; the rest tells of folders.
MODEL_FIELDS = ("id", "object", "created", "owned_by", "max_model_len")
# Of a request that is quick to mark: of an image's file, and of all else; its points, whose places are searched for.
QUICK_BYTES, QUICK_TEXT, QUICK_POINTS = 1 << 20, 1 << 16, 2
LIST_TIMEOUT_S = 10.0
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """How a gateway behaves.

    Args:
        asked_as: how the model wants to be asked.
        notes: what a reader of its answers has to know of that.
        encoder: folder of a spatial encoder that tells unknown cameras.
        keys: API keys; none lets everybody in.
        allow_remote: images may be http(s) addresses on the public internet.
        remote: what fetches those, by default `RemoteImages`.
        max_body: bytes of one request; ``max_bodies`` of all that are under way.
        max_pixels: of one image.
        images: of one request, as many as the model's server takes.
        per_client: requests under way of one key, or of one address where there are no keys; ``queue`` in all.
        timeout_s: for a whole answer.
        encoding: of the images that are sent to the model's server.
        threads: that decode and draw; None: one for each core.
        cache_bytes: of images kept in the model's form.
    """

    asked_as: AskedAs
    notes: Sequence[str] = ()
    encoder: str | None = None
    keys: Sequence[str] = field(default=(), repr=False)
    allow_remote: bool = False
    remote: RemoteImages | None = None
    max_body: int = 32 * MIB
    max_bodies: int = 1024 * MIB
    max_pixels: int = 40_000_000
    images: int = 4
    per_client: int = 64
    queue: int = 256
    timeout_s: float = 120.0
    encoding: str = "bmp"
    threads: int | None = None
    cache_bytes: int = DEFAULT_BYTES


class Gateway:
    """What answers the pages; see `make_app`."""

    def __init__(self, settings: Settings, upstream: Upstream) -> None:
        self.settings, self.upstream = settings, upstream
        self.gauges = Gauges()
        self.gauges.watch(lambda: upstream.ready)
        upstream.on_lost = self.gauges.restarts.inc
        self.remote = settings.remote or (RemoteImages(settings.max_body) if settings.allow_remote else None)
        self.model = CachedModel(
            ServerAnswerer(UpstreamEndpoint(upstream), settings.encoding),  # type: ignore[arg-type]
            settings.asked_as,
            settings.encoder,
            settings.max_pixels,
            settings.notes,
            CanvasCache(settings.cache_bytes),
        )
        self._pool = ThreadPoolExecutor(settings.threads or os.cpu_count() or 1, "rendering")

    async def chat(self, request: Request) -> Response:
        """A chat completion, with the images of `spatial` parts in the model's form."""
        prepared = await self._prepared(await request.body())
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        response = await self.upstream.send("POST", "/chat/completions", prepared.body, headers)
        return await self._relay(response, prepared)

    async def _prepared(self, raw: bytes) -> Prepared:
        """A request as it goes to the model's server; its images go with this call, not with the answer."""
        files = Files()
        body = read_json(raw, files)
        images = find_images(body, self.settings.images)
        # vLLM 0.31 on a CPU ends, for everybody, at a seeded draw after a prompt that was read in parts
        if self.upstream.on_cpu and without_seed(body):
            raw = files.fill(json.dumps(body).encode())
        self._check_ready()
        fetched = await fetch_all([(image.url, image.param) for image in images], self.remote)
        if not images:
            return Prepared(raw)
        how = self.model, self.settings.max_pixels, self.settings.encoding
        job = partial(prepare, raw, body, images, files, fetched, *how)
        return self._timed(job) if self._is_quick(images, files) else await self._drawn(job)

    def _is_quick(self, images: Sequence[ImagePart], files: Files) -> bool:
        """Whether it takes longer to hand a request to a thread than to mark its images, which are small and kept."""
        points = sum(len(image.spatial.points) for image in images if image.spatial)
        if files.outside > QUICK_TEXT or points > QUICK_POINTS:
            return False
        return all(self._is_kept(image, files) for image in images)

    def _is_kept(self, image: ImagePart, files: Files) -> bool:
        if image.spatial is None or not is_data(image.url):
            return False
        data = files.read(image.url, image.param)
        return len(data) <= QUICK_BYTES and self.model.is_quick(data, image.spatial.lens())

    async def _relay(self, response: aiohttp.ClientResponse, prepared: Prepared) -> Response:
        """The server's answer: a stream as it comes, all else at once.

        Raises:
            GatewayError: it is a refusal or a failure.
        """
        if response.status != 200:
            raise refusal(response.status, await self.upstream.read(response))
        headers = {name: response.headers[name] for name in PASSED_BACK if name in response.headers}
        if prepared.warnings:
            headers[WARNING_HEADER] = as_header("; ".join(prepared.warnings))
        if headers.get("content-type", "").startswith("text/event-stream"):
            return StreamingResponse(self._stream(response), response.status, headers)
        content = await self.upstream.read(response)
        if prepared.images:
            content = _with_told(content, prepared)
        return Response(content, response.status, headers)

    async def _stream(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            events = Events()
            async for chunk in response.content.iter_any():
                if whole := events.feed(chunk):
                    yield whole
            yield events.rest()
        except (aiohttp.ClientError, OSError):
            yield b"data: " + json.dumps(self.upstream.lost().body()).encode() + b"\n\n"
        finally:
            response.close()  # what nobody reads to its end is given up there, too

    async def measure(self, asked: MeasureRequest) -> dict[str, Any]:
        """A question whose answer is a number."""
        check_count(len(asked.images), self.settings.images, "images")
        self._check_ready()
        urls = [(image.url, f"images.{i}.url") for i, image in enumerate(asked.images)]
        fetched = await fetch_all(urls, self.remote)

        def show() -> tuple[Question, Shown, list[Photo]]:
            files = [fetched[url] if url in fetched else file_bytes(url, param) for url, param in urls]
            question = Question(
                asked.kind,
                files,
                [image.lens() for image in asked.images],
                [(point.x, point.y) for point in asked.points],
                [point.name or "" for point in asked.points],
                asked.given,
                asked.samples,
            )
            return question, *self.model.show(question)

        question, shown, photos = await self._drawn(show)
        found: Measurement = await self.model.read(question, shown, photos)
        out = found.to_dict()
        if asked.return_images:
            out["images"] = await self._drawn(lambda: [_data_url(pixels) for pixels in shown.images])
        return out

    def _check_ready(self) -> None:
        """Before anything is fetched or drawn."""
        if not self.upstream.ready:
            raise Away("the model's server is starting: try again later", self.upstream.retry_after)

    async def _drawn(self, job: Callable[[], T]) -> T:
        """The result of a job in the threads that draw."""
        self.gauges.queued.inc()
        running = self._pool.submit(self._timed, job)
        ended = asyncio.wrap_future(running)
        ended.add_done_callback(lambda _: self.gauges.queued.dec())
        JOBS.get().append(ended)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            running.cancel()  # where it had not begun
            raise

    def _timed(self, job: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return job()
        finally:
            self.gauges.rendering.observe(time.monotonic() - began)

    async def models(self) -> Response:
        """The server's list of models, without its folders.

        Raises:
            GatewayError: the server isn't there, or gives no such list.
        """
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                response = await self.upstream.send("GET", "/models")
                content = await self.upstream.read(response)
        except TimeoutError as error:
            raise GatewayError(504, f"no answer within {LIST_TIMEOUT_S:g} s", code="timeout") from error
        if response.status != 200:
            raise refusal(response.status, content)
        try:
            found = [{name: one[name] for name in MODEL_FIELDS if name in one} for one in json.loads(content)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise GatewayError(502, "the model's server gave no list of models", code="bad_upstream") from error
        return Response(json.dumps({"object": "list", "data": found}), 200, None, "application/json")

    def spatial(self) -> dict[str, Any]:
        """Whom this gateway asks, and how."""
        how, limits = self.settings.asked_as, self.settings
        kinds = []
        for name in KINDS.names():
            kind = KINDS.get(name)
            states = None if not kind.given else ("speed" if kind.unit == "s" else "time")
            kinds.append(
                {"name": name, "unit": kind.unit, "points": kind.points, "images": kind.images, "states": states}
            )
        return {
            "object": "spatial",
            "model": self.upstream.model,
            "profile": how.profile,
            "intrinsics": how.intrinsics,
            "pointing": how.pointing,
            "notes": list(limits.notes),
            "kinds": kinds,
            "limits": {
                "body_bytes": limits.max_body,
                "image_pixels": limits.max_pixels,
                "images": limits.images,
                "points": MAX_POINTS,
                "samples": MAX_SAMPLES,
                "concurrency": limits.per_client,
                "timeout_s": limits.timeout_s,
            },
        }

    async def close(self) -> None:
        """End the threads and the connections for images."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.remote is not None:
            await self.remote.close()


def as_header(text: str) -> str:
    """A text as the value of a header: printable ASCII of one line."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:LONGEST_HEADER]


def _with_told(content: bytes, prepared: Prepared) -> bytes:
    try:
        answer = json.loads(content)
    except ValueError:
        return content
    if isinstance(answer, dict):
        answer["depthlm"] = {"warnings": prepared.warnings, "images": prepared.images}
    return json.dumps(answer).encode()


def _data_url(pixels: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(encode(pixels, "png")).decode()
