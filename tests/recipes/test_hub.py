"""`push_to_hub` against a server that speaks the part of the hub's HTTP API which a push needs."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load
from suites import freeze_store

from depthlm.models.nano import make_nano

ROOT = Path(__file__).parents[2]
REPOSITORY, TOKEN = "me/pushed", "hf_not_a_real_token"


class Hub(ThreadingHTTPServer):
    """Keeps the files of every commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: list[dict[str, bytes]] = []
        self.strangers: list[str] = []  # requests that came without the token


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(404, {"error": "not here"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.strangers.append(self.path)
        if self.path == "/api/repos/create":
            self._answer(200, {"url": f"{self.server.url}/{REPOSITORY}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path.startswith(f"/api/models/{REPOSITORY}/preupload/"):
            files = [file["path"] for file in json.loads(sent)["files"]]
            answer = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer(200, {"files": answer})
        elif self.path.startswith(f"/api/models/{REPOSITORY}/commit/"):
            values = [row["value"] for row in map(json.loads, sent.splitlines()) if row["key"] == "file"]
            self.server.commits.append({value["path"]: base64.b64decode(value["content"]) for value in values})
            self._answer(200, {"commitUrl": f"{self.server.url}/{REPOSITORY}/commit/0", "commitOid": "0" * 40})
        else:
            self._answer(404, {"error": self.path})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_push_is_one_commit_of_what_a_stranger_needs(hub, store, tmp_path):
    base = make_nano(tmp_path / "base", dtype="float32")
    freeze_store(store, tmp_path / "suite", 4, mix={"distance": 1.0})
    settings = {
        "config": "recipes/configs/nano_cpu.yaml",
        "stores": store,
        "model_name_or_path": base,
        "output_dir": tmp_path / "secret-folder" / "run",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "save_steps": 1,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "eval_suite": tmp_path / "suite",
        "report_to": "tensorboard",
        "push_to_hub": "true",
        "hub_model_id": REPOSITORY,
        "hub_strategy": "end",
        "use_peft": "true",
        "save_merged": "false",
    }
    words = [sys.executable, "recipes/sft.py", *(str(v) for k, x in settings.items() for v in (f"--{k}", x))]
    network = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **network, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    assert not hub.strangers
    (files,) = hub.commits  # not one for every checkpoint
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert ModelCard(files["README.md"].decode()).data.library_name == "peft"
    assert any("lora_A" in name for name in load(files["adapter_model.safetensors"]))
    unwanted = (".bin", ".pt", ".pth", ".pkl")
    assert not [path for path in files if path.endswith(unwanted) or path.startswith(("_", "checkpoint-"))]
    assert not [path for path in files if path.startswith(("best/", "init/", "runs/"))]
    assert (tmp_path / "secret-folder" / "run" / "best").is_dir()
    words = (b"secret-folder", TOKEN.encode())
    assert not [path for path, content in files.items() if any(word in content for word in words)]
