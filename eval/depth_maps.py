"""Depth maps that an expert model predicted: read, sampled at labelled pixels, and turned into answers.

A folder holds one map for each frame, at the frame's id with a suffix: ``<folder>/<frame id>.npy`` (the ``/`` of an id
are folders), either

- ``.npy``: floating point, (H, W), metres, or
- ``.png``: 16 bits, one channel, counts of ``unit`` metres (a millimetre unless said otherwise), 0 where there is none.

Maps hold z, the coordinate along the principal axis, not the distance from the camera centre
(`Camera.distance_to_z` converts). A value that is NaN, infinite, zero or negative is no depth there; it is read as 0,
and an answer that needs it is none: wrong, with its reason, like a text without a number.

A map may have another size than the image if it has the same aspect within 1%. It is sampled at the pixel whose centre
is nearest (pixel x of the image lies at (x + 0.5)·s - 0.5 in the map), never interpolated: between a near and a far
surface there is nothing halfway.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from depthlm.camera import Camera
from depthlm.depth_metrics import is_depth, same_aspect
from depthlm.errors import DepthLMError
from depthlm.questions import Geometry, Kind

MILLIMETRE = 0.001
SUFFIXES = (".npy", ".png")
Floats = NDArray[np.float64]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class MapFolder:
    """The maps of a folder, by frame id.

    Args:
        path: the folder.
        unit: metres of one count of a PNG.

    Raises:
        DepthLMError: no such folder, or a unit that is no positive number.
    """

    path: Path
    unit: float = MILLIMETRE

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DepthLMError(self.path, "is not a folder", "give the folder of the predicted maps", "no depth map")
        if not is_depth(self.unit):
            raise DepthLMError("unit", f"of a count is {self.unit} m", "give positive metres, e.g. 0.001")

    def find(self, frame_id: str) -> Path:
        """The file of a frame's map.

        Raises:
            DepthLMError: none or more than one is there, or the id leads out of the folder.
        """
        parts = frame_id.split("/")
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise DepthLMError(f"frame {frame_id!r}", "its id is no path inside a folder", "rename it", "bad id")
        stem = self.path.joinpath(*parts)
        found = [path for suffix in SUFFIXES if (path := stem.with_name(stem.name + suffix)).is_file()]
        if not found:
            mend = f"write it to {stem}.npy or {stem}.png"
            raise DepthLMError(f"frame {frame_id}", f"has no map in {self.path}", mend, "no depth map")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise DepthLMError(f"frame {frame_id}", f"has two maps: {names}", "keep one", "two depth maps")
        if not found[0].resolve().is_relative_to(self.path.resolve()):
            raise DepthLMError(found[0], "leads out of the folder", "copy the file into it", "bad depth map")
        return found[0]

    def read(self, frame_id: str) -> Map:
        """A frame's map, (H, W) float32 z in metres, 0 where there is no depth.

        Raises:
            DepthLMError: no map, more than one, or `read_map` refuses it.
        """
        return read_map(self.find(frame_id), self.unit)


def read_map(path: Path, unit: float = MILLIMETRE) -> Map:
    """A ``.npy`` or 16-bit PNG -> (H, W) float32 z in metres, 0 where there is no depth.

    Args:
        unit: metres of one count of a PNG; a ``.npy`` is in metres.

    Raises:
        DepthLMError: unreadable, another shape or type, or without any depth.
    """
    try:
        values = _read_npy(path) if path.suffix == ".npy" else _read_png(path) * unit
    except Exception as error:  # NumPy and Pillow raise many types for broken files; each means the same to the user
        mend = "write floating point metres as .npy, or counts as a 16-bit PNG, of shape (H, W)"
        raise DepthLMError(path, f"is no depth map: {error}", mend, "bad depth map") from error
    return cleaned(values, path)


def _read_npy(path: Path) -> Floats:
    values = np.load(path, mmap_mode="r", allow_pickle=False)  # the header is looked at before the rest is read
    if not isinstance(values, np.ndarray):
        raise ValueError("it is an archive")
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
        raise ValueError(f"it holds {values.dtype} of shape {values.shape}")
    return np.array(values, np.float64)


def _read_png(path: Path) -> Floats:
    with Image.open(path) as image:
        if image.format != "PNG" or not image.mode.startswith("I"):
            raise ValueError(f"it is a {image.format} of mode {image.mode}, not a 16-bit PNG")
        return np.array(image, np.float64)


def cleaned(values: NDArray[np.floating], where: str | Path) -> Map:
    """A map with 0 where there was NaN, an infinity, zero or a negative value.

    Raises:
        DepthLMError: nothing is left.
    """
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    found = is_depth(values)
    if not found.any():
        raise DepthLMError(
            where, "holds no finite, positive value", "maps are z in metres, positive ahead", "bad depth map"
        )
    return np.where(found, values, np.float32(0))


def _columns_and_rows(z: Map, x: Floats, y: Floats, width: int, height: int) -> tuple[NDArray[np.int64], ...]:
    """The map's nearest pixel to image pixels ``x`` and ``y``; where two are as near, the right and lower one."""
    rows, columns = z.shape
    if not same_aspect((columns, rows), (width, height)):
        raise DepthLMError(
            "depth map",
            f"is {columns}x{rows}, the image {width}x{height}: the aspects differ by more than 1%",
            "predict the map for the whole image, unpadded and unstretched",
            "depth size differs",
        )
    column = np.floor((x + 0.5) * (columns / width)).astype(np.int64)
    row = np.floor((y + 0.5) * (rows / height)).astype(np.int64)
    return np.clip(column, 0, columns - 1), np.clip(row, 0, rows - 1)


