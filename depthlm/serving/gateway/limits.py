"""Who may ask, how much at once, and how large."""

from __future__ import annotations

import hashlib
import hmac
import os
from asyncio import Future
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import Receive

from depthlm.errors import DepthLMError
from depthlm.serving.gateway.faults import GatewayError

KEYS_VARIABLE = "DEPTHLM_API_KEYS"
SHORTEST_KEY = 16
RETRY_AFTER_S = 1
# Values of a body's JSON: each takes some thirty times its bytes in memory. An image in base64 is one of them.
MAX_VALUES = 200_000
# Of the request under way: what it set going in threads, which no time-out and no client's leaving can end.
JOBS: ContextVar[list[Future[Any]]] = ContextVar("jobs")
# Of the request under way: what counts the bytes that it holds.
BODY: ContextVar[Body] = ContextVar("body")


class Disconnected(Exception):
    """The client has gone."""


class Keys:
    """API keys; none at all lets everybody in. Only their digests are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: bytes) -> str | None:
        """Whose request this is, by its header ``Authorization: Bearer KEY``; None where no keys are asked for.

        Raises:
            GatewayError: 401, no key or a wrong one.
        """
        if not self._digests:
            return None
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip()) if scheme.lower() == b"bearer" else b""
        found = False
        for digest in self._digests:  # all of them, whichever fits: the time tells nothing
            found |= hmac.compare_digest(digest, given)
        if not found:
            reason = "wrong API key" if given else "no API key: send the header Authorization: Bearer KEY"
            raise GatewayError(401, reason, code="invalid_api_key")
        return given.hex()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: Path | None) -> list[str]:
    """Keys of a file, one a line (# begins a comment line), and of the environment, separated by commas.

    Raises:
        DepthLMError: a file without keys, or a key that no header can carry; keys are not shown.
    """
    found = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    if file is not None:
        try:
            lines = [line.strip() for line in file.expanduser().read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DepthLMError(file, f"can't be read: {error}", "write one key a line") from error
        kept = [line for line in lines if line and not line.startswith("#")]
        if not kept:  # to let everybody in because a file is empty would be a surprise
            raise DepthLMError(file, "holds no key", "write one key a line")
        found += kept
    for i, key in enumerate(found):
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise DepthLMError(f"API key {i + 1}", "holds a space or a character that no header carries", "change it")
        if len(key) < SHORTEST_KEY:
            raise DepthLMError(f"API key {i + 1}", f"is shorter than {SHORTEST_KEY} characters", "openssl rand -hex 32")
    return found


class Slots:
    """How many requests are under way: of each client, and in all.

    Args:
        per_client: most of one key, or of one address where there are no keys.
        total: most in all; the model's server queues what it can't batch.
    """

    def __init__(self, per_client: int, total: int) -> None:
        self.per_client, self.total = per_client, total
        self.taken: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Hold a slot.

        Raises:
            GatewayError: 429, there is none.
        """
        if self.taken[client] >= self.per_client:
            message = f"{self.per_client} of your requests are under way: wait for one to end"
            raise GatewayError(429, message, code="concurrency_limit", retry_after=RETRY_AFTER_S)
        if self.taken.total() >= self.total:
            raise GatewayError(429, "the queue is full: try again later", code="queue_full", retry_after=RETRY_AFTER_S)
        self.taken[client] += 1
        try:
            yield
        finally:
            self.taken[client] -= 1
            if not self.taken[client]:
                del self.taken[client]


def close_after(taken: ExitStack, jobs: Iterable[Future[Any]]) -> None:
    """Give back what a request took once its jobs have ended, not before: they use up what the limits are for."""
    running = {job for job in jobs if not job.done()}
    if not running:
        taken.close()

    def ended(job: Future[Any]) -> None:
        running.discard(job)
        if not running:
            taken.close()

    for job in tuple(running):
        job.add_done_callback(ended)


def check_values(body: bytes) -> None:
    """Count a body's values, roughly, before it is parsed.

    Raises:
        GatewayError: 400, too many.
    """
    if len(body) <= MAX_VALUES:
        return
    letters = np.frombuffer(body, np.uint8)  # most of a body is an image: four times as fast as counting in bytes
    if sum(int(np.count_nonzero(letters == ord(each))) for each in "{[,") > MAX_VALUES:
        raise GatewayError(400, f"the JSON holds more than {MAX_VALUES} values", code="invalid_json")


class Bodies:
    """Reads requests' bodies into memory, each and all of them within limits.

    Args:
        largest: bytes of one body.
        total: bytes of all bodies that are held.
    """

    def __init__(self, largest: int, total: int) -> None:
        self.largest, self.total, self.held = largest, total, 0

    @contextmanager
    def hold(self) -> Iterator[Body]:
        """A body to be read; its memory is counted until the block ends."""
        body = Body(self)
        try:
            yield body
        finally:
            self.held -= body.counted

    def too_large(self) -> GatewayError:
        message = f"the request's body is over the limit of {self.largest} bytes"
        return GatewayError(413, message, code="body_too_large")


class Body:
    """One request's body."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.counted = bodies, 0

    async def read(self, receive: Receive, length: bytes) -> bytes:
        """The whole of it. What the header says of its length is believed only where it is too much.

        Raises:
            GatewayError: 413, too large; 429, too much is held already.
            Disconnected: the client went away.
        """
        if length.isdigit() and int(length[:20]) > self._bodies.largest:
            raise self._bodies.too_large()
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            self._count(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _count(self, size: int) -> None:
        if self.counted + size > self._bodies.largest:
            raise self._bodies.too_large()
        self.hold_more(size)

    def hold_more(self, size: int) -> None:
        """Count further bytes that are in memory for the request, such as those of an image that is fetched for it.

        Raises:
            GatewayError: 429, too much is held already.
        """
        self.counted += size
        self._bodies.held += size
        if self._bodies.held > self._bodies.total:
            message = "too much is being sent at once: try again later"
            raise GatewayError(429, message, code="queue_full", retry_after=RETRY_AFTER_S)
