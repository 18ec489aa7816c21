"""Reader of ScanNet++'s iPhone sequences: 1920x1440 video frames with 256x192 LiDAR depth and poses.

Cite: Yeshwanth, Liu, Nießner, Dai, "ScanNet++: A High-Fidelity Dataset of 3D Indoor Scenes", ICCV 2023. Licence:
ScanNet++ terms of use, not for commercial use. Layout, after the toolkit's ``iphone/prepare_iphone_data.py`` has
unpacked video and depth: ``data/SCENE/iphone/`` with ``rgb/frame_000000.jpg``, ``depth/frame_000000.png``,
``colmap/cameras.txt`` and ``images.txt``, ``pose_intrinsic_imu.json``; ``splits/nvs_sem_train.txt`` and ``_val.txt``.
Units: depth is z as uint16 millimetres, 0 unknown, of the image's field of view: the measured pixels' centres become
labels of the image. Poses: ``"colmap"``, metres, aligned with the scans, of about every tenth frame, with distortion;
or ``"arkit"``, the phone's own (``aligned_pose``: camera-to-world, OpenCV axes; ``intrinsic``: 3x3 of 1920x1440), of
every frame. Splits: ``train`` and ``val``. Times: none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from data_gen.colmap import parse_cameras, parse_images
from data_gen.depth_map import check_range, decode_depth, in_range, map_labels, thinned
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "all"]
Poses = Literal["colmap", "arkit"]
VIDEO_SIZE = 1920, 1440  # that ARKit's intrinsics are for
SAME_ASPECT = 0.002


class ScanNetPPReader:
    """One frame per video frame; keys are ``SCENE/frame_NNNNNN``.

    Args:
        source: the folder that holds ``data`` and ``splits``.
        split: scenes of ``splits/nvs_sem_SPLIT.txt``, or ``"all"`` scenes there are.
        every: take frames whose number is a multiple of it (60 Hz); COLMAP has poses of every tenth or so.
        poses: ``"colmap"`` or ``"arkit"``; a frame without is skipped and counted.
        labels: labels a frame, drawn from the about 49,000 there are; 0 for all.
        min_m, max_m: z outside is left out, metres; the LiDAR reaches about 5 m.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "scannetpp"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        every: int = 10,
        poses: Poses = "colmap",
        labels: int = 4096,
        min_m: float = 0.1,
        max_m: float = 10.0,
        licence: str = "ScanNet++ terms of use, non-commercial",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds data and splits")
        for option, value, known in (("split", split, Split), ("poses", poses, Poses)):
            if value not in get_args(known):
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.split, self.every, self.poses, self.labels = split, every, poses, labels
        self.min_m, self.max_m, self.licence = min_m, max_m, licence
        self._last: tuple[str, dict[str, Any]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "every", "poses", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        if self.split == "all":
            scenes = sorted(p.parent.name for p in self.root.glob("data/*/iphone"))
        else:
            scenes = sorted(read_bytes(self.root, f"splits/nvs_sem_{self.split}.txt", "split").decode().split())
        keys = []
        for scene in scenes:
            names = sorted(p.name for p in inside(self.root, f"data/{scene}/iphone").glob("rgb/frame_*.jpg"))
            found = [(name, re.fullmatch(r"frame_(\d+)\.jpg", name)) for name in names]
            keys += [f"{scene}/{name[:-4]}" for name, match in found if match and int(match[1]) % self.every == 0]
        if not keys:
            raise DepthLMError(
                self.root,
                f"holds no data/SCENE/iphone/rgb/frame_*.jpg of split {self.split}",
                "unpack video and depth with the toolkit's iphone/prepare_iphone_data.py",
                "no frames",
            )
        return keys

    def keys(self) -> Sequence[str]:
        """``SCENE/frame_NNNNNN``, sorted."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The frame with its depth as labels of the image.

        Raises:
            DepthLMError: a file is missing, unreadable or outside the dataset; the frame has no pose (kind
                ``no pose``); image, depth and camera do not show the same field of view.
        """
        scene, _, stem = key.partition("/")
        folder = f"data/{scene}/iphone"
        image = read_bytes(self.root, f"{folder}/rgb/{stem}.jpg", "image")
        width, height = image_size(image, f"{folder}/rgb/{stem}.jpg")
        name = f"{folder}/depth/{stem}.png"
        depth = in_range(decode_depth(read_bytes(self.root, name, "depth"), name, 0.001), self.min_m, self.max_m)
        row = self._rows(scene).get(stem)
        if row is None:
            raise DepthLMError(key, f"has no pose by {self.poses}", "", "no pose")
        camera = row if isinstance(row, Camera) else _arkit_camera(row, key)
        if abs(width * camera.height / (height * camera.width) - 1) > SAME_ASPECT:
            raise DepthLMError(
                key, f"image is {width}x{height}, its camera {camera.width}x{camera.height}", "", "bad intrinsics"
            )
        xy, z = thinned(map_labels(depth, width, height), self.labels, key)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera.scaled(width, height),  # frames are often unpacked at a smaller size
            xy=xy,
            z=z,
            scene=scene,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _rows(self, scene: str) -> dict[str, Any]:
        """Frame -> camera (COLMAP) or row (ARKit), of the scene asked for last: keys come scene by scene."""
        if self._last is None or self._last[0] != scene:
            self._last = scene, (self._colmap(scene) if self.poses == "colmap" else self._arkit(scene))
        return self._last[1]

    def _colmap(self, scene: str) -> dict[str, Camera]:
        folder = f"data/{scene}/iphone/colmap"
        texts = (read_bytes(self.root, f"{folder}/{name}.txt", "pose").decode() for name in ("cameras", "images"))
        cameras = parse_cameras(next(texts), f"{folder}/cameras.txt")
        found = {}
        for name, (number, pose) in parse_images(next(texts), f"{folder}/images.txt").items():
            if number not in cameras:
                raise DepthLMError(f"{folder}/cameras.txt", f"lacks camera {number}", "", "bad intrinsics")
            found[Path(name).stem] = _posed(cameras[number], pose)
        return found

    def _arkit(self, scene: str) -> dict[str, Any]:
        name = f"data/{scene}/iphone/pose_intrinsic_imu.json"
        try:
            rows = json.loads(read_bytes(self.root, name, "pose"))
        except ValueError as error:
            raise DepthLMError(name, f"is not JSON: {error}", "restore it", "bad pose") from error
        if not isinstance(rows, dict):
            raise DepthLMError(name, f"holds a {type(rows).__name__}, expected an object", "restore it", "bad pose")
        return rows


def _posed(camera: Camera, pose: Floats) -> Camera:
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    return Camera(camera.width, camera.height, fx, fy, cx, cy, camera.distortion, pose)


def _arkit_camera(row: Any, key: str) -> Camera:
    try:
        k = np.array(row["intrinsic"], np.float64).reshape(3, 3)
        pose = np.array(row["aligned_pose"], np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise DepthLMError(key, f"has no usable intrinsic and aligned_pose: {error!r}", "", "bad pose") from error
    return Camera(*VIDEO_SIZE, k[0, 0], k[1, 1], k[0, 2], k[1, 2], pose=pose)
