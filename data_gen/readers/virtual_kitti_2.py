"""Reader of Virtual KITTI 2: five KITTI drives rendered in ten variations with a stereo camera, 1242x375.

Cite: Cabon, Murray, Humenberger, "Virtual KITTI 2", arXiv 2001.10773, 2020; Gaidon, Wang, Cabon, Vig, "Virtual Worlds
as Proxy for Multi-Object Tracking Analysis", CVPR 2016. Licence: CC BY-NC-SA 3.0. Layout, after the archives rgb, depth
and textgt are unpacked in one folder: ``SceneNN/VARIATION/frames/rgb/Camera_C/rgb_FFFFF.jpg``,
``SceneNN/VARIATION/frames/depth/Camera_C/depth_FFFFF.png``, ``SceneNN/VARIATION/intrinsic.txt`` (``frame cameraID
K[0,0] K[1,1] K[0,2] K[1,2]``) and ``extrinsic.txt`` (``frame cameraID`` and a 4x4 matrix by rows), each with a row for
every frame and camera. Archives unpacked apart, in ``vkitti_2.0.3_rgb``, ``_depth`` and ``_textgt``, are found as well.
Units: depth is z as uint16 centimetres; 65535 is the far plane at 655.35 m, on which the sky and all that is beyond
lie, and unknown here. Poses: extrinsics are world-to-camera, metres, OpenCV axes; they are inverted. The principal
point (620.5, 187) is the centre of 1242x375 with integers at pixel centres, so that nothing is shifted.
Splits: none by the authors; ``scenes`` and ``variations`` choose, and ``split`` is stored with each frame. Times: none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range
from data_gen.poses import inverted
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Cameras = Literal["left", "right", "both"]
Archive = Literal["rgb", "depth", "textgt"]
SCENES = ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20")
VARIATIONS = (
    *("15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right"),
    *("clone", "fog", "morning", "overcast", "rain", "sunset"),
)
SAME_SIZE_PX = 2.0  # the principal point is so near to the image's centre, or the image is not as it was rendered
FAR_PLANE = 65535


class VirtualKitti2Reader:
    """One frame per image; keys are ``SceneNN/VARIATION/Camera_C/FFFFF``.

    Args:
        source: the folder that holds ``Scene01`` and so on, or ``vkitti_2.0.3_rgb`` and its like.
        scenes: ``"all"`` or names with commas, such as ``"Scene01,Scene02"``.
        variations: ``"all"`` or names with commas, such as ``"clone,fog"``; those of weather and light show the same
            geometry from the same places.
        cameras: ``"left"`` (Camera_0), ``"right"`` (Camera_1, 0.53 m beside it) or ``"both"``.
        every: take frames whose number is a multiple of it (10 Hz).
        min_m, max_m: z outside is unknown, metres.
        split: stored with each frame; the authors made none.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "virtual-kitti-2"

    def __init__(
        self,
        source: str | Path,
        scenes: str = "all",
        variations: str = "all",
        cameras: Cameras = "left",
        every: int = 1,
        min_m: float = 0.1,
        max_m: float = 200.0,
        split: str = "train",
        licence: str = "CC BY-NC-SA 3.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds Scene01, Scene02, …")
        self.scenes = _chosen("scenes", scenes, SCENES)
        self.variations = _chosen("variations", variations, VARIATIONS)
        if cameras not in get_args(Cameras):
            raise DepthLMError("cameras", f"{cameras!r} is not one of {', '.join(get_args(Cameras))}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.cameras, self.every, self.split, self.licence = cameras, every, split, licence
        self.min_m, self.max_m = min_m, max_m
        self._last: tuple[str, dict[str, dict[tuple[int, int], Floats]]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("cameras", "every", "min_m", "max_m", "split", "licence")
        chosen = {"scenes": list(self.scenes), "variations": list(self.variations)}
        return {"source": self.root.name, **chosen, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        numbers = {"left": (0,), "right": (1,), "both": (0, 1)}[self.cameras]
        keys = []
        for place in (f"{scene}/{variation}" for scene in self.scenes for variation in self.variations):
            for camera in (f"Camera_{number}" for number in numbers):
                folder = inside(self.root, self._path("rgb", f"{place}/frames/rgb/{camera}"))
                found = [re.fullmatch(r"rgb_(\d{5})\.jpg", path.name) for path in sorted(folder.glob("rgb_*.jpg"))]
                keys += [f"{place}/{camera}/{match[1]}" for match in found if match and int(match[1]) % self.every == 0]
        if not keys:
            raise DepthLMError(
                self.root,
                "holds no SceneNN/VARIATION/frames/rgb/Camera_C/rgb_FFFFF.jpg of what was asked for",
                "unpack rgb, depth and textgt there",
                "no frames",
            )
        return keys

    def keys(self) -> Sequence[str]:
        """``SceneNN/VARIATION/Camera_C/FFFFF``, sorted."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The frame with its depth map.

        Raises:
            DepthLMError: a file is missing, unreadable, of another size or outside the dataset; no row of this frame
                and camera in one of the two texts.
        """
        place, camera, number = key.rsplit("/", 2)
        image_name = self._path("rgb", f"{place}/frames/rgb/{camera}/rgb_{number}.jpg")
        depth_name = self._path("depth", f"{place}/frames/depth/{camera}/depth_{number}.png")
        image = read_bytes(self.root, image_name, "image")
        width, height = image_size(image, image_name)
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 0.01, invalid=(0, FAR_PLANE))
        row = int(number), int(camera.removeprefix("Camera_"))
        tables = self._tables(place)
        for what, table in tables.items():
            if row not in table:
                raise DepthLMError(key, f"has no row in its file of {what}", "restore it", f"missing {what}")
        fx, fy, cx, cy = tables["intrinsics"][row]
        if max(abs(cx - (width - 1) / 2), abs(cy - (height - 1) / 2)) > SAME_SIZE_PX:
            raise DepthLMError(
                key, f"image is {width}x{height}, its principal point {cx:g}, {cy:g}", "", "bad intrinsics"
            )
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(width, height, fx, fy, cx, cy, pose=inverted(tables["pose"][row].reshape(4, 4))),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(depth, self.min_m, self.max_m),
            scene=place,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _path(self, archive: Archive, name: str) -> str:
        """Where a file lies below the root: all archives in one folder, or each in its own."""
        own = f"vkitti_2.0.3_{archive}"
        return f"{own}/{name}" if (self.root / own).is_dir() else name

    def _tables(self, place: str) -> dict[str, dict[tuple[int, int], Floats]]:
        """Intrinsics and poses by frame and camera, of the scene and variation asked for last: keys come in order."""
        if self._last is None or self._last[0] != place:
            tables = {
                "intrinsics": self._table(f"{place}/intrinsic.txt", "intrinsics", 4),
                "pose": self._table(f"{place}/extrinsic.txt", "pose", 16),
            }
            self._last = place, tables
        return self._last[1]

    def _table(self, name: str, what: str, count: int) -> dict[tuple[int, int], Floats]:
        """Rows ``frame camera`` and so many numbers, below a header.

        Raises:
            DepthLMError: as `read_bytes`; or a row that is not so, or is there twice.
        """
        name = self._path("textgt", name)
        rows: dict[tuple[int, int], Floats] = {}
        for line in read_bytes(self.root, name, what).decode(errors="replace").splitlines()[1:]:
            words = line.split()
            if not words:
                continue
            try:
                row = int(words[0]), int(words[1])
                numbers = np.array([float(word) for word in words[2:]]).reshape(count)
            except (ValueError, IndexError) as error:
                raise DepthLMError(
                    self.root / name, f"has a row {line[:60]!r} that is no {what}", "restore it", f"bad {what}"
                ) from error
            if row in rows:
                raise DepthLMError(self.root / name, f"has two rows of {row}", "restore it", f"bad {what}")
            rows[row] = numbers
        return rows


def _chosen(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names in ``text``, in the order of ``known``."""
    asked = set(known) if text == "all" else {word.strip() for word in str(text).split(",")}
    strangers = sorted(asked - set(known))
    if strangers:
        raise DepthLMError(option, f"{strangers[0]!r} is not one of all, {', '.join(known)}")
    return tuple(name for name in known if name in asked)
