"""Columns exposed one after the other: the pixel at which a point appears is that of the camera at that very moment."""

import cv2
import numpy as np
import pytest

from data_gen.poses import rigid
from data_gen.rolling_shutter import RollingShutterCamera, turned
from depthlm.camera import Camera

CAMERA = Camera(1920, 1280, 2060, 2060, 959.5, 639.5)
# A camera to the left of a vehicle that drives along x: ahead (z) is y, right (x) is x, down (y) is -z.
SIDE = rigid(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), (1.5, 0.3, 2.0))


def moving(times=(-0.02, 0.02), axis=0, velocity=(15.0, 0, 0), turning=(0, 0, 0)):
    vehicle = rigid(np.eye(3), (100.0, 200.0, 0.0))
    return RollingShutterCamera(vehicle, np.array(velocity), np.array(turning, float), SIDE, axis, times)


def test_a_kerb_beside_a_fast_car():
    """Seen when column u is exposed, the point has come nearer by what the car drove until then: solved by hand."""
    world = np.array([[103.5, 206.3, 2.0]])  # 2 m ahead of the camera's axis, 6 m away, at its height
    camera = moving()
    seen = camera.see(world, CAMERA)
    # u = cx + f (2 - v t) / 6 with t = -0.02 + 0.04 (u + 0.5) / 1920; linear in u.
    slope = 2060 / 6 * 15 * 0.04 / 1920
    u = (959.5 + 2060 / 6 * (2 + 15 * 0.02) - slope * 0.5) / (1 + slope)
    xy = CAMERA.project(seen)
    np.testing.assert_allclose(xy, [(u, 639.5)], atol=0.01)
    still = CAMERA.project(moving(velocity=(0.0, 0, 0)).see(world, CAMERA))
    assert abs(still[0, 0] - u) > 50, "that is what a camera taken as standing still would be wrong by"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("times", [(-0.02, 0.02), (0.03, -0.01), (0.01, 0.01)])
def test_each_point_is_where_the_camera_of_its_own_moment_sees_it(axis, times):
    camera = moving(times, axis, (12.0, 3.0, 0.1), (0.05, -0.02, 0.4))
    rng = np.random.default_rng(0)
    world = np.stack([rng.uniform(98, 105, 400), rng.uniform(204, 240, 400), rng.uniform(-1, 5, 400)], axis=1)
    points = camera.see(world, CAMERA)
    inside = CAMERA.sees(points)
    assert inside.sum() > 100
    for point, place in zip(points[inside], world[inside], strict=True):
        share = (CAMERA.project(point)[0, axis] + 0.5) / (1920, 1280)[axis]
        pose = camera.pose_at(share)
        np.testing.assert_allclose((place - pose[:3, 3]) @ pose[:3, :3], point, atol=1e-4)


def test_points_behind_or_beside_are_left_outside():
    points = moving().see(np.array([[101.5, 190.0, 2], [150.0, 201.0, 2]]), CAMERA)
    assert not CAMERA.sees(points).any()
    assert moving().see(np.zeros((0, 3)), CAMERA).shape == (0, 3)


def test_turned_is_the_usual_rotation():
    rng = np.random.default_rng(1)
    points, angles = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    angles[0] = 0
    expected = [cv2.Rodrigues(angle)[0] @ point for angle, point in zip(angles, points, strict=True)]
    np.testing.assert_allclose(turned(points, angles), expected, atol=1e-12)
