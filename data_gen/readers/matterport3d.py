"""Reader of Matterport3D's undistorted images: 1280x1024 views of 90 buildings with depth and poses.

Cite: Chang, Dai, Funkhouser, Halber, Nießner, Savva, Song, Zeng, Zhang, "Matterport3D: Learning from RGB-D Data in
Indoor Environments", 3DV 2017. Licence: Matterport3D terms of use, not for commercial use. Layout:
``v1/scans/SCAN/SCAN/`` (as ``download_mp.py``'s ZIP files unpack in place; or ``v1/scans/SCAN/``) with
``undistorted_color_images/PANO_iC_Y.jpg``, ``undistorted_depth_images/PANO_dC_Y.png`` and
``undistorted_camera_parameters/SCAN.conf``, whose lines ``intrinsics_matrix fx 0 cx 0 fy cy 0 0 1`` hold for the lines
``scan DEPTH COLOR m00 … m33`` below them; ``scenes_train.txt``, ``scenes_val.txt``, ``scenes_test.txt``.
Units: depth is z as uint16 quarter millimetres, 0 unknown, on the image's pixels. Camera: the file's y axis starts at
the image's bottom: cy counts upwards from the centre of the last row, so that the usual one is 1023 - cy; cx is the
usual one. Poses: camera-to-world, metres, of a camera with y up that looks along -z.
Splits: ``train``, ``val`` and ``test`` of the official lists. Times: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range, without_edges
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "test", "all"]
SIZE = 1280, 1024
AXES_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # the file's camera has y up and looks along -z


class _Row(NamedTuple):
    """One ``scan`` line with the ``intrinsics_matrix`` line above it."""

    color: str
    depth: str
    intrinsics: Sequence[str]
    pose: Sequence[str]


class Matterport3DReader:
    """One frame per undistorted image; keys are ``SCAN/PANO_iC_Y``.

    Args:
        source: the folder that holds ``v1/scans``, or ``scans``, or the scans themselves, and ``scenes_SPLIT.txt``.
        split: scans of ``scenes_SPLIT.txt``, or ``"all"`` scans there are.
        every: take every n-th image of a scan.
        edge_radius: px of depth left out beside a jump; colour and depth meet only approximately.
        min_m, max_m: z outside is unknown, metres; the format ends at 16.38 m.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "matterport3d"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        every: int = 1,
        edge_radius: int = 2,
        min_m: float = 0.1,
        max_m: float = 16.0,
        licence: str = "Matterport3D terms of use, non-commercial",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds v1/scans and scenes_train.txt")
        if split not in get_args(Split):
            raise DepthLMError("split", f"{split!r} is not one of {', '.join(get_args(Split))}")
        if every < 1 or edge_radius < 0:
            raise DepthLMError("every, edge_radius", f"must be at least 1 and 0, got {every} and {edge_radius}")
        check_range(min_m, max_m)
        self.split, self.every, self.edge_radius, self.licence = split, every, edge_radius, licence
        self.min_m, self.max_m = min_m, max_m
        self.scans = next((name for name in ("v1/scans", "scans") if (self.root / name).is_dir()), ".")
        self._last: tuple[str, dict[str, _Row]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "every", "edge_radius", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        there = sorted(path.name for path in inside(self.root, self.scans).iterdir() if path.is_dir())
        scans = [name for name in there if self._conf(name)]
        if self.split != "all":
            name = f"scenes_{self.split}.txt"
            if not (self.root / name).is_file():
                mend = "it is in tasks/benchmark of github.com/niessner/Matterport: put it there; or --set split=all"
                raise DepthLMError(self.root / name, "no such list of scans", mend, "missing split")
            listed = set(read_bytes(self.root, name, "split").decode(errors="replace").split())
            scans = [name for name in scans if name in listed]
        keys = [f"{scan}/{view}" for scan in scans for view in sorted(self._rows(scan))[:: self.every]]
        if not keys:
            raise DepthLMError(
                self.root / self.scans,
                f"holds no SCAN/SCAN/undistorted_camera_parameters/SCAN.conf of split {self.split}",
                "unpack undistorted_color_images, undistorted_depth_images and undistorted_camera_parameters",
                "no frames",
            )
        return keys

    def keys(self) -> Sequence[str]:
        """``SCAN/PANO_iC_Y``, sorted."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The view with its depth map and pose.

        Raises:
            DepthLMError: a file is missing, unreadable or outside the dataset; the image is not 1280x1024; its lines of
                the ``.conf`` are no camera.
        """
        scan, _, view = key.partition("/")
        row = self._rows(scan)[view]
        folder = Path(self._conf(scan)).parents[1]
        image_name = folder / "undistorted_color_images" / row.color
        image = read_bytes(self.root, image_name, "image")
        if image_size(image, image_name) != SIZE:
            raise DepthLMError(key, "image is not 1280x1024", "its camera is for that size", "bad intrinsics")
        depth_name = folder / "undistorted_depth_images" / row.depth
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 1 / 4000)
        depth = in_range(depth, self.min_m, self.max_m)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=_camera(row, key),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=without_edges(depth, self.edge_radius) if self.edge_radius else depth,
            scene=scan,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _conf(self, scan: str) -> str:
        """The scan's camera file, relative to the root; empty where it has none."""
        for folder in (f"{self.scans}/{scan}/{scan}", f"{self.scans}/{scan}"):
            name = f"{folder}/undistorted_camera_parameters/{scan}.conf"
            if (self.root / name).is_file():
                return name
        return ""

    def _rows(self, scan: str) -> dict[str, _Row]:
        """Image's stem -> its lines of the camera file, of the scan asked for last: keys come scan by scan."""
        if self._last is None or self._last[0] != scan:
            name = self._conf(scan)
            intrinsics: Sequence[str] = ()
            rows = {}
            for line in read_bytes(self.root, name, "calibration").decode(errors="replace").splitlines():
                word, *words = line.split() or [""]
                if word == "intrinsics_matrix":
                    intrinsics = words
                elif word == "scan" and len(words) >= 2:
                    rows[Path(words[1]).stem] = _Row(words[1], words[0], intrinsics, words[2:])
            if not rows:
                raise DepthLMError(name, "has no line 'scan DEPTH COLOR …'", "restore it", "bad calibration")
            self._last = scan, rows
        return self._last[1]


def _camera(row: _Row, key: str) -> Camera:
    try:
        k = np.array(row.intrinsics, np.float64).reshape(3, 3)
        pose = np.array(row.pose, np.float64).reshape(4, 4)
    except ValueError as error:
        raise DepthLMError(key, f"has no usable intrinsics_matrix and pose: {error}", "", "bad calibration") from error
    width, height = SIZE
    return Camera(width, height, k[0, 0], k[1, 1], k[0, 2], height - 1 - k[1, 2], pose=pose @ AXES_FROM_OPENGL)
