"""SUN RGB-D. Layout as of SUNRGBD.zip and the toolbox's readme and read3dPoints.m (rgbd.cs.princeton.edu)."""

import json

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.sunrgbd import unrotate
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

FRAME = "kv1/NYUdata/NYU0001"


def rotated(millimetres):
    """What the dataset stores for millimetres: 16 bits, rotated left by three."""
    mm = np.asarray(millimetres, np.uint16)
    return (mm << 3) | (mm >> 13)


def write(root, frame=FRAME, millimetres=None, intrinsics="60.0 0 32.5 0 61.0 24.5 0 0 1"):
    mm = np.full((48, 64), 2000) if millimetres is None else millimetres
    for kind, suffix, data in (
        ("image", "jpg", jpeg()),
        ("depth", "png", encode_png(rotated(mm))),
        ("depth_bfx", "png", encode_png(rotated(np.full((48, 64), 3000)))),
    ):
        path = root / "SUNRGBD" / frame / kind / f"0000001.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "SUNRGBD" / frame / "intrinsics.txt").write_text(intrinsics)
    return root


def jpeg():
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_known_point_ends_at_its_pixel(tmp_path):
    mm = np.full((48, 64), 2000)
    mm[40, 3] = 4321
    frame = READERS.get("sunrgbd")(write(tmp_path, millimetres=mm)).read(FRAME)
    assert frame.depth[40, 3] == pytest.approx(4.321)
    distance = frame.camera.z_to_distance([[3, 40]], [frame.depth[40, 3]])[0]
    assert distance == pytest.approx(4.321 * np.sqrt(1 + (28.5 / 60) ** 2 + (16.5 / 61) ** 2))
    assert (frame.camera.cx, frame.camera.cy) == (31.5, 23.5)


def test_counts_are_rotated_millimetres_and_not_ten_thousandths():
    """4 m are stored as 32000: /8000 is right, /10000 would say 3.2 m, exactly at the threshold of delta1."""
    stored = rotated([4000])
    assert stored[0] == 32000
    assert unrotate(stored)[0] / 1000 == 4.0
    assert stored[0] / 10000 == pytest.approx(0.8 * 4.0)


def test_every_count_comes_back():
    mm = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(unrotate(rotated(mm)), mm)


def test_holes_are_unknown_unless_the_filled_map_is_wanted(tmp_path):
    mm = np.full((48, 64), 2000)
    mm[:, :32] = 0
    mm[0, 63] = 60000  # beyond any of the sensors
    write(tmp_path, millimetres=mm)
    measured = READERS.get("sunrgbd")(tmp_path).read(FRAME)
    assert (measured.depth[:, :32] == 0).all()
    assert measured.depth[0, 63] == 0
    assert (READERS.get("sunrgbd")(tmp_path, filled=True).read(FRAME).depth == 3).all()


def test_sensors_and_order(tmp_path):
    for frame in ("xtion/sun3ddata/b", FRAME, "kv2/kinect2data/a"):
        write(tmp_path, frame)
    assert READERS.get("sunrgbd")(tmp_path).keys() == [FRAME, "kv2/kinect2data/a", "xtion/sun3ddata/b"]
    assert READERS.get("sunrgbd")(tmp_path / "SUNRGBD", sensors="kv2").keys() == ["kv2/kinect2data/a"]
    with pytest.raises(DepthLMError, match="sensors: kinect is not known"):
        READERS.get("sunrgbd")(tmp_path, sensors="kinect")
    with pytest.raises(DepthLMError, match="holds none of kv1"):
        READERS.get("sunrgbd")(tmp_path / "SUNRGBD" / "kv2")


def test_one_bad_frame_is_counted(tmp_path):
    write(tmp_path)
    write(tmp_path, "kv1/b3dodata/img_1", intrinsics="1 2 3")
    write(tmp_path, "kv1/b3dodata/img_2", millimetres=np.full((40, 64), 999))
    (write(tmp_path, "kv1/b3dodata/img_3") / "SUNRGBD/kv1/b3dodata/img_3/image/0000001.jpg").unlink()
    report = curate(READERS.get("sunrgbd")(tmp_path), tmp_path / "store")
    assert report.counts == {"bad intrinsics": 1, "image size differs": 1, "bad row": 1}
    assert FrameStore(tmp_path / "store").ids == [FRAME]


def test_a_real_frame(shared_data, tmp_path):
    """Real measured points, stored as the dataset stores depth: what is read back lies where its colour is."""
    calibration = json.loads((shared_data / "sunrgbd" / "000017_calib.json").read_text())
    raw = np.fromfile(shared_data / "sunrgbd" / "000017.bin", "<f4").reshape(-1, 6).astype(np.float64)
    points = raw[:, :3] @ np.array(calibration["points_to_cam_R"]).T
    k = np.array([[529.4986, 0, 364.99995], [0, 529.499, 264.99982], [0, 0, 1]])  # depth2img = k @ points_to_cam_R
    np.testing.assert_allclose(k @ np.array(calibration["points_to_cam_R"]), calibration["depth2img"], atol=0.01)
    # MATLAB counts pixels from 1; every point then falls on a whole pixel
    column, row = np.rint(points[:, :2] / points[:, 2:] * k[[0, 1], [0, 1]] + k[:2, 2] - 1).astype(int).T
    mm, colour = np.zeros((530, 730), np.uint16), np.zeros((530, 730, 3))
    mm[row, column], colour[row, column] = np.rint(points[:, 2] * 1000), raw[:, 3:] * 255
    write(tmp_path, millimetres=mm, intrinsics=" ".join(map(str, k.ravel())))
    photo = (shared_data / "sunrgbd" / "000017.jpg").read_bytes()
    (tmp_path / "SUNRGBD" / FRAME / "image" / "0000001.jpg").write_bytes(photo)
    frame = READERS.get("sunrgbd")(tmp_path).read(FRAME)
    known = frame.depth > 0
    assert known.sum() > 40_000
    assert 0.4 < frame.depth[known].min() < frame.depth[known].max() < 10
    assert np.abs(frame.pixels()[known] - colour[known]).max() < 1e-3
    ys, xs = np.nonzero(known)
    back = frame.camera.back_project(np.stack([xs, ys], axis=1), frame.depth[known])
    order = np.lexsort((column, row))
    np.testing.assert_allclose(back, points[order], atol=0.003)
