"""Depth maps as sensors store them, to float32 metres, and to labels of an image of another resolution.

A map of the image's own size stays a map (`Frame.depth`, 0 unknown). Of another size it becomes labels at the measured
pixels' centres: nothing is interpolated, so no depth ever lies between two surfaces.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import MAX_IMAGE_PIXELS, pillow_says

Labels = tuple[NDArray[np.float32], NDArray[np.float32]]
SAME_ASPECT = 0.01  # width and height scaled alike to this share: one field of view


def decode_raw_depth(data: bytes, where: str | Path) -> NDArray[np.uint16]:
    """A 16-bit greyscale PNG or PGM, (H, W) in the file's own unit.

    Raises:
        DepthLMError: unreadable, truncated, too large, or of another kind: depth that was once saved as 8-bit or as
            colours is lost.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise DepthLMError(
                    where, f"depth map of {image.width}x{image.height} px is over the limit", kind="depth too large"
                )
            if not image.mode.startswith("I"):
                raise DepthLMError(
                    where, f"depth map has mode {image.mode}, not 16-bit grey", "restore it", "bad depth map"
                )
            raw = np.asarray(image)
    except DepthLMError:
        raise
    except Exception as error:  # Pillow raises many types for broken files
        raise DepthLMError(
            where, f"depth can't be decoded: {pillow_says(error)}", "restore the file", "unreadable depth"
        ) from error
    if raw.size and (raw.min() < 0 or raw.max() > 65535):
        raise DepthLMError(where, "depth map does not fit 16 bits", "restore it", "bad depth map")
    return raw.astype(np.uint16)


def decode_depth(
    data: bytes, where: str | Path, metres_per_unit: float, invalid: Sequence[int] = (0,)
) -> NDArray[np.float32]:
    """A 16-bit depth map in metres, 0 where it holds one of the ``invalid`` values.

    Raises:
        DepthLMError: as `decode_raw_depth`.
    """
    raw = decode_raw_depth(data, where)
    depth = (raw * np.float64(metres_per_unit)).astype(np.float32)
    depth[np.isin(raw, invalid)] = 0
    return depth


def decode_depth_image(data: bytes, where: str | Path) -> NDArray[Any]:
    """(H, W) of a depth image: the counts of a 16-bit PNG or PGM, or the floats of a TIFF.

    Raises:
        DepthLMError: as `decode_raw_depth`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == "F" and image.width * image.height <= MAX_IMAGE_PIXELS:
                return np.asarray(image)
    except Exception as error:  # Pillow raises many types for broken files
        raise DepthLMError(
            where, f"depth can't be decoded: {pillow_says(error)}", "restore the file", "unreadable depth"
        ) from error
    return decode_raw_depth(data, where)


def as_z(distance: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """A map (H, W) of distances from the camera's centre, metres, as z; the camera is of the map's size."""
    ys, xs = np.mgrid[0 : camera.height, 0 : camera.width]
    z = camera.distance_to_z(np.stack([xs.ravel(), ys.ravel()], axis=1), distance.ravel())
    return z.reshape(distance.shape).astype(np.float32)


def in_range(depth: ArrayLike, min_m: float, max_m: float) -> NDArray[np.float32]:
    """The map with 0 (unknown) wherever it is not finite or outside ``min_m`` … ``max_m``, metres."""
    depth = np.array(depth, np.float32)
    with np.errstate(invalid="ignore"):
        depth[~((depth >= min_m) & (depth <= max_m) & (depth > 0))] = 0
    return depth


def without_edges(depth: NDArray[np.float32], radius: int, share: float = 0.05) -> NDArray[np.float32]:
    """The map with 0 where a known pixel within ``radius`` px is nearer or farther by more than ``share``.

    For maps that meet their image only to a pixel or two: beside an edge a label would fall on the other surface.
    """
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    nearest = cv2.erode(np.where(depth > 0, depth, np.float32(np.inf)), window)
    farthest = cv2.dilate(depth, window)
    edge = (depth / (1 + share) > nearest) | (farthest / (1 + share) > depth)
    return np.where(edge, np.float32(0), depth)


def check_range(min_m: float, max_m: float) -> None:
    """Refuse bounds between which nothing lies.

    Raises:
        DepthLMError: not 0 <= min_m < max_m.
    """
    if not 0 <= min_m < max_m:
        raise DepthLMError("min_m, max_m", f"must be 0 <= min_m < max_m, got {min_m} and {max_m}")


def map_labels(depth: NDArray[np.float32], width: int, height: int) -> Labels:
    """Known pixels of a map as labels of an image of ``width`` x ``height`` with the same field of view.

    Pixel centres are at integers, so pixel x of a map s times narrower than the image lies at (x + 0.5)·s - 0.5.

    Raises:
        DepthLMError: the two differ in aspect, so that they can't show the same field of view.
    """
    rows, columns = depth.shape
    sx, sy = width / columns, height / rows
    if abs(sx / sy - 1) > SAME_ASPECT:
        raise DepthLMError(
            "depth map",
            f"is {columns}x{rows}, the image {width}x{height}: not the same field of view",
            "give the image the depth belongs to",
            "depth size differs",
        )
    ys, xs = np.nonzero(depth > 0)
    xy = np.stack([(xs + 0.5) * sx - 0.5, (ys + 0.5) * sy - 0.5], axis=1)
    return xy.astype(np.float32), depth[ys, xs]


def thinned(labels: Labels, count: int, key: str) -> Labels:
    """At most ``count`` labels (0: all), drawn without replacement as a function of ``key``, in their old order."""
    xy, z = labels
    if not 0 < count < len(z):
        return labels
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    kept = np.sort(np.random.default_rng(seed).choice(len(z), count, replace=False))
    return xy[kept], z[kept]


def depth_fields(depth: NDArray[np.float32], width: int, height: int, labels: int = 0, key: str = "") -> dict[str, Any]:
    """``xy``, ``z`` and ``depth`` of a `Frame`: the map itself where it has the image's size, else ``labels`` labels.

    Raises:
        DepthLMError: as `map_labels`.
    """
    if depth.shape == (height, width):
        return {"xy": np.zeros((0, 2)), "z": np.zeros(0), "depth": depth}
    xy, z = thinned(map_labels(depth, width, height), labels, key)
    return {"xy": xy, "z": z}
