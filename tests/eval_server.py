"""Tiny suites written by hand, and a chat server whose faults are scripted."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from depthlm.suite import Suite, content_hash, image_name, read_suite

UNITS = {"distance": "m", "axis_distance": "m", "speed": "m/s", "travel_time": "s", "two_point": "m"}


def write_suite(
    path: Path, count: int = 12, kinds: tuple[str, ...] = ("distance", "speed"), name: str = "tiny"
) -> Suite:
    """A suite as the format says: ids q000…, truths 1.0, 1.5, 2.0, …, two datasets, three questions an image."""
    (path / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        pixels = np.full((56, 84, 3), (i // 3 * 40 % 256, 90, 140), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        image = image_name(pixels)
        (path / image).write_bytes(buffer.getvalue())
        kind = kinds[i % len(kinds)]
        rows.append(
            {
                "id": f"q{i:03d}",
                "kind": kind,
                "dataset": "rooms" if i < count // 2 else "NYUv2",
                "frame_ids": [f"frame{i // 3}"],
                "images": [image],
                "question": f"<q{i:03d}> How far is the point at the red arrow, in {UNITS[kind]}?",
                "answer": f"{1 + i / 2:.2f}",
                "truth": 1 + i / 2,
                "unit": UNITS[kind],
                "points": [],
                "system": "Answer with a number." if i == 0 else "",
            }
        )
    lines = [json.dumps(row, sort_keys=True) for row in rows]
    (path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    info = {"format": 2, "name": name, "hash": content_hash(lines), "count": count, "settings": {}}
    (path / "suite.json").write_text(json.dumps(info))
    return read_suite(path)


# What the server does with the n-th request (from 1) for a question: None answers it.
Fault = Callable[[str, int], str | None]


class ChatServer:
    """A real HTTP server with an OpenAI-compatible face; question q007 is answered "7.5 …"."""

    def __init__(self, port: int = 0) -> None:
        self.fault: Fault = lambda question, attempt: None
        self.choices = lambda body, text: [{"message": {"role": "assistant", "content": text}}]
        self.delay_s = 0.0
        self.models = ["served"]
        self.counts: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.times: dict[str, list[float]] = {}
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                chat._send(self, 200, {"data": [{"id": name} for name in chat.models]})

            def do_POST(self) -> None:
                chat._chat(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _chat(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        named = re.search(r"<(q\d+)>", json.dumps(body))
        question = named[1] if named else f"q{hash(json.dumps(body)) % 1000}"
        with self.lock:
            self.counts[question] += 1
            attempt = self.counts[question]
            self.bodies[question] = body
            self.headers.append(dict(handler.headers))
            self.times.setdefault(question, []).append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(self.delay_s)
        with self.lock:
            self.under_way -= 1
        self._act(handler, self.fault(question, attempt), question)

    def _act(self, handler: BaseHTTPRequestHandler, fault: str | None, question: str) -> None:
        text = f"{int(question[1:]) + 0.5} is the answer to {question}"
        reply = {"choices": self.choices(self.bodies[question], text)}
        if fault is None:
            self._send(handler, 200, reply)
        elif fault == "429":
            self._send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
        elif fault == "hang":
            self.released.wait(30)
            handler.close_connection = True
        elif fault == "truncated":
            self._send(handler, 200, None, raw=json.dumps(reply).encode()[:-9])
        elif fault == "dropped":
            handler.close_connection = True
        else:
            self._send(handler, int(fault), {"error": {"message": f"scripted {fault}"}})

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: Any,
        headers: dict[str, str] | None = None,
        raw: bytes = b"",
    ) -> None:
        data = raw or json.dumps(body).encode()
        try:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            handler.close_connection = True  # the client was killed or has stopped waiting
