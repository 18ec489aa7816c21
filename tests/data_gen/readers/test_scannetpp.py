"""ScanNet++ iPhone: 256x192 depth on 1920x1440 frames, COLMAP's half pixel and inverse poses, ARKit's poses.

Layout as in common/scene_release.py and iphone/prepare_iphone_data.py of github.com/scannetpp/scannetpp; that depth and
image share field of view and intrinsics as its authors say there (issue 140); COLMAP's files as on
colmap.github.io/format.html.
"""

import json

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.scannetpp import ScanNetPPReader
from depthlm.errors import DepthLMError

SCENE = "0a5c013435"
FX, FY, CX, CY = 1450.5, 1449.5, 956.3, 721.8  # COLMAP: corners at integers
ANGLE = np.radians(30)


@pytest.fixture(scope="module")
def image():
    return encode_png(np.zeros((1440, 1920, 3), np.uint8))


@pytest.fixture
def tree(tmp_path, image):
    """The camera stands at (1, 2, 3) and looks along the world's y, 30 degrees rolled."""
    root = tmp_path / "data" / SCENE / "iphone"
    for name in ("rgb", "depth", "colmap"):
        (root / name).mkdir(parents=True)
    depth = np.zeros((192, 256), np.uint16)
    depth[20, 240] = 2000
    for number in (0, 5, 10):
        (root / "rgb" / f"frame_{number:06d}.jpg").write_bytes(image)
        (root / "depth" / f"frame_{number:06d}.png").write_bytes(encode_png(depth))
    pose = np.eye(4)
    roll = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
    pose[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ roll
    pose[:3, 3] = 1, 2, 3
    w2c = np.linalg.inv(pose)
    w = np.sqrt(1 + np.trace(w2c[:3, :3])) / 2
    r = w2c[:3, :3]
    q = [w, (r[2, 1] - r[1, 2]) / 4 / w, (r[0, 2] - r[2, 0]) / 4 / w, (r[1, 0] - r[0, 1]) / 4 / w]
    (root / "colmap" / "cameras.txt").write_text(
        f"# Camera list\n1 OPENCV 1920 1440 {FX} {FY} {CX} {CY} 0.05 -0.1 0.001 0.0\n"
    )
    numbers = " ".join(f"{v:.12f}" for v in (*q, *w2c[:3, 3]))
    (root / "colmap" / "images.txt").write_text(
        "# Image list with two lines of data per image:\n"
        f"1 {numbers} 1 frame_000000.jpg\n\n"  # no points: an empty line
        f"2 {numbers} 1 frame_000005.jpg\n10.5 20.5 -1 30.5 40.5 7\n"
    )
    k = [[1440.0, 0, 959.5], [0, 1441.0, 719.5], [0, 0, 1]]
    rows = {
        f"frame_{n:06d}": {"intrinsic": k, "aligned_pose": pose.tolist(), "pose": np.eye(4).tolist()} for n in (0, 10)
    }
    (root / "pose_intrinsic_imu.json").write_text(json.dumps(rows))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "nvs_sem_train.txt").write_text(f"{SCENE}\n")
    (tmp_path / "splits" / "nvs_sem_val.txt").write_text("")
    return tmp_path


def test_a_known_point_ends_at_the_measured_pixels_centre(tree):
    reader = READERS.get("scannetpp")(tree)
    assert reader.keys() == [f"{SCENE}/frame_000000", f"{SCENE}/frame_000010"]
    frame = reader.read(f"{SCENE}/frame_000000")
    assert frame.depth is None
    np.testing.assert_allclose(frame.xy, [[240.5 * 7.5 - 0.5, 20.5 * 7.5 - 0.5]])
    assert frame.z[0] == 2
    camera = frame.camera
    assert (camera.cx, camera.cy) == (CX - 0.5, CY - 0.5)
    assert camera.distortion == (0.05, -0.1, 0.001, 0.0)
    point = camera.back_project(frame.xy, frame.z)
    np.testing.assert_allclose(camera.project(point), frame.xy, atol=1e-4)
    np.testing.assert_allclose(camera.to_world([[0, 0, 2]])[0], (1, 4, 3), atol=1e-9)
    np.testing.assert_allclose(camera.to_world([[1, 0, 0]])[0], (1 + np.cos(ANGLE), 2, 3 - np.sin(ANGLE)), atol=1e-9)


