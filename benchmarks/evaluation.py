"""The harness against the speed vLLM itself can go: ratios in one run, on the nano model or one of your own.

    python benchmarks/evaluation.py                       # about a quarter of an hour on two cores
    python benchmarks/evaluation.py --parts encoding
    python benchmarks/evaluation.py --model Qwen/Qwen2.5-VL-3B-Instruct --profile qwen2.5-vl-base --questions 2000

encoding      an image as the bytes of a request: milliseconds of CPU, megabytes, milliseconds to decode
server        questions/s of the harness, which renders and encodes, against a bare load generator that sends the same
              requests, encoded before, to the same server at the same concurrency; in turn, caches emptied before each
conversation  k questions of one image in one conversation against one each: questions/s and delta1
transformers  the same questions by transformers in batches of 3, the published way, against the harness on vLLM
memory        the client's peak memory with 1,000 and with --many questions, answered by a server that knows nothing
"""

from __future__ import annotations

import argparse
import asyncio
import http.server
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from load import DEVELOPMENT, forget, print_ratio, send_all
from PIL import Image

from data_gen.suite_recipes import make_suite, read_recipe
from depthlm.models.nano import make_nano
from depthlm.serving.chat_request import ENCODINGS, ChatPacker, encode
from depthlm.serving.vllm_process import VLLMServer
from depthlm.suite import Item, Suite, SuiteWriter
from depthlm.suite_view import SuiteView
from eval.prepare import conversations

