"""The recording vehicle itself: what its sensors see of it is no label, and it hides what lies behind it.

A LiDAR on the roof and a camera lower down see past the body at different places: a point of the road that the LiDAR
measures may lie behind the tailgate for the camera. The body is given as a few boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


def own_vehicle(points: ArrayLike, camera: ArrayLike, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """(N,) True for points on the vehicle, or behind it as the camera sees them.

    Args:
        points: (N, 3) metres, in the vehicle's frame.
        camera: (3,) place of the camera in that frame; outside all boxes, or everything would lie behind them.
        boxes: lower and upper corner of each, metres, in that frame.
    """
    start = np.asarray(camera, np.float64)
    way = np.asarray(points, np.float64) - start
    hit = np.zeros(len(way), bool)
    for box in boxes:
        # A straight way from the camera (0) to the point (1) is within each pair of faces for a part of it; the three
        # parts have something in common where it passes through the box.
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (np.array(box)[:, None, :] - start) / way
        # Along a pair of faces: within them all the way, or never.
        between = (start >= box[0]) & (start <= box[1])
        ends[0] = np.where(way == 0, np.where(between, -np.inf, np.inf), ends[0])
        ends[1] = np.where(way == 0, np.inf, ends[1])
        enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
        hit |= (enter <= leave) & (leave >= 0) & (enter <= 1)
    return hit
