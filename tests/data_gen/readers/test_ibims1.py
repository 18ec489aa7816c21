"""iBims-1: z and not the distance, both masks, 50 m / 65535, K transposed in the .mat files, pixels counted from 1.

Files, units and variables as in the dataset's archives ibims1_core_raw.zip and ibims1_core_mat.zip of
mediatum.ub.tum.de/1455541; pixels and K as its evaluate_ibims.py uses them.
"""

import json

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.ibims1 import Ibims1Reader
from depthlm.errors import DepthLMError

FX, FY, CX, CY = 559.62, 558.14, 361.87, 241.99
POINT = np.array([(501 - CX) / FX, (101 - CY) / FY, 1]) * 3.5  # what the evaluation script makes of z = 3.5 m


@pytest.fixture
def maps():
    depth = np.zeros((480, 640))
    depth[100, 500] = 3.5
    depth[5, 5] = 7.0  # invalid
    depth[6, 6] = 8.0  # behind glass
    depth[7, 7] = 50.0  # the end of the range
    masks = {name: np.ones((480, 640), np.uint8) for name in ("mask_invalid", "mask_transp")}
    masks["mask_invalid"][5, 5] = masks["mask_transp"][6, 6] = 0
    return depth, masks


@pytest.fixture
def raw(tmp_path, maps):
    depth, masks = maps
    root = tmp_path / "ibims1_core_raw"
    for name in ("rgb", "depth", "calib", *masks):
        (root / name).mkdir(parents=True)
    (root / "rgb" / "office_01.png").write_bytes(encode_png(np.zeros((480, 640, 3), np.uint8)))
    (root / "depth" / "office_01.png").write_bytes(encode_png(np.round(depth * 65535 / 50).astype(np.uint16)))
    (root / "calib" / "office_01.txt").write_text(f"{FX},{FY},{CX},{CY}\n")
    for name, mask in masks.items():
        Image.fromarray(mask > 0).save(root / name / "office_01.png")  # 1 bit
    return tmp_path


@pytest.fixture
def mat(tmp_path, maps):
    scipy_io = pytest.importorskip("scipy.io")
    depth, masks = maps
    k = np.array([[FX, 0, 0], [0, FY, 0], [CX, CY, 1]])
    (tmp_path / "ibims1_core_mat").mkdir()
    data = {"rgb": np.zeros((480, 640, 3), np.uint8), "depth": depth, "calib": k, **masks}
    scipy_io.savemat(tmp_path / "ibims1_core_mat" / "office_01.mat", {"data": data}, do_compression=True)
    return tmp_path


@pytest.mark.parametrize("layout", ["raw", "mat"])
def test_a_known_point_ends_at_its_pixel_with_its_z(layout, request):
    frame = READERS.get("ibims1")(request.getfixturevalue(layout)).read("office_01")
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[100, 500]])
    assert frame.depth[100, 500] == pytest.approx(3.5, abs=5e-4)  # z as it stands, not divided by the ray's length
    np.testing.assert_allclose(frame.camera.project([POINT]), [[500, 100]], atol=1e-9)
    distance = frame.camera.z_to_distance([[500, 100]], [3.5])[0]
    assert distance == pytest.approx(np.linalg.norm(POINT))
    assert distance > 3.7
    assert (frame.dataset, frame.split, frame.camera.fy) == ("ibims1", "test", FY)


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [
        ("depth/office_01.png", None, "missing depth"),
        ("mask_transp/office_01.png", None, "missing mask"),
        ("mask_transp/office_01.png", b"PNG", "unreadable mask"),
        ("mask_transp/office_01.png", encode_png(np.ones((4, 4), np.uint8)), "bad mask"),
        ("calib/office_01.txt", b"559.62,558.14\n", "bad intrinsics"),
        ("calib/office_01.txt", b"559.62,558.14,4000,241\n", "bad intrinsics"),
    ],
)
def test_a_bad_frame_says_why(raw, file, data, kind):
    path = raw / "ibims1_core_raw" / file
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DepthLMError) as caught:
        Ibims1Reader(raw).read("office_01")
    assert caught.value.kind == kind


def test_a_broken_mat_file_is_counted(mat):
    (mat / "ibims1_core_mat" / "office_02.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    assert curate(Ibims1Reader(mat), mat / "store").counts == {"unreadable image": 1}


def test_an_empty_folder(tmp_path):
    with pytest.raises(DepthLMError, match="holds neither"):
        Ibims1Reader(tmp_path).keys()


def test_real_images_with_their_labels_in_the_official_layout(raw, shared_data):
    """Real images, calibrations and z labels, written as the archive has them: the same z at the same pixels."""
    root = raw / "ibims1_core_raw"
    rows = (shared_data / "ibims1_dev" / "ibims1_dev.jsonl").read_text().splitlines()[:3]
    for row in map(json.loads, rows):
        name = row["image"].rpartition("/")[2].removesuffix(".png")
        (root / "rgb" / f"{name}.png").write_bytes((shared_data / "ibims1_dev" / row["image"]).read_bytes())
        depth, xy = np.zeros((480, 640)), np.array(row["pixel_coords"])
        depth[xy[:, 1], xy[:, 0]] = row["depth"]
        (root / "depth" / f"{name}.png").write_bytes(encode_png(np.round(depth * 65535 / 50).astype(np.uint16)))
        (root / "calib" / f"{name}.txt").write_text(",".join(map(str, row["intrinsics"][:4])))
        for mask in ("mask_invalid", "mask_transp"):
            (root / mask / f"{name}.png").write_bytes(encode_png(np.ones((480, 640), np.uint8)))
        frame = Ibims1Reader(root).read(name)
        assert frame.pixels().shape == (480, 640, 3)
        np.testing.assert_allclose(frame.depth[xy[:, 1], xy[:, 0]], row["depth"], atol=4e-4)
        assert (frame.depth > 0).sum() == len(xy)
