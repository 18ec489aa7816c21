"""`push_to_hub` against a server that speaks the part of the hub's HTTP API which a push needs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, running_hub
from huggingface_hub import ModelCard
from safetensors.torch import load
from suites import freeze_store

from depthlm.models.nano import make_nano

ROOT = Path(__file__).parents[2]
REPOSITORY = "me/pushed"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


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
    env = {**os.environ, **hub.environment(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
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
