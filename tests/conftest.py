"""Small frames with known geometry, the real frames where they are at hand, and a browser."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.frame import Frame
from depthlm.store import write_shard

if TYPE_CHECKING:
    from browser import Browser

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two test processes share the machine, and so small a model has little to gain from more: set before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(__file__).parents[2] / "shared" / "data"


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_frame(
    name: str = "a", scene: str = "s", offset_m: float = 0.0, labels: int = 40, dense: bool = False
) -> Frame:
    """A 320x240 frame of a wall 4 m ahead, seen from ``offset_m`` to the right."""
    rng = np.random.default_rng(len(name))
    pose = np.eye(4)
    pose[0, 3] = offset_m
    camera = Camera.from_fov(320, 240, 70, pose=pose)
    ys, xs = np.meshgrid(np.arange(20, 220, 3), np.arange(20, 300, 3), indexing="ij")
    grid = np.stack([xs.ravel(), ys.ravel()], 1)
    xy = grid[rng.permutation(len(grid))[:labels]]
    return Frame(
        id=f"{scene}/{name}",
        image=encode_png(rng.integers(0, 256, (240, 320, 3), np.uint8)),
        camera=camera,
        xy=xy.astype(np.float32),
        z=np.full(labels, 4.0, np.float32),
        scene=scene,
        dataset="wall",
        depth=np.full((240, 320), 4.0, np.float32) if dense else None,
    )


@pytest.fixture
def frame() -> Frame:
    return make_frame()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of six frames: three scenes, two views each, 1.5 m apart."""
    path = tmp_path / "store"
    path.mkdir()
    frames = [make_frame(f"{v}", f"s{s}", 1.5 * v, dense=True) for s in range(3) for v in range(2)]
    write_shard(path / "frames-000000.parquet", frames)
    return path


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the real test frames (../shared/data) are not here")
    return SHARED


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from browser import Browser, find_chromium  # what needs no browser runs without Playwright

    program = find_chromium()
    if not program:
        pytest.skip("no Chromium: install one, or name it in CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()
