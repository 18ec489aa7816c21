"""Depth of one camera as labels of the camera beside it: places, z, and what is hidden."""

import numpy as np

from data_gen.registration import register
from depthlm.camera import Camera

DEPTH_CAMERA = Camera(320, 240, 290, 290, 160, 120)
CAMERA = Camera(640, 480, 525, 525, 320, 240, distortion=(0.1, -0.2, 0.001, 0.0))
MOVE = np.array([[1, 0, 0, -0.025], [0, 1, 0, 0], [0, 0, 1, 0.01], [0, 0, 0, 1.0]])


def test_a_known_point_ends_at_the_known_pixel():
    depth = np.zeros((240, 320), np.float32)
    depth[50, 60] = 2
    xy, z = register(depth, DEPTH_CAMERA, CAMERA, MOVE)
    point = [(60 - 160) / 290 * 2 - 0.025, (50 - 120) / 290 * 2, 2.01]
    np.testing.assert_allclose(xy, CAMERA.project([point]), atol=1e-4)
    np.testing.assert_allclose(z, [2.01], rtol=1e-6)


def test_what_the_colour_camera_sees_something_before_is_left_out():
    """A plate at 1 m before a wall at 4 m: a strip of wall that the depth camera sees is hidden from 100 mm aside."""
    depth = np.full((240, 320), 4, np.float32)
    depth[80:160, 100:200] = 1
    move = np.eye(4)
    move[0, 3] = 0.1  # the colour camera stands 100 mm to the left
    xy, z = register(depth, DEPTH_CAMERA, CAMERA, move)
    on_plate = z == 1
    left, right = xy[on_plate, 0].min(), xy[on_plate, 0].max()
    inside = (xy[:, 0] > left) & (xy[:, 0] < right) & (xy[:, 1] > 200) & (xy[:, 1] < 270)
    assert on_plate.sum() == 80 * 100
    assert (z[inside] == 1).all()
    assert (z == 4).sum() > 50_000


def test_points_behind_or_beside_the_camera_are_left_out():
    depth = np.full((240, 320), 1, np.float32)
    move = np.eye(4)
    move[2, 3] = -2
    assert len(register(depth, DEPTH_CAMERA, CAMERA, move)[1]) == 0
    move[:3, 3] = 50, 0, 0
    assert len(register(depth, DEPTH_CAMERA, CAMERA, move)[1]) == 0
