"""Stored depth maps -> z in metres, and labels where a map is of another size than its image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import MAX_IMAGE_PIXELS

# Beyond these a sensor's reading is noise, or its "no answer": metres.
MIN_M, MAX_M = 0.1, 200.0


def decode_counts(data: bytes, where: str | Path) -> NDArray[np.uint16]:
    """A 16-bit single-channel PNG, PGM or TIFF -> (H, W) uint16 counts.

    Raises:
        DepthLMError: kind "unreadable depth": no such image, truncated, too large, or of another kind.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width}x{image.height} px is over the limit")
            if not image.mode.startswith("I"):
                raise ValueError(f"mode {image.mode} holds no 16-bit depth")
            counts = np.asarray(image)
    except Exception as error:  # Pillow raises many types for broken files; each means the same to the user
        raise DepthLMError(where, f"depth map can't be read: {error}", "", "unreadable depth") from error
    return counts.astype(np.uint16)


def to_metres(
    counts: NDArray[np.generic],
    unit_m: float,
    invalid: Sequence[float] = (0,),
    limits: tuple[float, float] = (MIN_M, MAX_M),
) -> NDArray[np.float32]:
    """Stored values -> (H, W) float32 metres, 0 where unknown.

    Args:
        unit_m: metres of one count.
        invalid: stored values that mean "no measurement".
        limits: metres; what lies outside is unknown as well. NaN and infinity always are.
    """
    metres = counts.astype(np.float64) * unit_m
    known = np.isfinite(metres) & (metres >= limits[0]) & (metres <= limits[1])
    for value in invalid:
        known &= counts != value
    return np.where(known, metres, 0).astype(np.float32)


def labels_on_image(
    z: NDArray[np.float32], depth_camera: Camera, image_camera: Camera
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The measured pixels of a registered depth map of another size, at their exact places in the image.

    Both cameras look from one point in one direction, so a measured pixel's ray meets the image where its normalised
    coordinates say; z stays what it is.

    Args:
        z: (h, w) metres, 0 unknown.
        depth_camera: intrinsics for the map, e.g. the image's by `Camera.scaled`.

    Returns:
        (N, 2) float32 image pixels and (N,) float32 z.
    """
    ys, xs = np.nonzero(z)
    rays = depth_camera.normalized(np.stack([xs, ys], axis=1))
    xy = image_camera.project(np.concatenate([rays, np.ones((len(rays), 1))], axis=1))
    seen = image_camera.contains(xy)
    return xy[seen].astype(np.float32), z[ys, xs][seen]
