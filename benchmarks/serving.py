"""The gateway against vLLM itself: ratios in one run, on the nano model or one of your own.

    python benchmarks/serving.py                          # about a quarter of an hour on two cores
    python benchmarks/serving.py --parts soak --minutes 10
    python benchmarks/serving.py --model runs/qwen2_5_vl_3b --profile qwen2.5-vl --size 1920x1440 --questions 2000

throughput  requests/s through the gateway, which decodes, warps, marks and encodes, against the same questions drawn
            before and sent to vLLM itself, at the same concurrency; in turn, each first in every other round, caches
            emptied before
latency     one request at a time, and at a rate that vLLM can keep up with: the median latency of both, and what the
            gateway adds
soak        a load that goes on for --minutes: failed requests, and the gateway's memory from the first minute to the
            last
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from load import DEVELOPMENT, DIRECT, chat, forget, print_ratio, send_all, session

from data_gen.readers.procedural import ProceduralReader
from depthlm.asking import Canvas, ask_about
from depthlm.photo import Photo
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.serving.chat_request import ChatPacker
from depthlm.serving.ports import free_port
from depthlm.serving.vllm_process import VLLMServer

PARTS = ("throughput", "latency", "soak")
SETTINGS = {"temperature": 0, "max_tokens": 16, "seed": 0}
# Questions before the first that is timed.
WARM = 256
# Of vLLM's own speed, in the latency's part: enough below it that no queue builds up.
SHARE_OF_FULL = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--size", default="640x480", help="of the images, px (default: 640x480)")
    parser.add_argument("--images", type=int, default=60, help="different images (default: 60)")
    parser.add_argument("--questions", type=int, default=600, help="of each round (default: 600)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--soak-concurrency", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10, help="of the soak (default: 10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    os.environ[DEVELOPMENT] = "1"
    with VLLMServer(args.model) as server, _gateway(args, server) as gateway:
        asked = _questions(args, server.model_name)
        asyncio.run(send_all(server.base_url, asked.drawn[:WARM], args.concurrency))
        asyncio.run(send_all(gateway.url, asked.spatial[:WARM], args.concurrency))
        if "throughput" in args.parts:
            _throughput(args, asked, server, gateway)
        if "latency" in args.parts:
            _latency(args, asked, server, gateway)
        if "soak" in args.parts:
            _soak(args, asked, gateway)


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its address, ending in /v1, and its process."""

    url: str
    pid: int

    def memory_mib(self) -> float:
        """Its resident memory."""
        told = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(encoding="ascii"))
        return int(told[1]) / 1024 if told else 0.0


@dataclass(frozen=True)
class Questions:
    """The same questions as bodies of requests: drawn, for vLLM, and with ``spatial`` parts, for the gateway."""

    drawn: list[bytes]
    spatial: list[bytes]


@contextmanager
def _gateway(args: argparse.Namespace, server: VLLMServer) -> Iterator[Gateway]:
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "depthlm.cli", "serve", args.model, "--upstream", server.base_url]
    command += ["--port", str(port), "--profile", args.profile]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{url}/healthz", process)
            yield Gateway(f"{url}/v1", process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            DIRECT.open(url, timeout=5).close()
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    raise SystemExit(f"the gateway ended with status {process.returncode}")


def _questions(args: argparse.Namespace, model: str) -> Questions:
    """Distances of points of rendered photos; each photo is asked about several times, not in a row."""
    width, height = map(int, args.size.split("x"))
    reader = ProceduralReader(args.images, views=1, width=width, height=height, seed=1)
    frames = [reader.read(key) for key in reader.keys()][: args.images]
    packer, rng = ChatPacker(model, SETTINGS, "bmp"), np.random.default_rng(0)
    drawn, spatial = [], []
    for i in range(args.questions):
        frame = frames[i % len(frames)]
        camera = frame.camera
        point = rng.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.9 * height)).round(1).tolist()
        canvas = Canvas(Photo(frame.pixels(), camera), PROFILES.get(args.profile))
        shown = ask_about([canvas], KINDS.get("distance"), [point])
        drawn.append(packer(shown).body())
        url = "data:image/jpeg;base64," + base64.b64encode(frame.image).decode()
        known = {"points": [{"x": point[0], "y": point[1]}], "intrinsics": [camera.fx, camera.fy, camera.cx, camera.cy]}
        image = {"type": "image_url", "image_url": {"url": url}, "spatial": known}
        content = [image, {"type": "text", "text": shown.texts[0]}]
        request = {"model": model, "messages": [{"role": "user", "content": content}], **SETTINGS}
        spatial.append(json.dumps(request).encode())
    return Questions(drawn, spatial)


