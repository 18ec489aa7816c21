"""ARKitScenes: laser and LiDAR depth, confidence, world-to-camera trajectories, times a millisecond apart.

Folders, file names and formats as in DATA.md, raw/README.md and depth_upsampling/README.md of
github.com/apple/ARKitScenes; poses and the search for intrinsics as in its threedod/benchmark_scripts loader.
"""

import cv2
import numpy as np
import pytest
from conftest import encode_png

from data_gen.readers import READERS
from data_gen.readers.arkitscenes import ARKitScenesReader
from depthlm.errors import DepthLMError

VIDEO, TIME = "47333462", "3949.112"
KEY = f"Training/{VIDEO}/{TIME}"


@pytest.fixture(scope="module")
def wide():
    return encode_png(np.zeros((1440, 1920, 3), np.uint8))


@pytest.fixture
def tree(tmp_path, wide):
    root = tmp_path / "Training" / VIDEO
    lowres, laser = np.zeros((192, 256), np.uint16), np.zeros((1440, 1920), np.uint16)
    lowres[20, 240] = lowres[50, 50] = 2000
    laser[153, 1803] = 2003
    confidence = np.full((192, 256), 2, np.uint8)
    confidence[50, 50] = 1
    small = encode_png(np.zeros((192, 256, 3), np.uint8))
    files = {"wide": wide, "lowres_wide": small, "highres_depth": encode_png(laser), "lowres_depth": encode_png(lowres)}
    for name, data in (files | {"confidence": encode_png(confidence)}).items():
        (root / name).mkdir(parents=True)
        (root / name / f"{VIDEO}_{TIME}.png").write_bytes(data)
    for name, numbers, time in (
        ("wide", "1920 1440 1600.5 1601.5 950.25 730.75", TIME),
        ("lowres_wide", "256 192 213.4 213.5 126.5 97.2", "3949.113"),
    ):
        (root / f"{name}_intrinsics").mkdir()
        (root / f"{name}_intrinsics" / f"{VIDEO}_{time}.pincam").write_text(numbers)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array([0.3, -0.2, 0.5]))[0], (1, 2, 3)
    w2c = np.linalg.inv(pose)
    line = " ".join(map(repr, [3949.1149, *cv2.Rodrigues(w2c[:3, :3])[0].ravel().tolist(), *w2c[:3, 3].tolist()]))
    (root / "lowres_wide.traj").write_text(f"3948.0 0 0 0 0 0 0\n{line}\n")
    return tmp_path, pose


def test_laser_depth_is_dense(tree):
    folder, pose = tree
    reader = READERS.get("arkitscenes")(folder)
    assert list(reader.keys()) == [KEY]
    frame = reader.read(KEY)
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[153, 1803]])
    assert frame.depth[153, 1803] == pytest.approx(2.003)
    np.testing.assert_allclose(frame.camera.pose, pose, atol=1e-9)
    point = np.array([(1803 - 950.25) / 1600.5, (153 - 730.75) / 1601.5, 1]) * 2.003
    np.testing.assert_allclose(frame.camera.project([point]), [[1803, 153]], atol=1e-6)
    distance = frame.camera.z_to_distance([[1803, 153]], [2.003])[0]
    assert distance == pytest.approx(np.linalg.norm(point))
    assert distance > 2.3
    assert (frame.split, frame.timestamp) == ("train", 3949.112)


def test_lidar_depth_becomes_labels_at_the_pixels_centres(tree):
    folder, _ = tree
    frame = ARKitScenesReader(folder, assets="lidar").read(KEY)
    np.testing.assert_allclose(frame.xy, [[240.5 * 7.5 - 0.5, 20.5 * 7.5 - 0.5]])  # the doubtful one is left out
    np.testing.assert_allclose(frame.z, [2])
    assert len(ARKitScenesReader(folder, assets="lidar", min_confidence=1).read(KEY).z) == 2


def test_small_images_with_intrinsics_a_millisecond_off(tree):
    folder, pose = tree
    frame = ARKitScenesReader(folder, assets="lowres").read(KEY)
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[20, 240]])
    assert (frame.camera.fx, frame.camera.cy) == (213.4, 97.2)
    np.testing.assert_allclose(frame.camera.pose, pose, atol=1e-9)


def test_without_a_near_pose_there_is_none(tree):
    folder, _ = tree
    (folder / "Training" / VIDEO / "lowres_wide.traj").write_text("3949.2 0 0 0 0 0 0\n")
    assert ARKitScenesReader(folder).read(KEY).camera.pose is None
    (folder / "Training" / VIDEO / "lowres_wide.traj").unlink()
    assert ARKitScenesReader(folder).read(KEY).camera.pose is None


def test_the_3dod_download_has_a_folder_in_between(tree):
    folder, _ = tree
    source = folder / "Training" / VIDEO
    source.rename(folder / "frames")
    source.mkdir()
    (folder / "frames").rename(source / f"{VIDEO}_frames")
    assert ARKitScenesReader(folder, assets="lowres").read(KEY).z.size == 0


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [
        (f"wide_intrinsics/{VIDEO}_{TIME}.pincam", None, "missing intrinsics"),
        (f"wide_intrinsics/{VIDEO}_{TIME}.pincam", b"640 480 500 500 320 240", "bad intrinsics"),
        (f"highres_depth/{VIDEO}_{TIME}.png", None, "missing depth"),
        ("lowres_wide.traj", b"3949.112 0 0\n", "bad pose"),
        ("lowres_wide.traj", b"3949.112 nan 0 0 0 0 0\n", "bad pose"),
    ],
)
def test_a_bad_file_says_why(tree, file, data, kind):
    path = tree[0] / "Training" / VIDEO / file
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DepthLMError) as caught:
        ARKitScenesReader(tree[0]).read(KEY)
    assert caught.value.kind == kind


def test_missing_confidence_and_an_empty_split(tree):
    folder, _ = tree
    (folder / "Training" / VIDEO / "confidence" / f"{VIDEO}_{TIME}.png").unlink()
    with pytest.raises(DepthLMError, match="no such confidence file"):
        ARKitScenesReader(folder, assets="lidar").read(KEY)
    with pytest.raises(DepthLMError, match="holds no Validation/VIDEO/wide"):
        ARKitScenesReader(folder, split="val").keys()
