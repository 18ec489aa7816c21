"""Frame -> canonical image: undistorted, one focal length, sides the VLM's processor leaves alone; one resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError


@dataclass(frozen=True)
class CanonicalSpec:
    """What canonical images look like.

    Args:
        focal: unified focal length, px; None keeps each camera's own (native scale).
        min_pixels, max_pixels: the processor's pixel budget (Qwen2.5-VL's smallest, and ours).
        multiple: sides are multiples of it: patch 14 times merge 2.
        max_side: longest side, px; None: only the area is limited.
    """

    focal: float | None = 1000.0
    min_pixels: int = 56 * 56
    max_pixels: int = 2048 * 28 * 28
    multiple: int = 28
    max_side: int | None = None


@dataclass(frozen=True, eq=False)
class View:
    """The exact pixel maps between an image and its canonical form; ``camera`` has fx == fy and no distortion."""

    source: Camera
    camera: Camera

    def to_canonical(self, xy: ArrayLike) -> Floats:
        """Original pixels (N, 2) -> canonical pixels (N, 2)."""
        return self.source.normalized(xy) * self.camera.fx + (self.camera.cx, self.camera.cy)

    def to_source(self, xy: ArrayLike) -> Floats:
        """Canonical pixels (N, 2) -> original pixels (N, 2)."""
        xn = self.camera.normalized(xy)
        return self.source.project(np.concatenate([xn, np.ones((len(xn), 1))], axis=1))


def plan_view(camera: Camera, spec: CanonicalSpec, crop: tuple[float, float] = (0.5, 0.5), share: float = 1.0) -> View:
    """Choose the canonical camera for an image.

    Args:
        crop: where its window lies in the slack, 0..1 in x and y.
        share: of each side that the window keeps, 0..1; less than the smallest canonical image it never becomes.

    The focal length is never traded for size: an image over the budget is cropped, not shrunk (at native scale, where
    no focal length is promised, it is shrunk).

    Raises:
        DepthLMError: kind "image too small", when less than the smallest canonical image would remain.
    """
    left, top, right, bottom = _valid_rectangle(camera)
    focal = spec.focal if spec.focal is not None else camera.fx
    area = (right - left) * (bottom - top) * focal * focal
    if spec.focal is None:
        side = max(right - left, bottom - top) * focal
        focal *= min(1.0, math.sqrt(spec.max_pixels / area), (spec.max_side or math.inf) / side)
    full_w, full_h = (right - left) * focal, (bottom - top) * focal
    w, h = _fit(full_w, full_h, spec)
    if share < 1:
        part_w, part_h = _fit(full_w * share, full_h * share, spec)
        if part_w * part_h >= spec.min_pixels and min(part_w, part_h) >= spec.multiple:
            w, h = part_w, part_h
    if w * h < spec.min_pixels or min(w, h) < spec.multiple:
        raise DepthLMError(
            "image",
            f"{camera.width}x{camera.height} px with fx={camera.fx:.1f} is {full_w:.0f}x{full_h:.0f} px at a focal "
            f"length of {focal:g} px, less than the smallest canonical image",
            "use a wider image or a longer focal length",
            "image too small",
        )
    x0 = left * focal + (full_w - w) * crop[0]
    y0 = top * focal + (full_h - h) * crop[1]
    if not camera.distortion:  # the window begins between two source pixels, so that `render_view` can cut it out
        x0 = (math.floor((x0 / focal - left) * camera.fx + 1e-9) / camera.fx + left) * focal
        y0 = (math.floor((y0 / focal - top) * camera.fy + 1e-9) / camera.fy + top) * focal
    canonical = Camera(w, h, focal, focal, -x0 - 0.5, -y0 - 0.5, pose=camera.pose)
    return View(camera, canonical)


def _fit(full_w: float, full_h: float, spec: CanonicalSpec) -> tuple[int, int]:
    """Largest sides, multiples of ``spec.multiple``, inside the image and the budget, near the image's aspect."""
    m = spec.multiple
    longest = spec.max_side or math.inf
    cols, rows = int(min(full_w, longest) / m + 1e-6), int(min(full_h, longest) / m + 1e-6)
    budget = spec.max_pixels // (m * m)
    if cols * rows > budget:
        shrink = math.sqrt(budget / (cols * rows))
        candidates = []
        for c in {max(1, int(cols * shrink)), max(1, math.ceil(cols * shrink))}:
            r = min(rows, budget // c)
            candidates.append((c * r, min(c, cols), r))
        _, cols, rows = max(candidates)
    return cols * m, rows * m


def _valid_rectangle(camera: Camera) -> tuple[float, float, float, float]:
    """Largest simple rectangle of normalised coordinates (X/Z, Y/Z) that lies inside the image: left, top, right,
    bottom, between the outer pixel edges. With distortion it is bounded by the innermost point of each side."""
    w, h = camera.width - 0.5, camera.height - 0.5
    if not camera.distortion:
        (left, top), (right, bottom) = camera.normalized([(-0.5, -0.5), (w, h)]).tolist()
        return left, top, right, bottom
    t = np.linspace(0, 1, 33)
    xs, ys = -0.5 + t * camera.width, -0.5 + t * camera.height
    left = camera.normalized(np.stack([np.full_like(t, -0.5), ys], 1))[:, 0].max()
    right = camera.normalized(np.stack([np.full_like(t, w), ys], 1))[:, 0].min()
    top = camera.normalized(np.stack([xs, np.full_like(t, -0.5)], 1))[:, 1].max()
    bottom = camera.normalized(np.stack([xs, np.full_like(t, h)], 1))[:, 1].min()
    if not (left < right and top < bottom):
        raise DepthLMError("camera", "distortion folds the image", "check the coefficients", "bad intrinsics")
    return float(left), float(top), float(right), float(bottom)


def render_view(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """The canonical image (h, w, 3) uint8, by one resampling of the region it needs.

    Cubic where it grows; linear after a Gaussian of (shrink - 1) / 2 source pixels where it shrinks, so that it is
    antialiased. Beyond the region its border pixels go on.
    """
    if view.source.distortion:
        return _warp(pixels, view)
    width, height = view.camera.width, view.camera.height
    shrink_x, shrink_y = view.source.fx / view.camera.fx, view.source.fy / view.camera.fy
    left, top = np.rint(view.to_source([[-0.5, -0.5]])[0] + 0.5).astype(int)
    region = pixels[top : top + math.ceil(height * shrink_y) + 2, left : left + math.ceil(width * shrink_x) + 2]
    grows = max(shrink_x, shrink_y) <= 1
    if not grows:
        sigma_x, sigma_y = (max(shrink - 1, 1e-3) / 2 for shrink in (shrink_x, shrink_y))
        region = cv2.GaussianBlur(region, (0, 0), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REPLICATE)
    # the scale is given, not the size: the pixel maps hold exactly, whatever the region's size
    kernel = cv2.INTER_CUBIC if grows else cv2.INTER_LINEAR
    resized = cv2.resize(region, None, fx=1 / shrink_x, fy=1 / shrink_y, interpolation=kernel)
    return resized[:height, :width]


def _warp(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Warp through the distortion: supersampled by the shrink factor and box averaged, so that it is antialiased."""
    width, height = view.camera.width, view.camera.height
    n = max(1, math.ceil(max(view.source.fx, view.source.fy) / view.camera.fx))
    focal, cx, cy = view.camera.fx * n, (view.camera.cx + 0.5) * n - 0.5, (view.camera.cy + 0.5) * n - 0.5
    finer = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    # where each pixel of the finer image lies in the source: `View.to_source`, some hundred times as fast
    maps = cv2.initUndistortRectifyMap(
        view.source.K, np.array(view.source.distortion), None, finer, (width * n, height * n), cv2.CV_32FC1
    )
    warped = cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped if n == 1 else cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA)
