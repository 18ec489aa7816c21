"""The life of a server process, on small stand-ins; and vLLM itself, against transformers, in a slow test."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model, load_processor
from depthlm.models.nano import make_nano
from depthlm.serving.vllm_process import HOST, VLLMServer, servable_rank

HEALTHY = """
import http.server, os, subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


class Script(VLLMServer):
    """The server with a Python script in vLLM's place."""

    script = ""

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script.replace("{port}", str(self.port))]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("model") / "nano", corpus=["How many metres away is it?"])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) != 0


@pytest.mark.parametrize("deaf", [False, True])
def test_the_whole_group_ends(nano: Path, tmp_path: Path, deaf: bool) -> None:
    log = tmp_path / "logs" / "server.log"
    server = Script(nano, log=log)
    server.script = HEALTHY.replace("{deaf}", str(deaf))
    began = time.monotonic()
    with server:
        port, child = server.port, int(log.read_text().split()[1])
        assert server.startup_seconds is not None and server._watchdog is not None
        watchdog = server._watchdog.pid
        assert is_alive(watchdog)
        assert not is_free(port)
        assert is_alive(child)
        assert httpx.get(f"http://{HOST}:{port}/health", trust_env=False).status_code == 200
        server.stop(grace=1.0)
    server.stop()
    time.sleep(0.2)
    assert is_free(port)
    assert not is_alive(child) and not is_alive(watchdog)
    assert time.monotonic() - began < 8


STARTER = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP):  # one that was started by nohup ignores the second
    signal.signal(number, signal.SIG_DFL)
