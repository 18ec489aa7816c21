"""Any OpenAI-compatible chat endpoint, asked: vLLM's own, a gateway's, a vendor's."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from depthlm.errors import DepthLMError
from depthlm.serving.chat_request import ChatPacker
from depthlm.spread import Spread, Token, from_samples, from_tokens, said

logger = logging.getLogger(__name__)

T = TypeVar("T")

API_KEY_VARIABLE = "DEPTHLM_API_KEY"
PREFLIGHT_TIMEOUT_S = 15.0
LONGEST_WAIT_S = 120.0
# vLLM closes idle connections after 5 s: they are let go before.
KEEP_ALIVE_S = 3.0
# The most that the interface allows.
TOP_LOGPROBS = 20
# How much of a server's error message is worth showing.
MESSAGE_CHARACTERS = 500
# Fields of a request that are the question's own, and names of fields that would write a credential into results.
OWN_FIELDS = ("model", "messages", "stream")
CREDENTIALS = ("api_key", "apikey", "x_api_key", "key", "token", "access_token", "authorization", "password", "secret")
# The longest pause between two looks whether a server that is away has come back.
LOOK_AGAIN_S = 5.0


@dataclass(frozen=True)
class Completion:
    """What came back for one request.

    Args:
        texts: the answer, or the samples that were asked for.
        tokens: of the answer, with their log-probabilities, where those were asked for.
        cut: whether an answer was ended by ``max_tokens``.
        latency_s: seconds it took, retries included.
    """

    texts: tuple[str, ...]
    tokens: tuple[Token, ...] = ()
    cut: bool = False
    latency_s: float = 0.0

    @property
    def text(self) -> str:
        """The answer, or the first sample."""
        return self.texts[0]

    @property
    def spread(self) -> Spread:
        """Other answers that might have been given, by samples or by tokens; empty where neither was asked for."""
        if len(self.texts) > 1:
            return from_samples(self.texts)
        return from_tokens(self.tokens) if self.tokens else ()


class _Transient(Exception):
    """A failure that another attempt may mend; ``wait_s`` is what the server asked for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Away(Exception):
    """No connection, or a broken one: the server may be restarting."""


