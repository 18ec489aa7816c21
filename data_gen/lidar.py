"""LiDAR sweeps to labels of a photograph: ego motion, projection with distortion, hidden points, range.

A sweep and a photograph are taken at different times. A point goes LiDAR → vehicle at the sweep's time → world →
vehicle at the photograph's time → camera, so that what stands still ends where the camera saw it; what moves by itself
does not, and nothing here knows about it. Every point that gives no label is counted under its reason.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_gen.depth_map import Labels, check_range, thinned
from data_gen.poses import inverted
from data_gen.visibility import visible
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError

MIN_M, MAX_M = 0.1, 200.0
# Rings of a LiDAR lie several pixels apart in the image, points of one ring close together: the footprint is tall.
# Far ground seen at a grazing angle rises by more than 5 % of its depth within that height, hence the larger share.
FOOTPRINT = (5, 13)
NEARER = 0.15


def lidar_to_camera(
    lidar_to_ego: ArrayLike, ego_at_lidar: ArrayLike, ego_at_camera: ArrayLike, camera_to_ego: ArrayLike
) -> Floats:
    """4x4 from the LiDAR's frame at the sweep's time to the camera's frame at the photograph's time.

    Args:
        lidar_to_ego, camera_to_ego: extrinsics: sensor frame to vehicle frame, 4x4, metres.
        ego_at_lidar, ego_at_camera: vehicle-to-world at the two times, 4x4, metres.
    """
    lidar_to_world = np.asarray(ego_at_lidar, np.float64) @ np.asarray(lidar_to_ego, np.float64)
    camera_to_world = np.asarray(ego_at_camera, np.float64) @ np.asarray(camera_to_ego, np.float64)
    return inverted(camera_to_world) @ lidar_to_world


def project_lidar(
    points: ArrayLike,
    to_camera: ArrayLike,
    camera: Camera,
    *,
    min_m: float = MIN_M,
    max_m: float = MAX_M,
    own_points: NDArray[np.bool_] | None = None,
    own_pixels: NDArray[np.bool_] | None = None,
    footprint: tuple[int, int] = FOOTPRINT,
) -> tuple[Labels, Counter[str]]:
    """Points that the camera sees, as labels of its image, and how many gave none, by reason.

    Args:
        points: (N, 3) metres, in the LiDAR's frame (or any that ``to_camera`` starts from).
        to_camera: 4x4 to the camera's frame at the photograph's time, metres.
        min_m, max_m: a z outside gives no label, metres; it still hides what lies behind it.
        own_points: (N,) True for points on the recording vehicle or hidden by it, see `data_gen.own_vehicle`.
        own_pixels: (H, W) True where the image shows the recording vehicle; points there give no label.
        footprint: width and height in px, odd, within which a nearer point hides a farther one.

    Returns:
        Labels, xy (M, 2) px and z (M,) metres, in the points' order; and counts by ``"not finite"``,
        ``"behind the camera"``, ``"outside the image"``, ``"own vehicle"``, ``"out of range"`` and ``"hidden"``.

    Raises:
        DepthLMError: points of another shape, a mask of another size than the image, or a bad range.
    """
    check_range(min_m, max_m)
    cloud = np.asarray(points, np.float64)
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise DepthLMError("LiDAR points", f"have shape {cloud.shape}, expected (N, 3)", "", "bad point cloud")
    dropped: Counter[str] = Counter()
    own = np.zeros(len(cloud), bool) if own_points is None else own_points

    def keep(mask: NDArray[np.bool_], reason: str) -> NDArray[np.bool_]:
        dropped[reason] += int(len(mask) - mask.sum())
        return mask

    finite = keep(np.isfinite(cloud).all(axis=1), "not finite")
    move = np.asarray(to_camera, np.float64)
    cloud, own = cloud[finite] @ move[:3, :3].T + move[:3, 3], own[finite]
    ahead = keep(cloud[:, 2] > 0, "behind the camera")
    cloud, own = cloud[ahead], own[ahead]
    xy = np.full((len(cloud), 2), -1e9, np.float32)  # float32 may round a label onto the edge: look again
    seen = camera.sees(cloud)
    xy[seen] = camera.project(cloud[seen])
    seen = keep(camera.contains(xy), "outside the image")
    xy, z, own = xy[seen], cloud[seen, 2].astype(np.float32), own[seen]

    shown = visible(xy, z, camera, footprint, NEARER)
    if own_pixels is not None:
        if own_pixels.shape != (camera.height, camera.width):
            size = "x".join(map(str, own_pixels.shape[::-1]))
            raise DepthLMError(
                "mask of the own vehicle", f"is {size}, the image {camera.width}x{camera.height}", "", "bad mask"
            )
        columns, rows = np.floor(xy + 0.5).astype(int).T
        own = own | own_pixels[rows, columns]
    # What gives no label itself still hides what lies behind it.
    other = keep(~own, "own vehicle")
    xy, z, shown = xy[other], z[other], shown[other]
    near = keep((z >= min_m) & (z <= max_m), "out of range")
    xy, z, shown = xy[near], z[near], shown[near]
    keep(shown, "hidden")
    return (xy[shown], z[shown]), +dropped


def lidar_fields(
    points: ArrayLike, to_camera: ArrayLike, camera: Camera, key: str, labels: int = 0, **options: Any
) -> dict[str, Any]:
    """``xy``, ``z`` and ``dropped`` of a `Frame`: `project_lidar`, at most ``labels`` (0: all), drawn by ``key``.

    Raises:
        DepthLMError: as `project_lidar`.
    """
    found, dropped = project_lidar(points, to_camera, camera, **options)
    xy, z = thinned(found, labels, key)
    return {"xy": xy, "z": z, "dropped": dropped}
