"""The model's server behind a gateway, and the connections to it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from depthlm.errors import DepthLMError
from depthlm.serving.endpoint import KEEP_ALIVE_S, Completion, read_completion
from depthlm.serving.gateway.faults import Away, GatewayError, without_paths

logger = logging.getLogger(__name__)

LOOK_S = 0.1
HEALTH_S = 2.0
LARGEST_ANSWER = 64 << 20


class Upstream:
    """An OpenAI-compatible server that others look after.

    Args:
        url: of its interface, ending in ``/v1``.
        model: name to ask for, where it serves several; if it serves one, that is asked, whatever its name.
        key: API key.
    """

    retry_after = 5
    # Whether it is known to be a vLLM that computes on a CPU.
    on_cpu = False

    def __init__(self, url: str = "", model: str | None = None, key: str = "") -> None:
        self.url, self.model = url, model or ""
        self.ready = False
        self.on_lost: Callable[[], None] = lambda: None
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Look after the server until cancelled.

        Raises:
            DepthLMError: it can't be used at all, and never will.
        """
        self._connect()
        told = False
        try:
            while True:
                was, self.ready = self.ready, await self._looks_well()
                if was and not self.ready:
                    self.on_lost()
                if was != self.ready or not told:
                    logger.warning("%s %s", self.url, "answers" if self.ready else "does not answer (yet)")
                    told = True
                await asyncio.sleep(HEALTH_S)
        finally:
            await self._disconnect()

    async def _looks_well(self) -> bool:
        assert self._session is not None
        try:
            async with asyncio.timeout(10), self._session.get(f"{self.url}/models") as response:
                if response.status in (401, 403):
                    raise DepthLMError(self.url, "refuses the key", "set DEPTHLM_API_KEY")
                found = await response.json(content_type=None) if response.status == 200 else None
            served = None if found is None else [str(entry["id"]) for entry in found["data"]]
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            return False
        if served is None:
            return False
        if self.model not in served:
            if len(served) != 1:
                what = f"serves no model {self.model!r}" if self.model else f"serves {len(served)} models"
                raise DepthLMError(self.url, what, f"name one: {', '.join(served[:20])}")
            self.model = served[0]
        return True

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request; the response is to be read to its end, or closed.

        A connection that breaks before anything was answered is tried once more: it may have been an idle one that the
        server closed in this moment.

        Raises:
            GatewayError: 503, the server isn't there.
        """
        for attempt in range(2):
            session = self._session
            if session is None or not self.ready:
                raise Away("the model's server is starting: try again later", self.retry_after)
            try:
                return await session.request(method, self.url + path, data=body, headers=headers)
            except aiohttp.ServerDisconnectedError as error:
                if attempt:
                    raise self.lost() from error
            except (aiohttp.ClientError, OSError) as error:
                raise self.lost() from error
            await asyncio.sleep(LOOK_S)  # so long it takes to see that it has died
        raise self.lost()

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """A response's whole body.

        Raises:
            GatewayError: the connection broke, or the answer is no answer.
        """
        out = bytearray()
        try:
            async for chunk in response.content.iter_any():
                out += chunk
                if len(out) > LARGEST_ANSWER:
                    raise GatewayError(502, "the model's server answers without end", code="bad_upstream")
        except (aiohttp.ClientError, OSError) as error:
            raise self.lost() from error
        finally:
            if not response.content.at_eof():
                response.close()
        if response.status >= 500 and not await self._survives():
            raise self.lost()
        return bytes(out)

    async def _survives(self) -> bool:
        """Whether a server that answered with a failure goes on: vLLM says so while it dies, too."""
        return self.ready

    def lost(self) -> GatewayError:
        """What is told when the connection broke."""
        return Away("the model's server was lost: try again later", self.retry_after)

    def _connect(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            trust_env=False,  # no proxy of the environment may stand between
        )

    async def _disconnect(self) -> None:
        """Close all connections: whoever waits for an answer is told at once."""
        session, self._session, self.ready = self._session, None, False
        if session is not None:
            await session.close()


class UpstreamEndpoint:
    """What `depthlm.serving.answerers.ServerAnswerer` asks of a `ChatEndpoint`, through a gateway's connections.

    Nothing is tried again here: the client is told, and decides.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    @property
    def model(self) -> str:
        return self.upstream.model

    @property
    def served_name(self) -> str:
        return self.upstream.model

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def complete(self, body: bytes, what: str, answers: int = 1) -> Completion:
        """See `ChatEndpoint.complete`."""
        began = time.monotonic()
        response = await self.upstream.send("POST", "/chat/completions", body, {"Content-Type": "application/json"})
        content = await self.upstream.read(response)
        if response.status != 200:
            error = refusal(response.status, content)
            if error.status == 404:  # the model is not the client's choice here
                raise GatewayError(502, "the model's server has no such model", code="bad_upstream")
            if error.status in (429, 502):
                raise error
            raise DepthLMError(what, f"refused by the model's server: {error.message}", kind="refused")
        try:
            found = read_completion(json.loads(content), answers)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise GatewayError(502, "the model's server gave no chat completion", code="bad_upstream") from error
        return replace(found, latency_s=time.monotonic() - began)


def refusal(status: int, content: bytes) -> GatewayError:
    """What a client is told of an answer other than 200; a 4xx of a question is the question's fault."""
    if status == 429:
        return GatewayError(429, "the model's server is busy", code="queue_full", retry_after=1)
    if not 400 <= status < 500:
        return GatewayError(502, "the model's server failed", code="bad_upstream")
    if status in (401, 403):  # the key is the gateway's, not the client's
        return GatewayError(502, "the model's server refuses the gateway", code="bad_upstream")
    try:
        found: Any = json.loads(content)["error"]
        message, param = str(found["message"]), found.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = "no reason given", None
    param = without_paths(param) if isinstance(param, str) else None
    return GatewayError(status, without_paths(message), param=param, code="refused")
