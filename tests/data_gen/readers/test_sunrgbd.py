"""SUN RGB-D: bit-rotated millimetres, pixels counted from 1, the official split.

Layout and encoding as in the dataset's own toolbox, SUNRGBDtoolbox.zip of rgbd.cs.princeton.edu: ``read3dPoints.m``
(rotation, /1000, cut at 8 m), ``read_3d_pts_general.m`` (pixels counted from 1), ``traintestSUNRGBD/allsplit.mat``.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.sunrgbd import SunRgbdReader, decode_bit_rotated
from depthlm.errors import DepthLMError

KEY = "kv1/NYUdata/NYU0001"


def rotated(millimetres):
    """As the files hold it: rotated left by three bits."""
    raw = np.asarray(millimetres, np.uint16)
    return (raw << 3) | (raw >> 13)


def write_frame(root, key, image, millimetres, k):
    for name, file, data in (
        ("image", "NYU0001.jpg", image),
        ("depth", "NYU0001.png", encode_png(rotated(millimetres))),
        ("depth_bfx", "NYU0001_abs.png", encode_png(rotated(np.maximum(millimetres, 1)))),
    ):
        folder = root / "SUNRGBD" / key / name
        folder.mkdir(parents=True)
        (folder / file).write_bytes(data)
    (root / "SUNRGBD" / key / "intrinsics.txt").write_text(" ".join(f"{v:f}" for v in np.ravel(k)) + " ")


@pytest.fixture
def tree(tmp_path):
    """A point at (0.3, -0.2, 2.5) m, which the toolbox's formula puts at its pixel (300.0, 160.5) counted from 1."""
    millimetres = np.zeros((240, 320), int)
    millimetres[159, 299] = 2500
    millimetres[10, 10] = 9000  # beyond 8 m
    millimetres[11, 11] = 8191
    k = [[500, 0, 240], [0, 500, 200], [0, 0, 1]]
    write_frame(tmp_path, KEY, encode_png(np.zeros((240, 320, 3), np.uint8)), millimetres, k)
    return tmp_path


def test_a_known_point_ends_at_its_pixel_with_its_z(tree):
    frame = READERS.get("sunrgbd")(tree, split="all").read(KEY)
    np.testing.assert_allclose(frame.camera.project([[0.3, -0.2, 2.5]]), [[299, 159]], atol=1e-9)
    assert frame.depth[159, 299] == pytest.approx(2.5)
    distance = frame.camera.z_to_distance([[299, 159]], [2.5])
    assert distance == pytest.approx(np.sqrt(0.3**2 + 0.2**2 + 2.5**2))
    assert (frame.depth > 0).sum() == 1


def test_bits_are_rotated_not_divided_by_10000():
    """The published curation divides by 10000, which gives 0.8 of the truth; and large depths wrap round."""
    millimetres = np.array([[500, 2500, 8190, 8193, 20000]])
    depth = decode_bit_rotated(encode_png(rotated(millimetres)), "d")
    np.testing.assert_allclose(depth, millimetres / 1000, rtol=1e-6)
    published = rotated(millimetres)[0, :3] / 10000
    np.testing.assert_allclose(published / depth[0, :3], 0.8, atol=1e-3)
    assert rotated(millimetres)[0, 3] / 8000 < 0.01  # why dividing by 8000 is not enough


def test_every_count_comes_back():
    millimetres = np.arange(65536).reshape(256, 256)
    depth = decode_bit_rotated(encode_png(rotated(millimetres)), "d")
    np.testing.assert_array_equal(np.round(depth * 1000), millimetres)


def test_filled_depth_is_asked_for_by_name(tree):
    frame = SunRgbdReader(tree, split="all", depth="filled", min_m=0).read(KEY)
    assert (frame.depth > 0).sum() > 70_000


