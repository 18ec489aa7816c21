"""Coloured points as PLY and GLB, depth maps as NPY and PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, PngImagePlugin

from depthlm.errors import DepthLMError

Depth = NDArray[np.float32]
# glTF: y up, z towards the viewer. OpenCV: y down, z away from the viewer. So half a turn about x.
GLTF_AXES = np.array([1.0, -1.0, -1.0])
OPENCV_NOTE = "OpenCV camera frame: x right, y down, z forward; metres"
# Metres of one count of a 16-bit depth map: the finest that holds the farthest point.
DEPTH_UNITS = (0.001, 0.01, 0.1, 1.0)
MOST_COUNTS = 65535


def write_ply(path: Path, points: ArrayLike, colours: ArrayLike) -> Path:
    """Write a binary PLY; the axes stay OpenCV's, as a comment in the file says.

    Args:
        points: (n, 3) metres, OpenCV camera frame.
        colours: (n, 3) uint8 RGB.

    Raises:
        DepthLMError: no points, or the file can't be written.
    """
    data = _cloud(np.asarray(points, np.float64), colours).export(file_type="ply")
    head, end, body = data.partition(b"end_header\n")
    lines = [line for line in head.splitlines(keepends=True) if not line.startswith(b"comment")]
    lines.insert(2, f"comment {OPENCV_NOTE}\n".encode())
    return write_bytes(path, b"".join(lines) + end + body)


def write_glb(path: Path, points: ArrayLike, colours: ArrayLike) -> Path:
    """Write a binary glTF, turned into its axes (x right, y up, z towards the camera), its colours linear.

    Args, raises: see `write_ply`.
    """
    turned = np.asarray(points, np.float64) * GLTF_AXES
    return write_bytes(path, _cloud(turned, linear_rgb(colours)).export(file_type="glb"))


def linear_rgb(colours: ArrayLike) -> NDArray[np.uint8]:
    """sRGB colours (n, 3) uint8 as linear ones, which glTF wants of vertices (IEC 61966-2-1)."""
    v = np.asarray(colours, np.float64) / 255
    return np.rint(255 * np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)).astype(np.uint8)


def write_depth_png(path: Path, z: Depth) -> float:
    """Write a 16-bit PNG of counts, 0 where there is no depth; returns the metres of one count.

    A count is a millimetre, or as much more as it takes for the farthest pixel to fit into 16 bits: a centimetre beyond
    65.535 m, and so on. It also stands in the file, as the text ``depth_unit_m``. What is still farther is unknown.

    Args:
        z: (H, W) metres, 0 unknown.

    Raises:
        DepthLMError: the file can't be written.
    """
    farthest = float(z.max(initial=0))
    unit = next((unit for unit in DEPTH_UNITS if round(farthest / unit) <= MOST_COUNTS), DEPTH_UNITS[-1])
    counts = np.rint(z.astype(np.float64) / unit)
    # what is known stays known: less than half a count would be told as nothing
    counts = np.where(z > 0, np.maximum(counts, 1), 0)
    counts[counts > MOST_COUNTS] = 0
    told, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    told.add_text("depth_unit_m", f"{unit:g}")
    Image.fromarray(counts.astype(np.uint16)).save(buffer, "PNG", pnginfo=told)
    write_bytes(path, buffer.getvalue())
    return unit


def write_depth_npy(path: Path, z: Depth) -> Path:
    """Write a depth map (H, W) float32 metres, 0 unknown."""
    buffer = io.BytesIO()
    np.save(buffer, z.astype(np.float32), allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def _cloud(points: NDArray[np.float64], colours: ArrayLike) -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise DepthLMError("trimesh", "is not installed", "pip install 'depthlm[cloud]'") from error

    colours = np.asarray(colours, np.uint8).reshape(-1, 3)
    if not len(points) or not math.isfinite(float(points.sum())):
        raise DepthLMError("point cloud", "has no points, or some that are not finite", "ask about more points")
    opaque = np.full((len(colours), 1), 255, np.uint8)
    return trimesh.PointCloud(points, np.hstack([colours, opaque]))


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file, and its folder.

    Raises:
        DepthLMError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DepthLMError(path, f"can't be written: {error.strerror}", "check --out and its permissions") from error
    return path
