"""Reader of Hypersim: rendered indoor scenes with exact geometry, 1024x768.

Cite: Roberts, Ramapuram, Ranjan, Kumar, Bautista, Paczan, Webb, Susskind, "Hypersim: A Photorealistic Synthetic Dataset
for Holistic Indoor Scene Understanding", ICCV 2021. Licence: CC BY-SA 3.0. Layout, as the dataset's download script
unpacks it: ``ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg``,
``ai_VVV_NNN/images/scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5``,
``ai_VVV_NNN/_detail/cam_XX/camera_keyframe_orientations.hdf5`` and ``_positions.hdf5``,
``ai_VVV_NNN/_detail/metadata_scene.csv``; and beside the scenes two files of the repository apple/ml-hypersim,
``metadata_images_split_scene_v1.csv`` and ``metadata_camera_parameters.csv``.
Units: despite its name ``depth_meters`` is the distance to the camera's centre, float16 metres (steps of 0.05 %), NaN
where nothing was hit; it becomes z here. Positions are in asset units and become metres by ``meters_per_asset_unit``.
Camera: orientations are camera-to-world with x right, y up, z backward; they become OpenCV's. A scene's own 3x3 matrix
``M_cam_from_uv`` takes (u, v, 1) to a ray of that frame, u to the right and v up, -1 … 1 between the image's outer
edges. More than half of the scenes were rendered with shifted or tilted lenses: their image plane is not at right
angles to the z of the stored orientation. Such a camera is a pinhole turned about the same centre, and is given as one:
its axes, pose and z are those of the image plane. Where it also needs a skew (19 scenes by more than half a pixel) the
frame is skipped, kind ``skewed camera``.
Splits: ``train``, ``val`` and ``test`` by scenes, of the images that are publicly released. Times: none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import check_range, in_range
from data_gen.poses import rigid
from data_gen.readers.mat_files import hdf5_array
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "val", "test", "all"]
Cameras = Literal["per-scene", "nominal"]
SPLIT_FILE = "metadata_images_split_scene_v1.csv"
TRAJECTORY = re.compile(r"ai_\d+_\d+/cam_\d+")
CAMERA_FILE = "metadata_camera_parameters.csv"
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
MAX_SKEW_PX = 0.5


class Lens(NamedTuple):
    """The pinhole of a scene: ``turned`` takes OpenCV camera axes as stored to those of the image plane."""

    fx: float
    fy: float
    cx: float
    cy: float
    turned: Floats
    ray_length: NDArray[np.float32]  # (H, W), of the ray whose z is 1


class HypersimReader:
    """One frame per image; keys are ``ai_VVV_NNN/cam_XX/frame.IIII``.

    Args:
        source: the folder that holds ``ai_001_001`` and so on, or some of them, and the two CSV files.
        split: images of that name in ``metadata_images_split_scene_v1.csv``, or ``"all"`` there are.
        every: take every n-th image of a trajectory; there are up to 100 in each.
        cameras: ``"per-scene"`` from ``metadata_camera_parameters.csv``, or ``"nominal"``: 60 degrees and no shift,
            which is more than a pixel off in 259 of the 457 released scenes.
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, an unknown option, no file of cameras or an unusable one.
    """

    name = "hypersim"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        every: int = 1,
        cameras: Cameras = "per-scene",
        min_m: float = 0.1,
        max_m: float = 100.0,
        licence: str = "CC BY-SA 3.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds ai_001_001, …")
        for option, value, known in (("split", split, Split), ("cameras", cameras, Cameras)):
            if value not in get_args(known):
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(get_args(known))}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.split, self.every, self.cameras, self.licence = split, every, cameras, licence
        self.min_m, self.max_m = min_m, max_m
        self._rays_from_uv = self._read_cameras() if cameras == "per-scene" else {}
        self._last: tuple[tuple[str, int, int], Lens] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "every", "cameras", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        trajectories: dict[str, list[str]] = {}
        for scene, trajectory, frame in self._listed() if self.split != "all" else self._on_disk():
            trajectories.setdefault(f"{scene}/{trajectory}", []).append(frame)
        keys = [f"{name}/{f}" for name in sorted(trajectories) for f in sorted(trajectories[name])[:: self.every]]
        if not keys:
            raise DepthLMError(
                self.root, f"holds no scene of split {self.split}", "download some, or take another split", "no frames"
            )
        return keys

    def keys(self) -> Sequence[str]:
        """``ai_VVV_NNN/cam_XX/frame.IIII``, sorted."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The frame with its depth map.

        Raises:
            DepthLMError: a file is missing, unreadable, of another size or outside the dataset; the scene's camera is
                not known, or has a skew.
        """
        scene, trajectory, stem = key.split("/")
        folder = f"{scene}/images/scene_{trajectory}"
        name = f"{folder}_final_preview/{stem}.tonemap.jpg"
        image = read_bytes(self.root, name, "image")
        width, height = image_size(image, name)
        distance = hdf5_array(self.root, f"{folder}_geometry_hdf5/{stem}.depth_meters.hdf5", "dataset", "depth")
        if distance.shape != (height, width):
            raise DepthLMError(key, f"depth is {distance.shape}, the image {width}x{height}", "", "depth size differs")
        lens = self._lens(scene, width, height)
        pose = self._pose(scene, trajectory, int(stem.rpartition(".")[2]), lens)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(width, height, lens.fx, lens.fy, lens.cx, lens.cy, pose=pose),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(distance.astype(np.float32) / lens.ray_length, self.min_m, self.max_m),
            scene=scene,  # all trajectories of a scene are in one world
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _listed(self) -> Iterable[tuple[str, str, str]]:
        """Scene, trajectory and frame of the split's images, of scenes that are there."""
        mend = "copy it from evermotion_dataset/analysis of apple/ml-hypersim, or take --split all"
        there = {path.name for path in self.root.glob("ai_*")}
        columns = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "split_partition_name")
        for scene, trajectory, number, released, split in _table(self.root, SPLIT_FILE, "split", columns, mend):
            if not (number.isdecimal() and TRAJECTORY.fullmatch(f"{scene}/{trajectory}")):
                row = f"{scene},{trajectory},{number}"
                raise DepthLMError(self.root / SPLIT_FILE, f"lists {row}, which is no image", mend, "bad split")
            if released == "True" and split == self.split and scene in there:
                yield scene, trajectory, f"frame.{int(number):04d}"

    def _on_disk(self) -> Iterable[tuple[str, str, str]]:
        for path in self.root.glob("ai_*/images/scene_cam_*_final_preview/frame.*.tonemap.jpg"):
            scene, trajectory = path.parents[2].name, path.parent.name.removeprefix("scene_")[: -len("_final_preview")]
            stem = path.name.removesuffix(".tonemap.jpg")
            if TRAJECTORY.fullmatch(f"{scene}/{trajectory}") and re.fullmatch(r"frame\.\d+", stem):
                yield scene, trajectory, stem

    def _read_cameras(self) -> dict[str, Floats]:
        """Scene -> its matrix from (u, v, 1) to a ray."""
        mend = "copy it from contrib/mikeroberts3000 of apple/ml-hypersim, or take --set cameras=nominal"
        columns = ("scene_name", *(f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)))
        found = {}
        for scene, *numbers in _table(self.root, CAMERA_FILE, "intrinsics", columns, mend):
            try:
                found[scene] = np.array([float(number) for number in numbers]).reshape(3, 3)
            except ValueError as error:
                raise DepthLMError(
                    self.root / CAMERA_FILE, f"{scene}: {error}", "restore it", "bad intrinsics"
                ) from error
        return found

    def _lens(self, scene: str, width: int, height: int) -> Lens:
        """Of the scene asked for last: keys come scene by scene."""
        if self._last is None or self._last[0] != (scene, width, height):
            if self.cameras == "nominal":
                tangent = np.tan(np.pi / 6)
                rays_from_uv = np.diag([tangent, tangent * height / width, -1.0])
            elif scene in self._rays_from_uv:
                rays_from_uv = self._rays_from_uv[scene]
            else:
                raise DepthLMError(scene, f"is not in {CAMERA_FILE}", "", "missing intrinsics")
            self._last = (scene, width, height), lens_of(rays_from_uv, width, height, scene)
        return self._last[1]

    def _pose(self, scene: str, trajectory: str, number: int, lens: Lens) -> Floats:
        """Camera-to-world, metres, with the axes of the image plane."""
        folder = f"{scene}/_detail/{trajectory}"
        rotations = hdf5_array(self.root, f"{folder}/camera_keyframe_orientations.hdf5", "dataset", "pose")
        positions = hdf5_array(self.root, f"{folder}/camera_keyframe_positions.hdf5", "dataset", "pose")
        if rotations.shape[1:] != (3, 3) or positions.shape[1:] != (3,) or len(rotations) != len(positions):
            raise DepthLMError(folder, f"poses are {rotations.shape} and {positions.shape}", "restore it", "bad pose")
        if number >= len(positions):
            raise DepthLMError(folder, f"holds {len(positions)} poses, none of frame {number}", "", "missing pose")
        return rigid(
            rotations[number] @ OPENGL_TO_OPENCV @ lens.turned.T, positions[number] * self._metres_per_unit(scene)
        )

    def _metres_per_unit(self, scene: str) -> float:
        name = f"{scene}/_detail/metadata_scene.csv"
        values = dict(_table(self.root, name, "scale", ("parameter_name", "parameter_value"), "restore it"))
        try:
            scale = float(values.get("meters_per_asset_unit", ""))
        except ValueError:
            scale = 0.0
        if not 0 < scale < np.inf:
            raise DepthLMError(self.root / name, "has no usable meters_per_asset_unit", "restore it", "bad scale")
        return scale


