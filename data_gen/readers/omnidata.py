"""Readers of Taskonomy and HM3D as Omnidata's starter dataset has them: 512x512 views of scanned buildings.

Cite: Eftekhar, Sax, Malik, Zamir, "Omnidata", ICCV 2021, and Zamir et al., "Taskonomy", CVPR 2018, or Ramakrishnan et
al., "Habitat-Matterport 3D Dataset", NeurIPS 2021 (datasets track). Licence: Omnidata starter dataset agreement and
that of the scans, research only, not for commercial use. Layout, as ``omnitools.download`` makes it:
``DOMAIN/COMPONENT/BUILDING/point_P_view_V_domain_DOMAIN.png`` for the domains ``rgb``, ``depth_zbuffer`` and
``depth_euclidean``; ``point_info/COMPONENT/BUILDING/point_P_view_V_domain_point_info.json`` (HM3D's files end in
``fixatedpose.json``); COMPONENT is ``taskonomy`` or ``hm3d``.
Units: both depths are uint16, 512 a metre, 65535 where the mesh has a hole. ``depth_zbuffer`` is z, ``depth_euclidean``
the distance: it becomes z here. Camera: square, ``field_of_view_rads`` from edge to edge, principal point in the
middle. Poses: ``camera_location`` in metres and ``camera_rotation_final``, Blender's XYZ Euler angles of a camera that
looks along its own -z with y up; Taskonomy's photographs are real, HM3D's are rendered.
Splits: ``train``, ``val`` and (Taskonomy) ``test`` of the authors' tables of buildings. Times: none.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np

from data_gen.depth_map import as_z, check_range, decode_depth, in_range, without_edges
from data_gen.poses import from_quaternion, rigid
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "test", "all"]
Depth = Literal["zbuffer", "euclidean"]
METRES_PER_UNIT = 1 / 512
INVALID = 0, 65535
POSE_FILES = "point_info", "fixatedpose"
AXES_FROM_BLENDER = np.diag([1.0, -1.0, -1.0])  # its camera has y up and looks along -z
MAX_TURN_DEG = 1.0


class OmnidataReader:
    """One frame per view; keys are ``BUILDING/point_P_view_V``.

    Args:
        source: the folder that holds ``rgb``, ``depth_zbuffer`` (or ``depth_euclidean``) and ``point_info``.
        split: buildings of that column of the table, or ``"all"`` buildings there are.
        table: the authors' CSV of ``id,train,val,test``, put into ``source``.
        depth: which of the two depths to read; both come to the same z.
        every: take every n-th view of a building.
        edge_radius: px of depth left out beside a jump; -1 for 4 of Taskonomy, whose photographs and meshes meet only
            to a few pixels, and 0 of HM3D, whose images are rendered.
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name: ClassVar[str]
    own_table: ClassVar[str]
    own_edge_radius: ClassVar[int]
    withdrawn: ClassVar[frozenset[str]] = frozenset()  # buildings that Omnidata's own loaders leave out

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        table: str = "",
        depth: Depth = "zbuffer",
        every: int = 1,
        edge_radius: int = -1,
        min_m: float = 0.1,
        max_m: float = 127.0,
        licence: str = "Omnidata starter dataset agreement, non-commercial",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds rgb, depth_zbuffer and point_info")
        for option, value, known in (("split", split, Split), ("depth", depth, Depth)):
            if value not in get_args(known):
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.edge_radius = self.own_edge_radius if edge_radius < 0 else edge_radius
        self.split, self.table, self.depth, self.every = split, table or self.own_table, depth, every
        self.min_m, self.max_m, self.licence = min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "table", "depth", "every", "edge_radius", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        folder = inside(self.root, f"rgb/{self.name}")
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        chosen = set(there) if self.split == "all" else self._buildings_of_split()
        keys = []
        for building in (name for name in there if name in chosen):
            paths = inside(self.root, f"rgb/{self.name}/{building}").iterdir()
            found = [re.fullmatch(r"point_(\d+)_view_(\d+)_domain_rgb\.png", path.name) for path in paths]
            views = sorted((int(match[1]), int(match[2])) for match in found if match)
            keys += [f"{building}/point_{point}_view_{view}" for point, view in views[:: self.every]]
        if not keys:
            mend = f"give the folder that omnitools.download filled with --components {self.name}"
            raise DepthLMError(folder, f"holds no view of split {self.split}", mend, "no frames")
        return keys

    def _buildings_of_split(self) -> set[str]:
        if not (self.root / self.table).is_file():
            mend = "it comes with Omnidata's code: put it there; or take --set split=all"
            raise DepthLMError(self.root / self.table, "no such table of splits", mend, "missing split")
        lines = read_bytes(self.root, self.table, "split").decode(errors="replace").splitlines()  # some end in \r alone
        rows = list(csv.DictReader(line for line in lines if line.strip()))
        if not rows or not {"id", self.split} <= set(rows[0]):
            raise DepthLMError(self.root / self.table, f"has no columns id and {self.split}", "", "bad split")
        return {row["id"] for row in rows if row[self.split] == "1"}

    def keys(self) -> Sequence[str]:
        """``BUILDING/point_P_view_V``: buildings by name, then by point and view."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The view with its depth map and pose.

        Raises:
            DepthLMError: a file is missing, unreadable or outside the dataset; image and depth differ in size or are
                not square; the pose does not look at the point that the view was made for (kind ``bad pose``), or the
                authors no longer use the building (kind ``withdrawn building``).
        """
        building = key.partition("/")[0]
        if building in self.withdrawn:
            raise DepthLMError(key, "is of a building that its authors leave out", "", "withdrawn building")
        image_name = self._file("rgb", key)
        image = read_bytes(self.root, image_name, "image")
        width, height = image_size(image, image_name)
        if width != height:
            raise DepthLMError(key, f"image is {width}x{height}, expected a square", "", "bad intrinsics")
        camera = self._camera(key, width)
        domain = f"depth_{self.depth}"
        depth_name = self._file(domain, key)
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, METRES_PER_UNIT, INVALID)
        if self.depth == "euclidean" and depth.shape == (height, width):
            depth = as_z(depth, camera)
        depth = in_range(depth, self.min_m, self.max_m)
        if self.edge_radius:
            depth = without_edges(depth, self.edge_radius)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera,
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=depth,
            scene=building,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _file(self, domain: str, key: str, kind: str = "", ext: str = "png") -> str:
        return f"{domain}/{self.name}/{key}_domain_{kind or domain}.{ext}"

    def _camera(self, key: str, size: int) -> Camera:
        names = [self._file("point_info", key, kind, "json") for kind in POSE_FILES]
        name = next((name for name in names if (self.root / name).is_file()), names[0])
        data = read_bytes(self.root, name, "pose")
        try:
            info = json.loads(data)
            fov = float(info["field_of_view_rads"])
            pose = _pose(info)
        except (KeyError, TypeError, ValueError) as error:
            raise DepthLMError(name, f"has no usable field of view and pose: {error!r}", "", "bad pose") from error
        if pose is None:
            raise DepthLMError(name, "rotation, quaternion and point looked at do not agree", "", "bad pose")
        return Camera.from_fov(size, size, np.degrees(fov), pose=pose)