def values_at(z: Map, xy: ArrayLike, camera: Camera) -> Floats:
    """The map's z at pixels of the image.

    Args:
        z: (H, W) metres, 0 where there is no depth.
        xy: (N, 2) pixels of the image, integer coordinates at pixel centres.
        camera: of the image; its width and height are what counts here.

    Returns:
        (N,) metres, NaN where the map has no depth.

    Raises:
        DepthLMError: a pixel outside the image, or a map of another aspect.
    """
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    inside = camera.contains(xy)
    if not inside.all():
        x, y = xy[~inside][0]
        reason = f"({x:g}, {y:g}) lies outside the {camera.width}x{camera.height} image"
        raise DepthLMError("pixel", reason, "pixels are of the image that the map is for", "label outside image")
    column, row = _columns_and_rows(z, xy[:, 0], xy[:, 1], camera.width, camera.height)
    found = z[row, column].astype(np.float64)
    return np.where(is_depth(found), found, np.nan)


def at_size(z: Map, width: int, height: int) -> Map:
    """The map on the pixels of an image of ``width`` x ``height``, each from its nearest: what `depthlm.depth_metrics`
    compares with a measured map.

    Raises:
        DepthLMError: another aspect.
    """
    if z.shape == (height, width):
        return z
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    column, row = _columns_and_rows(z, x, y, width, height)
    return z[row[:, None], column]


@dataclass(frozen=True)
class MapAnswer:
    """What a map says to a question: ``value`` in the kind's unit, or None and the ``reason`` why there is none."""

    value: float | None
    reason: str | None = None


def answer(kind: Kind, z: Map, xy: ArrayLike, camera: Camera, given: float = 1.0) -> MapAnswer:
    """A depth map's answer: the question's own truth function on the map's points, seen through the image's camera.

    Args:
        kind: of the question.
        z: (H, W) predicted z, metres, 0 where there is no depth.
        xy: (n, 2) the marked pixels, in the image that the map is for.
        camera: of that image.
        given: the number that the question states, SI units.

    Raises:
        DepthLMError: another number of pixels than the kind speaks of, a pixel outside the image, a map of another
            aspect.
    """
    if kind.images != 1 or kind.points == 0:
        return MapAnswer(None, f"the depth of one image says nothing about {kind.name}")
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if len(xy) != kind.points:
        raise DepthLMError(kind.name, f"speaks of {kind.points} points, got {len(xy)} pixels", "give its marked pixels")
    depth = values_at(z, xy, camera)
    if np.isnan(depth).any():
        x, y = xy[np.isnan(depth)][0]
        return MapAnswer(None, f"the map has no depth at ({x:g}, {y:g})")
    return MapAnswer(kind.truth(Geometry(camera.back_project(xy, depth)), given))