def lens_of(rays_from_uv: Floats, width: int, height: int, where: str) -> Lens:
    """The pinhole whose pixels look along the rays of ``M_cam_from_uv`` (see the module).

    Any invertible 3x3 matrix from rays to pixels is intrinsics times a rotation, so that a tilted lens is a turned one.

    Raises:
        DepthLMError: the matrix is no camera; the intrinsics have a skew of more than ``MAX_SKEW_PX`` at an edge.
    """
    uv_from_pixel = np.array([[2 / width, 0, 1 / width - 1], [0, -2 / height, 1 - 1 / height], [0, 0, 1]])
    rays = OPENGL_TO_OPENCV @ rays_from_uv @ uv_from_pixel
    if not (np.isfinite(rays).all() and np.linalg.det(rays) > 0):
        raise DepthLMError(where, f"matrix {rays_from_uv.tolist()} is no camera", "restore it", "bad intrinsics")
    k, turned = cv2.RQDecomp3x3(np.linalg.inv(rays))[1:3]
    signs = np.diag(np.sign(np.diag(k)))  # the split into two is unique up to these
    k, turned = k @ signs / abs(k[2, 2]), signs @ turned
    (fx, skew, cx), (_, fy, cy) = k[0], k[1]
    if abs(skew) / fy * max(abs(cy), abs(height - 1 - cy)) > MAX_SKEW_PX:
        raise DepthLMError(
            where, f"has a lens with a skew of {skew:.2f} px", "no pinhole describes it", "skewed camera"
        )
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], axis=-1)
    rays_of_z_one = pixels @ np.linalg.inv(k).T
    return Lens(fx, fy, cx, cy, turned, np.linalg.norm(rays_of_z_one, axis=-1).astype(np.float32))


def _table(root: Path, name: str, what: str, columns: Sequence[str], mend: str) -> Iterable[list[str]]:
    """The given columns of each row of a CSV file with a header.

    Raises:
        DepthLMError: no such file, not text, or it lacks a column.
    """
    try:
        text = read_bytes(root, name, what).decode()
        header, *rows = csv.reader(text.splitlines())
        places = [header.index(column) for column in columns]
        return [[row[place] for place in places] for row in rows if row]
    except DepthLMError as error:
        raise DepthLMError(error.where, error.reason, mend, error.kind) from error
    except (ValueError, IndexError, csv.Error) as error:
        raise DepthLMError(root / name, f"is no table of {', '.join(columns)}: {error}", mend, f"bad {what}") from error