def test_the_official_split(tree):
    scipy_io = pytest.importorskip("scipy.io")
    folder = tree / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    folder.mkdir(parents=True)
    cells = np.empty((1, 1), object)
    cells[0, 0] = f"/n/fs/sun3d/data/SUNRGBD/{KEY}/"
    scipy_io.savemat(folder / "allsplit.mat", {"alltest": cells, "alltrain": cells[:, :0]})
    reader = SunRgbdReader(tree)
    assert reader.keys() == [KEY]
    assert reader.read(KEY).split == "test"
    with pytest.raises(DepthLMError, match="holds no folder"):
        SunRgbdReader(tree, split="train").keys()
    (folder / "allsplit.mat").write_bytes(b"MATLAB")
    with pytest.raises(DepthLMError, match=r"allsplit\.mat: can't be read"):
        SunRgbdReader(tree).keys()


def test_without_the_toolbox_the_split_says_what_to_do(tree):
    pytest.importorskip("scipy.io")
    with pytest.raises(DepthLMError, match=r"SUNRGBDtoolbox\.zip beside SUNRGBD, or take --split all"):
        SunRgbdReader(tree).keys()


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda f: (f / "depth" / "NYU0001.png").unlink(), "missing depth"),
        (lambda f: (f / "image" / "NYU0001.jpg").write_bytes(b"\xff\xd8"), "unreadable image"),
        (lambda f: (f / "intrinsics.txt").write_text("500 0 240"), "bad intrinsics"),
        (lambda f: (f / "intrinsics.txt").write_text("0 0 240 0 0 200 0 0 1"), "bad intrinsics"),
        (lambda f: (f / "depth" / "NYU0001.png").write_bytes(encode_png(np.ones((9, 9), np.uint16))), "depth size"),
        (lambda f: (f / "depth" / "NYU0001.png").write_bytes(encode_png(np.ones((240, 320), np.uint8))), "bad depth"),
        (lambda f: (f / "depth" / "NYU0001.png").write_bytes(encode_png(np.zeros((240, 320), np.uint16))), "no labels"),
    ],
)
def test_a_bad_frame_is_counted(tree, spoil, kind):
    good = tree / "SUNRGBD" / "kv1" / "NYUdata" / "NYU0002"
    shutil.copytree(tree / "SUNRGBD" / KEY, good)
    spoil(tree / "SUNRGBD" / KEY)
    report = curate(SunRgbdReader(tree, split="all"), tree / "store")
    assert report.total == 1
    assert next(iter(report.counts)).startswith(kind)


def test_a_link_may_not_lead_out(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "d.png"
    path = tree / "SUNRGBD" / KEY / "depth" / "NYU0001.png"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(DepthLMError, match="lies outside") as caught:
        SunRgbdReader(tree, split="all").read(KEY)
    assert caught.value.kind == "path outside root"


def test_real_frame(tmp_path, shared_data):
    """50,000 points that the toolbox made of a frame, written back as its depth map: each at its pixel, with its z."""
    calibration = json.loads((shared_data / "sunrgbd" / "000017_calib.json").read_bytes())
    points = np.fromfile(shared_data / "sunrgbd" / "000017.bin", "<f4").reshape(-1, 6).astype(float)
    u = points[:, :3] @ np.array(calibration["depth2img"]).T
    xy, z = np.round(u[:, :2] / u[:, 2:]).astype(int) - 1, u[:, 2]  # the toolbox counts from 1
    millimetres = np.zeros((530, 730), int)
    millimetres[xy[:, 1], xy[:, 0]] = np.round(z * 1000)
    image = (shared_data / "sunrgbd" / "000017.jpg").read_bytes()
    write_frame(tmp_path, "kv2/kinect2data/000017", image, millimetres, calibration["K"])
    frame = SunRgbdReader(tmp_path, split="all").read("kv2/kinect2data/000017")
    assert (frame.camera.width, frame.camera.height) == (730, 530)
    assert frame.labels[1].min() > 1 and frame.labels[1].max() < 8
    in_camera = points[:, :3] @ np.array(calibration["points_to_cam_R"]).T
    back = frame.camera.back_project(xy, frame.depth[xy[:, 1], xy[:, 0]])
    assert np.abs(back - in_camera).max() < 0.006  # 4 mm of the calibration's decomposition, 1 mm of rounding
    colours = frame.pixels()[xy[:, 1], xy[:, 0]] / 255
    assert np.abs(colours - points[:, 3:]).max() < 0.01