PARTS = ("encoding", "server", "conversation", "transformers", "memory")
TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--layers", type=int, help="instead of --model: so many of nano's layers, random weights")
    parser.add_argument("--questions", type=int, default=600, help="of each round (default: 600)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--per-conversation", type=int, default=4)
    parser.add_argument("--many", type=int, default=100_000, help="questions of the memory's part (default: 100,000)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = _suite(args, Path(folder))
        if "encoding" in args.parts:
            _encoding(suite, args.profile)
        if {"server", "conversation", "transformers"} & set(args.parts):
            os.environ[DEVELOPMENT] = "1"
            if args.layers:
                args.model = _deep(Path(folder) / "deep", args.layers)
            with VLLMServer(args.model) as server:
                _served(args, suite, server, Path(folder))
        if "memory" in args.parts:
            _memory(args, suite, Path(folder))


def _deep(folder: Path, layers: int) -> str:
    """A nano model of so many layers, random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    make_nano(folder)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = [config.text_config.layer_types[0]] * layers
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def _suite(args: argparse.Namespace, folder: Path) -> Suite:
    recipe = replace(read_recipe("procedural"), mix={"distance": 1.0})
    return make_suite(recipe, folder / "suite", count=-(-args.questions // 3), profile=args.profile)[0]


def _encoding(suite: Suite, profile: str) -> None:
    images = {
        name: SuiteView(suite, name).show(suite.items[0]).images[0] for name in dict.fromkeys((profile, "qwen2.5-vl"))
    }
    for name, pixels in images.items():
        print(f"\nencoding a {pixels.shape[1]}x{pixels.shape[0]} image ({name})")
        for encoding in ENCODINGS:
            made = statistics.median(_cpu_ms(lambda e=encoding: encode(pixels, e)) for _ in range(9))  # noqa: B023
            data = encode(pixels, encoding)
            read = statistics.median(_cpu_ms(lambda: Image.open(io.BytesIO(data)).convert("RGB")) for _ in range(9))  # noqa: B023
            print(f"  {encoding:5} {made:7.2f} ms {len(data) / 1e6:6.2f} MB, decoded in {read:6.2f} ms")


def _cpu_ms(call: object) -> float:
    began = time.process_time()
    call()  # type: ignore[operator]
    return 1e3 * (time.process_time() - began)


def _served(args: argparse.Namespace, suite: Suite, server: VLLMServer, folder: Path) -> None:
    def ask(name: str, per_conversation: int = 1) -> tuple[float, float]:
        """Questions/s, and delta1, of the command that a user types."""
        forget(server.base_url)
        more = ["--profile", args.profile, "--encoding", "bmp", "--max-tokens", TOKENS, "--label", name, "--fresh"]
        more += ["--concurrency", args.concurrency, "--per-conversation", per_conversation, "--out", folder]
        _command(suite.path, "--endpoint", server.base_url, "--model", server.model_name, *more)
        header, row = map(json.loads, (folder / name / "result.jsonl").read_text(encoding="utf-8").splitlines()[:2])
        return header["questions_per_s"], row["delta1"]["value"]

    ask("warm")
    if "server" in args.parts:
        bodies = _bodies(suite, args.profile, server.model_name)
        rounds = []
        for _ in range(args.rounds):
            ours = ask("harness")[0]
            forget(server.base_url)
            rounds.append((ours, asyncio.run(send_all(server.base_url, bodies, args.concurrency))[0]))
        print_ratio("harness against bare load", "harness", "bare", rounds)
    if "conversation" in args.parts:
        k = args.per_conversation
        found = [(ask("k", k), ask("one")) for _ in range(args.rounds)]
        print_ratio(f"{k} questions in a conversation against one each", f"{k} each", "one each",
               [(many[0], one[0]) for many, one in found])  # fmt: skip
        print(f"  delta1: {found[0][0][1]:.3f} together, {found[0][1][1]:.3f} alone")
    if "transformers" in args.parts:
        rounds = []
        for _ in range(args.rounds):
            slow = _by_transformers(args, suite, folder)
            rounds.append((ask("vllm")[0], slow))
        print_ratio("harness on vLLM against transformers in batches of 3", "vLLM", "transformers", rounds)


def _command(*words: object) -> None:
    command = [sys.executable, "-m", "depthlm.cli", "eval", "run", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def _by_transformers(args: argparse.Namespace, suite: Suite, folder: Path) -> float:
    more = ["--engine", "transformers", "--batch", 3, "--concurrency", 6, "--profile", args.profile]
    more += ["--max-tokens", TOKENS, "--label", "reference", "--fresh", "--out", folder]
    _command(suite.path, "--model", args.model, *more)
    header = json.loads((folder / "reference" / "result.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return header["questions_per_s"]  # without loading the model


def _bodies(suite: Suite, profile: str, model: str) -> list[bytes]:
    view, packer = (
        SuiteView(suite, profile),
        ChatPacker(model, {"temperature": 0, "max_tokens": TOKENS, "seed": 0}, "bmp"),
    )
    return [packer(view.show(*items)).body() for items in conversations(suite.items)]


def _memory(args: argparse.Namespace, suite: Suite, folder: Path) -> None:
    print()
    for count in (1000, args.many):
        items = [replace(suite.items[i % len(suite.items)], id=f"q{i}") for i in range(count)]
        path = _copies(suite, items, folder / f"many-{count}")
        peak, seconds = _ask_nobody(path, args.profile)
        rate = count / seconds
        print(f"memory with {count:7,} questions: client's peak {peak} MiB, {rate:.0f} questions/s", flush=True)


def _copies(suite: Suite, items: Sequence[Item], path: Path) -> Path:
    writer = SuiteWriter(path)
    (path / "frames").symlink_to(suite.path / "frames")
    for item in items:
        writer.add(item)
    writer.finish("many", suite.settings)
    return path


def _ask_nobody(path: Path, profile: str) -> tuple[int, float]:
    """Peak memory in MiB of ``depthlm eval run`` whose server answers at once, and seconds."""
    reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": "2.00"}}]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._send(b'{"data": [{"id": "nobody"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(reply)

        def _send(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    nobody = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=nobody.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{nobody.server_port}"
    command = [sys.executable, "-m", "depthlm.cli", "eval", "run", str(path), "--endpoint", address]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        more = ["--model", "nobody", "--profile", profile, "--encoding", "bmp", "--out", out]
        client = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0
        while client.poll() is None:
            # not what wait4 tells: that counts this process, from which the client was forked
            told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{client.pid}/status").read_text(encoding="ascii"))
            peak = max(peak, int(told[1]) // 1024 if told else 0)
            time.sleep(0.05)
    nobody.shutdown()
    if client.returncode:
        raise SystemExit(f"the client ended with status {client.returncode}")
    return peak, time.monotonic() - began


if __name__ == "__main__":
    main()
