"""Reader of the TUM RGB-D benchmark: Kinect and Xtion sequences with motion-capture poses.

Cite: Sturm, Engelhard, Endres, Burgard, Cremers, "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012.
Licence: CC BY 4.0. Layout: ``rgbd_dataset_freiburgN_NAME/`` with ``rgb.txt``, ``depth.txt`` (``timestamp file``),
``groundtruth.txt`` (``timestamp tx ty tz qx qy qz qw``) and the PNGs they name.
Units: depth is z as uint16, 5000 a metre, 0 unknown, on the colour image's pixels, and already corrected by the factors
on the dataset's page; poses are camera-to-world of the colour camera, metres; times are seconds.
Camera: freiburg1 and 2 have their own calibration with distortion, freiburg3 is undistorted. The dataset's page advises
the driver's default (525 px, no distortion), for the depth maps can't easily be undistorted; labels can, so that
``"calibrated"`` is the default here and ``"default"`` takes the other.
Splits: none; ``split`` is stored with each frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range
from data_gen.poses import from_quaternion
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes, read_numbers
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Intrinsics = Literal["calibrated", "default"]
SIZE = 640, 480
# fx, fy, cx, cy and OpenCV distortion of each robot's colour camera, as on the dataset's page of file formats.
CAMERAS: dict[str, tuple[tuple[float, float, float, float], tuple[float, ...]]] = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
    "default": ((525.0, 525.0, 319.5, 239.5), ()),
}


class TumRgbdReader:
    """One frame per colour image; keys are ``SEQUENCE/TIMESTAMP``.

    Args:
        source: a sequence's folder, or the folder of several.
        every: take every n-th colour image (30 Hz).
        intrinsics: ``"calibrated"`` or ``"default"``.
        max_dt: colour and depth, and colour and pose, may be so many seconds apart; a frame whose depth is farther is
            skipped, one whose pose is farther has none.
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, no sequence in it, a sequence of no known camera, an unknown option.
    """

    name = "tum-rgbd"

    def __init__(
        self,
        source: str | Path,
        every: int = 1,
        intrinsics: Intrinsics = "calibrated",
        max_dt: float = 0.02,
        min_m: float = 0.1,
        max_m: float = 10.0,
        split: str = "train",
        licence: str = "CC BY 4.0",
    ) -> None:
        root = dataset_root(source, "a folder rgbd_dataset_freiburg… or the folder of several")
        # The sequence's name says which camera it is, so that the folder above is the root.
        self.root = root.parent if _is_sequence(root) else root
        found = [root.name] if _is_sequence(root) else sorted(p.name for p in root.iterdir() if _is_sequence(p))
        if not found:
            raise DepthLMError(root, "holds no rgb.txt", "give a sequence or the folder of several", "no source")
        if intrinsics not in get_args(Intrinsics):
            raise DepthLMError("intrinsics", f"{intrinsics!r} is not one of {', '.join(get_args(Intrinsics))}")
        self.cameras = {name: _camera_of(name, intrinsics) for name in found}
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.every, self.intrinsics, self.max_dt, self.split, self.licence = every, intrinsics, max_dt, split, licence
        self.min_m, self.max_m = min_m, max_m
        self._tables: tuple[str, list[tuple[float, str]], Floats] | None = None

    def settings(self) -> dict[str, Any]:
        """Sequences and options."""
        names = ("every", "intrinsics", "max_dt", "min_m", "max_m", "split", "licence")
        return {"sequences": list(self.cameras), **{name: getattr(self, name) for name in names}}

    @cached_property
    def _images(self) -> dict[str, tuple[float, str]]:
        """Key -> time and name of its colour image."""
        images = {}
        for sequence in self.cameras:
            for time, name in self._table(sequence, "rgb")[:: self.every]:
                images[f"{sequence}/{Path(name).stem}"] = time, f"{sequence}/{name}"
        if not images:
            raise DepthLMError(self.root, "lists no image", "restore rgb.txt", "no frames")
        return images

    def keys(self) -> Sequence[str]:
        """``SEQUENCE/TIMESTAMP`` in order of time."""
        return list(self._images)

    def read(self, key: str) -> Frame:
        """The frame of a colour image with the depth and the pose nearest in time.

        Raises:
            DepthLMError: a file is missing, unreadable, of another size or outside the dataset; no depth near in time.
        """
        sequence = key.partition("/")[0]
        time, image_name = self._images[key]
        depths, poses = self._depths_and_poses(sequence)
        times = np.array([t for t, _ in depths])
        nearest = int(np.abs(times - time).argmin()) if len(times) else None
        if nearest is None or abs(times[nearest] - time) > self.max_dt:
            raise DepthLMError(key, f"has no depth within {self.max_dt} s", "", "missing depth")
        depth_name = f"{sequence}/{depths[nearest][1]}"
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 1 / 5000)
        image = read_bytes(self.root, image_name, "image")
        if image_size(image, image_name) != SIZE:
            raise DepthLMError(key, "image is not 640x480", "its calibration is not known", "bad intrinsics")
        (fx, fy, cx, cy), distortion = self.cameras[sequence]
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(*SIZE, fx, fy, cx, cy, distortion, self._pose(poses, time)),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(depth, self.min_m, self.max_m),
            scene=sequence,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=time,
        )

    def _pose(self, poses: Floats, time: float) -> Floats | None:
        if not len(poses):
            return None
        nearest = poses[np.abs(poses[:, 0] - time).argmin()]
        return from_quaternion(nearest[1:4], nearest[4:]) if abs(nearest[0] - time) <= self.max_dt else None

    def _depths_and_poses(self, sequence: str) -> tuple[list[tuple[float, str]], Floats]:
        """Of the sequence asked for last: keys come in order."""
        if self._tables is None or self._tables[0] != sequence:
            name = f"{sequence}/groundtruth.txt"  # the sequences kept for the online evaluation have none
            there = (self.root / name).is_file()
            poses = read_numbers(self.root, name, "pose", (-1, 8)) if there else np.zeros((0, 8))
            self._tables = sequence, self._table(sequence, "depth"), poses
        return self._tables[1], self._tables[2]

    def _table(self, sequence: str, kind: str) -> list[tuple[float, str]]:
        """Times and file names of ``rgb.txt`` or ``depth.txt``, in order of time.

        Raises:
            DepthLMError: no such file, or a line that is not ``timestamp file``.
        """
        name = f"{sequence}/{kind}.txt"
        lines = read_bytes(self.root, name, "list").decode(errors="replace").splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        try:
            return sorted((float(time), file) for time, file in rows)
        except ValueError as error:
            raise DepthLMError(
                self.root / name, f"has a line that is not 'timestamp file': {error}", "", "bad list"
            ) from error


def _is_sequence(path: Path) -> bool:
    return (path / "rgb.txt").is_file()


def _camera_of(sequence: str, intrinsics: str) -> tuple[tuple[float, float, float, float], tuple[float, ...]]:
    if intrinsics == "default":
        return CAMERAS["default"]
    robot = re.search("freiburg[123]", sequence)
    if not robot:
        mend = "keep the published folder names: they say which camera it was; or take --set intrinsics=default"
        raise DepthLMError(sequence, "is no sequence of freiburg1, freiburg2 or freiburg3", mend, "no source")
    return CAMERAS[robot[0]]
