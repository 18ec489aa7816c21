"""Reader of 7-Scenes: Kinect v1 sequences of seven rooms with poses; colour and depth are *not* registered.

Cite: Shotton et al., "Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images", CVPR 2013; for
the poses, Glocker et al., "Real-Time RGB-D Camera Relocalization", ISMAR 2013. Licence: Microsoft Research, not for
commercial use. Layout: ``SCENE/seq-NN/frame-NNNNNN.color.png``, ``.depth.png``, ``.pose.txt``, and
``SCENE/TrainSplit.txt``, ``TestSplit.txt`` with lines such as ``sequence1``.
Units: depth is z of the *depth* camera (f 585 px, centre 320, 240) in millimetres, 0 and 65535 unknown; poses are 4x4
camera-to-world of the depth camera, metres.
Registration: each depth pixel is carried into the colour camera, 25 mm beside (Kinect v1's design, no rotation; colour
intrinsics measured here: see ``CALIBRATIONS``), and becomes a label there, z in the colour camera's frame; the pose is
the colour camera's. What the colour camera can't see, and a strip beside every edge of depth, is left out. The
calibration that is usually taken for this dataset, ``"liris"``, is another laboratory's Kinect and off by 5 px.
Splits: the scenes' own ``train`` and ``test``. Times: none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range, thinned, without_edges
from data_gen.poses import inverted, rigid
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes, read_numbers
from data_gen.registration import register
from depthlm.camera import Camera, Floats, checked_pose
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Split = Literal["train", "test", "all"]
WIDTH, HEIGHT = 640, 480
DEPTH_CAMERA = Camera(WIDTH, HEIGHT, 585.0, 585.0, 320.0, 240.0)
EDGE_RADIUS = 3  # px of depth left out beside a jump: what the registration is certain to

# Colour camera (f, cx, cy) and the move from the depth camera's frame to its frame. "measured": f and centre that bring
# depth edges onto image edges best over 20 frames of redkitchen (gradient under them 2.35 times the mean; halves of the
# frames agree to 3 px in f, 0.8 px in cx, 0.3 px in cy). "liris": rotation and translation of
# liris.cnrs.fr/voir/activities-dataset/kinect-calibration.html with f 525 and the image's centre, as relocalisation
# papers use them (gradient 1.59 times the mean; 1.32 without any registration).
CALIBRATIONS: dict[str, tuple[tuple[float, float, float], Floats]] = {
    "measured": ((528.25, 320.25, 238.1), rigid(np.eye(3), (-0.025, 0.0, 0.0))),
    "liris": (
        (525.0, 320.0, 240.0),
        rigid(
            [
                [0.99996518012567637, 0.0026765126468950343, -0.0079041012313000904],
                [-0.0027409311281316700, 0.99996302803027592, -0.0081504520778013286],
                [0.0078819942130445332, 0.0081718328771890631, 0.99993554558014031],
            ],
            (-0.025558943178152542, 0.00010109636268061706, 0.0020318321729487039),
        ),
    ),
}


class SevenScenesReader:
    """One frame per colour image; keys are ``SCENE/seq-NN/frame-NNNNNN``.

    Args:
        source: the folder of the scenes, or one scene's folder.
        split: ``"train"``, ``"test"`` by the scenes' split files, or ``"all"`` sequences there are.
        every: take every n-th frame of a sequence (they were taken at 30 Hz).
        calibration: ``"measured"`` or ``"liris"``.
        labels: labels a frame, drawn from the about 200,000 there are; 0 for all.
        min_m, max_m: z outside is left out, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "sevenscenes"

    def __init__(
        self,
        source: str | Path,
        split: Split = "train",
        every: int = 1,
        calibration: str = "measured",
        labels: int = 4096,
        min_m: float = 0.1,
        max_m: float = 10.0,
        licence: str = "Microsoft Research, non-commercial",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds chess, fire, heads, …")
        if split not in get_args(Split):
            raise DepthLMError("split", f"{split!r} is not one of {', '.join(get_args(Split))}")
        if calibration not in CALIBRATIONS:
            raise DepthLMError("calibration", f"{calibration!r} is not one of {', '.join(CALIBRATIONS)}")
        if every < 1:
            raise DepthLMError("every", f"must be at least 1, got {every}")
        check_range(min_m, max_m)
        self.split, self.every, self.calibration, self.labels = split, every, calibration, labels
        self.min_m, self.max_m, self.licence = min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "every", "calibration", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _images(self) -> dict[str, str]:
        """Key -> name of its colour image."""
        scenes = sorted({path.parent for path in [*self.root.glob("seq-*"), *self.root.glob("*/seq-*")]})
        images: dict[str, str] = {}
        for scene in scenes:
            for sequence in self._sequences(scene):
                names = sorted(p.name for p in sequence.glob("frame-*.color.*"))[:: self.every]
                folder = sequence.relative_to(self.root).as_posix()
                images |= {f"{folder}/{name.partition('.')[0]}": f"{folder}/{name}" for name in names}
        if not images:
            raise DepthLMError(
                self.root, "holds no SCENE/seq-NN/frame-*.color.png", "unpack the scenes' zip files", "no frames"
            )
        return images

    def _sequences(self, scene: Path) -> list[Path]:
        if self.split == "all":
            return sorted(scene.glob("seq-*"))
        name = scene.relative_to(self.root) / f"{self.split.title()}Split.txt"
        numbers = re.findall(r"^\s*sequence\s*(\d+)\s*$", read_bytes(self.root, name, "split").decode(), re.M)
        if not numbers:
            raise DepthLMError(self.root / name, "names no sequence", "lines are such as sequence1", "bad split")
        return [scene / f"seq-{int(number):02d}" for number in numbers]

    def keys(self) -> Sequence[str]:
        """``SCENE/seq-NN/frame-NNNNNN`` in order."""
        return list(self._images)

    def read(self, key: str) -> Frame:
        """The frame with its depth registered to its colour image.

        Raises:
            DepthLMError: a file is missing, unreadable, of another size or outside the dataset, or a pose is no pose.
        """
        image = read_bytes(self.root, self._images[key], "image")
        if image_size(image, self._images[key]) != (WIDTH, HEIGHT):
            raise DepthLMError(key, f"image is not {WIDTH}x{HEIGHT}", "its calibration is not known", "bad intrinsics")
        name = f"{key}.depth.png"
        depth = in_range(
            decode_depth(read_bytes(self.root, name, "depth"), name, 0.001, invalid=(0, 65535)), self.min_m, self.max_m
        )
        if depth.shape != (HEIGHT, WIDTH):
            raise DepthLMError(name, f"depth map is not {WIDTH}x{HEIGHT}", "restore it", "depth size differs")
        pose = checked_pose(read_numbers(self.root, f"{key}.pose.txt", "pose", (4, 4)))
        (f, cx, cy), depth_to_colour = CALIBRATIONS[self.calibration]
        camera = Camera(WIDTH, HEIGHT, f, f, cx, cy, pose=pose @ inverted(depth_to_colour))
        registered = register(without_edges(depth, EDGE_RADIUS), DEPTH_CAMERA, camera, depth_to_colour)
        xy, z = thinned(registered, self.labels, key)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera,
            xy=xy,
            z=z,
            scene=key.rpartition("/")[0],
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )
