"""Augmentations that keep every answer exact: what moves pixels moves camera, labels and pose with them.

Flip: the image in a mirror, as if the world were mirrored (x → -x): principal point, distortion, labels, dense map and
pose follow, so distances and motions stay what they are. Crop: a smaller window of the image at the same focal length.
Colour and JPEG change pixels alone, before markers are drawn. All are off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

MIRROR = np.diag([-1.0, 1.0, 1.0])
# OpenCV's coefficients that change their sign in a mirror: p2, s1, s2 and the tilt about y (see calib3d's model).
ODD = (3, 8, 9, 13)
WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of luma (Rec. 601)


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied.

    Args:
        flip: probability of a mirrored sample, 0..1.
        crop: least and largest share of each side that the canonical window keeps, 0..1.
        brightness, contrast, saturation: each is multiplied by 1 ± up to so much, 0..1.
        jpeg: least and largest JPEG quality, 1..100, by which the canonical image is once encoded; empty: never.

    Raises:
        DepthLMError: a number out of its range.
    """

    flip: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    jpeg: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        shares = {"flip": (self.flip,), "colour": (self.brightness, self.contrast, self.saturation)}
        for name, values in shares.items():
            if not all(0 <= value <= 1 for value in values):
                raise DepthLMError(
                    f"augment_{name}", f"{values[0] if name == 'flip' else values} is outside 0 to 1", "0.5 is a half"
                )
        if len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise DepthLMError("augment_crop", f"is {self.crop}", "give the least and largest share, 0 < … <= 1")
        if self.jpeg and not (len(self.jpeg) == 2 and 1 <= self.jpeg[0] <= self.jpeg[1] <= 100):
            raise DepthLMError("augment_jpeg", f"is {self.jpeg}", "give the least and largest quality, 1..100")

    def draw_flip(self, rng: np.random.Generator) -> bool:
        """Whether a sample is mirrored; asks for no number where it never is, so that samples stay as they were."""
        return self.flip > 0 and bool(rng.random() < self.flip)

    def draw_share(self, rng: np.random.Generator) -> float:
        """Share of each side that the canonical window keeps."""
        return float(rng.uniform(*self.crop)) if self.crop != (1.0, 1.0) else 1.0

    def recolour(self, pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB with brightness, contrast, saturation and JPEG varied."""
        strengths = (self.brightness, self.contrast, self.saturation)
        if any(strengths):
            brightness, contrast, saturation = (1 + rng.uniform(-s, s) if s else 1.0 for s in strengths)
            image = pixels.astype(np.float32) * brightness
            image = (image - image.mean()) * contrast + image.mean()
            luma = (image @ WEIGHTS)[..., None]
            pixels = np.clip((image - luma) * saturation + luma, 0, 255).astype(np.uint8)
        if self.jpeg:
            quality = int(rng.integers(self.jpeg[0], self.jpeg[1] + 1))
            _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        return np.ascontiguousarray(pixels)


class MirroredFrame(Frame):
    """A frame in a mirror; its bytes are the original's, its pixels are turned when they are decoded."""

    def pixels(self, checked: bool = False) -> NDArray[np.uint8]:
        """The decoded image, (H, W, 3) uint8 RGB, mirrored."""
        return np.ascontiguousarray(super().pixels(checked)[:, ::-1])


def mirrored(frame: Frame) -> MirroredFrame:
    """The frame as seen in a world mirrored along x."""
    last = frame.camera.width - 1
    xy = frame.xy.copy()
    xy[:, 0] = last - xy[:, 0]
    names = ("id", "image", "z", "scene", "dataset", "split", "licence", "timestamp", "dropped")
    return MirroredFrame(
        **{name: getattr(frame, name) for name in names},
        camera=mirrored_camera(frame.camera),
        xy=xy,
        depth=None if frame.depth is None else frame.depth[:, ::-1],
    )


def mirrored_camera(camera: Camera) -> Camera:
    """The camera of the mirrored image in the mirrored world: x → -x before it and in it."""
    pose = camera.pose
    if pose is not None:
        pose = pose.copy()
        pose[:3, :3] = MIRROR @ pose[:3, :3] @ MIRROR
        pose[:3, 3] = MIRROR @ pose[:3, 3]
    distortion: Sequence[float] = [-v if i in ODD else v for i, v in enumerate(camera.distortion)]
    return replace(camera, cx=camera.width - 1 - camera.cx, distortion=tuple(distortion), pose=pose)
