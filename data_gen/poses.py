"""Poses as datasets write them, to 4x4 camera-to-world matrices in metres."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from depthlm.camera import Floats
from depthlm.errors import DepthLMError


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Floats:
    """4x4 of a 3x3 rotation and a translation."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def from_quaternion(translation: ArrayLike, xyzw: ArrayLike) -> Floats:
    """4x4 of a translation and a quaternion with the real part last; it need not be of unit length.

    Raises:
        DepthLMError: the quaternion is zero or not finite.
    """
    q = np.asarray(xyzw, np.float64)
    norm = float(np.linalg.norm(q))
    if not (np.isfinite(norm) and norm > 1e-6):
        raise DepthLMError("pose", f"quaternion {q.tolist()} is no rotation", "", "bad pose")
    x, y, z, w = q / norm
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return rigid(rotation, translation)


def from_axis_angle(translation: ArrayLike, axis_angle: ArrayLike) -> Floats:
    """4x4 of a translation and a rotation vector, radians."""
    return rigid(cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0], translation)


def inverted(pose: ArrayLike) -> Floats:
    """World-to-camera from camera-to-world, and back."""
    pose = np.asarray(pose, np.float64)
    return rigid(pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3])
