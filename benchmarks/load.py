"""What benchmarks of servers share: a bare load generator, caches that forget, ratios of rounds."""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.request
from collections.abc import Sequence

import aiohttp

from depthlm.serving.endpoint import KEEP_ALIVE_S

# Under this the server can be told to forget, so that no round is answered from what another left.
DEVELOPMENT = "VLLM_SERVER_DEV_MODE"


# No proxy of the environment may stand between this process and the loopback interface.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def forget(url: str) -> None:
    """Empty the caches of the vLLM server at ``url``, which ends in /v1."""
    for cache in ("prefix", "mm", "encoder"):
        request = urllib.request.Request(f"{url.removesuffix('/v1')}/reset_{cache}_cache", method="POST")
        DIRECT.open(request, timeout=30).close()


async def send_all(url: str, bodies: Sequence[bytes], concurrency: int) -> tuple[float, list[float]]:
    """Send chat requests, ``concurrency`` at a time, and do nothing else: requests/s, and the latencies in seconds."""
    waiting, latencies = iter(bodies), []
    async with session() as client:

        async def work() -> None:
            for body in waiting:
                began = time.monotonic()
                await chat(client, url, body)
                latencies.append(time.monotonic() - began)

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return len(bodies) / (time.monotonic() - began), latencies


def session() -> aiohttp.ClientSession:
    """Connections, as many as are asked for."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300))


async def chat(client: aiohttp.ClientSession, url: str, body: bytes) -> None:
    """Send one chat request and read its answer.

    Raises:
        aiohttp.ClientError: it failed, or was refused.
    """
    headers = {"Content-Type": "application/json"}
    async with client.post(f"{url}/chat/completions", data=body, headers=headers) as answer:
        await answer.read()
        answer.raise_for_status()


def print_ratio(what: str, one: str, other: str, rounds: Sequence[tuple[float, float]]) -> None:
    """Of rounds (requests/s of one, of the other): the median ratio, each round's, and both medians."""
    shown = ", ".join(f"{a / b:.2f}" for a, b in rounds)
    first, second = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"\n{what}: {ratio:.2f}x (rounds {shown})")
    print(f"  {one} {first:.1f} questions/s, {other} {second:.1f}", flush=True)
