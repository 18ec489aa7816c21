"""Random cameras in a scene: several views that overlap and moved."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from data_gen.procedural.scene import Scene
from depthlm.camera import Camera

CLEARANCE_M = 0.3
TRIES = 200


def sample_cameras(
    rng: np.random.Generator,
    scene: Scene,
    n: int,
    width: int,
    height: int,
    fov_range: tuple[float, float] = (40.0, 110.0),
    distortion: bool = False,
) -> list[Camera]:
    """Up to ``n`` cameras of one field of view: height 1.0–1.8 m, pitch -14…+9°, each 0.1–3 m from the one before and
    turned from it by 15° or less; fewer when the scene leaves no room."""
    fov = float(rng.uniform(*fov_range))
    coefficients = (float(rng.uniform(-0.25, 0.05)), float(rng.uniform(-0.02, 0.06)), 0.0, 0.0) if distortion else ()
    cameras: list[Camera] = []
    place = _first_place(rng, scene)
    yaw = _open_direction(rng, scene, place)
    for _ in range(n):
        if cameras:
            moved = _next_place(rng, scene, place)
            if moved is None:
                break
            place, yaw = moved, yaw + math.radians(rng.uniform(-15, 15))
        pose = look(place, yaw, math.radians(rng.uniform(-14, 9)))
        cameras.append(Camera.from_fov(width, height, fov, distortion=coefficients, pose=pose))
    return cameras


def look(place: NDArray[np.float64], yaw: float, pitch: float) -> NDArray[np.float64]:
    """Camera-to-world pose, 4x4, in a y-down world: yaw about the vertical, then pitch (positive looks up), radians."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ tilt
    pose[:3, 3] = place
    return pose


def _first_place(rng: np.random.Generator, scene: Scene) -> NDArray[np.float64]:
    x0, x1, z0, z1 = scene.bounds
    place = np.zeros(3)
    for _ in range(TRIES):
        place = np.array([rng.uniform(x0, x1), -rng.uniform(1.0, 1.8), rng.uniform(z0, z1)])
        if scene.free(place, CLEARANCE_M):
            break
    return place


def _next_place(rng: np.random.Generator, scene: Scene, place: NDArray[np.float64]) -> NDArray[np.float64] | None:
    x0, x1, z0, z1 = scene.bounds
    for _ in range(TRIES):
        angle, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 3.0 if scene.kind == "street" else 1.5)
        new = place + np.array([step * math.cos(angle), rng.uniform(-0.1, 0.1), step * math.sin(angle)])
        inside = x0 <= new[0] <= x1 and z0 <= new[2] <= z1 and -1.8 <= new[1] <= -1.0
        if inside and np.linalg.norm(new - place) >= 0.1 and scene.free(new, CLEARANCE_M):
            return new
    return None


def _open_direction(rng: np.random.Generator, scene: Scene, place: NDArray[np.float64]) -> float:
    """Yaw towards a random point of the free ground; along the street in a street."""
    if scene.kind == "street":
        return float(rng.normal(0, 0.4))
    x0, x1, z0, z1 = scene.bounds
    target = np.array([rng.uniform(x0, x1), rng.uniform(z0, z1)])
    return float(math.atan2(target[0] - place[0], target[1] - place[2]))
