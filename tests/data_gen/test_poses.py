"""Poses as datasets write them, against OpenCV's rotations."""

import cv2
import numpy as np
import pytest

from data_gen.poses import from_axis_angle, from_quaternion, inverted
from depthlm.camera import checked_pose
from depthlm.errors import DepthLMError


def test_quaternion_and_axis_angle_are_one_rotation():
    axis, angle = np.array([1.0, 2.0, -2.0]) / 3, 0.7
    xyzw = [*(np.sin(angle / 2) * axis), np.cos(angle / 2)]
    pose = from_quaternion((1, 2, 3), np.multiply(xyzw, 2.5))  # of any length
    np.testing.assert_allclose(pose, from_axis_angle((1, 2, 3), axis * angle), atol=1e-12)
    np.testing.assert_allclose(pose[:3, :3], cv2.Rodrigues(axis * angle)[0], atol=1e-12)
    np.testing.assert_allclose(inverted(pose) @ checked_pose(pose), np.eye(4), atol=1e-12)


@pytest.mark.parametrize("xyzw", [(0, 0, 0, 0), (0, 0, np.nan, 1), (0, 0, 0, np.inf)])
def test_no_quaternion(xyzw):
    with pytest.raises(DepthLMError) as caught:
        from_quaternion((0, 0, 0), xyzw)
    assert caught.value.kind == "bad pose"
