"""ScanNet v2 as exported: 640x480 depth on 1296x968 images through both intrinsics, lost poses, the split lists.

Layout, number formats and units as SensReader/python (SensorData.py, README.md) of github.com/ScanNet/ScanNet writes
them; list files as in its Tasks/Benchmark.
"""

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.scannet import ScanNetReader
from depthlm.errors import DepthLMError

SCAN = "scene0001_00"
COLOUR = (1169.62, 1167.11, 646.295, 489.927)
DEPTH = (577.87, 577.87, 319.5, 239.5)


def matrix(fx, fy, cx, cy):
    return [[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / SCAN
    for name in ("color", "depth", "pose", "intrinsic"):
        (root / name).mkdir(parents=True)
    depth = np.zeros((480, 640), np.uint16)
    depth[100:121, 500:521] = 2000
    depth[300, 300] = 65535
    for number in (0, 9, 10, 20):
        (root / "color" / f"{number}.jpg").write_bytes(encode_png(np.zeros((968, 1296, 3), np.uint8)))
        (root / "depth" / f"{number}.png").write_bytes(encode_png(depth))
        pose = np.full((4, 4), -np.inf) if number == 20 else np.eye(4) + np.outer([1, 2, 3, 0], [0, 0, 0, 1])
        np.savetxt(root / "pose" / f"{number}.txt", pose, fmt="%f")
    np.savetxt(root / "intrinsic" / "intrinsic_color.txt", matrix(*COLOUR), fmt="%f")
    np.savetxt(root / "intrinsic" / "intrinsic_depth.txt", matrix(*DEPTH), fmt="%f")
    for kind in ("color", "depth"):
        np.savetxt(root / "intrinsic" / f"extrinsic_{kind}.txt", np.eye(4), fmt="%f")
    (tmp_path / "scannetv2_train.txt").write_text(f"{SCAN}\nscene9999_00\n")
    return tmp_path


def test_a_known_point_ends_where_the_colour_camera_sees_it(tree):
    reader = READERS.get("scannet")(tree, labels=0)
    assert reader.keys() == [f"{SCAN}/{n}" for n in (0, 10, 20)]
    frame = reader.read(f"{SCAN}/0")
    point = np.array([(510 - 319.5) / 577.87, (110 - 239.5) / 577.87, 1]) * 2
    pixel = point[:2] / point[2] * COLOUR[:2] + COLOUR[2:]
    nearest = np.linalg.norm(frame.xy - pixel, axis=1).argmin()
    np.testing.assert_allclose(frame.xy[nearest], pixel, atol=1e-3)
    assert frame.z[nearest] == 2
    distance = frame.camera.z_to_distance([pixel], [2])[0]
    assert distance == pytest.approx(np.linalg.norm(point))
    assert distance > 2.1
    np.testing.assert_allclose(frame.camera.to_world([point])[0], np.add(point, (1, 2, 3)))
    assert len(frame.z) == 21 * 21  # every measured pixel once, 65535 none
    assert len(ScanNetReader(tree, labels=50).read(f"{SCAN}/0").z) == 50


def test_lost_tracking_is_counted(tree):
    assert curate(ScanNetReader(tree), tree / "store").counts == {"bad pose": 1}


def test_splits(tree):
    with pytest.raises(DepthLMError, match=r"scannetv2_val\.txt: no such split file \(copy it from Tasks/Benchmark"):
        ScanNetReader(tree, split="val").keys()
    assert len(ScanNetReader(tree, split="all", every=1).keys()) == 4
    (tree / "scannetv2_train.txt").write_text("../../etc\n")
    with pytest.raises(DepthLMError, match="lies outside"):
        ScanNetReader(tree).keys()


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("intrinsic/intrinsic_depth.txt", None, "missing intrinsics"),
        ("intrinsic/intrinsic_color.txt", "1 2 3", "bad intrinsics"),
        ("intrinsic/extrinsic_color.txt", "1 0 0 0.04 0 1 0 0 0 0 1 0 0 0 0 1", "bad calibration"),
        ("depth/0.png", None, "missing depth"),
        ("pose/0.txt", None, "missing pose"),
    ],
)
def test_a_bad_frame_says_why(tree, file, text, kind):
    (tree / SCAN / file).unlink()
    if text is not None:
        (tree / SCAN / file).write_text(text)
    with pytest.raises(DepthLMError) as caught:
        ScanNetReader(tree).read(f"{SCAN}/0")
    assert caught.value.kind == kind
