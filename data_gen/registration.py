"""A depth camera's map seen from the colour camera beside it: labels, without what the colour camera can't see."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_gen.depth_map import Labels
from data_gen.visibility import visible
from depthlm.camera import Camera

FOOTPRINT = 3  # pixels of the depth map, by which a nearer surface hides what lies behind it


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
    points = points[camera.sees(points)]
    xy, z = camera.project(points).astype(np.float32), points[:, 2].astype(np.float32)
    inside = camera.contains(xy)  # float32 may have rounded a label onto the edge
    xy, z = xy[inside], z[inside]
    seen = visible(xy, z, camera, (FOOTPRINT, FOOTPRINT), scale=min(depth.shape[1] / camera.width, 1.0))
    return xy[seen], z[seen]