from pathlib import Path
from test_vllm_process import HEALTHY, Script
server = Script(Path(sys.argv[1]), log=Path(sys.argv[2]))
server.script = HEALTHY.replace("{deaf}", sys.argv[3])
server.start()
print(server._process.pid, server._watchdog.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGTERM, False), (signal.SIGHUP, True), (signal.SIGKILL, True)])
def test_the_server_ends_with_whoever_started_it(
    nano: Path, tmp_path: Path, number: signal.Signals, deaf: bool
) -> None:
    """However that one died; a server that is deaf to SIGTERM is ended by force."""
    log = tmp_path / "server.log"
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    code = "from depthlm.serving import vllm_process\nvllm_process.WATCHDOG_GRACE_S = 1.0\n" + STARTER
    command = [sys.executable, "-c", code, str(nano), str(log), str(deaf)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        pids.append(int(log.read_text().split()[1]))
        assert len(pids) == 3 and all(map(is_alive, pids))
        starter.send_signal(number)
        starter.wait()
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_an_early_end_shows_the_log(nano: Path) -> None:
    server = Script(nano)
    server.script = "print('too little memory'); raise SystemExit(3)"
    with pytest.raises(DepthLMError, match=r"(?s)status 3 .*too little memory"):
        server.start()
    server.stop()


def test_a_server_that_never_is_ready_is_given_up(nano: Path) -> None:
    server = Script(nano, start_timeout=1.0)
    server.script = "import time; print('loading', flush=True); time.sleep(600)"
    with pytest.raises(DepthLMError, match=r"(?s)not ready after 1 s.*loading"):
        server.start()


def test_waiting_is_reported(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthlm.serving.vllm_process.REPORT_SECONDS", 0.2)
    heard: list[tuple[float, str]] = []
    server = Script(nano, start_timeout=2.0, on_progress=lambda seconds, line: heard.append((seconds, line)))
    server.script = "import time; print('reading weights', flush=True); time.sleep(600)"
    with pytest.raises(DepthLMError):
        server.start()
    assert heard[-1][1] == "reading weights"
    assert 0.2 <= heard[0][0] <= heard[-1][0] <= 2.5


def test_a_port_in_use_is_refused(nano: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(DepthLMError, match="cannot be used"):
            Script(nano, port=taken.getsockname()[1]).start()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DepthLMError, match=r"has no config\.json"):
        VLLMServer(tmp_path)


def test_block_size_on_a_cpu(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthlm.serving.vllm_process._has_gpu", lambda: False)
    for wrong in (["--block-size", "16"], ["--block-size=48"]):
        with pytest.raises(DepthLMError, match="multiple of 32"):
            VLLMServer(nano, extra_args=wrong)
    assert VLLMServer(nano, extra_args=["--block-size", "64"]).command()[-2:] == ["--block-size", "64"]


def test_cpu_and_gpu_differ(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr("depthlm.serving.vllm_process._has_gpu", lambda: False)
    cpu = VLLMServer(nano)
    assert "--enforce-eager" in cpu.command()
    assert cpu.command()[cpu.command().index("--dtype") + 1] == "float32"
    assert cpu.environment()["VLLM_CPU_KVCACHE_SPACE"] == "1"
    cpu.stop()
    monkeypatch.setattr("depthlm.serving.vllm_process._has_gpu", lambda: True)
    gpu = VLLMServer(nano)
    assert "--enforce-eager" not in gpu.command()
    assert gpu.command()[gpu.command().index("--dtype") + 1] == "auto"
    assert "VLLM_CPU_KVCACHE_SPACE" not in gpu.environment()


def write_adapter(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "bias": "none", "r": 8} | settings))
    return folder


def test_an_adapter_is_served_on_its_base(nano: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "nano", r=12, base_model_name_or_path=str(nano))
    server = VLLMServer(adapter)
    assert server.model == str(nano)
    assert (server.served_model, server.model_name) == ("nano", "nano-adapter")
    command = server.command()
    assert command[command.index("--max-lora-rank") + 1] == "16"
    assert json.loads(command[command.index("--lora-modules") + 1]) == {"name": "nano-adapter", "path": str(adapter)}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 1024}, "rank 1024"),
        ({"modules_to_save": ["fuser"]}, "fuser"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(DepthLMError, match=reason):
        servable_rank(write_adapter(tmp_path / "adapter", **settings))


def as_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def with_larger_weights(folder: Path) -> None:
    """Spread a random model's logits, so that its greedy choices are clear and differ from token to token."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    spread = {key: value if value.ndim < 2 else value.float() * 4 for key, value in weights.items()}
    kept = {key: value.to(torch.bfloat16).contiguous() for key, value in spread.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def write_lora(folder: Path, out: Path) -> Path:
    """A LoRA adapter with random weights on the language model's layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    names = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    lora = LoraConfig(r=4, target_modules=names, init_lora_weights=False)
    get_peft_model(load_model(folder, "float32"), lora).save_pretrained(out)
    return out


def greedy(model: Any, inputs: Any) -> list[int]:
    """The sixteen most likely next tokens, whatever they are."""
    model.generation_config.eos_token_id = None
    output = model.generate(**inputs, max_new_tokens=16)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def ask(server: VLLMServer, model: str, image: Image.Image, question: str) -> tuple[int, list[int]]:
    """Length of the prompt and the sixteen tokens of the server's greedy answer."""
    parts = [{"type": "image_url", "image_url": {"url": as_url(image)}}, {"type": "text", "text": question}]
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 16}
    body |= {"ignore_eos": True, "logprobs": True, "return_tokens_as_token_ids": True}
    reply = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text
    entries = reply.json()["choices"][0]["logprobs"]["content"]
    return reply.json()["usage"]["prompt_tokens"], [int(entry["token"].partition(":")[2]) for entry in entries]


@pytest.mark.slow
def test_vllm_answers_as_transformers_does(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    folder = make_nano(tmp_path / "nano", corpus=["How many metres away is it?"])
    with_larger_weights(folder)
    adapter = write_lora(folder, tmp_path / "lora")
    pixels = np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8)
    image, question = Image.fromarray(pixels), "How many metres away is it?"
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = load_processor(folder).apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    plain = greedy(load_model(folder, "float32"), inputs)
    tuned = greedy(load_model(folder, "float32", adapter=adapter), inputs)
    assert len(set(plain)) > 3, "the random model says one thing only, and would match by chance"
    assert plain != tuned
    length = inputs["input_ids"].shape[1]

    with VLLMServer(adapter, max_model_len=1024, log=tmp_path / "vllm.log") as server:
        assert ask(server, server.served_model, image, question) == (length, plain)
        assert ask(server, server.model_name, image, question) == (length, tuned)
        record_property("startup_seconds", server.startup_seconds)
        port = server.port
    assert is_free(port)
