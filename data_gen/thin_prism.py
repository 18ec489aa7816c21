"""COLMAP's THIN_PRISM_FISHEYE camera: ETH3D's lens, for which OpenCV has no model.

u, v = X/Z, Y/Z are first bent to an equidistant fisheye (length θ = atan |u, v|), then distorted radially (k1 to k4),
tangentially (p1, p2) and by a thin prism (sx1, sy1). Weng, Cohen, Herniou, "Camera Calibration with Distortion Models
and Accuracy Evaluation", TPAMI 1992; parameters as in COLMAP's and ETH3D's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from depthlm.camera import Floats
from depthlm.errors import DepthLMError

STEPS, CLOSE = 30, 1e-10


@dataclass(frozen=True)
class ThinPrismFisheye:
    """A camera of ``width`` x ``height`` px.

    Args:
        parameters: fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx1, sy1; COLMAP's pixels, integers at *corners*.

    Raises:
        DepthLMError: other than twelve finite numbers, or no positive focal lengths.
    """

    width: int
    height: int
    parameters: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parameters) != 12 or not np.isfinite(self.parameters).all() or min(self.parameters[:2]) <= 0:
            raise DepthLMError(
                "THIN_PRISM_FISHEYE", f"can't have the parameters {self.parameters}", "restore it", "bad intrinsics"
            )

    def project(self, points: ArrayLike) -> Floats:
        """Points (N, 3) in the camera's frame, metres, z > 0 -> pixels (N, 2), integer coordinates at pixel centres."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        uv = points[:, :2] / points[:, 2:]
        length = np.linalg.norm(uv, axis=1, keepdims=True)
        bent = uv * np.where(length > 1e-12, np.arctan(length) / np.maximum(length, 1e-12), 1)
        fx, fy, cx, cy = self.parameters[:4]
        return (bent + self._distortion(bent)) * (fx, fy) + (cx - 0.5, cy - 0.5)

    def normalized(self, xy: ArrayLike) -> Floats:
        """Pixels (N, 2), integer coordinates at pixel centres -> X/Z, Y/Z (N, 2); NaN where no ray leads there."""
        fx, fy, cx, cy = self.parameters[:4]
        wanted = (np.asarray(xy, np.float64).reshape(-1, 2) + 0.5 - (cx, cy)) / (fx, fy)
        bent = wanted.copy()
        for _ in range(STEPS):  # Newton: the distortion is far too strong for a plain fixed point
            moved, (uu, uv, vu, vv) = self._distortion(bent), self._slopes(bent)
            off_u, off_v = (wanted - bent - moved).T
            with np.errstate(all="ignore"):
                area = uu * vv - uv * vu
                step = np.stack([vv * off_u - uv * off_v, uu * off_v - vu * off_u], axis=1) / area[:, None]
            bent += step
            if np.nanmax(np.abs(step), initial=0) <= CLOSE:
                break
        theta = np.linalg.norm(bent, axis=1, keepdims=True)
        off = np.abs(wanted - bent - self._distortion(bent)).max(axis=1, keepdims=True)
        lost = ~(off < 1e-6) | (theta >= np.pi / 2)
        uv = bent * np.where(theta > 1e-12, np.tan(theta) / np.maximum(theta, 1e-12), 1)
        return np.where(lost | ~np.isfinite(uv), np.nan, uv)

    def _distortion(self, uv: Floats) -> Floats:
        k1, k2, p1, p2, k3, k4, sx1, sy1 = self.parameters[4:]
        u, v = uv.T
        with np.errstate(over="ignore", invalid="ignore"):  # far outside the lens: found to be lost by `normalized`
            r2 = u * u + v * v
            radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
            du = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + sx1 * r2
            dv = v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v) + sy1 * r2
        return np.stack([du, dv], axis=1)

    def _slopes(self, uv: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Derivatives of the distorted u and v by u and v: d u'/d u, d u'/d v, d v'/d u, d v'/d v."""
        k1, k2, p1, p2, k3, k4, sx1, sy1 = self.parameters[4:]
        u, v = uv.T
        with np.errstate(over="ignore", invalid="ignore"):
            r2 = u * u + v * v
            radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
            slope = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4))  # of radial, by r2
            uu = 1 + radial + 2 * u * u * slope + 2 * p1 * v + 6 * p2 * u + 2 * sx1 * u
            both = 2 * u * v * slope + 2 * p1 * u + 2 * p2 * v
            vv = 1 + radial + 2 * v * v * slope + 2 * p2 * u + 6 * p1 * v + 2 * sy1 * v
        return uu, both + 2 * sx1 * v, both + 2 * sy1 * u, vv
