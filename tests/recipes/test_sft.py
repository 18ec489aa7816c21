"""The real command: trains, is killed, goes on with the same samples, and saves what the loaders take."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depthlm.models.loading import load_model
from depthlm.models.nano import make_nano
from depthlm.training.run import last_whole_checkpoint

ROOT = Path(__file__).parents[2]


def command(store: Path, model: Path, out: Path, steps: int = 6, *more: str) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    settings = {
        "config": "recipes/configs/nano_cpu.yaml",
        "stores": store,
        "model_name_or_path": model,
        "output_dir": out,
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
    }
    return [*launch, "recipes/sft.py", *(str(v) for k, x in settings.items() for v in (f"--{k}", x)), *more]


def losses(out: Path) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [row["loss"] for row in history if "loss" in row]


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(store, tmp_path):
    model = make_nano(tmp_path / "base", dtype="float32")
    env = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run(command(store, model, tmp_path / "whole"), cwd=ROOT, env=env, check=True, capture_output=True)

    process = subprocess.Popen(
        command(store, model, tmp_path / "killed"),
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not last_whole_checkpoint(tmp_path / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert last_whole_checkpoint(tmp_path / "killed")
    subprocess.run(command(store, model, tmp_path / "killed"), cwd=ROOT, env=env, check=True, capture_output=True)

    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    load_model(str(tmp_path / "killed"), dtype="float32")


def test_half_written_checkpoints_are_passed_over(tmp_path, caplog):
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt"):
            (folder / name).touch()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "half-written" in caplog.text


def test_wrong_settings_are_one_line(store, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "recipes/sft.py",
            "--config",
            "recipes/configs/nano_cpu.yaml",
            "--stores",
            str(tmp_path / "absent"),
            "--output_dir",
            str(tmp_path / "o"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "sft.py: error:" in done.stderr and "absent" in done.stderr
    assert "Traceback" not in done.stderr
