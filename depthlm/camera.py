"""The pinhole camera with OpenCV distortion: projection, back-projection, z and distance.

Conventions (all modules keep them): pixels are (x, y) with integer coordinates at pixel *centres*; the camera frame is
OpenCV's (x right, y down, z forward), metres; a pose is a 4x4 camera-to-world matrix. ``z`` is the coordinate along the
principal axis; ``distance`` is Euclidean from the camera centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.errors import DepthLMError

# OpenCV's coefficient counts: none, k1 k2 p1 p2, +k3, +k4..k6, +s1..s4, +tilt.
DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)
Floats = NDArray[np.float64]
SAME_RAY = 1e-3  # X/Z, Y/Z: about a pixel


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics in pixels of an image of ``width`` x ``height``, optional distortion and pose.

    Args:
        width, height: image size, px.
        fx, fy: focal lengths, px.
        cx, cy: principal point, px, integer coordinates at pixel centres.
        distortion: OpenCV coefficients (0, 4, 5, 8, 12 or 14 of them).
        pose: camera-to-world, 4x4, metres; None when unknown.

    Raises:
        DepthLMError: a size, focal length, coefficient or pose that no camera can have.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    pose: Floats | None = field(default=None)

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not all(math.isfinite(v) for v in numbers):
            raise self._error(f"intrinsics are not finite: {numbers}")
        if self.width < 1 or self.height < 1:
            raise self._error(f"image size {self.width}x{self.height} is not positive")
        if self.fx <= 0 or self.fy <= 0:
            raise self._error(f"focal lengths must be positive pixels, got fx={self.fx} fy={self.fy}")
        if not (-self.width <= self.cx <= 2 * self.width and -self.height <= self.cy <= 2 * self.height):
            raise self._error(
                f"principal point ({self.cx}, {self.cy}) is far outside the {self.width}x{self.height} image"
            )
        if len(self.distortion) not in DISTORTION_LENGTHS:
            raise self._error(f"{len(self.distortion)} distortion coefficients; OpenCV takes {DISTORTION_LENGTHS}")
        if self.pose is not None:
            object.__setattr__(self, "pose", checked_pose(self.pose))
        if not any(self.distortion):
            object.__setattr__(self, "distortion", ())

    @staticmethod
    def _error(reason: str) -> DepthLMError:
        return DepthLMError("camera", reason, "check the calibration file and its unit (pixels)", "bad intrinsics")

    @classmethod
    def from_fov(cls, width: int, height: int, fov_x_deg: float, **kw: Any) -> Camera:
        """A centred camera with square pixels and the given horizontal field of view, degrees."""
        if not 0 < fov_x_deg < 180:
            raise cls._error(f"horizontal field of view must lie in (0, 180) degrees, got {fov_x_deg}")
        f = width / 2 / math.tan(math.radians(fov_x_deg) / 2)
        return cls(width, height, f, f, (width - 1) / 2, (height - 1) / 2, **kw)

    @property
    def K(self) -> Floats:
        """3x3 intrinsic matrix, px."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def fov_deg(self) -> tuple[float, float]:
        """Horizontal and vertical field of view of the undistorted pinhole, degrees, between the outer pixel edges."""
        h = math.atan((self.cx + 0.5) / self.fx) + math.atan((self.width - 0.5 - self.cx) / self.fx)
        v = math.atan((self.cy + 0.5) / self.fy) + math.atan((self.height - 0.5 - self.cy) / self.fy)
        return math.degrees(h), math.degrees(v)

    def contains(self, xy: ArrayLike, margin: float = 0.0) -> NDArray[np.bool_]:
        """(N,) True where a pixel lies inside the image, ``margin`` px from its outer edges."""
        x, y = np.asarray(xy, np.float64).reshape(-1, 2).T
        low, right, bottom = margin - 0.5, self.width - 0.5 - margin, self.height - 0.5 - margin
        return (x >= low) & (x < right) & (y >= low) & (y < bottom)

    def normalized(self, xy: ArrayLike) -> Floats:
        """Pixels (N, 2) -> undistorted normalised coordinates (X/Z, Y/Z), (N, 2)."""
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        if not self.distortion or len(xy) == 0:
            return (xy - (self.cx, self.cy)) / (self.fx, self.fy)
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-12)
        out = cv2.undistortPoints(xy.reshape(-1, 1, 2), self.K, np.array(self.distortion), criteria=criteria)
        return out.reshape(-1, 2)

    def project(self, points: ArrayLike) -> Floats:
        """Points (N, 3) in the camera frame, metres, z > 0 -> distorted pixels (N, 2)."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        if not self.distortion or len(points) == 0:
            return points[:, :2] / points[:, 2:] * (self.fx, self.fy) + (self.cx, self.cy)
        xy, _ = cv2.projectPoints(points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), self.K, np.array(self.distortion))
        return xy.reshape(-1, 2)

    def sees(self, points: ArrayLike) -> NDArray[np.bool_]:
        """(N,) True for points (N, 3) in the camera frame, metres, that lie before the camera and inside the image.

        A distortion polynomial holds inside the field of view only and may fold points from far outside into the
        image, so the pixel must also lead back to the point's ray.
        """
        points = np.asarray(points, np.float64).reshape(-1, 3)
        seen = points[:, 2] > 0
        xy = self.project(points[seen])
        rays = points[seen, :2] / points[seen, 2:]
        seen[seen] = self.contains(xy) & (np.abs(self.normalized(xy) - rays).max(axis=1, initial=0) < SAME_RAY)
        return seen

    def back_project(self, xy: ArrayLike, z: ArrayLike) -> Floats:
        """Pixels (N, 2) with z (N,), metres -> points (N, 3) in the camera frame, metres."""
        xn = self.normalized(xy)
        z = np.asarray(z, np.float64).reshape(-1, 1)
        return np.concatenate([xn * z, z], axis=1)

    def z_to_distance(self, xy: ArrayLike, z: ArrayLike) -> Floats:
        """z (N,) at pixels (N, 2) -> Euclidean distance (N,), metres."""
        return np.asarray(z, np.float64).reshape(-1) * self._ray_length(xy)

    def distance_to_z(self, xy: ArrayLike, distance: ArrayLike) -> Floats:
        """Euclidean distance (N,) at pixels (N, 2) -> z (N,), metres."""
        return np.asarray(distance, np.float64).reshape(-1) / self._ray_length(xy)

    def _ray_length(self, xy: ArrayLike) -> Floats:
        return np.sqrt((self.normalized(xy) ** 2).sum(axis=1) + 1.0)

    def to_world(self, points: ArrayLike) -> Floats:
        """Camera-frame points (N, 3) -> world (N, 3). Needs a pose."""
        pose = self._known_pose()
        return np.asarray(points, np.float64) @ pose[:3, :3].T + pose[:3, 3]

    def from_world(self, points: ArrayLike) -> Floats:
        """World points (N, 3) -> camera frame (N, 3). Needs a pose."""
        pose = self._known_pose()
        return (np.asarray(points, np.float64) - pose[:3, 3]) @ pose[:3, :3]

    def _known_pose(self) -> Floats:
        if self.pose is None:
            raise DepthLMError("camera", "has no pose", "use a dataset with poses", "no pose")
        return self.pose

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera for the image resized to ``width`` x ``height`` (pixel-centre convention)."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )


def checked_pose(pose: ArrayLike) -> Floats:
    """A 4x4 camera-to-world matrix, float64, checked to be finite and rigid.

    Raises:
        DepthLMError: not 4x4, not finite, or its rotation is not orthonormal with determinant +1 (within 1e-3).
    """
    out = np.asarray(pose, np.float64)
    error = ""
    if out.shape != (4, 4):
        error = f"has shape {out.shape}, expected (4, 4)"
    elif not np.isfinite(out).all():
        error = "holds NaN or inf"
    elif np.abs(out[3] - (0, 0, 0, 1)).max() > 1e-6:
        error = f"has last row {out[3].tolist()}, expected 0 0 0 1"
    elif np.abs(out[:3, :3] @ out[:3, :3].T - np.eye(3)).max() > 1e-3 or np.linalg.det(out[:3, :3]) < 0:
        error = "is not a rotation"
    if error:
        raise DepthLMError("pose", error, "poses are 4x4 camera-to-world, metres", "bad pose")
    return out
