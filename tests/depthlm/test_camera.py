"""Projection and back-projection, z and distance, and cameras that can't be."""

import math

import numpy as np
import pytest

from depthlm.camera import Camera, checked_pose
from depthlm.errors import DepthLMError

DISTORTED = Camera(640, 480, 500.0, 510.0, 330.0, 236.0, (-0.2, 0.05, 0.001, -0.002))


@pytest.mark.parametrize("camera", [Camera.from_fov(640, 480, 70), DISTORTED])
def test_project_inverts_back_project(camera):
    rng = np.random.default_rng(0)
    xy = rng.uniform((20, 20), (620, 460), (500, 2))
    z = rng.uniform(0.3, 80, 500)
    assert np.abs(camera.project(camera.back_project(xy, z)) - xy).max() < 1e-6


def test_distance_is_the_length_of_the_point():
    xy, z = np.array([[0.0, 0.0], [330.0, 236.0]]), np.array([2.0, 2.0])
    points = DISTORTED.back_project(xy, z)
    assert DISTORTED.z_to_distance(xy, z) == pytest.approx(np.linalg.norm(points, axis=1))
    assert DISTORTED.z_to_distance(xy, z)[1] == pytest.approx(2.0)  # at the principal point they are the same
    assert DISTORTED.distance_to_z(xy, DISTORTED.z_to_distance(xy, z)) == pytest.approx(z)


def test_field_of_view_and_scaling_keep_the_image_edges():
    camera = Camera.from_fov(640, 480, 70)
    assert camera.fov_deg[0] == pytest.approx(70)
    half = camera.scaled(320, 240)
    assert half.fov_deg == pytest.approx(camera.fov_deg)
    assert (half.cx + 0.5) * 2 - 0.5 == pytest.approx(camera.cx)


def test_world_round_trip():
    turn = np.eye(4)
    turn[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    turn[:3, 3] = (1, 2, 3)
    camera = Camera.from_fov(64, 48, 70, pose=turn)
    points = np.random.default_rng(0).normal(size=(10, 3))
    assert camera.from_world(camera.to_world(points)) == pytest.approx(points)
    assert camera.to_world([[0, 0, 2]])[0] == pytest.approx([3, 2, 3])


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 500, 320, 240),
        (math.nan, 500, 320, 240),
        (500, -1, 320, 240),
        (500, 500, math.inf, 240),
        (500, 500, 9e4, 240),
    ],
)
def test_impossible_intrinsics(numbers):
    with pytest.raises(DepthLMError) as error:
        Camera(640, 480, *numbers)
    assert error.value.kind == "bad intrinsics"


@pytest.mark.parametrize("change", ["shape", "nan", "mirror", "scale"])
def test_impossible_poses(change):
    pose = np.eye(4)
    if change == "shape":
        pose = pose[:3]
    elif change == "nan":
        pose[0, 3] = math.nan
    elif change == "mirror":
        pose[0, 0] = -1
    else:
        pose[:3, :3] *= 2
    with pytest.raises(DepthLMError):
        checked_pose(pose)
