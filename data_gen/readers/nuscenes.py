"""Reader of nuScenes: six cameras and the top LiDAR of every keyframe.

Cite: Caesar, Bankiti, Lang et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020. Licence: CC
BY-NC-SA 4.0. Layout: ``v1.0-trainval/`` (or ``-mini``, ``-test``) with the tables ``scene``, ``sample``,
``sample_data``, ``calibrated_sensor``, ``sensor`` and ``ego_pose`` as JSON, ``samples/CHANNEL/`` with images and with
``LIDAR_TOP/….pcd.bin`` (float32 x, y, z, intensity, ring). Images are undistorted. A sensor's rows point to the
vehicle's pose at its own time: the cameras see the world up to 50 ms before the LiDAR. Splits: ``train`` (700 scenes)
and ``val`` (150) of v1.0-trainval; DepthLM trains on the first and scores on the second.

The tables are read as plain JSON: the official kit brings a second OpenCV that overwrites ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import check_range
from data_gen.lidar import MAX_M, MIN_M, lidar_fields, lidar_to_camera
from data_gen.own_vehicle import Box, own_vehicle
from data_gen.poses import from_quaternion
from data_gen.readers.options import camera_names, check_every, check_one_of
from data_gen.readers.paths import dataset_root, image_size, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "all"]
CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR = "LIDAR_TOP"
FOOTPRINT = (7, 31)  # 32 lines, about 29 px apart (f about 1260 px)
# The car (a Renault Zoe) in its own frame: origin amid the rear axle, x forward, y left, z up; metres. HULL with its
# roof rack; BODY as the rear camera sees it at the bottom of its image (the others see none of it).
HULL_MIN, HULL_MAX = (-1.2, -1.1, -0.2), (3.8, 1.1, 2.0)
BODY: tuple[Box, ...] = (((-0.95, -0.95, -0.1), (1.6, 0.95, 1.15)), ((1.6, -0.95, -0.1), (3.3, 0.95, 0.75)))
# Numbers of the validation scenes, first and last of each run.
VAL = (
    *((3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524)),
    *((552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778), (780, 784), (794, 800)),
    *((802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073)),
)
MINI_VAL = (103, 916)


class NuScenesReader:
    """One frame per camera and keyframe; keys are ``SCENE/CHANNEL/TIMESTAMP`` (microseconds).

    Args:
        source: the folder that holds ``v1.0-trainval`` (or whichever version) and ``samples``.
        version: the tables' folder.
        split: ``"train"``, ``"val"``, or ``"all"`` scenes of the version.
        cameras: channels, or ``"all"``.
        every: take every so-manieth keyframe of a scene (2 Hz).
        labels: labels a frame, drawn from the about 3,000 there are; 0 for all.
        min_m, max_m: z outside gives no label, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "nuscenes"

    def __init__(
        self,
        source: str | Path,
        version: str = "v1.0-trainval",
        split: Split = "train",
        cameras: str | Sequence[str] = "all",
        every: int = 1,
        labels: int = 4096,
        min_m: float = MIN_M,
        max_m: float = MAX_M,
        licence: str = "CC BY-NC-SA 4.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds v1.0-trainval and samples")
        check_one_of("split", split, Split)
        check_every(every)
        check_range(min_m, max_m)
        self.cameras = camera_names(cameras, CAMERAS, {"all": CAMERAS})
        self.version, self.split, self.every = version, split, every
        self.labels, self.min_m, self.max_m, self.licence = labels, min_m, max_m, licence
        self._sweep: tuple[str, NDArray[np.float32]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("version", "split", "cameras", "every", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _frames(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Key -> the rows of the image and of the sweep, each with its file, calibration and vehicle pose.

        The tables of v1.0-trainval are gigabytes: they are gone through row by row, once, and only keyframes are kept.
        """
        channels = {row["token"]: row["channel"] for row in self._rows("sensor")}
        calibrated = {
            row["token"]: row | {"channel": channels[row["sensor_token"]]} for row in self._rows("calibrated_sensor")
        }
        scenes = {row["token"]: row["name"] for row in self._rows("scene") if self._in_split(row["name"])}
        samples = sorted(
            (scenes[row["scene_token"]], row["timestamp"], row["token"])
            for row in self._rows("sample")
            if row["scene_token"] in scenes
        )
        chosen = self._thinned(samples)
        shots: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._rows("sample_data"):
            sensor = calibrated[row["calibrated_sensor_token"]]
            if row["is_key_frame"] and row["sample_token"] in chosen and sensor["channel"] in (LIDAR, *self.cameras):
                kept = {name: row[name] for name in ("filename", "timestamp", "ego_pose_token")}
                shots[row["sample_token"], sensor["channel"]] = kept | {"sensor": sensor}
        wanted = {shot["ego_pose_token"] for shot in shots.values()}
        poses = {
            row["token"]: (row["translation"], row["rotation"])
            for row in self._rows("ego_pose")
            if row["token"] in wanted
        }
        found = {}
        for scene, _, token in samples:
            for channel in self.cameras:
                image, sweep = shots.get((token, channel)), shots.get((token, LIDAR))
                if image is not None and sweep is not None:
                    key = f"{scene}/{channel}/{image['timestamp']}"
                    found[key] = tuple(shot | {"ego": poses.get(shot["ego_pose_token"])} for shot in (image, sweep))
        if not found:
            raise DepthLMError(
                self.root / self.version, f"holds no keyframe of {self.split}", "see docs/datasets", "no frames"
            )
        return found

    def _thinned(self, samples: Sequence[tuple[str, int, str]]) -> set[str]:
        by_scene: dict[str, list[str]] = {}
        for scene, _, token in samples:
            by_scene.setdefault(scene, []).append(token)
        return {token for tokens in by_scene.values() for token in tokens[:: self.every]}

    def _in_split(self, scene: str) -> bool:
        if self.split == "all" or "test" in self.version:
            return True
        number = int(scene.rpartition("-")[2])
        held_out = number in MINI_VAL if "mini" in self.version else any(low <= number <= high for low, high in VAL)
        return held_out == (self.split == "val")

    def _rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table, one at a time: a whole one as Python objects would take ten times its size."""
        name = f"{self.version}/{table}.json"
        text = read_bytes(self.root, name, "table").decode()
        decoder, at = json.JSONDecoder(), text.find("[") + 1
        try:
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                if text[at : at + 1] == "]":
                    return
                row, at = decoder.raw_decode(text, at)
                yield row
        except ValueError as error:
            raise DepthLMError(name, f"is no whole table: {error}", "restore it", "damaged table") from error

    def keys(self) -> Sequence[str]:
        """``SCENE/CHANNEL/TIMESTAMP``: scene by scene, keyframe by keyframe; goes once through the tables."""
        try:
            return list(self._frames)
        except (KeyError, TypeError) as error:
            raise DepthLMError(
                self.root / self.version, f"a row lacks {error}", "restore it", "damaged table"
            ) from error

    def read(self, key: str) -> Frame:
        """One photograph with the keyframe's points that its camera sees.

        Raises:
            DepthLMError: a missing or unreadable file, or calibration or a pose that is none.
        """
        shot, sweep = self._frames[key]
        image = read_bytes(self.root, shot["filename"], "image")
        camera_to_ego, lidar_to_ego = (
            _pose(row["sensor"]["translation"], row["sensor"]["rotation"]) for row in (shot, sweep)
        )
        for row in (shot, sweep):
            if row["ego"] is None:
                raise DepthLMError(
                    f"{self.version}/ego_pose.json", f"lacks {row['ego_pose_token']}", "", "missing pose"
                )
        ego_at_camera, ego_at_lidar = (_pose(*row["ego"]) for row in (shot, sweep))
        k = np.array(shot["sensor"]["camera_intrinsic"], np.float64)
        if k.shape != (3, 3):
            raise DepthLMError(key, f"camera_intrinsic has shape {k.shape}", "restore the tables", "bad intrinsics")
        pose = ego_at_camera @ camera_to_ego
        camera = Camera(*image_size(image, shot["filename"]), k[0, 0], k[1, 1], k[0, 2], k[1, 2], pose=pose)
        to_camera = lidar_to_camera(lidar_to_ego, ego_at_lidar, ego_at_camera, camera_to_ego)
        points = self._points(sweep["filename"])
        return Frame(
            id=key,
            image=image,
            camera=camera,
            scene=key.partition("/")[0],
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=shot["timestamp"] / 1e6,
            **lidar_fields(
                points,
                to_camera,
                camera,
                key,
                self.labels,
                min_m=self.min_m,
                max_m=self.max_m,
                own_points=_own(points, lidar_to_ego, to_camera, camera_to_ego),
                footprint=FOOTPRINT,
            ),
        )

    def _points(self, name: str) -> NDArray[np.float32]:
        """(N, 3) of a sweep in the LiDAR's frame; kept for the last one, which the cameras share."""
        if self._sweep is None or self._sweep[0] != name:
            data = read_bytes(self.root, name, "point cloud")
            if len(data) % 20:
                raise DepthLMError(
                    name, f"has {len(data)} bytes, no multiple of 20", "restore it", "unreadable point cloud"
                )
            self._sweep = name, np.frombuffer(data, np.float32).reshape(-1, 5)[:, :3]
        return self._sweep[1]


def _own(
    points: NDArray[np.float32], lidar_to_ego: Floats, to_camera: Floats, camera_to_ego: Floats
) -> NDArray[np.bool_]:
    """On the car at the sweep's time, or behind it at the photograph's."""
    then, now = (points @ move[:3, :3].T + move[:3, 3] for move in (lidar_to_ego, camera_to_ego @ to_camera))
    on_it = ((then > HULL_MIN) & (then < HULL_MAX)).all(axis=1)
    return on_it | own_vehicle(now, camera_to_ego[:3, 3], BODY)


def _pose(translation: Sequence[float], wxyz: Sequence[float]) -> Floats:
    w, x, y, z = wxyz
    return from_quaternion(translation, (x, y, z, w))