def _throughput(args: argparse.Namespace, asked: Questions, server: VLLMServer, gateway: Gateway) -> None:
    rounds, waits = [], []
    for turn in range(args.rounds):
        rates, medians = {}, {}
        for who in ("gateway", "vLLM") if turn % 2 else ("vLLM", "gateway"):  # neither always goes first
            url, bodies = (gateway.url, asked.spatial) if who == "gateway" else (server.base_url, asked.drawn)
            forget(server.base_url)
            rates[who], latencies = asyncio.run(send_all(url, bodies, args.concurrency))
            medians[who] = statistics.median(latencies)
        rounds.append((rates["gateway"], rates["vLLM"]))
        waits.append((medians["gateway"], medians["vLLM"]))
    print_ratio(f"gateway against vLLM itself, concurrency {args.concurrency}", "gateway", "vLLM", rounds)
    _print_latency("median latency under this full load", waits)


def _latency(args: argparse.Namespace, asked: Questions, server: VLLMServer, gateway: Gateway) -> None:
    forget(server.base_url)
    full = asyncio.run(send_all(server.base_url, asked.drawn, args.concurrency))[0]
    rate, alone, together = SHARE_OF_FULL * full, [], []
    few = max(1, args.questions // 4)
    for _ in range(args.rounds):
        alone.append(_medians(server, gateway, lambda url, bodies: _one_at_a_time(url, bodies[:few]), asked))
        together.append(
            _medians(server, gateway, lambda url, bodies: _at_rate(url, bodies, rate, args.concurrency), asked)
        )
    print("\none request at a time")
    _print_latency("median latency", alone)
    print(f"\n{rate:.1f} requests/s, half of what vLLM can do, at most {args.concurrency} at once")
    _print_latency("median latency", together)


def _medians(
    server: VLLMServer, gateway: Gateway, load: Callable[[str, list[bytes]], Awaitable[list[float]]], asked: Questions
) -> tuple[float, float]:
    """Median latencies of a load in seconds: through the gateway, and at vLLM itself."""
    medians = []
    for url, bodies in ((gateway.url, asked.spatial), (server.base_url, asked.drawn)):
        forget(server.base_url)
        medians.append(statistics.median(asyncio.run(load(url, bodies))))
    return medians[0], medians[1]


async def _one_at_a_time(url: str, bodies: list[bytes]) -> list[float]:
    return (await send_all(url, bodies, 1))[1]


def _print_latency(what: str, waits: Sequence[tuple[float, float]]) -> None:
    through, direct = (1e3 * statistics.median(column) for column in zip(*waits, strict=True))
    added = [1e3 * (a - b) for a, b in waits]
    told = ", ".join(f"{each:.1f}" for each in added)
    print(f"  {what}: gateway {through:.1f} ms, vLLM {direct:.1f} ms; added {statistics.median(added):.1f} ms "
          f"(rounds {told})", flush=True)  # fmt: skip


async def _at_rate(url: str, bodies: Sequence[bytes], rate: float, most: int) -> list[float]:
    """Latencies in seconds of requests that begin at a constant rate, whatever became of those before."""
    latencies: list[float] = []
    free = asyncio.Semaphore(most)
    async with session() as client, asyncio.TaskGroup() as group:

        async def send(body: bytes) -> None:
            began = time.monotonic()
            async with free:
                await chat(client, url, body)
            latencies.append(time.monotonic() - began)

        began = time.monotonic()
        for i, body in enumerate(bodies):
            await asyncio.sleep(max(0.0, began + i / rate - time.monotonic()))
            group.create_task(send(body))
    return latencies


def _soak(args: argparse.Namespace, asked: Questions, gateway: Gateway) -> None:
    print(f"\nsoak of {args.minutes:g} minutes at concurrency {args.soak_concurrency}", flush=True)
    sent, failed, memory = asyncio.run(_load_for(args, asked, gateway))
    tenth = max(1, len(memory) // 10)
    begin, end = statistics.median(memory[:tenth]), statistics.median(memory[-tenth:])
    growth = 100 * (end / begin - 1)
    print(f"  {sent} requests, {failed} failed; resident memory {begin:.0f} MiB after warm-up, {end:.0f} at the end: "
          f"{growth:+.1f}% (most {max(memory):.0f})", flush=True)  # fmt: skip


async def _load_for(args: argparse.Namespace, asked: Questions, gateway: Gateway) -> tuple[int, int, list[float]]:
    """Requests sent and failed, and the gateway's memory each second from a tenth of the time on."""
    sent = failed = 0
    memory: list[float] = []
    began = time.monotonic()
    ends = began + 60 * args.minutes

    async with session() as client:

        async def work(first: int) -> None:
            nonlocal sent, failed
            i = first
            while time.monotonic() < ends:
                body = asked.spatial[i % len(asked.spatial)]
                try:
                    await chat(client, gateway.url, body)
                except (aiohttp.ClientError, TimeoutError):
                    failed += 1
                sent += 1
                i += args.soak_concurrency

        async def watch() -> None:
            while time.monotonic() < ends:
                await asyncio.sleep(1)
                if time.monotonic() > began + 6 * args.minutes:
                    memory.append(gateway.memory_mib())

        await asyncio.gather(watch(), *(work(i) for i in range(args.soak_concurrency)))
    return sent, failed, memory


if __name__ == "__main__":
    main()
