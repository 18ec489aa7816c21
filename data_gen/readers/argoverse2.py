"""Reader of Argoverse 2's Sensor Dataset: seven ring cameras, two stacked LiDARs, poses.

Cite: Wilson, Qi, Agarwal et al., "Argoverse 2: Next Generation Datasets for Self-Driving Perception and Forecasting",
NeurIPS Datasets and Benchmarks 2021. Licence: CC BY-NC-SA 4.0. Layout: ``SPLIT/LOG/`` with
``sensors/cameras/CAMERA/TIMESTAMP_NS.jpg``, ``sensors/lidar/TIMESTAMP_NS.feather`` (x, y, z in metres),
``calibration/intrinsics.feather``, ``calibration/egovehicle_SE3_sensor.feather``, ``city_SE3_egovehicle.feather``.
LiDAR points are given in the vehicle's frame at the sweep's time, ego motion within the sweep taken out. Images are
stored undistorted: the k1, k2, k3 beside their intrinsics describe the lens and are not to be applied. Splits:
``train``, ``val``, ``test``; DepthLM trains on the first and scores on the second.

The tables are read as what they are, Arrow Feather: the official kit brings a second OpenCV that overwrites ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from data_gen.depth_map import check_range
from data_gen.lidar import MAX_M, MIN_M, lidar_fields, lidar_to_camera
from data_gen.poses import from_quaternion
from data_gen.readers.options import camera_names, check_every, check_one_of
from data_gen.readers.paths import dataset_root, inside, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "test"]
RING = (
    "ring_front_center",
    "ring_front_left",
    "ring_front_right",
    "ring_side_left",
    "ring_side_right",
    "ring_rear_left",
    "ring_rear_right",
)
STEREO = ("stereo_front_left", "stereo_front_right")
MAX_APART_NS = 50_000_000  # half a turn of the LiDAR
# Two 32-beam LiDARs, their lines about 10 px apart in the image (f about 1685 px).
FOOTPRINT = (7, 21)
# The car (a Ford Fusion) in its own frame: origin amid the rear axle, x forward, y left, z up; metres. Cameras and
# LiDARs stand together on its roof, so what it hides from the ones it hides from the others.
CAR_MIN, CAR_MAX = (-1.3, -1.1, -0.5), (4.1, 1.1, 1.7)
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")


class Argoverse2Reader:
    """One frame per image that is taken nearest in time to a chosen sweep; keys are ``LOG/CAMERA/TIMESTAMP_NS``.

    Args:
        source: the folder that holds ``train``, ``val`` and ``test``.
        split: which of them.
        cameras: names, or ``"ring"`` for all seven; the two stereo cameras are grey.
        every: take every so-manieth sweep of a log (10 Hz).
        labels: labels a frame, drawn from the about 10,000 there are; 0 for all.
        min_m, max_m: z outside gives no label, metres.

    Raises:
        DepthLMError: no such folder or split, an unknown option.
    """

    name = "argoverse2"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        cameras: str | Sequence[str] = "ring",
        every: int = 5,
        labels: int = 4096,
        min_m: float = MIN_M,
        max_m: float = MAX_M,
        licence: str = "CC BY-NC-SA 4.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds train, val and test")
        check_one_of("split", split, Split)
        check_every(every)
        check_range(min_m, max_m)
        self.cameras = camera_names(cameras, RING + STEREO, {"ring": RING})
        self.split, self.every, self.labels = split, every, labels
        self.min_m, self.max_m, self.licence = min_m, max_m, licence
        self._log: tuple[str, dict[str, Camera], dict[int, Floats]] | None = None
        self._sweep: tuple[str, NDArray[np.float32]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "cameras", "every", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _sweep_of(self) -> dict[str, int]:
        """Key -> timestamp of the sweep, log by log and sweep by sweep."""
        folder = inside(self.root, self.split)
        if not folder.is_dir():
            raise DepthLMError(folder, "no such folder", "give the folder that holds train, val and test", "no source")
        found: dict[str, int] = {}
        for log in sorted(path.name for path in folder.iterdir() if (path / "sensors").is_dir()):
            sweeps = _timestamps(inside(folder, f"{log}/sensors/lidar"), ".feather")[:: self.every]
            images = {
                name: _timestamps(inside(folder, f"{log}/sensors/cameras/{name}"), ".jpg") for name in self.cameras
            }
            for sweep in sweeps:
                for name, times in images.items():
                    if not len(times):
                        continue
                    nearest = int(times[np.abs(times - sweep).argmin()])
                    if abs(nearest - int(sweep)) <= MAX_APART_NS:
                        found[f"{log}/{name}/{nearest}"] = int(sweep)
        if not found:
            raise DepthLMError(folder, "holds no log with images and LiDAR sweeps", "see docs/datasets", "no frames")
        return found

    def keys(self) -> Sequence[str]:
        """``LOG/CAMERA/TIMESTAMP_NS``: log by log, sweep by sweep."""
        return list(self._sweep_of)

    def read(self, key: str) -> Frame:
        """One photograph with the sweep's points that its camera sees.

        Raises:
            DepthLMError: a missing or unreadable file, no calibration or no pose.
        """
        log, name, stamp = key.split("/")
        folder, sweep = f"{self.split}/{log}", self._sweep_of[key]
        cameras, poses = self._calibration(folder)
        if name not in cameras:
            raise DepthLMError(folder, f"its calibration lacks {name}", "leave this camera out", "missing calibration")
        for time in (sweep, int(stamp)):
            if time not in poses:
                raise DepthLMError(f"{folder}/city_SE3_egovehicle.feather", f"lacks {time}", "", "missing pose")
        camera = cameras[name]
        to_camera = lidar_to_camera(np.eye(4), poses[sweep], poses[int(stamp)], camera.pose)
        points = self._points(f"{folder}/sensors/lidar/{sweep}.feather")
        fields = lidar_fields(
            points,
            to_camera,
            camera,
            key,
            self.labels,
            min_m=self.min_m,
            max_m=self.max_m,
            own_points=((points > CAR_MIN) & (points < CAR_MAX)).all(axis=1),
            footprint=FOOTPRINT,
        )
        return Frame(
            id=key,
            image=read_bytes(self.root, f"{folder}/sensors/cameras/{name}/{stamp}.jpg", "image"),
            camera=replace(camera, pose=poses[int(stamp)] @ camera.pose),
            scene=log,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=int(stamp) / 1e9,
            **fields,
        )

    def _calibration(self, folder: str) -> tuple[dict[str, Camera], dict[int, Floats]]:
        """Cameras with their pose in the vehicle's frame, and the vehicle's pose by time; kept for the last log."""
        if self._log is None or self._log[0] != folder:
            intrinsics = self._table(f"{folder}/calibration/intrinsics.feather", "calibration").to_pylist()
            extrinsics = self._table(f"{folder}/calibration/egovehicle_SE3_sensor.feather", "calibration").to_pylist()
            poses = self._table(f"{folder}/city_SE3_egovehicle.feather", "pose").to_pylist()
            try:
                placed = {row["sensor_name"]: _pose(row) for row in extrinsics}
                cameras = {
                    row["sensor_name"]: Camera(
                        int(row["width_px"]),
                        int(row["height_px"]),
                        *(row[column] for column in ("fx_px", "fy_px", "cx_px", "cy_px")),
                        pose=placed[row["sensor_name"]],
                    )
                    for row in intrinsics
                }
                self._log = folder, cameras, {row["timestamp_ns"]: _pose(row) for row in poses}
            except KeyError as error:
                raise DepthLMError(folder, f"its calibration lacks {error}", "", "missing calibration") from error
        return self._log[1:]

    def _points(self, name: str) -> NDArray[np.float32]:
        """(N, 3) of a sweep; kept for the last one, which several cameras share."""
        if self._sweep is None or self._sweep[0] != name:
            table = self._table(name, "point cloud")
            try:
                columns = [table[axis].to_numpy().astype(np.float32) for axis in "xyz"]
            except KeyError as error:
                raise DepthLMError(name, f"has no column {error}", "restore it", "bad point cloud") from error
            self._sweep = name, np.stack(columns, axis=1)
        return self._sweep[1]

    def _table(self, name: str, what: str) -> pa.Table:
        data = read_bytes(self.root, name, what)
        try:
            return feather.read_table(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            raise DepthLMError(name, f"is no Feather table: {error}", "restore it", f"unreadable {what}") from error


def _timestamps(folder: Path, suffix: str) -> NDArray[np.int64]:
    stamps = [path.stem for path in folder.glob(f"*{suffix}")] if folder.is_dir() else []
    return np.array(sorted(int(stamp) for stamp in stamps if stamp.isdigit()), np.int64)


def _pose(row: dict[str, Any]) -> Floats:
    qw, qx, qy, qz, *translation = (row[column] for column in POSE)
    return from_quaternion(translation, (qx, qy, qz, qw))
