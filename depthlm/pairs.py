"""Two frames of one scene: how much they share, and how far the camera moved."""

from __future__ import annotations

import numpy as np

from depthlm.frame import Frame

# A pair must overlap, or the motion can't be seen; and move, or its relative error means nothing.
MIN_OVERLAP = 0.3
MIN_MOTION_M = 0.1
# Labels looked at per frame: the share of more would not differ by more than a few per cent.
MAX_LABELS = 256


def overlap(first: Frame, second: Frame) -> float:
    """Share (0..1) of the first frame's labelled points that project into the second's image."""
    xy, z = first.labels
    step = max(1, len(z) // MAX_LABELS)
    world = first.camera.to_world(first.camera.back_project(xy[::step], z[::step]))
    points = second.camera.from_world(world)
    ahead = points[:, 2] > 0
    return float(second.camera.contains(second.camera.project(points[ahead])).sum() / len(points))


def motion(first: Frame, second: Frame) -> float:
    """Distance of the two camera centres, metres."""
    return float(np.linalg.norm(first.camera.to_world(np.zeros((1, 3))) - second.camera.to_world(np.zeros((1, 3)))))


def is_pair(first: Frame, second: Frame) -> bool:
    """True when both have poses, the camera moved by 0.1 m or more, and each sees 30% of the other's points."""
    if first.camera.pose is None or second.camera.pose is None or motion(first, second) < MIN_MOTION_M:
        return False
    return min(overlap(first, second), overlap(second, first)) >= MIN_OVERLAP
