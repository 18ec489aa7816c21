"""TUM RGB-D: 5000 a metre, association by time, poses of the colour camera, each robot's camera.

Files and units as on cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats.
"""

import pickle
import shutil

import cv2
import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.tum_rgbd import CAMERAS, TumRgbdReader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

SEQUENCE = "rgbd_dataset_freiburg1_xyz"
TIMES = {"rgb": (1305031102.175304, 1305031102.211214, 1305031102.9), "depth": (1305031102.160407, 1305031102.226738)}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / SEQUENCE
    (root / "rgb").mkdir(parents=True)
    (root / "depth").mkdir()
    for i, time in enumerate(TIMES["rgb"]):
        (root / "rgb" / f"{time:.6f}.png").write_bytes(encode_png(np.full((480, 640, 3), i, np.uint8)))
    for i, time in enumerate(TIMES["depth"]):
        depth = np.zeros((480, 640), np.uint16)
        depth[80, 560] = 10000 + 5 * i
        depth[81, 561] = 60000  # 12 m
        (root / "depth" / f"{time:.6f}.png").write_bytes(encode_png(depth))
    for kind, times in TIMES.items():
        rows = "".join(f"{t:.6f} {kind}/{t:.6f}.png\n" for t in times)
        title = "color images" if kind == "rgb" else "depth maps"
        (root / f"{kind}.txt").write_text(f"# {title}\n# file: 'xyz.bag'\n# timestamp filename\n{rows}")
    poses = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"]
    poses += ["1305031102.1758 1.0 2.0 3.0 0.0 0.0 0.7071068 0.7071068", "1305031102.2158 1.1 2.0 3.0 0 0 0 1"]
    (root / "groundtruth.txt").write_text("\n".join(poses) + "\n")
    return tmp_path


def test_a_known_point_ends_at_its_pixel_with_its_z(tree):
    reader = READERS.get("tum-rgbd")(tree / SEQUENCE)
    key = next(iter(reader.keys()))
    frame = reader.read(key)
    assert key == f"{SEQUENCE}/1305031102.175304"
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[80, 560]])
    assert frame.depth[80, 560] == 2.0
    (fx, fy, cx, cy), d = CAMERAS["freiburg1"]
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    point = frame.camera.back_project([[560, 80]], [2.0])
    pixel, _ = cv2.projectPoints(point, np.zeros(3), np.zeros(3), k, np.array(d))
    np.testing.assert_allclose(pixel.ravel(), [560, 80], atol=1e-6)
    distance = frame.camera.z_to_distance([[560, 80]], [2.0])[0]
    assert distance == pytest.approx(np.linalg.norm(point))
    assert distance > 2.2
    # A quarter turn about the optical axis: the camera's x is the world's y.
    camera_x = frame.camera.to_world([[1, 0, 0]])[0] - frame.camera.pose[:3, 3]
    np.testing.assert_allclose(camera_x, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(frame.camera.pose[:3, 3], [1, 2, 3])
    assert frame.timestamp == pytest.approx(TIMES["rgb"][0])


def test_each_image_gets_the_depth_and_pose_nearest_in_time(tree):
    reader = TumRgbdReader(tree)
    frame = reader.read(list(reader.keys())[1])
    assert frame.depth[80, 560] == pytest.approx(2.001)
    assert frame.camera.pose[0, 3] == 1.1
    assert curate(reader, tree / "store").counts == {"missing depth": 1}  # the third image is half a second late
    assert pickle.loads(pickle.dumps(reader)).keys() == reader.keys()


def test_without_ground_truth_there_is_no_pose(tree):
    (tree / SEQUENCE / "groundtruth.txt").unlink()
    reader = TumRgbdReader(tree)
    assert reader.read(next(iter(reader.keys()))).camera.pose is None


def test_the_default_camera_and_an_unknown_one(tree):
    (tree / SEQUENCE).rename(tree / "mine")
    reader = TumRgbdReader(tree, intrinsics="default")
    camera = reader.read(next(iter(reader.keys()))).camera
    assert (camera.fx, camera.cx, camera.distortion) == (525, 319.5, ())
    with pytest.raises(DepthLMError, match="mine: is no sequence of freiburg1, freiburg2 or freiburg3"):
        TumRgbdReader(tree)


def test_frames_of_one_sequence_make_pairs(tree):
    curate(TumRgbdReader(tree), tree / "store")
    first, second = FrameStore(tree / "store")
    assert first.scene == second.scene == SEQUENCE
    np.testing.assert_allclose(second.camera.pose[:3, 3] - first.camera.pose[:3, 3], [0.1, 0, 0], atol=1e-9)


def test_one_sequence_or_many(tree):
    shutil.copytree(tree / SEQUENCE, tree / "rgbd_dataset_freiburg2_desk")
    many, one = TumRgbdReader(tree), TumRgbdReader(tree / SEQUENCE)
    assert many.settings()["sequences"] == [SEQUENCE, "rgbd_dataset_freiburg2_desk"]
    assert one.keys() == many.keys()[:3]
    assert one.read(one.keys()[0]).image == many.read(many.keys()[3]).image
    assert many.read(many.keys()[3]).camera.fx == 520.9
    assert TumRgbdReader(tree, every=2).keys() == [*many.keys()[:3:2], *many.keys()[3::2]]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("rgb.txt", None, r"holds no rgb\.txt"),
        ("rgb.txt", "now rgb/a.png", r"rgb\.txt: has a line that is not 'timestamp file'"),
        ("depth.txt", None, r"depth\.txt: no such list file"),
        ("depth.txt", "1 2 3", r"depth\.txt: has a line that is not 'timestamp file'"),
        ("groundtruth.txt", "1 2 3", "is not pose numbers"),
    ],
)
def test_spoilt_lists_are_named(tree, file, text, says):
    (tree / SEQUENCE / file).unlink()
    if text is not None:
        (tree / SEQUENCE / file).write_text(text)
    with pytest.raises(DepthLMError, match=says):
        reader = TumRgbdReader(tree)
        reader.read(reader.keys()[0])


@pytest.mark.parametrize(
    ("line", "kind"),
    [("1305031102.175 0 0 0 0 0 0 0\n", "bad pose"), ("1305031102.175 nan 0 0 0 0 0 1\n", "bad pose")],
)
def test_a_pose_that_is_none(tree, line, kind):
    (tree / SEQUENCE / "groundtruth.txt").write_text(line)
    reader = TumRgbdReader(tree)
    with pytest.raises(DepthLMError) as caught:
        reader.read(next(iter(reader.keys())))
    assert caught.value.kind == kind


def test_a_name_in_the_list_may_not_lead_out(tree):
    (tree / SEQUENCE / "depth.txt").write_text(f"{TIMES['depth'][0]} ../../../etc/passwd\n")
    reader = TumRgbdReader(tree)
    with pytest.raises(DepthLMError) as caught:
        reader.read(next(iter(reader.keys())))
    assert caught.value.kind == "path outside root"