@dataclass(frozen=True)
class Response:
    """What a server answered, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    reason: str = ""

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


class ChatEndpoint:
    """Asks ``POST {url}/chat/completions``, greedily and with seed 0.

    Overload (429, with its Retry-After), 5xx, time-outs and cut-off JSON are tried again with exponential back-off and
    jitter, at most ``attempts`` times in all; any other refusal fails at once with the server's message. A server that
    refuses or breaks connections is waited for, ``patience_s`` for each question. The API key is written
    nowhere; where a server repeats it, *** is written.

    Args:
        url: address of the interface, e.g. ``http://host:8000/v1``; without a path ``/v1`` is added.
        model: name to ask for; None takes the one model that is served.
        max_tokens: longest answer.
        timeout_s: of one attempt, from the request to the answer's last byte.
        attempts: tries per question.
        patience_s: how long a question waits for a server that is away, from the first broken connection on.
        backoff_s: first wait between tries; it doubles each time.
        extra: further fields of the request; a None removes one of ours.
        samples: draw so many answers at temperature 1, instead of the likeliest one.
        logprobs: ask for the tokens' log-probabilities too.
        encoding: of images, see `depthlm.serving.chat_request`.
        api_key: None: that of the environment variable ``DEPTHLM_API_KEY`` when the engine starts, if it is set.

    Raises:
        DepthLMError: on construction, for an address that is none or holds a credential, or ``extra`` fields that are
            not the user's to set.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        max_tokens: int = 256,
        timeout_s: float = 120.0,
        attempts: int = 5,
        patience_s: float = 120.0,
        backoff_s: float = 0.5,
        extra: Mapping[str, Any] | None = None,
        samples: int = 1,
        logprobs: bool = False,
        encoding: str = "png",
        api_key: str | None = None,
    ) -> None:
        self.url = checked_address(url)
        self.served_name = model
        self.model = model or ""
        self.timeout_s, self.attempts, self.backoff_s = timeout_s, attempts, backoff_s
        self.patience_s = patience_s
        _check_extra(extra or {})
        self.settings = answer_settings(max_tokens, samples, logprobs) | dict(extra or {})
        self.encoding = encoding
        self._session: aiohttp.ClientSession | None = None
        self._key = _checked_key(api_key)

    async def start(self) -> None:
        """Open the connections and see that something answers.

        Raises:
            DepthLMError: nothing answers at the address, or its model does not yet, the key is none or refused, or the
                model has to be named.
        """
        self._key = self._key or _checked_key(os.environ.get(API_KEY_VARIABLE))
        proxy, connect_s = _proxy(URL(self.url)), min(self.timeout_s, PREFLIGHT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            # the total also ends an answer that trickles
            timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),  # answers are short
            proxy=proxy,
        )
        try:
            served = await self._served_models()
            self.served_name = self.served_name or await self._chosen(served)
        except BaseException:
            await self.close()
            raise
        self.model = self.model or self.served_name

    async def _chosen(self, served: list[str]) -> str:
        """The only model that is served, or the one of several that a gateway has chosen."""
        chosen = ((await self.get_json("/spatial")) or {}).get("model") if len(served) > 1 else None
        if not chosen and len(served) != 1:
            mend = f"name one: {', '.join(served[:20])}" if served else "name the model"
            raise DepthLMError(self.url, f"lists {len(served)} models", mend)
        return str(chosen or served[0])

    async def _served_models(self) -> list[str]:
        """Preflight: names in ``GET {url}/models``, empty where the server has no such list."""
        try:
            async with asyncio.timeout(min(self.timeout_s, PREFLIGHT_TIMEOUT_S)):
                response = await self._send("GET", "/models")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = f"nothing answers at {self.url}: {self._hide(_say(error))}"
            raise DepthLMError(self.url, reason, "start the server, or check the address", "dead endpoint") from error
        if response.status in (401, 403):
            raise DepthLMError(self.url, f"refuses the key: {self._message(response)}", f"set {API_KEY_VARIABLE}")
        if response.status == 503:
            raise DepthLMError(self.url, f"is not ready: {self._message(response)}", "try again later", "not ready")
        try:
            return [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            logger.debug("%s has no list of models (status %d)", self.url, response.status)
            return []

    def packer(self) -> ChatPacker:
        """Requests for the model that is served."""
        return ChatPacker(self.served_name or "", self.settings, self.encoding)

    async def get_json(self, path: str) -> dict[str, Any] | None:
        """What the server says under ``path``; None where it says nothing, or nothing that is an object."""
        try:
            response = await self._send("GET", path)
            found = response.json() if response.status == 200 else None
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def post_json(self, path: str, body: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Send a request to ``path`` until it is answered, as `complete` does.

        Raises:
            DepthLMError: as `complete`.
        """
        return await self._persist(path, json.dumps(body).encode(), what, _object)

    async def complete(self, body: bytes, what: str, answers: int = 1) -> Completion:
        """Send a request until it is answered.

        Args:
            body: see `depthlm.serving.chat_request`.
            what: is asked, for messages.
            answers: how many the request asks for.

        Raises:
            DepthLMError: the server refused (kind "refused"), or every attempt failed (kind "no answer"); with the last
                reason.
        """
        began = time.monotonic()
        found = await self._persist(
            "/chat/completions", body, what, lambda response: read_completion(response.json(), answers)
        )
        return replace(found, latency_s=time.monotonic() - began)

    async def _persist(self, path: str, body: bytes, what: str, read: Callable[[Response], T]) -> T:
        """Try until a response can be read, or no more."""
        answered = broken = 0
        given_up = math.inf
        while True:
            try:
                return await self._attempt(path, body, what, read)
            except _Transient as error:
                answered += 1
                if answered >= self.attempts:
                    reason = f"no answer in {self.attempts} attempts: {error}"
                    raise DepthLMError(what, reason, kind="no answer") from error
                wait = self._wait(answered - 1, error.wait_s)
            except _Away as error:
                now = time.monotonic()
                given_up = min(given_up, now + self.patience_s)
                if now >= given_up:
                    reason = f"no answer in {self.patience_s:g} s of waiting for the server: {error}"
                    raise DepthLMError(what, reason, kind="no answer") from error
                wait = min(self._wait(broken), LOOK_AGAIN_S, given_up - now)
                broken += 1
            await asyncio.sleep(wait)

    def _wait(self, attempt: int, asked_s: float | None = None) -> float:
        """Seconds before the next attempt: what the server asked for, or the doubled back-off; plus jitter."""
        jitter = random.random()  # of waiting only; no result depends on it
        if asked_s is not None:
            return min(asked_s, LONGEST_WAIT_S) + jitter * self.backoff_s
        return min(self.backoff_s * 2 ** min(attempt, 30), LONGEST_WAIT_S) * (0.5 + jitter)

    async def _attempt(self, path: str, body: bytes, what: str, read: Callable[[Response], T]) -> T:
        try:
            response = await self._send("POST", path, body)
        except aiohttp.ConnectionTimeoutError as error:
            raise _Away(f"connection to {self.url} failed: {self._hide(_say(error))}") from error
        except TimeoutError as error:
            raise _Transient(f"{self.url} gave no answer within {self.timeout_s:g} s") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _Away(f"connection to {self.url} failed: {self._hide(_say(error))}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _Transient(f"connection to {self.url} failed: {self._hide(_say(error))}") from error
        if response.status == 429 or response.status >= 500:
            raise _Transient(f"status {response.status}: {self._message(response)}", _retry_after(response))
        if response.status != 200:
            reason = f"refused with status {response.status}: {self._message(response)}"
            raise DepthLMError(what, reason, kind="refused")
        try:
            return read(response)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            told = self._hide(response.text)[:120]
            raise _Transient(f"the answer is not what the interface promises: {told!r}") from error

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Response:
        assert self._session is not None, "start() first"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._key:  # with each request: what the session itself sends would reach a proxy too, as its password
            headers["Authorization"] = f"Bearer {self._key}"
        request = self._session.request(method, self.url + path, data=body, headers=headers, allow_redirects=False)
        async with request as response:
            return Response(response.status, response.headers, await response.read(), response.reason or "")

    def _message(self, response: Response) -> str:
        """The server's own words about an error."""
        try:
            body = response.json()
            error = body.get("error", body)
            text = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError):
            text = response.text
        return self._hide(str(text)).strip()[:MESSAGE_CHARACTERS] or response.reason

    def _hide(self, text: str) -> str:
        """A text that is shown or written, without the key; to be called before it is cut."""
        return text.replace(self._key, "***") if self._key else text

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _object(response: Response) -> dict[str, Any]:
    found = response.json()
    if not isinstance(found, dict):
        raise TypeError("no object")
    return found


def read_completion(content: Any, answers: int) -> Completion:
    """The answers of a chat completion's JSON, and the tokens of a single one.

    Raises:
        DepthLMError: kind "refused", another number of answers.
        ValueError, KeyError, IndexError, TypeError, AttributeError: no chat completion.
    """
    choices = content["choices"]
    cut = any(choice.get("finish_reason") == "length" for choice in choices)
    texts = []
    for choice in choices:
        content = choice["message"].get("content")
        text = content if isinstance(content, str) else str(choice["message"].get("refusal") or "")
        texts.append(text.encode("utf-8", "replace").decode())  # JSON may hold half a character, no file can
    tokens = [
        Token(t["token"], t["logprob"], tuple((o["token"], o["logprob"]) for o in t.get("top_logprobs") or ()))
        for t in (choices[0].get("logprobs") or {}).get("content") or ()
    ]
    # vLLM tells the token that ends the answer too, others don't
    found = Completion(tuple(texts), tuple(said(tokens, texts[0])), cut)
    if len(texts) != answers:
        reason = f"gave {len(texts)} answers where {answers} were asked for"
        raise DepthLMError("the server", reason, "ask for one answer, if it can't draw them", "refused")
    return found


def answer_settings(max_tokens: int, samples: int = 1, logprobs: bool = False) -> dict[str, Any]:
    """Fields of a request for the likeliest answer; for ``samples`` at temperature 1; with log-probabilities."""
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens, "seed": 0}
    if samples > 1:
        settings |= {"temperature": 1.0, "n": samples}
    if logprobs:
        settings |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return settings


