"""The encoder's recipe: its targets lie where they belong, it learns, goes on after a stop, and its folder is read."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.dataset import DataConfig, SampleDataset
from depthlm.errors import DepthLMError
from depthlm.spatial.encoder import load_encoder, nano_encoder
from depthlm.spatial.pretraining import DepthReader, depth_batch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    curate(ProceduralReader(4, views=2, width=160, height=120, fov=(50, 60), dense=True), folder / "store")
    return folder / "store"


def train(monkeypatch: pytest.MonkeyPatch, store: Path, out: Path, steps: int, **settings: Any) -> None:
    """The recipe in this process."""
    usual = {"stores": store, "output_dir": out, "max_steps": steps, "per_device_train_batch_size": 4, "save_steps": 2}
    usual |= {"logging_steps": 1, "dataloader_num_workers": 0, "dataloader_persistent_workers": "false"}
    words = ["encoder.py", "--config", "recipes/configs/nano_encoder.yaml"]
    words += [word for name, value in (usual | settings).items() for word in (f"--{name}", str(value))]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "recipes" / "encoder.py"))["main"]()


def logged(out: Path) -> list[dict[str, float]]:
    rows = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row for row in rows if "loss" in row]


def test_each_squares_depth_lies_where_the_image_shows_it(scenes: Path) -> None:
    samples = SampleDataset(DataConfig([str(scenes)], mix={"distance": 1.0}, profile="nano", dense=True), 3)
    batch = depth_batch([samples[i] for i in range(3)])
    for i in range(3):
        depth, log_z, image = samples[i].depths[0], batch["log_z"][i], batch["images"][i]
        rows, columns = log_z.shape
        side = depth.shape[0] // rows
        assert image.shape == (3, *depth.shape) and (rows * side, columns * side) == depth.shape
        for y, x in ((0, 0), (2, columns - 1), (rows - 1, 5), (rows - 1, columns - 1)):
            square = depth[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert float(log_z[y, x]) == pytest.approx(float(np.log(square[square > 0]).mean()), abs=1e-5)


def test_it_learns_the_depth_of_a_few_images(scenes: Path) -> None:
    torch.manual_seed(0)
    samples = SampleDataset(DataConfig([str(scenes)], mix={"distance": 1.0}, profile="nano", dense=True), 4)
    batch = depth_batch([samples[i] for i in range(4)])
    model = DepthReader(nano_encoder(48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    found = []
    for _ in range(100):
        out = model(**batch)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(out["delta1"]))
    assert found[-1] > 0.7 > 0.4 > found[0]


def test_it_goes_on_after_a_stop_and_its_folder_is_an_encoder(
    monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path
) -> None:
    train(monkeypatch, scenes, tmp_path / "whole", 4, lr_scheduler_type="constant", test_stores=scenes)
    train(monkeypatch, scenes, tmp_path / "stopped", 2, lr_scheduler_type="constant")
    train(monkeypatch, scenes, tmp_path / "stopped", 4, lr_scheduler_type="constant")
    whole, stopped = logged(tmp_path / "whole"), logged(tmp_path / "stopped")
    assert [row["loss"] for row in stopped] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    assert all(0 <= row["delta1"] <= 1 for row in whole)
    encoder = load_encoder(tmp_path / "whole")
    assert encoder.config.source["steps"] == 4 and 0 <= encoder.config.source["test"]["delta1"] <= 1
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 84, 112)).shape == (1, 192, 192)
    train(monkeypatch, scenes, tmp_path / "on", 1, encoder=tmp_path / "whole")
    with pytest.raises(DepthLMError, match="holds a run with other settings"):
        train(monkeypatch, scenes, tmp_path / "stopped", 4, learning_rate=0.5)


@pytest.mark.parametrize("setting", ["spatial_encoder", "spatial_cache", "eval_suite", "save_merged", "lora_vision"])
def test_settings_of_other_recipes_are_refused(
    setting: str, monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(DepthLMError, match=f"--{setting}: is no setting of this recipe"):
        train(monkeypatch, scenes, tmp_path / "out", 1, **{setting: "true"})


def test_stores_without_dense_depth_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    curate(ProceduralReader(2, views=2, width=160, height=120, fov=(50, 60)), tmp_path / "sparse")
    with pytest.raises(DepthLMError, match="dense depth map"):
        train(monkeypatch, tmp_path / "sparse", tmp_path / "out", 1)


def test_the_config_says_what_was_tried() -> None:
    path = ROOT / "recipes" / "configs" / "nano_encoder.yaml"
    assert all(yaml.safe_load(path.read_text(encoding="utf-8"))[name] for name in ("encoder", "stores", "max_steps"))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines[1:5]] == ["# Hardware tried", "# Data", "# Launch", "# Override"]