def test_the_distance_is_that_of_unit_z(tree):
    """z·sqrt(x² + y² + 1) with x, y on the plane z = 1; sqrt(x² + y² + z²) mixes the two and is 15 % short here."""
    frame = ScanNetPPReader(tree, poses="arkit").read(f"{SCENE}/frame_000010")
    x, y = (frame.xy[0, 0] - 959.5) / 1440, (frame.xy[0, 1] - 719.5) / 1441
    distance = frame.camera.z_to_distance(frame.xy, frame.z)[0]
    assert distance == pytest.approx(2 * np.sqrt(x * x + y * y + 1))
    assert distance == pytest.approx(np.linalg.norm(frame.camera.back_project(frame.xy, frame.z)))
    assert np.sqrt(x * x + y * y + 4) < 0.9 * distance
    np.testing.assert_allclose(frame.camera.pose[:3, 3], [1, 2, 3])


def test_one_bad_row_of_arkit_costs_one_frame(tree):
    path = tree / "data" / SCENE / "iphone" / "pose_intrinsic_imu.json"
    rows = json.loads(path.read_text())
    rows["frame_000000"]["aligned_pose"][0][0] = float("nan")
    path.write_text(json.dumps(rows))
    assert curate(ScanNetPPReader(tree, poses="arkit"), tree / "store").counts == {"bad pose": 1}


def test_frames_unpacked_at_a_smaller_size(tree):
    path = tree / "data" / SCENE / "iphone" / "rgb" / "frame_000000.jpg"
    path.write_bytes(encode_png(np.zeros((384, 512, 3), np.uint8)))
    large = ScanNetPPReader(tree).read(f"{SCENE}/frame_000000").camera
    assert (large.width, large.height) == (512, 384)
    assert large.fx == pytest.approx(FX * 512 / 1920)
    assert large.cx == pytest.approx(CX * 512 / 1920 - 0.5)
    path.write_bytes(encode_png(np.zeros((512, 512, 3), np.uint8)))
    with pytest.raises(DepthLMError, match="image is 512x512, its camera 1920x1440"):
        ScanNetPPReader(tree).read(f"{SCENE}/frame_000000")


def test_a_frame_without_a_pose_is_counted(tree):
    assert curate(ScanNetPPReader(tree), tree / "store").counts == {"no pose": 1}


def test_splits(tree):
    with pytest.raises(DepthLMError, match="of split val"):
        ScanNetPPReader(tree, split="val").keys()
    assert len(ScanNetPPReader(tree, split="all", every=1).keys()) == 3
    (tree / "splits" / "nvs_sem_train.txt").unlink()
    with pytest.raises(DepthLMError, match=r"nvs_sem_train\.txt: no such split file"):
        ScanNetPPReader(tree).keys()


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("colmap/cameras.txt", "1 OPENCV_FISHEYE 1920 1440 1 1 1 1 0 0 0 0", "bad intrinsics"),
        ("colmap/cameras.txt", "2 PINHOLE 1920 1440 1400 1400 960 720", "bad intrinsics"),
        ("colmap/images.txt", "1 1 0 0\n", "bad pose"),
        ("colmap/images.txt", "1 0 0 0 0 0 0 0 1 frame_000000.jpg\n", "bad pose"),
        ("depth/frame_000000.png", "PNG", "unreadable depth"),
    ],
)
def test_a_bad_file_says_why(tree, file, text, kind):
    (tree / "data" / SCENE / "iphone" / file).write_text(text)
    with pytest.raises(DepthLMError) as caught:
        ScanNetPPReader(tree).read(f"{SCENE}/frame_000000")
    assert caught.value.kind == kind
