"""Reader of the folder layout of DeepVideoMVS: undistorted images, registered depth, poses; its HoloLens set has it.

Cite: Düzçeker et al., "DeepVideoMVS: Multi-View Stereo on Video with Recurrent Spatio-Temporal Fusion", CVPR 2021.
Licence: MIT (the repository ardaduz/deep-video-mvs with its sample data). Layout, as its README states it:
``SCENE/images/*.png``, ``SCENE/depth/`` with the same names, ``SCENE/K.txt`` (3x3), ``SCENE/poses.txt`` with a
flattened 4x4 camera-to-world a line, one for each image in alphabetical order; OpenCV axes, metres.
Units: depth is z as uint16 millimetres, 0 unknown, on the image's own pixels. Splits: none; ``split`` is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes, read_numbers
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

IMAGE_TYPES = (".png", ".jpg", ".jpeg")


class HololensReader:
    """One frame per image; keys are ``SCENE/NAME``.

    Args:
        source: the folder of the scenes, or one scene's folder.
        every: take every n-th image of a scene.
        min_m, max_m: z outside is unknown, metres.

    Raises:
        DepthLMError: no such folder, a bad option.
    """

    name = "hololens"

    def __init__(
        self,
        source: str | Path,
        every: int = 1,
        min_m: float = 0.1,
        max_m: float = 20.0,
        split: str = "train",
        licence: str = "MIT",
    ) -> None:
        self.root = dataset_root(source, "the folder of the scenes")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.every, self.min_m, self.max_m, self.split, self.licence = every, min_m, max_m, split, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("every", "min_m", "max_m", "split", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _images(self) -> dict[str, tuple[str, str, int, int]]:
        """Key -> scene's folder, image's name, its place among the scene's images, and how many those are."""
        images = {}
        for path in sorted([*self.root.glob("images"), *self.root.glob("*/images")]):
            folder = path.parent.relative_to(self.root).as_posix()
            scene = self.root.name if folder == "." else folder
            names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_TYPES)
            for place in range(0, len(names), self.every):
                images[f"{scene}/{Path(names[place]).stem}"] = folder, names[place], place, len(names)
        if not images:
            raise DepthLMError(self.root, "holds no SCENE/images/*.png", "give the folder of the scenes", "no frames")
        return images

    def keys(self) -> Sequence[str]:
        """``SCENE/NAME``, sorted."""
        return list(self._images)

    def read(self, key: str) -> Frame:
        """One frame, its depth dense.

        Raises:
            DepthLMError: a file is missing, unreadable, of another size or outside the dataset; poses and images differ
                in number, which would give every frame after the gap another's pose.
        """
        folder, name, place, count = self._images[key]
        image = read_bytes(self.root, f"{folder}/images/{name}", "image")
        width, height = image_size(image, f"{folder}/images/{name}")
        k = read_numbers(self.root, f"{folder}/K.txt", "intrinsics", (3, 3))
        poses = read_numbers(self.root, f"{folder}/poses.txt", "pose", (-1, 4, 4))
        if len(poses) != count:
            raise DepthLMError(
                f"{folder}/poses.txt", f"has {len(poses)} poses for {count} images", "restore the scene", "bad pose"
            )
        depth_name = f"{folder}/depth/{name}"
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 0.001)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], pose=poses[place]),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(depth, self.min_m, self.max_m),
            scene=key.rpartition("/")[0],
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )
