"""Reader of ARKitScenes: iPad sequences with LiDAR depth, poses, and for a part of them depth of a laser scanner.

Cite: Baruch et al., "ARKitScenes: A Diverse Real-World Dataset for 3D Indoor Scene Understanding Using Mobile RGB-D
Data", NeurIPS Datasets and Benchmarks 2021. Licence: Apple's, see the repository. Layout of the downloads ``raw``,
``upsampling`` and ``3dod`` (which has ``VIDEO_frames`` in between): ``Training|Validation/VIDEO/`` with
``wide`` (1920x1440) and ``lowres_wide`` (256x192) images, ``wide_intrinsics`` and ``lowres_wide_intrinsics``
(``width height fx fy cx cy``), ``highres_depth`` (laser, 1920x1440), ``lowres_depth`` (LiDAR, 256x192), ``confidence``
(0 to 2); files are named ``VIDEO_SECONDS.png`` and ``.pincam``; ``lowres_wide.traj`` has lines of time, rotation vector
(radians) and translation (metres), world-to-camera.
Units: depth is z as uint16 millimetres, 0 unknown. Poses: of the frames within 5 ms of a line, else none.
Splits: the folders ``Training`` and ``Validation``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_gen.depth_map import check_range, decode_depth, depth_fields, in_range
from data_gen.poses import from_axis_angle, inverted
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes, read_numbers
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, pillow_says

Split = Literal["train", "val", "all"]
FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("Training",),
    "val": ("Validation",),
    "all": ("Training", "Validation"),
}
# What is asked for -> folders of images and of depth, and whether the sensor gives a confidence.
ASSETS: dict[str, tuple[str, str, bool]] = {
    "laser": ("wide", "highres_depth", False),
    "lidar": ("wide", "lowres_depth", True),
    "lowres": ("lowres_wide", "lowres_depth", True),
}
POSE_WITHIN_S = 0.005  # as the dataset's own loader


class ARKitScenesReader:
    """One frame per image; keys are ``Training/VIDEO/SECONDS``.

    Args:
        source: the folder that holds ``Training`` and ``Validation``.
        split: ``"train"``, ``"val"`` or ``"all"``.
        assets: ``"laser"`` (wide images, scanner's depth, dense), ``"lidar"`` (wide images, the iPad's depth as labels)
            or ``"lowres"`` (256x192 images, the iPad's depth, dense).
        every: take every n-th image of a video.
        min_confidence: of the iPad's depth, 0 to 2; 0 asks for no confidence files.
        labels: for ``"lidar"``, labels a frame, drawn from the about 49,000 there are; 0 for all.
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "arkitscenes"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        assets: str = "laser",
        every: int = 1,
        min_confidence: int = 2,
        labels: int = 4096,
        min_m: float = 0.1,
        max_m: float = 20.0,
        licence: str = "ARKitScenes, Apple",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds Training and Validation")
        for option, value, known in (("split", split, get_args(Split)), ("assets", assets, tuple(ASSETS))):
            if value not in known:
                raise DepthLMError(option, f"{value!r} is not one of {', '.join(known)}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.split, self.assets, self.every, self.min_confidence = split, assets, every, min_confidence
        self.labels, self.min_m, self.max_m, self.licence = labels, min_m, max_m, licence
        self._last: tuple[str, Floats] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "assets", "every", "min_confidence", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _images(self) -> dict[str, str]:
        """Key -> folder of its video's frames."""
        images = {}
        kind = ASSETS[self.assets][0]
        for fold in FOLDERS[self.split]:
            found = sorted([*self.root.glob(f"{fold}/*/{kind}"), *self.root.glob(f"{fold}/*/*_frames/{kind}")])
            for folder in found:
                parent = folder.parent.relative_to(self.root).as_posix()
                video = parent.split("/")[1]
                names = [re.fullmatch(r"\d+_(\d+\.\d+)", path.stem) for path in folder.glob(f"{video}_*.png")]
                times = sorted((match[1] for match in names if match), key=float)
                images |= {f"{fold}/{video}/{time}": parent for time in times[:: self.every]}
        if not images:
            folders = " or ".join(FOLDERS[self.split])
            raise DepthLMError(
                self.root, f"holds no {folders}/VIDEO/{kind}/VIDEO_*.png", "download that asset", "no frames"
            )
        return images

    def keys(self) -> Sequence[str]:
        """``Training/VIDEO/SECONDS``, by video and time."""
        return list(self._images)

    def read(self, key: str) -> Frame:
        """One frame; depth dense where it has the image's size, else labels at the measured pixels' centres.

        Raises:
            DepthLMError: a file is missing, unreadable, outside the dataset, or sizes do not agree.
        """
        folder = self._images[key]
        fold, video, time = key.split("/")
        image_kind, depth_kind, rated = ASSETS[self.assets]
        name = f"{video}_{time}.png"
        image = read_bytes(self.root, f"{folder}/{image_kind}/{name}", "image")
        width, height = image_size(image, f"{folder}/{image_kind}/{name}")
        depth_name = f"{folder}/{depth_kind}/{name}"
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 0.001)
        if rated and self.min_confidence > 0:
            depth[self._confidence(f"{folder}/confidence/{name}", depth.shape) < self.min_confidence] = 0
        camera = self._camera(folder, image_kind, video, float(time))
        if (camera.width, camera.height) != (width, height):
            raise DepthLMError(
                key, f"image is {width}x{height}, its camera {camera.width}x{camera.height}", "", "bad intrinsics"
            )
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera,
            **depth_fields(in_range(depth, self.min_m, self.max_m), width, height, self.labels, key),
            scene=f"{fold}/{video}",
            dataset=self.name,
            split="train" if fold == "Training" else "val",
            licence=self.licence,
            timestamp=float(time),
        )

    def _confidence(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        data = read_bytes(self.root, name, "confidence")
        try:
            with Image.open(io.BytesIO(data)) as image:
                confidence = np.asarray(image.convert("L"))
        except Exception as error:  # Pillow raises many types for broken files
            raise DepthLMError(
                name, f"can't be decoded: {pillow_says(error)}", "restore it", "unreadable confidence"
            ) from error
        if confidence.shape != shape:
            raise DepthLMError(name, f"has shape {confidence.shape}, depth {shape}", "restore it", "bad confidence")
        return confidence

    def _camera(self, folder: str, kind: str, video: str, time: float) -> Camera:
        # The times in the names of intrinsics and images differ by a millisecond at times.
        for shift in (0.0, -0.001, 0.001):
            name = f"{folder}/{kind}_intrinsics/{video}_{time + shift:.3f}.pincam"
            if inside(self.root, name).is_file():
                break
        else:
            raise DepthLMError(
                f"{folder}/{kind}_intrinsics", f"has no .pincam of time {time}", "download it", "missing intrinsics"
            )
        width, height, fx, fy, cx, cy = read_numbers(self.root, name, "intrinsics", (6,)).tolist()
        return Camera(int(width), int(height), fx, fy, cx, cy, pose=self._pose(folder, time))

    def _pose(self, folder: str, time: float) -> Floats | None:
        if self._last is None or self._last[0] != folder:  # keys come video by video
            name = f"{folder}/lowres_wide.traj"
            there = inside(self.root, name).is_file()  # the upsampling download has none
            self._last = folder, read_numbers(self.root, name, "pose", (-1, 7)) if there else np.zeros((0, 7))
        lines = self._last[1]
        if not len(lines):
            return None
        nearest = lines[np.abs(lines[:, 0] - time).argmin()]
        if abs(nearest[0] - time) > POSE_WITHIN_S:
            return None
        return inverted(from_axis_angle(nearest[4:], nearest[1:4]))