class TaskonomyReader(OmnidataReader):
    """Photographs of Matterport cameras with depth from the scans' meshes."""

    name = "taskonomy"
    own_table = "train_val_test_fullplus.csv"
    own_edge_radius = 4
    withdrawn = frozenset({"mosquito", "tansboro", "tomkins", "darnestown", "brinnon", "rough", "woodbine"})


class HM3DReader(OmnidataReader):
    """Renderings of Habitat-Matterport's textured meshes."""

    name = "hm3d"
    own_table = "train_val_test_hm3d.csv"
    own_edge_radius = 0


def _pose(info: dict[str, Any]) -> Floats | None:
    """Camera-to-world; None where what the file says of the rotation contradicts itself."""
    x, y, z = (cv2.Rodrigues(turn)[0] for turn in np.diag(_three(info, "camera_rotation_final")))
    rotation, location = z @ y @ x, _three(info, "camera_location")
    if "camera_rotation_final_quaternion" in info:  # real part first
        w, *xyz = info["camera_rotation_final_quaternion"]
        difference = rotation.T @ from_quaternion((0, 0, 0), (*xyz, w))[:3, :3]
        if np.linalg.norm(cv2.Rodrigues(difference)[0]) > np.radians(MAX_TURN_DEG):
            return None
    if "point_location" in info:  # every view is turned to look straight at its point
        seen = rotation.T @ (_three(info, "point_location") - location)
        if not -seen[2] > np.linalg.norm(seen) * np.cos(np.radians(MAX_TURN_DEG)):
            return None
    return rigid(rotation @ AXES_FROM_BLENDER, location)


def _three(info: dict[str, Any], name: str) -> Floats:
    return np.array(info[name], np.float64).reshape(3)
