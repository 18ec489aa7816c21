"""DeepVideoMVS's layout, of its HoloLens set: millimetres, camera-to-world poses by alphabetical order.

Layout as under "Datasets" of the README of github.com/ardaduz/deep-video-mvs.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import encode_png
from reprojection import reprojected_z_error

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.hololens import HololensReader
from depthlm.errors import DepthLMError


@pytest.fixture
def tree(tmp_path):
    scene = tmp_path / "000"
    (scene / "images").mkdir(parents=True)
    (scene / "depth").mkdir()
    for i in range(3):
        depth = np.zeros((36, 54), np.uint16)
        depth[30, 50] = 1500 + i
        (scene / "images" / f"{4 * i + 3:05d}.png").write_bytes(encode_png(np.zeros((36, 54, 3), np.uint8)))
        (scene / "depth" / f"{4 * i + 3:05d}.png").write_bytes(encode_png(depth))
    np.savetxt(scene / "K.txt", [[50, 0, 26.95], [0, 49, 16.9], [0, 0, 1]])
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 0, 0.1, 0.2
    np.savetxt(scene / "poses.txt", poses.reshape(3, 16))
    return tmp_path


def test_a_known_point_ends_at_its_pixel_with_its_z(tree):
    reader = READERS.get("hololens")(tree)
    assert list(reader.keys()) == ["000/00003", "000/00007", "000/00011"]
    frame = reader.read("000/00007")
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[30, 50]])
    assert frame.depth[30, 50] == pytest.approx(1.501)
    point = np.array([(50 - 26.95) / 50, (30 - 16.9) / 49, 1]) * 1.501
    np.testing.assert_allclose(frame.camera.project([point]), [[50, 30]], atol=1e-9)
    distance = frame.camera.z_to_distance([[50, 30]], [1.501])[0]
    assert distance == pytest.approx(np.linalg.norm(point))
    assert distance > 1.69
    np.testing.assert_allclose(frame.camera.to_world([point])[0], np.add(point, (0.1, 0, 0)))


def test_every_keeps_each_images_own_pose(tree):
    reader = HololensReader(tree / "000", every=2)
    assert [reader.read(key).camera.pose[0, 3] for key in list(reader.keys())] == [0, 0.2]


def test_a_folder_of_any_name(tree):
    (tree / "000").rename(tree / "meeting room, 2nd")
    report = curate(HololensReader(tree), tree / "store")
    assert report.total == 0


def test_a_missing_pose_is_no_shift_of_the_others(tree):
    lines = (tree / "000" / "poses.txt").read_text().splitlines()
    (tree / "000" / "poses.txt").write_text("\n".join(lines[1:]))
    with pytest.raises(DepthLMError, match="has 2 poses for 3 images"):
        HololensReader(tree).read("000/00007")


def test_real_views_agree_through_their_poses(tmp_path, shared_data):
    source = shared_data / "hololens_dvmvs"
    scene = tmp_path / "000"
    shutil.copytree(source, scene)
    poses = json.loads((source / "poses.json").read_bytes())
    np.savetxt(scene / "poses.txt", np.array([p["cam_to_world"] for p in poses]).reshape(-1, 16))
    reader = HololensReader(tmp_path)
    assert len(reader.keys()) == 16
    frames = [reader.read(key) for key in list(reader.keys())[:4]]
    assert (frames[0].camera.width, frames[0].camera.height) == (540, 360)
    for frame in frames:
        known = frame.depth[frame.depth > 0]
        assert known.min() > 0.3 and known.max() < 15
    error, count = reprojected_z_error(frames[0], frames[3])
    assert error < 0.01 and count > 30_000
    moved = replace(frames[3], camera=replace(frames[3].camera, pose=frames[0].camera.pose))
    assert reprojected_z_error(frames[0], moved)[0] > 5 * error