def _checked_key(key: str | None) -> str:
    """An API key, "" for none; errors don't show it."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise DepthLMError(API_KEY_VARIABLE, "holds a space or a character that no key has", "set it to the key alone")
    return key


def _check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse fields that would change what is asked or how it is read, and credentials, which would be written down."""
    for name in OWN_FIELDS:
        if name in extra:
            raise DepthLMError(
                "request", f"{name!r} is not yours to set", "drop it; a model is named beside the address"
            )
    for name in _names(extra):
        if name.lower().replace("-", "_") in CREDENTIALS:
            reason = f"{name!r} looks like a credential, and requests are written down"
            raise DepthLMError("request", reason, f"put the key in {API_KEY_VARIABLE}")


def _names(value: Any) -> Iterator[str]:
    """All fields' names, at any depth."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name)
            yield from _names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _names(part)


def checked_address(url: str) -> str:
    """The interface's address without a trailing slash."""
    if "?" in url or "#" in url:  # not shown: it may hold a key
        reason = "the address has a query or a fragment, and would be written down"
        raise DepthLMError("endpoint", reason, f"give it without; put a key in {API_KEY_VARIABLE}")
    if "@" in url:  # not shown either
        raise DepthLMError("endpoint", "the address holds a password", f"put the key in {API_KEY_VARIABLE}")
    try:
        parsed = URL(url)
        host = parsed.host
    except ValueError as error:
        raise DepthLMError("endpoint", f"{url!r} is no address: {error}", "e.g. http://localhost:8000/v1") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise DepthLMError("endpoint", f"{url!r} is no http address", "e.g. http://localhost:8000/v1")
    return str(parsed).rstrip("/") + ("/v1" if parsed.path in ("", "/") else "")


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = URL(url).host or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(url: URL) -> URL | None:
    """The environment's proxy for an address; none can reach this machine's own ports.

    aiohttp's ``trust_env`` would read ~/.netrc too, and refuse the API key beside what that says.

    Raises:
        DepthLMError: it is none that can be used.
    """
    host = url.host or ""
    if is_loopback(str(url)) or proxy_bypass(host) or proxy_bypass(f"{host}:{url.port}"):
        return None
    found = getproxies().get(url.scheme) or getproxies().get("all")
    if not found:
        return None
    try:
        proxy = URL(found if "://" in found else f"http://{found}")
        usable = proxy.scheme in ("http", "https") and bool(proxy.host)
    except ValueError:
        usable = False
    if not usable:  # and not shown: it may hold a password
        reason = "is no address of an http proxy"
        raise DepthLMError(f"{url.scheme}_proxy", reason, f"mend it, or name {host} in no_proxy")
    return proxy


def _retry_after(response: Response) -> float | None:
    """Seconds that the server asks to wait, from either form of the Retry-After header."""
    value = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _say(error: Exception) -> str:
    """What happened, without addresses: the server's is told beside it, and a proxy's may hold a password."""
    if isinstance(error, aiohttp.ClientConnectorError):
        text = _cause(error.os_error)
        return f"the proxy: {text}" if isinstance(error, aiohttp.ClientProxyConnectionError) else text
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    return str(error) or type(error).__name__


def _cause(error: OSError) -> str:
    """Why no connection came about; asyncio's own text would repeat the address."""
    if isinstance(error, ssl.SSLError) or error.errno is None:
        return str(error)
    # a name that is not found has a negative number, which is getaddrinfo's
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
