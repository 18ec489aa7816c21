"""Reader of the Waymo Open Dataset, Perception v2 (Parquet): five rolling-shutter cameras and the top LiDAR.

Cite: Sun, Kretzschmar, Dotiwalla et al., "Scalability in Perception for Autonomous Driving: Waymo Open Dataset", CVPR
2020. Licence: Waymo Dataset License Agreement for Non-Commercial Use. Layout: ``SPLIT/COMPONENT/SEGMENT.parquet`` with
the components ``camera_image``, ``camera_calibration``, ``lidar``, ``lidar_calibration`` and ``lidar_pose``. The top
LiDAR's range image becomes points in the world through the vehicle's pose at each of its pixels; a camera exposes its
columns (or rows) one after the other, so each point is projected from where the camera was when the point's own column
was exposed. Splits: ``training``, ``validation`` and ``testing``; DepthLM trains on the first.

The official kit needs TensorFlow; v2 was made to be read without.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.depth_map import check_range
from data_gen.lidar import MAX_M, MIN_M, lidar_fields
from data_gen.poses import rigid
from data_gen.readers.options import camera_names, check_every, check_one_of
from data_gen.readers.paths import dataset_root, inside
from data_gen.rolling_shutter import RollingShutterCamera, turned
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["training", "validation", "testing"]
CAMERAS = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5}
TOP = 1
# Waymo's cameras look along x, with y left and z up; ours along z, with x right and y down.
TO_OPENCV = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
SHUTTERS = {1: (1, False), 2: (0, False), 3: (1, True), 4: (0, True)}  # direction -> axis (x, y), from the far end
FOOTPRINT = (7, 21)  # 64 lines, about 11 px apart (f about 2060 px)
TIME, CAMERA, LASER = "key.frame_timestamp_micros", "key.camera_name", "key.laser_name"
IMAGE, CALIBRATION = "[CameraImageComponent].", "[CameraCalibrationComponent]."
SHUTTER, LIDAR = IMAGE + "rolling_shutter_params.", "[LiDARCalibrationComponent]."
INTRINSICS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
IMAGE_COLUMNS = (
    *(IMAGE + name for name in ("image", "pose.transform", "pose_timestamp")),
    *(f"{IMAGE}velocity.{kind}_velocity.{axis}" for kind in ("linear", "angular") for axis in "xyz"),
    *(SHUTTER + name for name in ("shutter", "camera_trigger_time", "camera_readout_done_time")),
)
CALIBRATION_COLUMNS = (
    *(f"{CALIBRATION}intrinsic.{name}" for name in INTRINSICS),
    *(CALIBRATION + name for name in ("extrinsic.transform", "width", "height", "rolling_shutter_direction")),
)
LIDAR_COLUMNS = tuple(
    LIDAR + name for name in ("extrinsic.transform", *(f"beam_inclination.{part}" for part in ("min", "max", "values")))
)
RANGES = tuple(f"[LiDARComponent].range_image_return1.{part}" for part in ("values", "shape"))
POSES = tuple(f"[LiDARPoseComponent].range_image_return1.{part}" for part in ("values", "shape"))


class WaymoReader:
    """One frame per camera and chosen sweep; keys are ``SEGMENT/CAMERA/TIMESTAMP_MICROS``.

    Args:
        source: the folder that holds ``training``, ``validation`` and ``testing``.
        split: which of them.
        cameras: names of FRONT, FRONT_LEFT, FRONT_RIGHT, SIDE_LEFT, SIDE_RIGHT, or ``"all"``.
        every: take every so-manieth time of a segment (10 Hz).
        labels: labels a frame, drawn from those there are; 0 for all.
        min_m, max_m: z outside gives no label, metres; the top LiDAR reaches 75 m.

    Raises:
        DepthLMError: no such folder or split, an unknown option.
    """

    name = "waymo"

    def __init__(
        self,
        source: str | Path,
        split: Split = "training",
        cameras: str | Sequence[str] = "all",
        every: int = 5,
        labels: int = 4096,
        min_m: float = MIN_M,
        max_m: float = MAX_M,
        licence: str = "Waymo Dataset License Agreement for Non-Commercial Use",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds training, validation and testing")
        check_one_of("split", split, Split)
        check_every(every)
        check_range(min_m, max_m)
        self.cameras = camera_names(cameras, list(CAMERAS), {"all": list(CAMERAS)})
        self.split, self.every, self.labels = split, every, labels
        self.min_m, self.max_m, self.licence = min_m, max_m, licence
        self._groups: dict[str, tuple[tuple[str, int], pa.Table]] = {}
        self._sweep: tuple[tuple[str, int], Floats] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "cameras", "every", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        folder = inside(self.root, f"{self.split}/camera_image")
        if not folder.is_dir():
            raise DepthLMError(folder, "no such folder", f"download {self.split}/camera_image", "no source")
        numbers = [CAMERAS[name] for name in self.cameras]
        found = []
        for segment in sorted(path.stem for path in folder.glob("*.parquet")):
            file = self._file("camera_image", segment)
            there = file.read(columns=[TIME, CAMERA])
            pairs = set(zip(there[TIME].to_pylist(), there[CAMERA].to_pylist(), strict=True))
            for time in sorted({time for time, _ in pairs})[:: self.every]:
                found += [
                    f"{segment}/{name}/{time}"
                    for name, number in zip(self.cameras, numbers, strict=True)
                    if (time, number) in pairs
                ]
        if not found:
            raise DepthLMError(folder, "holds no image of these cameras", "see docs/datasets", "no frames")
        return found

    def keys(self) -> Sequence[str]:
        """``SEGMENT/CAMERA/TIMESTAMP_MICROS``: segment by segment, time by time; reads two columns of a file each."""
        return self._keys

    def read(self, key: str) -> Frame:
        """One photograph with the top LiDAR's points that its camera sees.

        Raises:
            DepthLMError: a missing or unreadable file, no row of that time, or a pose that is none.
        """
        segment, name, stamp = key.split("/")
        time, number = int(stamp), CAMERAS[name]
        row = self._row("camera_image", segment, {TIME: time, CAMERA: number}, IMAGE_COLUMNS)
        known = self._row("camera_calibration", segment, {CAMERA: number}, CALIBRATION_COLUMNS)
        camera_to_vehicle = _matrix(known[CALIBRATION + "extrinsic.transform"]) @ rigid(TO_OPENCV.T, np.zeros(3))
        moving = _moving_camera(row, known[CALIBRATION + "rolling_shutter_direction"], camera_to_vehicle)
        camera = _camera(known, moving.pose_at(0.5))
        points = moving.see(self._points(segment, time), camera)
        return Frame(
            id=key,
            image=row[IMAGE + "image"],
            camera=camera,
            scene=segment,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=time / 1e6,
            **lidar_fields(
                points,
                np.eye(4),
                camera,
                key,
                self.labels,
                min_m=self.min_m,
                max_m=self.max_m,
                footprint=FOOTPRINT,
            ),
        )

    def _points(self, segment: str, time: int) -> Floats:
        """(N, 3) first returns of the top LiDAR in the world; kept for the last sweep, which the cameras share."""
        if self._sweep is None or self._sweep[0] != (segment, time):
            key = {TIME: time, LASER: TOP}
            sweep = self._row("lidar", segment, key, RANGES)
            poses = self._row("lidar_pose", segment, key, POSES)
            known = self._row("lidar_calibration", segment, {LASER: TOP}, LIDAR_COLUMNS)
            self._sweep = (segment, time), _to_world(_image(sweep, 4)[..., 0], _image(poses, 6), known, segment)
        return self._sweep[1]

    def _row(self, component: str, segment: str, key: dict[str, int], columns: Sequence[str]) -> dict[str, Any]:
        """One row of a component by its key. The last row group is kept, of a LiDAR's rows the top one's alone."""
        name = f"{self.split}/{component}/{segment}.parquet"
        try:
            file = self._file(component, segment)
            there = file.read(columns=list(key))
            rows = np.flatnonzero(np.all([there[column].to_numpy() == value for column, value in key.items()], axis=0))
            if not len(rows):
                raise DepthLMError(name, f"has no row of {key}", "restore it", f"missing {component}")
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            group = int(np.searchsorted(np.cumsum(sizes), rows[0], side="right"))
            if self._groups.get(component, ((), None))[0] != (segment, group):
                table = file.read_row_group(group, columns=[*key, *columns])
                self._groups[component] = (
                    (segment, group),
                    table.filter(pc.field(LASER) == TOP) if LASER in key else table,
                )
            table = self._groups[component][1]
            for column, value in key.items():
                table = table.filter(pc.field(column) == value)
            return table.to_pylist()[0]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DepthLMError(name, f"can't be read: {error}", "restore it", f"unreadable {component}") from error

    def _file(self, component: str, segment: str) -> pq.ParquetFile:
        name = f"{self.split}/{component}/{segment}.parquet"
        path = inside(self.root, name)
        if not path.is_file():
            raise DepthLMError(name, "no such file", f"download the component {component}", f"missing {component}")
        return pq.ParquetFile(path)


def _to_world(ranges: Floats, poses: Floats, known: dict[str, Any], where: str) -> Floats:
    """First returns (N, 3) in the world.

    Args:
        ranges: (H, W) metres, 0 or less where nothing came back; row 0 looks highest, column 0 and the last backwards.
        poses: (H, W, 6) roll, pitch, yaw (radians, about x, then y, then z) and place of the vehicle at each pixel.
        known: the LiDAR's calibration.
    """
    height, width = ranges.shape
    if poses.shape != (height, width, 6):
        raise DepthLMError(where, f"range image is {ranges.shape}, its poses {poses.shape}", "", "bad point cloud")
    extrinsic = _matrix(known[LIDAR + "extrinsic.transform"])
    beams = known[LIDAR + "beam_inclination.values"]
    if beams is None:
        low, high = known[LIDAR + "beam_inclination.min"], known[LIDAR + "beam_inclination.max"]
        beams = low + (np.arange(height) + 0.5) / height * (high - low)
    if len(beams) != height:
        raise DepthLMError(
            where, f"{len(beams)} beams for {height} rows", "restore lidar_calibration", "bad calibration"
        )
    rows, columns = np.nonzero(ranges > 0)
    inclination = np.asarray(beams, np.float64)[::-1][rows]
    ahead = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])  # columns count in the vehicle's direction, not the LiDAR's
    azimuth = ((width - columns - 0.5) / width * 2 - 1) * np.pi - ahead
    flat, z = np.cos(inclination), np.sin(inclination)
    rays = np.stack([np.cos(azimuth) * flat, np.sin(azimuth) * flat, z], axis=1)
    points = rays * ranges[rows, columns, None] @ extrinsic[:3, :3].T + extrinsic[:3, 3]
    roll, pitch, yaw, *place = poses[rows, columns].T
    zero = np.zeros_like(roll)
    for angle, axis in ((roll, 0), (pitch, 1), (yaw, 2)):
        points = turned(points, np.stack([angle if i == axis else zero for i in range(3)], axis=1))
    return points + np.stack(place, axis=1)


def _image(row: dict[str, Any], channels: int) -> Floats:
    """(H, W, channels) of a flattened range image."""
    values, shape = (next(v for k, v in row.items() if k.endswith(end)) for end in (".values", ".shape"))
    try:
        return np.asarray(values, np.float64).reshape(*shape[:2], channels)
    except (TypeError, ValueError) as error:
        raise DepthLMError("range image", f"of shape {shape} can't be read: {error}", "", "bad point cloud") from error


def _matrix(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64).reshape(4, 4)


def _moving_camera(row: dict[str, Any], direction: int, camera_to_vehicle: Floats) -> RollingShutterCamera:
    """Velocities are given in the world's axes; a column's time is the middle of its exposure."""
    start, end, shutter = (
        row[SHUTTER + name] for name in ("camera_trigger_time", "camera_readout_done_time", "shutter")
    )
    first, last = start + shutter / 2 - row[IMAGE + "pose_timestamp"], end - shutter / 2 - row[IMAGE + "pose_timestamp"]
    axis, backwards = SHUTTERS.get(direction, (0, False))
    if direction not in SHUTTERS:  # a global shutter: everything in the middle
        first = last = (first + last) / 2
    return RollingShutterCamera(
        vehicle=_matrix(row[IMAGE + "pose.transform"]),
        velocity=np.array([row[f"{IMAGE}velocity.linear_velocity.{axis}"] for axis in "xyz"], np.float64),
        turning=np.array([row[f"{IMAGE}velocity.angular_velocity.{axis}"] for axis in "xyz"], np.float64),
        camera_to_vehicle=camera_to_vehicle,
        axis=axis,
        times=(last, first) if backwards else (first, last),
    )


def _camera(row: dict[str, Any], pose: Floats) -> Camera:
    """Waymo's pixel 0 begins at the image's left edge: half a pixel less in cx and cy. Distortion is OpenCV's."""
    f_u, f_v, c_u, c_v, *distortion = (row[f"{CALIBRATION}intrinsic.{name}"] for name in INTRINSICS)
    return Camera(
        row[CALIBRATION + "width"],
        row[CALIBRATION + "height"],
        f_u,
        f_v,
        c_u - 0.5,
        c_v - 0.5,
        tuple(distortion),
        pose,
    )
