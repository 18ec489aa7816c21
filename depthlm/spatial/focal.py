"""The camera from a point map: its focal length, and the shift along z that some point maps lack.

Source: Metric Anything (Ma et al. 2026), equation 6: the focal length is the one under which the points' directions
come nearest to their pixels, in the sum of plain (not squared) distances, so that wrong points pull little.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.errors import DepthLMError

Floats = NDArray[np.float64]

ITERATIONS = 100
TOLERANCE = 1e-9
# The focal length is sought on about so many pixels, on a square grid over the image: of more it is no surer.
PIXELS = 200_000
# Shifts are sought on so many of these, drawn at random.
SHIFT_PIXELS = 4096
# So many of the points may lie nearer than the camera can come: a few are wrong in any map.
STRAY = 0.02


def focal_from_points(points: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Focal length in pixels of the camera that sees pixel (x, y) of a map as ``points[y, x]`` (equation 6).

    The principal point is the image's centre, pixels are square, and nothing is distorted. Weiszfeld's iteration, begun
    at the median of the pixels' own answers.

    Args:
        points: (H, W, 3), camera frame, any unit; what is not finite or not in front of the camera is left out.
        mask: (H, W), which points count.

    Raises:
        DepthLMError: fewer than two points lie off the principal axis.
    """
    pixels, directions = _rays(points, mask)
    return _weiszfeld(pixels, directions)


def focal_and_shift(
    points: ArrayLike, mask: ArrayLike | None = None, known: float | None = None
) -> tuple[float, float]:
    """Focal length, px, and what has to be added to z, for a point map whose z lacks a constant (as MoGe's do).

    For each shift the best focal length is that of equation 6; the shift is the one with the least sum of distances,
    found by sections of an interval around none. A point that a shift brings behind the camera counts as half an image
    away from its pixel.

    Args:
        points, mask: see `focal_from_points`.
        known: the focal length where it is known, px: then the shift alone is sought.

    Raises:
        DepthLMError: fewer than two points lie off the principal axis.
    """
    array = np.asarray(points)
    rays = _pixels_and_points(array, mask)
    # drawn, not every n-th: that would be a few columns of the image where n and its width have a common divisor
    chosen = np.random.default_rng(0).permutation(len(rays[0]))[:SHIFT_PIXELS]
    pixels, xyz = (part[chosen] for part in rays)
    near, far = (float(np.quantile(xyz[:, 2], share)) for share in (STRAY, 0.5))
    lost = float(np.linalg.norm(array.shape[:2])) / 2

    def cost(shift: float) -> float:
        seen = xyz[:, 2] + shift > 0
        directions = xyz[seen, :2] / (xyz[seen, 2:] + shift)
        focal = known or _weiszfeld(pixels[seen], directions, iterations=20)
        distances = np.linalg.norm(pixels[seen] - focal * directions, axis=1)
        return float(np.minimum(distances, lost).sum() + lost * (~seen).sum())

    # the points stay in front of the camera, and do not go so far that perspective is lost
    low, high = -near * (1 - 1e-3), 10 * max(far, near)
    tries = np.concatenate([low * np.linspace(1, 0, 24, endpoint=False), np.geomspace(1e-3, 1, 24) * high, [0.0]])
    tries.sort()
    best = int(np.argmin([cost(shift) for shift in tries]))
    shift = _section(cost, float(tries[max(best - 1, 0)]), float(tries[min(best + 1, len(tries) - 1)]))
    if known:
        return known, shift
    pixels, xyz = rays
    seen = xyz[:, 2] + shift > 0
    return _weiszfeld(pixels[seen], xyz[seen, :2] / (xyz[seen, 2:] + shift)), shift


def field_of_view(focal: float, side: int) -> float:
    """Degrees that ``side`` pixels see at a focal length in pixels."""
    return float(2 * np.degrees(np.arctan(side / (2 * focal))))


def _rays(points: ArrayLike, mask: ArrayLike | None) -> tuple[Floats, Floats]:
    pixels, xyz = _pixels_and_points(np.asarray(points), mask)
    return pixels, xyz[:, :2] / xyz[:, 2:]


def _pixels_and_points(points: NDArray[Any], mask: ArrayLike | None) -> tuple[Floats, Floats]:
    """(N, 2) pixel coordinates from the image's centre, and their points (N, 3), of about `PIXELS` that count."""
    if points.ndim != 3 or points.shape[2] != 3:
        raise DepthLMError("point map", f"has the shape {points.shape}", "give (height, width, 3)")
    height, width = points.shape[:2]
    good = np.isfinite(points).all(axis=2) & (points[..., 2] > 0)
    if mask is not None:
        good &= np.asarray(mask, bool)
    step = max(1, math.isqrt(int(good.sum()) // PIXELS))
    y, x = (step * index for index in np.nonzero(good[::step, ::step]))
    pixels = np.stack([x - (width - 1) / 2, y - (height - 1) / 2], axis=1)
    xyz = points[y, x].astype(np.float64)
    off_axis = np.linalg.norm(xyz[:, :2], axis=1) > 1e-9 * xyz[:, 2]
    if off_axis.sum() < 2:
        raise DepthLMError("point map", "has fewer than two points off the principal axis", "", "no camera")
    return pixels, xyz


def _weiszfeld(pixels: Floats, directions: Floats, iterations: int = ITERATIONS) -> float:
    """argmin over f of sum |pixel - f * direction|."""
    along = (pixels * directions).sum(axis=1)
    square = (directions**2).sum(axis=1)
    used = square > 1e-18
    pixels, directions, along, square = pixels[used], directions[used], along[used], square[used]
    focal = float(np.median(along / square))
    for _ in range(iterations):
        distance = np.linalg.norm(pixels - focal * directions, axis=1)
        weight = 1 / np.maximum(distance, 1e-6)
        new = float((weight * along).sum() / (weight * square).sum())
        if abs(new - focal) <= TOLERANCE * abs(new):
            return new
        focal = new
    return focal


def _section(cost: object, low: float, high: float) -> float:
    """The least of a function with one minimum between two numbers, by golden sections."""
    assert callable(cost)
    ratio = (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = cost(a), cost(b)
    while high - low > 1e-7 * max(1.0, abs(low), abs(high)):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = cost(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = cost(b)
    return (low + high) / 2
