"""Reader of KITTI: raw drives with Velodyne or the depth benchmark's maps, its selected frames, the object benchmark.

Cite: Geiger, Lenz, Stiller, Urtasun, "Vision meets Robotics: The KITTI Dataset", IJRR 2013; Uhrig, Schneider,
Schneider, Franke, Brox, Geiger, "Sparsity Invariant CNNs", 3DV 2017. Licence: CC BY-NC-SA 3.0. Layout of the raw data
(synced and rectified): ``DATE/DATE_drive_NNNN_sync/`` with ``image_02/data/NNNNNNNNNN.png``, ``velodyne_points/data/
….bin`` (float32 x, y, z, reflectance), ``oxts/data/….txt``; ``DATE/calib_{cam_to_cam,velo_to_cam,imu_to_velo}.txt``. Of
the benchmark: ``train`` and ``val`` (or ``data_depth_annotated/…``) with ``DRIVE/proj_depth/groundtruth/image_02/
….png``, z as uint16 / 256 m, 0 unknown; ``depth_selection/val_selection_cropped`` with 1,000 frames of 1216x352. Of
the object benchmark: ``training/{image_2,velodyne,calib}/NNNNNN``. Sweeps are as measured, over 0.1 s: the cameras are
triggered when the LiDAR faces forward, and the car's motion is not taken out of the rest. Images are rectified: no
distortion. Poses: from OXTS, in metres about the drive's first place, axes east, north, up. Splits: the benchmark's
``train`` and ``val`` drives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_gen.depth_map import check_range, decode_depth, depth_fields, in_range
from data_gen.lidar import MAX_M, MIN_M, lidar_fields
from data_gen.poses import inverted, rigid
from data_gen.readers.options import camera_names, check_every, check_one_of
from data_gen.readers.paths import dataset_root, image_size, inside, read_bytes, read_numbers
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Source = Literal["benchmark", "velodyne", "selection", "object"]
Split = Literal["train", "val"]
UNIT_M = 1 / 256
EARTH_RADIUS_M = 6_378_137.0
CAMERAS = ("image_02", "image_03")
SELECTION = "depth_selection/val_selection_cropped"
# The depth benchmark's validation drives; all others are for training.
VAL = (
    "2011_09_26_drive_0002_sync",
    "2011_09_26_drive_0005_sync",
    "2011_09_26_drive_0013_sync",
    "2011_09_26_drive_0020_sync",
    "2011_09_26_drive_0023_sync",
    "2011_09_26_drive_0036_sync",
    "2011_09_26_drive_0079_sync",
    "2011_09_26_drive_0095_sync",
    "2011_09_26_drive_0113_sync",
    "2011_09_28_drive_0037_sync",
    "2011_09_29_drive_0026_sync",
    "2011_09_30_drive_0016_sync",
    "2011_10_03_drive_0047_sync",
)


class KittiReader:
    """One frame per image with depth; keys are ``DRIVE/image_02/NNNNNNNNNN``, of an object frame ``image_02/NNNNNN``.

    Args:
        source: the folder that holds the dates (``2011_09_26``, …) and the benchmark's folders.
        depth: ``"benchmark"``: eleven sweeps accumulated and checked by stereo, a map of 15 to 30 % of the pixels;
            ``"velodyne"``: the one sweep of that moment; ``"selection"``: the benchmark's 1,000 validation frames,
            which need no raw data and have no poses; ``"object"``: the object benchmark's training frames with their
            sweeps, without poses.
        split: ``"train"`` or ``"val"`` drives; the selected frames are all ``val``, the object frames all ``train``.
        cameras: ``"image_02"`` (left), ``"image_03"`` (right), or both in a list; by default the left one, and both of
            the selected frames.
        every: of the drives, take frames whose number is a multiple of it (10 Hz).
        labels: of a sweep, labels a frame, 0 for all; maps are kept whole.
        min_m, max_m: z outside gives no label, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "kitti"

    def __init__(
        self,
        source: str | Path,
        depth: Source = "benchmark",
        split: Split = "train",
        cameras: str | Sequence[str] | None = None,
        every: int = 5,
        labels: int = 4096,
        min_m: float = MIN_M,
        max_m: float = MAX_M,
        licence: str = "CC BY-NC-SA 3.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds 2011_09_26, … and the depth benchmark's folders")
        check_one_of("depth", depth, Source)
        check_one_of("split", split, Split)
        if depth == "object" and split == "val":
            raise DepthLMError("split", "the object benchmark's frames are for training", "leave split out")
        if cameras is None:
            cameras = CAMERAS if depth == "selection" else "image_02"
        self.cameras = camera_names(cameras, CAMERAS, {})
        check_every(every)
        check_range(min_m, max_m)
        self.depth, self.every, self.labels = depth, every, labels
        self.split = "val" if depth == "selection" else split
        self.min_m, self.max_m, self.licence = min_m, max_m, licence
        self._first: dict[str, str | None] = {}  # drive -> its first OXTS file

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("depth", "split", "cameras", "every", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _annotated(self) -> str:
        """The benchmark's folder of this split: it is unzipped beside the dates or into a folder of its zip's name."""
        for name in (f"data_depth_annotated/{self.split}", self.split):
            if inside(self.root, name).is_dir():
                return name
        raise DepthLMError(
            self.root / self.split, "no such folder", "unzip data_depth_annotated here, or --set depth=velodyne"
        )

    @cached_property
    def _keys(self) -> list[str]:
        if self.depth == "selection":
            folder = inside(self.root, f"{SELECTION}/image")
            keys = sorted(path.stem for path in folder.glob("*.png") if path.stem.endswith(tuple(self.cameras)))
        elif self.depth == "object":
            numbers = sorted(path.stem for path in inside(self.root, "training/velodyne").glob("*.bin"))
            keys = [f"{camera}/{number}" for camera in self.cameras for number in numbers]
        else:
            keys = [
                f"{drive}/{camera}/{number}"
                for drive in self._drives()
                for camera in self.cameras
                for number in self._numbers(drive, camera)
                if int(number) % self.every == 0
            ]
        if not keys:
            raise DepthLMError(
                self.root, f"holds no {self.depth} frame of {self.split}", "see docs/datasets", "no frames"
            )
        return keys

    def _drives(self) -> list[str]:
        if self.depth == "benchmark":
            return sorted(path.name for path in inside(self.root, self._annotated).iterdir() if path.is_dir())
        found = (path for path in self.root.glob("*/*_sync") if (path / "velodyne_points").is_dir())
        return sorted(path.name for path in found if (path.name in VAL) == (self.split == "val"))

    def _numbers(self, drive: str, camera: str) -> list[str]:
        if self.depth == "benchmark":
            folder, suffix = f"{self._annotated}/{drive}/proj_depth/groundtruth/{camera}", ".png"
        else:
            folder, suffix = f"{_raw(drive)}/velodyne_points/data", ".bin"
        return sorted(path.stem for path in inside(self.root, folder).glob(f"*{suffix}") if path.stem.isdigit())

    def keys(self) -> Sequence[str]:
        """Drive by drive, camera by camera, in time."""
        return self._keys

    def read(self, key: str) -> Frame:
        """One photograph with its map or its sweep's points.

        Raises:
            DepthLMError: a missing or unreadable file, or calibration that is none.
        """
        if self.depth == "selection":
            return self._selected(key)
        if self.depth == "object":
            return self._object(key)
        drive, name, number = key.split("/")
        image_name = f"{_raw(drive)}/{name}/data/{number}.png"
        image = read_bytes(self.root, image_name, "image")
        size = image_size(image, image_name)
        velo_to_camera, k = self._calibration(drive, name, size)
        pose = self._pose(drive, number, velo_to_camera)
        camera = Camera(*size, k[0, 0], k[1, 1], k[0, 2], k[1, 2], pose=pose)
        if self.depth == "benchmark":
            fields = self._map(f"{self._annotated}/{drive}/proj_depth/groundtruth/{name}/{number}.png", camera)
        else:
            fields = self._sweep(f"{_raw(drive)}/velodyne_points/data/{number}.bin", velo_to_camera, camera, key)
        return Frame(
            id=key,
            image=image,
            camera=camera,
            scene=drive,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=self._time(drive, name, int(number)),
            **fields,
        )

    def _selected(self, key: str) -> Frame:
        image = read_bytes(self.root, f"{SELECTION}/image/{key}.png", "image")
        k = read_numbers(self.root, f"{SELECTION}/intrinsics/{key}.txt", "intrinsics", (3, 3))
        camera = Camera(*image_size(image, f"{key}.png"), k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        depth_name = key.replace("_image_", "_groundtruth_depth_", 1)
        return Frame(
            id=key,
            image=image,
            camera=camera,
            scene=key.partition("_image_")[0],
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            **self._map(f"{SELECTION}/groundtruth_depth/{depth_name}.png", camera),
        )

    def _object(self, key: str) -> Frame:
        name, number = key.split("/")
        image = read_bytes(self.root, f"training/image_{int(name[-2:])}/{number}.png", "image")
        calibration = f"training/calib/{number}.txt"
        table = self._table(calibration)
        try:
            p, velo = (table[row].reshape(3, 4) for row in (f"P{int(name[-2:])}", "Tr_velo_to_cam"))
            velo_to_camera, k = _chain(p, table["R0_rect"], velo[:, :3], velo[:, 3])
        except (KeyError, ValueError, np.linalg.LinAlgError) as error:
            raise _no_calibration(calibration, name, error) from error
        camera = Camera(*image_size(image, f"{key}.png"), k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        return Frame(
            id=key,
            image=image,
            camera=camera,
            scene=number,  # which drive a frame is of is not in these files
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            **self._sweep(f"training/velodyne/{number}.bin", velo_to_camera, camera, key),
        )

    def _sweep(self, name: str, velo_to_camera: Floats, camera: Camera, key: str) -> dict[str, Any]:
        bounds = {"min_m": self.min_m, "max_m": self.max_m}
        return lidar_fields(_points(self.root, name), velo_to_camera, camera, key, self.labels, **bounds)

    def _map(self, name: str, camera: Camera) -> dict[str, Any]:
        depth = in_range(decode_depth(read_bytes(self.root, name, "depth"), name, UNIT_M), self.min_m, self.max_m)
        if depth.shape != (camera.height, camera.width):
            size = "x".join(map(str, depth.shape[::-1]))
            raise DepthLMError(name, f"is {size}, the image {camera.width}x{camera.height}", "", "depth size differs")
        return depth_fields(depth, camera.width, camera.height)

    def _calibration(self, drive: str, name: str, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """4x4 from the Velodyne to a rectified camera, and the camera's 3x3 intrinsics."""
        file = f"{drive[:10]}/calib_cam_to_cam.txt"
        camera = self._table(file)
        velo = self._table(f"{drive[:10]}/calib_velo_to_cam.txt")
        number = name[-2:]
        try:
            chain = _chain(camera[f"P_rect_{number}"].reshape(3, 4), camera["R_rect_00"], velo["R"], velo["T"])
        except (KeyError, ValueError, np.linalg.LinAlgError) as error:
            raise _no_calibration(file, name, error) from error
        # Each day has its own calibration and its own size of image, by which another day's is noticed.
        rectified = camera.get(f"S_rect_{number}", np.array(size)).tolist()
        if rectified != list(size):
            raise DepthLMError(
                file,
                f"is for images of {'x'.join(f'{side:g}' for side in rectified)}, {drive} has {size[0]}x{size[1]}",
                "give each day its own calibration and the images their own size",
                "bad intrinsics",
            )
        return chain

    def _table(self, name: str) -> dict[str, Floats]:
        """``NAME: numbers`` by line; lines of other things (dates) are left out."""
        out = {}
        for line in read_bytes(self.root, name, "calibration").decode(errors="replace").splitlines():
            key, _, values = line.partition(":")
            try:
                out[key] = np.array([float(value) for value in values.split()])
            except ValueError:
                continue
        return out

    def _pose(self, drive: str, number: str, velo_to_camera: Floats) -> Floats | None:
        """Camera-to-world about the drive's first place; None where the drive has no OXTS data or calibration."""
        folder = f"{_raw(drive)}/oxts/data"
        calibration = f"{drive[:10]}/calib_imu_to_velo.txt"
        if drive not in self._first:
            files = inside(self.root, folder).glob("*.txt")
            self._first[drive] = min((path.name for path in files), default=None)
        first = self._first[drive]
        if first is None or not inside(self.root, calibration).is_file():
            return None
        table = self._table(calibration)
        try:
            imu_to_velo = rigid(table["R"].reshape(3, 3), table["T"])
        except (KeyError, ValueError) as error:
            raise DepthLMError(calibration, f"holds no R and T: {error}", "restore it", "bad calibration") from error
        start = read_numbers(self.root, f"{folder}/{first}", "pose", (-1,))
        here = read_numbers(self.root, f"{folder}/{number}.txt", "pose", (-1,))
        if min(len(start), len(here)) < 6:
            raise DepthLMError(f"{folder}/{number}.txt", "holds fewer than 6 numbers", "restore it", "bad pose")
        imu = _oxts_pose(here, start[0])
        imu[:3, 3] -= _oxts_pose(start, start[0])[:3, 3]
        return imu @ inverted(velo_to_camera @ imu_to_velo)

    def _time(self, drive: str, name: str, number: int) -> float | None:
        """Seconds since 1970 (taken as UTC), None where the drive has no timestamps."""
        path = inside(self.root, f"{_raw(drive)}/{name}/timestamps.txt")
        if not path.is_file():
            return None
        lines = path.read_text().splitlines()
        try:  # nanoseconds; Python reads microseconds
            return datetime.fromisoformat(lines[number][:26] + "+00:00").timestamp()
        except (IndexError, ValueError):
            return None


def _chain(p: Floats, rectify: Floats, rotation: Floats, translation: Floats) -> tuple[Floats, Floats]:
    """4x4 from the Velodyne to a rectified camera, and the camera's 3x3 intrinsics.

    ``P_rect_02`` = K [I | t] is for points of the rectified camera 0; t is where that one lies in camera 2's frame.
    """
    k = p[:, :3]
    velo_to_0 = rigid(rotation.reshape(3, 3), translation.reshape(3))
    return rigid(np.eye(3), np.linalg.solve(k, p[:, 3])) @ rigid(rectify.reshape(3, 3), np.zeros(3)) @ velo_to_0, k


def _no_calibration(file: str, name: str, error: Exception) -> DepthLMError:
    return DepthLMError(file, f"is no calibration of {name}: {error}", "restore it", "bad calibration")


def _raw(drive: str) -> str:
    return f"{drive[:10]}/{drive}"


def _points(root: Path, name: str) -> Floats:
    """(N, 3) of a Velodyne sweep, metres: x ahead, y left, z up."""
    data = read_bytes(root, name, "point cloud")
    if len(data) % 16:
        raise DepthLMError(name, f"has {len(data)} bytes, no multiple of 16", "restore it", "unreadable point cloud")
    return np.frombuffer(data, np.float32).reshape(-1, 4)[:, :3].astype(np.float64)


def _oxts_pose(row: Floats, first_latitude: float) -> Floats:
    """IMU-to-world, 4x4 metres (east, north, up): Mercator's projection at the drive's latitude.

    Args:
        row: latitude, longitude (degrees), altitude (metres), roll, pitch, yaw (radians; yaw 0 is east), ….
    """
    latitude, longitude, altitude, roll, pitch, yaw = row[:6]
    scale = math.cos(math.radians(first_latitude)) * EARTH_RADIUS_M
    place = (
        scale * math.radians(longitude),
        scale * math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2)),
        altitude,
    )
    (sr, cr), (sp, cp), (sy, cy) = ((math.sin(a), math.cos(a)) for a in (roll, pitch, yaw))
    x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return rigid(z @ y @ x, place)
