"""A depth camera's map seen from the colour camera beside it: labels, without what the colour camera can't see."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_gen.depth_map import Labels
from depthlm.camera import Camera

# A point is hidden where another one is nearer by this share within FOOTPRINT pixels of the depth map: wide enough to
# close the gaps between the projected pixels of the nearer surface, narrow enough to keep slanted surfaces.
NEARER, FOOTPRINT = 0.05, 3


def register(depth: NDArray[np.float32], depth_camera: Camera, camera: Camera, depth_to_camera: ArrayLike) -> Labels:
    """Known pixels of ``depth`` as labels of ``camera``'s image: where each point is seen, z in its frame.

    Args:
        depth: z in metres of the depth camera, 0 unknown, of its size.
        depth_to_camera: 4x4 from the depth camera's frame to the colour camera's, metres.
    """
    ys, xs = np.nonzero(depth > 0)
    points = depth_camera.back_project(np.stack([xs, ys], axis=1), depth[ys, xs])
    move = np.asarray(depth_to_camera, np.float64)
    points = points @ move[:3, :3].T + move[:3, 3]
    points = points[points[:, 2] > 0]
    xy = camera.project(points)
    inside = camera.contains(xy)
    xy, z = xy[inside].astype(np.float32), points[inside, 2].astype(np.float32)
    inside = camera.contains(xy)  # float32 may have rounded a label onto the edge
    xy, z = xy[inside], z[inside]
    seen = _visible(xy, z, camera, depth.shape[1] / camera.width)
    return xy[seen], z[seen]


def _visible(xy: NDArray[np.float32], z: NDArray[np.float32], camera: Camera, scale: float) -> NDArray[np.bool_]:
    """True where no point within the footprint is nearer; on a grid of the depth map's resolution."""
    scale = min(scale, 1.0)
    columns, rows = ((xy + 0.5) * scale).astype(int).T
    nearest = np.full((int(camera.height * scale) + 1, int(camera.width * scale) + 1), np.inf, np.float32)
    np.minimum.at(nearest, (rows, columns), z)
    nearest = cv2.erode(nearest, np.ones((FOOTPRINT, FOOTPRINT), np.uint8))
    return z <= nearest[rows, columns] * (1 + NEARER)
