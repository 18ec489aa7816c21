"""Tiny students of Metric Anything, converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import official_checkpoints as official
import pytest
import torch

from depthlm.spatial.metric_anything import convert


@pytest.fixture(scope="session")
def point_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("point_map")
    torch.save(official.point_map_checkpoint(), folder / "student_pointmap.pt")
    return convert(folder / "student_pointmap.pt", folder / "encoder")


@pytest.fixture(scope="session")
def depth_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth_map")
    torch.save(official.depth_map_checkpoint(), folder / "student_depthmap.pt")
    return convert(folder / "student_depthmap.pt", folder / "encoder", num_tokens=48)


@pytest.fixture(scope="session")
def small_depth_map(depth_map: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with crops of 128 px, whose depth takes a ninth of the time."""
    folder = tmp_path_factory.mktemp("small_depth_map")
    shutil.copytree(depth_map, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["backbone_config"]["image_size"] = 128
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
