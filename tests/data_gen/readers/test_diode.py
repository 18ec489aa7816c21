"""DIODE: maps with masks and the devkit's intrinsics.

Layout and formats as in README.md and intrinsics.txt of github.com/diode-dataset/diode-devkit.
"""

import io
import json

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.diode import DiodeReader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

SCAN = "indoors/scene_00019/scan_00183"
IMAGE = encode_png(np.zeros((768, 1024, 3), np.uint8))


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "diode" / "val" / SCAN
    folder.mkdir(parents=True)
    depth, mask = np.zeros((768, 1024, 1), np.float32), np.zeros((768, 1024), np.float32)
    depth[100, 900], depth[200, 300], depth[5, 6] = 4.5, 7.0, 400
    mask[100, 900] = mask[5, 6] = 1
    for name in ("00019_00183_indoors_000_010", "00019_00183_indoors_010_030"):
        (folder / f"{name}.png").write_bytes(IMAGE)
        (folder / f"{name}_depth.npy").write_bytes(npy(depth))
        (folder / f"{name}_depth_mask.npy").write_bytes(npy(mask))
    return tmp_path / "diode"


def test_a_known_point_ends_at_its_pixel(root):
    reader = READERS.get("diode")(root, split="val")
    assert reader.keys()[0] == f"{SCAN}/00019_00183_indoors_000_010"
    frame = reader.read(reader.keys()[0])
    assert np.argwhere(frame.depth > 0).tolist() == [[100, 900]], (
        "not where the mask is 0, nor beyond the scanner's reach"
    )
    assert frame.depth[100, 900] == 4.5
    point = frame.camera.back_project([[900, 100]], [4.5])
    np.testing.assert_allclose(point, [(4.5 * 388.5 / 886.81, -4.5 * 283.5 / 927.06, 4.5)], atol=1e-9)
    assert frame.camera.z_to_distance([[900, 100]], [4.5])[0] == pytest.approx(np.linalg.norm(point))
    assert frame.scene == SCAN


def test_places_splits_and_focal_lengths(root):
    assert (
        DiodeReader(root, split="val", focal=[1323, 1322]).read(f"{SCAN}/00019_00183_indoors_010_030").camera.fx == 1323
    )
    for options in ({}, {"split": "val", "place": "outdoor"}):
        with pytest.raises(DepthLMError, match="holds no PLACE"):
            DiodeReader(root, **options).keys()


@pytest.mark.parametrize(
    ("suffix", "content", "kind"),
    [
        (".png", b"x", "unreadable image"),
        (".png", encode_png(np.zeros((8, 8, 3), np.uint8)), "image size differs"),
        ("_depth.npy", None, "missing depth"),
        ("_depth.npy", b"\x93NUMPY", "unreadable depth"),
        ("_depth.npy", npy(np.zeros((4, 4), np.float32)), "unreadable depth"),
        ("_depth.npy", npy(np.array([object()])), "unreadable depth"),
        # As many numbers in another shape: taken row by row, every label would be wrong.
        ("_depth.npy", npy(np.ones((1024, 768, 1), np.float32)), "unreadable depth"),
        ("_depth_mask.npy", npy(np.ones((1024, 768))), "unreadable mask"),
        ("_depth_mask.npy", None, "missing mask"),
        ("_depth_mask.npy", npy(np.full((768, 1024), np.nan)), "no labels"),
        ("_depth_mask.npy", npy(np.zeros((768, 1024))), "no labels"),
    ],
)
def test_one_bad_frame_is_counted(root, tmp_path, suffix, content, kind):
    path = root / "val" / SCAN / f"00019_00183_indoors_000_010{suffix}"
    path.unlink() if content is None else path.write_bytes(content)
    curate(DiodeReader(root, split="val"), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    # Keys come from the images: one that is gone is no frame at all.
    assert report["frames"] == 1 and list(report["skipped"]) == [kind]
    assert FrameStore(tmp_path / "store")[0].depth[100, 900] == 4.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "'test' is not one of"),
        ({"place": "street"}, "'street' is not one of"),
        ({"focal": [1]}, "not two numbers"),
        ({"focal": 886.81}, "not two numbers"),
        ({"focal": "886.81"}, "not two numbers"),
        ({"focal": [886.81, "x"]}, "not two numbers"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
    ],
)
def test_wrong_options(root, options, said):
    with pytest.raises(DepthLMError, match=said):
        DiodeReader(root, **options)
