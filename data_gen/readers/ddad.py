"""Reader of DDAD in its own format (DGP): six cameras, accumulated long-range LiDAR, poses.

Cite: Guizilini, Ambrus, Pillai, Raventos, Gaidon, "3D Packing for Self-Supervised Monocular Depth Estimation", CVPR
2020. Licence: CC BY-NC-SA 4.0. Layout: ``ddad_train_val/`` with ``ddad.json`` (the splits) and ``NNNNNN/`` with
``scene_HASH.json``, ``calibration/HASH.json``, ``rgb/CAMERA_0N/….png`` and ``point_cloud/LIDAR/….npz`` (key ``data``:
x, y, z, intensity in metres). Every datum has its own sensor-to-world pose at its own time. Images have no distortion.
Splits: ``train`` (150 scenes) and ``val`` (50); DepthLM scores on the second.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import check_range
from data_gen.lidar import MAX_M, MIN_M, lidar_fields
from data_gen.poses import from_quaternion, inverted
from data_gen.readers.options import camera_names, check_every, check_one_of
from data_gen.readers.paths import dataset_root, inside, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, decode_rgb

Split = Literal["train", "val", "all"]
SPLITS = {"train": "0", "val": "1"}  # DGP's numbers
CAMERAS = ("CAMERA_01", "CAMERA_05", "CAMERA_06", "CAMERA_07", "CAMERA_08", "CAMERA_09")
FOOTPRINT = (5, 13)
# Where the recording car itself is seen: outlines in shares of width and height, drawn with a margin of about 4 %
# around the two cars of the frames that the format's toolkit publishes. The front camera does not see its car.
Outline = tuple[tuple[float, float], ...]
OWN_CAR: dict[str, tuple[Outline, ...]] = {
    "CAMERA_05": (
        (
            *((0, 0.98), (0.15, 0.92), (0.3, 0.865), (0.45, 0.83), (0.6, 0.825), (0.8, 0.84)),
            *((1, 0.83), (1, 1), (0, 1)),
        ),
    ),
    "CAMERA_06": (
        (*((0, 0.82), (0.1, 0.83), (0.24, 0.855), (0.37, 0.845), (0.5, 0.85), (0.64, 0.885)), *((0.93, 1), (0, 1))),
    ),
    "CAMERA_07": (
        ((0, 0.59), (0.2, 0.64), (0.4, 0.685), (0.6, 0.725), (0.8, 0.775), (1, 0.82), (1, 1), (0, 1)),
        ((0, 0), (0.33, 0), (0, 0.27)),
    ),
    "CAMERA_08": (
        ((0, 0.91), (0.15, 0.87), (0.34, 0.81), (0.53, 0.745), (0.72, 0.68), (0.91, 0.615), (1, 0.585), (1, 1), (0, 1)),
        ((0.6, 0), (1, 0), (1, 0.3), (0.8, 0.15)),
    ),
    "CAMERA_09": (
        (
            *((0, 0.86), (0.1, 0.785), (0.22, 0.75), (0.5, 0.748), (0.72, 0.76), (0.83, 0.82)),
            *((1, 0.88), (1, 1), (0, 1)),
        ),
        ((0.55, 0), (1, 0), (1, 0.09)),
    ),
}


class DdadReader:
    """One frame per camera and sample; keys are ``SCENE/CAMERA/FILE``.

    Args:
        source: the folder that holds ``ddad.json`` and the scenes.
        split: ``"train"``, ``"val"``, or ``"all"`` scenes there are (needs no ``ddad.json``).
        cameras: names, or ``"all"`` six.
        every: take every so-manieth sample of a scene (10 Hz).
        masks: folder in ``source`` with ``CAMERA_0N.png`` or ``SCENE/CAMERA_0N.png``, white where the car itself is
            seen; by default outlines that fit the two cars of the format's public frames, with a margin.
        labels: labels a frame, drawn from the about 10,000 there are; 0 for all.
        min_m, max_m: z outside gives no label, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "ddad"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        cameras: str | Sequence[str] = "all",
        every: int = 1,
        masks: str | None = None,
        labels: int = 4096,
        min_m: float = MIN_M,
        max_m: float = MAX_M,
        licence: str = "CC BY-NC-SA 4.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds ddad.json and the scenes, ddad_train_val")
        check_one_of("split", split, Split)
        check_every(every)
        check_range(min_m, max_m)
        if masks is not None and not inside(self.root, masks).is_dir():
            raise DepthLMError(self.root / masks, "no such folder of masks", "put it into the dataset's folder")
        self.cameras = camera_names(cameras, CAMERAS, {"all": CAMERAS})
        self.split, self.every, self.masks = split, every, masks
        self.labels, self.min_m, self.max_m, self.licence = labels, min_m, max_m, licence
        self._scene: tuple[str, dict[str, Any]] | None = None
        self._cloud: tuple[str, Floats] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "cameras", "every", "masks", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, str]]:
        """Key -> scene file, number of the sample, key of the image's datum."""
        found = {}
        for file in self._scene_files():
            folder = Path(file).parent.as_posix()
            scene = self._read_scene(file)
            for number, sample in enumerate(scene["samples"][:: self.every]):
                images = {}
                for datum_key in sample["datum_keys"]:
                    datum = scene["data"].get(datum_key, {})
                    if "image" in datum.get("datum", {}):
                        images[datum["id"]["name"]] = datum_key, Path(datum["datum"]["image"]["filename"]).stem
                for camera in self.cameras:
                    if camera in images:
                        found[f"{folder}/{camera}/{images[camera][1]}"] = file, number * self.every, images[camera][0]
        if not found:
            raise DepthLMError(self.root, f"holds no image of {self.split}", "see docs/datasets", "no frames")
        return found

    def _scene_files(self) -> list[str]:
        if self.split == "all":
            return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob("*/scene_*.json"))
        splits = self._json("ddad.json", "split").get("scene_splits", {})
        try:
            return sorted(splits[SPLITS[self.split]]["filenames"])
        except (KeyError, TypeError) as error:
            raise DepthLMError("ddad.json", f"lists no scenes of {self.split}", "or take --split all") from error

    def keys(self) -> Sequence[str]:
        """``SCENE/CAMERA/FILE``: scene by scene, sample by sample; reads the scenes' JSON files."""
        try:
            return list(self._places)
        except (KeyError, TypeError) as error:
            raise DepthLMError(self.root, f"a scene file lacks {error}", "restore it", "damaged scene") from error

    def read(self, key: str) -> Frame:
        """One photograph with its sample's points that its camera sees.

        Raises:
            DepthLMError: a missing or unreadable file, or calibration or a pose that is none.
        """
        file, number, datum_key = self._places[key]
        folder, scene = Path(file).parent.as_posix(), self._read_scene(file)
        sample = scene["samples"][number]
        datum = scene["data"][datum_key]
        shot, camera_name = datum["datum"]["image"], datum["id"]["name"]
        camera = self._camera(f"{folder}/calibration/{sample['calibration_key']}.json", camera_name, shot)
        clouds = (scene["data"][k]["datum"].get("point_cloud") for k in sample["datum_keys"] if k in scene["data"])
        cloud = next((found for found in clouds if found), None)
        if cloud is None:
            raise DepthLMError(key, "its sample has no point cloud", "", "missing point cloud")
        return Frame(
            id=key,
            image=read_bytes(self.root, f"{folder}/{shot['filename']}", "image"),
            camera=camera,
            scene=folder,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
            timestamp=_seconds(datum["id"].get("timestamp")),
            **lidar_fields(
                self._points(f"{folder}/{cloud['filename']}"),
                inverted(camera.pose) @ _pose(cloud["pose"]),
                camera,
                key,
                self.labels,
                min_m=self.min_m,
                max_m=self.max_m,
                own_pixels=self._own_car(folder, camera_name, camera),
                footprint=FOOTPRINT,
            ),
        )

    def _camera(self, file: str, name: str, shot: dict[str, Any]) -> Camera:
        table = self._json(file, "calibration")
        try:
            k = table["intrinsics"][table["names"].index(name)]
            if abs(k.get("skew", 0.0)) > 1e-6:
                raise DepthLMError(
                    file, f"{name} has skew {k['skew']}: no pinhole has", "leave it out", "skewed camera"
                )
            size = int(shot["width"]), int(shot["height"])
            return Camera(*size, k["fx"], k["fy"], k["cx"], k["cy"], pose=_pose(shot["pose"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DepthLMError(
                file, f"is no calibration of {name}: {error!r}", "restore it", "bad calibration"
            ) from error

    def _own_car(self, scene: str, name: str, camera: Camera) -> NDArray[np.bool_]:
        """(H, W) True where the image shows the recording car."""
        if self.masks is None:
            return outlined(OWN_CAR.get(name, ()), camera.width, camera.height)
        names = [f"{self.masks}/{scene}/{name}.png", f"{self.masks}/{name}.png"]
        found = next((path for path in names if inside(self.root, path).is_file()), None)
        if found is None:
            raise DepthLMError(
                self.root / names[1], "no such mask", "add it; all black where no car is seen", "missing mask"
            )
        return decode_rgb(read_bytes(self.root, found, "mask"), found).any(axis=2)

    def _points(self, name: str) -> Floats:
        """(N, 3) of a point cloud; kept for the last one, which the cameras share."""
        if self._cloud is None or self._cloud[0] != name:
            data = read_bytes(self.root, name, "point cloud")
            try:
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    self._cloud = name, np.asarray(arrays["data"], np.float64)[:, :3]
            except (ValueError, OSError, KeyError, IndexError, zipfile.BadZipFile) as error:
                raise DepthLMError(
                    name, f"holds no array data of x, y, z: {error}", "restore it", "unreadable point cloud"
                ) from error
        return self._cloud[1]

    def _read_scene(self, file: str) -> dict[str, Any]:
        """Samples in order and data by key; kept for the last scene."""
        if self._scene is None or self._scene[0] != file:
            raw = self._json(file, "scene")
            self._scene = file, {"samples": raw["samples"], "data": {datum["key"]: datum for datum in raw["data"]}}
        return self._scene[1]

    def _json(self, name: str, what: str) -> dict[str, Any]:
        try:
            found = json.loads(read_bytes(self.root, name, what))
        except ValueError as error:
            raise DepthLMError(name, f"is not JSON: {error}", "restore it", f"unreadable {what}") from error
        if not isinstance(found, dict):
            raise DepthLMError(name, f"holds a {type(found).__name__}", "restore it", f"unreadable {what}")
        return found


def outlined(outlines: Sequence[Outline], width: int, height: int) -> NDArray[np.bool_]:
    """(H, W) True inside any of the outlines, given in shares of width and height."""
    mask = np.zeros((height, width), np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [np.round(np.array(outline) * (width, height)).astype(np.int32)], 1)
    return mask.astype(bool)


def _pose(row: dict[str, Any]) -> Floats:
    rotation, translation = row["rotation"], row["translation"]
    return from_quaternion([translation[k] for k in "xyz"], [rotation[k] for k in ("qx", "qy", "qz", "qw")])


def _seconds(text: str | None) -> float | None:
    """Of a time as protobuf writes it in JSON: RFC 3339 with up to nine digits."""
    try:
        return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() if text else None
    except ValueError:
        return None
