"""Reader of the TUM RGB-D benchmark: indoor Kinect sequences with motion-captured poses.

Cite: Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012. Licence: CC BY 4.0.
Layout: ``rgbd_dataset_freiburgN_NAME/`` with ``rgb.txt``, ``depth.txt`` (time, file), ``groundtruth.txt`` (time,
tx ty tz qx qy qz qw), ``rgb/*.png``, ``depth/*.png``; lines that begin with # are comments.
Units: depth counts are 1/5000 m, 0 unknown, z registered to the colour image (still distorted); times in seconds;
poses camera-to-world in metres, x right, y down, z forward. Intrinsics and distortion as published for freiburg1, 2, 3.
Colour, depth and pose have clocks of their own: each image is given the depth and the pose nearest in time, at most
20 ms away. Splits: none published; sequences whose name ends in ``_validation`` have no public poses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import decode_counts, to_metres
from data_gen.readers.paths import folder, read_inside
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

SIZE = 640, 480
# fx, fy, cx, cy, then k1 k2 p1 p2 k3, of each of the three Kinects.
CAMERAS = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
}
COUNTS_PER_M = 5000
APART_S = 0.02
MAX_M = 10.0


class TumRgbdReader:
    """One frame per colour image that has a depth map near in time; keys are ``SEQUENCE/TIME``.

    Args:
        source: one sequence, or a folder of sequences.

    Raises:
        DepthLMError: no such folder, no sequence in it, a sequence of an unknown camera, a list that can't be read.
    """

    name = "tum-rgbd"

    def __init__(self, source: str | Path) -> None:
        root = folder(Path(source), "TUM RGB-D")
        single = (root / "rgb.txt").is_file()
        self.source = root.resolve().parent if single else root
        found = [root.resolve()] if single else sorted(p.parent for p in root.glob("*/rgb.txt"))
        if not found:
            raise DepthLMError(root, "holds no rgb.txt", "give a sequence or the folder of several", "no source")
        self.sequences = [path.name for path in found]
        for sequence in self.sequences:
            _camera_of(sequence)

    def settings(self) -> dict[str, Any]:
        """The sequences."""
        return {"sequences": self.sequences}

    @cached_property
    def _frames(self) -> dict[str, tuple[str, str, NDArray[np.float64] | None, float]]:
        """Key -> colour file, depth file, pose numbers, time."""
        out = {}
        for sequence in self.sequences:
            times, images = self._list(sequence, "rgb.txt", 1)
            depth_times, depths = self._list(sequence, "depth.txt", 1)
            has_poses = (self.source / sequence / "groundtruth.txt").is_file()
            pose_times, poses = self._list(sequence, "groundtruth.txt", 7) if has_poses else (np.empty(0), [])
            for time, image in zip(times, images, strict=True):
                d, p = _nearest(depth_times, time), _nearest(pose_times, time)
                if d is not None:
                    pose = None if p is None else np.array(poses[p], np.float64)
                    out[f"{sequence}/{time:.6f}"] = image[0], depths[d][0], pose, float(time)
        return out

    def _list(self, sequence: str, name: str, columns: int) -> tuple[NDArray[np.float64], list[list[str]]]:
        """Times and the words after them of a list file, in the order of time."""
        where = self.source / sequence / name
        lines = read_inside(self.source, f"{sequence}/{name}").decode("utf-8", "replace").splitlines()
        rows = [line.replace(",", " ").split() for line in lines if line.strip() and not line.startswith("#")]
        try:
            rows.sort(key=lambda row: float(row[0]))
            if any(len(row) < 1 + columns for row in rows):
                raise ValueError(f"a row has fewer than {1 + columns} columns")
            return np.array([float(row[0]) for row in rows]), [row[1 : 1 + columns] for row in rows]
        except ValueError as error:
            raise DepthLMError(where, f"is no list of times: {error}", "restore the sequence", "bad list") from error

    def keys(self) -> Sequence[str]:
        """``SEQUENCE/TIME`` of each image with a depth map, in order."""
        return list(self._frames)

    def read(self, key: str) -> Frame:
        """The frame of an image.

        Raises:
            DepthLMError: a file is missing or broken.
        """
        sequence = key.partition("/")[0]
        image, depth, pose, time = self._frames[key]
        data = read_inside(self.source / sequence, depth)
        z = to_metres(decode_counts(data, self.source / sequence / depth), 1 / COUNTS_PER_M, limits=(0.1, MAX_M))
        numbers, distortion = _camera_of(sequence)
        return Frame(
            id=key,
            image=read_inside(self.source / sequence, image),
            camera=Camera(*SIZE, *numbers, distortion=distortion, pose=None if pose is None else pose_matrix(pose)),
            xy=np.empty((0, 2)),
            z=np.empty(0),
            depth=z,
            scene=sequence,
            dataset="tum-rgbd",
            licence="CC BY 4.0",
            timestamp=time,
        )


def _camera_of(sequence: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    match = re.search(r"freiburg([123])", sequence)
    if not match:
        mend = "keep the published folder names: they say which camera it was"
        raise DepthLMError(sequence, "is no sequence of freiburg1, freiburg2 or freiburg3", mend, "no source")
    return CAMERAS[match[1]]


def _nearest(times: NDArray[np.float64], time: float) -> int | None:
    """Index of the nearest time, None when none is within ``APART_S``."""
    if not len(times):
        return None
    right = int(np.searchsorted(times, time))
    best = min((i for i in (right - 1, right) if 0 <= i < len(times)), key=lambda i: abs(times[i] - time))
    return best if abs(times[best] - time) <= APART_S else None


def pose_matrix(numbers: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """``tx ty tz qx qy qz qw`` -> 4x4; the quaternion is brought to length 1.

    Raises:
        DepthLMError: kind "bad pose": a quaternion without length, or not finite.
    """
    t, q = np.asarray(numbers[:3], np.float64), np.asarray(numbers[3:7], np.float64)
    length = np.linalg.norm(q)
    if not (np.isfinite(length) and length > 1e-6 and np.isfinite(t).all()):
        raise DepthLMError("pose", f"{[float(v) for v in numbers]} is no translation and quaternion", "", "bad pose")
    x, y, z, w = q / length
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = t
    return out
