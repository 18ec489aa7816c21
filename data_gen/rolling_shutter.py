"""A camera that exposes its columns or rows one after the other while its vehicle drives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_gen.poses import from_axis_angle, inverted
from depthlm.camera import Camera, Floats

# Of "where is the point, so when was that column exposed": beside a fast car a round leaves a tenth of the error.
ROUNDS = 6


@dataclass(frozen=True, eq=False)
class RollingShutterCamera:
    """A camera on a vehicle of constant velocity during the exposure.

    Args:
        vehicle: vehicle-to-world at time 0, 4x4, metres.
        velocity: (3,) metres a second, in the world's axes.
        turning: (3,) angular velocity, radians a second, in the world's axes.
        camera_to_vehicle: 4x4, metres.
        axis: 0 when columns are exposed one after the other, 1 when rows are.
        times: seconds, at which the first and the last column (or row) is exposed.
    """

    vehicle: Floats
    velocity: Floats
    turning: Floats
    camera_to_vehicle: Floats
    axis: Literal[0, 1]
    times: tuple[float, float]

    def pose_at(self, share: float) -> Floats:
        """Camera-to-world, 4x4, when the column (or row) at ``share`` (0..1) of the image is exposed."""
        seconds = float(self._time(np.array(share)))
        out = from_axis_angle(np.zeros(3), self.turning * seconds) @ self.vehicle
        out[:3, 3] = self.vehicle[:3, 3] + self.velocity * seconds
        return out @ self.camera_to_vehicle

    def see(self, world: Floats, camera: Camera) -> Floats:
        """Points (N, 3) of the world, metres, in the camera's frame at the moment when their own column is exposed.

        Args:
            camera: intrinsics; its pose does not matter.
        """
        points = self._at(world, np.full(len(world), 0.5))
        x, y, z = points.T
        # What lies well outside the image at mid-exposure stays outside, and there a distortion means nothing.
        wide, tall = camera.width / camera.fx, camera.height / camera.fy
        near = np.flatnonzero((z > 0.1) & (np.abs(x) < wide * z) & (np.abs(y) < tall * z))
        size = (camera.width, camera.height)[self.axis]
        for _ in range(ROUNDS):
            points[near] = self._at(world[near], (camera.project(points[near])[:, self.axis] + 0.5) / size)
        return points

    def _time(self, share: Floats) -> Floats:
        return self.times[0] + np.clip(share, 0, 1) * (self.times[1] - self.times[0])

    def _at(self, world: Floats, share: Floats) -> Floats:
        """Points (N, 3) of the world in the camera's frame, each when the column at its share (N,) is exposed."""
        seconds = self._time(share)[:, None]
        moved = turned(world - self.vehicle[:3, 3] - self.velocity * seconds, -self.turning * seconds)
        to_camera = inverted(self.camera_to_vehicle)
        return moved @ self.vehicle[:3, :3] @ to_camera[:3, :3].T + to_camera[:3, 3]


def turned(points: Floats, axis_angle: Floats) -> Floats:
    """Points (N, 3), each turned by its own rotation vector (N, 3), radians (Rodrigues' formula)."""
    angle = np.linalg.norm(axis_angle, axis=1, keepdims=True)
    axis = axis_angle / np.maximum(angle, 1e-12)
    along = axis * (axis * points).sum(axis=1, keepdims=True)
    return along + (points - along) * np.cos(angle) + np.cross(axis, points) * np.sin(angle)
