"""Matterport3D: quarter millimetres of z, a camera file whose images start at the bottom, OpenGL's axes, split lists.

Layout, units and axes as in data_organization.md of github.com/niessner/Matterport, the lists as in its
tasks/benchmark; that the file's poses are those of matterport_camera_poses with the second and third columns negated,
as in its issue 53. That cy counts from the centre of the last row: a published pair of an ``intrinsics_matrix`` and the
``matterport_camera_intrinsics`` of the same camera, which are OpenCV's, have the same cx, and cy that add up to 1023.
"""

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers.matterport3d import Matterport3DReader
from depthlm.errors import DepthLMError

SCAN = "17DRP5sb8fy"
PANO = "0f37bd0737e349de9d536263a4bdd60d"
FX, FY, CX, CY_FROM_BOTTOM = 1075.5, 1076.25, 631.25, 509.25
X, Y, UNITS = 1200, 30, 10000  # upper right, 2.5 m
RIGHT, UP, BACK = np.array([0.8, 0.6, 0]), np.array([-0.36, 0.48, 0.8]), np.array([0.48, -0.64, 0.6])
PLACE = np.array([-2.5, 4.0, 1.5])


def scan_line(view, right=RIGHT, up=UP, back=BACK):
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, up, back, PLACE], axis=1)
    numbers = " ".join(f"{value:g}" for value in matrix.ravel())
    return f"scan {PANO}_d{view}.png {PANO}_i{view}.jpg {numbers}"


@pytest.fixture(scope="module")
def files():
    depth = np.zeros((1024, 1280), np.uint16)
    depth[Y, X] = UNITS
    depth[500, 500] = 65535
    return encode_png(np.zeros((1024, 1280, 3), np.uint8)), encode_png(depth)


def write_scan(folder, scan, files):
    for name in ("undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"):
        (folder / name).mkdir(parents=True)
    for view in ("0_0", "0_1", "1_0"):
        (folder / "undistorted_color_images" / f"{PANO}_i{view}.jpg").write_bytes(files[0])
        (folder / "undistorted_depth_images" / f"{PANO}_d{view}.png").write_bytes(files[1])
    lines = [
        "dataset matterport",
        "n_images 3",
        "depth_directory undistorted_depth_images",
        "color_directory undistorted_color_images",
        "",
        f"intrinsics_matrix {FX} 0 {CX}  0 {FY} {CY_FROM_BOTTOM}  0 0 1",
        scan_line("0_0"),
        scan_line("0_1", -RIGHT, UP, -BACK),
        "",
        f"intrinsics_matrix {FX + 1} 0 {CX + 2}  0 {FY + 1} {CY_FROM_BOTTOM + 3}  0 0 1",
        scan_line("1_0"),
    ]
    (folder / "undistorted_camera_parameters" / f"{scan}.conf").write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path, files):
    root = tmp_path / "matterport"
    write_scan(root / "v1" / "scans" / SCAN / SCAN, SCAN, files)
    (root / "v1" / "scans" / "2azQ1b91cZZ").mkdir()  # not unpacked yet
    (root / "scenes_train.txt").write_text(f"{SCAN}\n1LXtFkjw3qL\n")
    (root / "scenes_val.txt").write_text("2azQ1b91cZZ\n")
    return root


def conf(tree):
    return tree / "v1" / "scans" / SCAN / SCAN / "undistorted_camera_parameters" / f"{SCAN}.conf"


def change(tree, old, new):
    text = conf(tree).read_text()
    assert old in text
    conf(tree).write_text(text.replace(old, new))


def test_a_known_point(tree):
    reader = Matterport3DReader(tree)
    assert reader.keys() == [f"{SCAN}/{PANO}_i{view}" for view in ("0_0", "0_1", "1_0")]
    frame = reader.read(f"{SCAN}/{PANO}_i0_0")
    xy, z = frame.labels
    assert xy.tolist() == [[X, Y]]
    assert z.tolist() == [2.5]
    rows_from_bottom = 1023 - Y
    right, up = (X - CX) / FX, (rows_from_bottom - CY_FROM_BOTTOM) / FY
    world = PLACE + 2.5 * (right * RIGHT + up * UP - BACK)
    np.testing.assert_allclose(frame.camera.to_world(frame.camera.back_project(xy, z))[0], world, atol=1e-5)
    np.testing.assert_allclose(frame.camera.project(frame.camera.from_world([world])), xy, atol=1e-3)
    distance = frame.camera.z_to_distance(xy, z)[0]
    assert distance == pytest.approx(np.linalg.norm(world - PLACE))
    assert distance > 1.2 * 2.5


def test_the_principal_point_is_counted_from_the_bottom(tree):
    """Taken from the top it is 4.5 px off here."""
    first, other = (Matterport3DReader(tree).read(f"{SCAN}/{PANO}_i{view}").camera for view in ("0_0", "1_0"))
    assert (first.cx, first.cy) == (CX, 1023 - CY_FROM_BOTTOM)
    assert abs(first.cy - CY_FROM_BOTTOM) == 4.5
    assert (other.fx, other.fy, other.cx, other.cy) == (FX + 1, FY + 1, CX + 2, 1020 - CY_FROM_BOTTOM)


def test_axes_are_opencvs(tree):
    pose = Matterport3DReader(tree).read(f"{SCAN}/{PANO}_i0_0").camera.pose
    np.testing.assert_allclose(pose[:3, 2], -BACK)
    np.testing.assert_allclose(pose[:3, 1], -UP)
    np.testing.assert_allclose(pose[:3, 3], PLACE)
    opposite = Matterport3DReader(tree).read(f"{SCAN}/{PANO}_i0_1").camera.pose
    np.testing.assert_allclose(opposite[:3, 2], BACK)


def test_a_strip_beside_a_jump_is_left_out(tree):
    depth = np.full((1024, 1280), 8000, np.uint16)
    depth[:, 640:] = 4000
    name = f"undistorted_depth_images/{PANO}_d0_0.png"
    (tree / "v1" / "scans" / SCAN / SCAN / name).write_bytes(encode_png(depth))
    key = f"{SCAN}/{PANO}_i0_0"
    assert np.flatnonzero(Matterport3DReader(tree).read(key).depth[9] == 0).tolist() == [638, 639, 640, 641]
    assert set(np.unique(Matterport3DReader(tree, edge_radius=0).read(key).depth)) == {1, 2}


def test_other_places_of_the_scans(tree, files):
    """All ZIP files unpacked into v1/scans, and the scans' folder itself as the source."""
    write_scan(tree / "v1" / "scans" / "1LXtFkjw3qL", "1LXtFkjw3qL", files)
    assert len(Matterport3DReader(tree).keys()) == 6
    reader = Matterport3DReader(tree / "v1" / "scans", split="all", every=2)
    assert [key.partition("/")[0] for key in reader.keys()] == [SCAN] * 2 + ["1LXtFkjw3qL"] * 2
    assert [reader.read(key).scene for key in reader.keys()] == [SCAN] * 2 + ["1LXtFkjw3qL"] * 2


def test_splits(tree):
    with pytest.raises(DepthLMError, match="of split val"):
        Matterport3DReader(tree, split="val").keys()
    with pytest.raises(DepthLMError, match=r"scenes_test\.txt: no such list"):
        Matterport3DReader(tree, split="test").keys()
    assert len(Matterport3DReader(tree, split="all").keys()) == 3


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        (f"_i1_0.jpg {RIGHT[0]:g} ", "_i1_0.jpg nan ", {"bad pose": 1}),
        (f"_i1_0.jpg {RIGHT[0]:g} ", "_i1_0.jpg 0.9 ", {"bad pose": 1}),
        (f"_i1_0.jpg {RIGHT[0]:g} ", "_i1_0.jpg ", {"bad calibration": 1}),
        (f"intrinsics_matrix {FX + 1} ", "intrinsics_matrix ", {"bad calibration": 1}),
        (f"intrinsics_matrix {FX + 1} ", "intrinsics_matrix -1 ", {"bad intrinsics": 1}),
        (f"intrinsics_matrix {FX} ", "intrinsics ", {"bad calibration": 2}),
        (f"{PANO}_d1_0.png", "../../../../../../outside.png", {"path outside root": 1}),
    ],
)
def test_a_bad_line_costs_its_frames(tree, old, new, counts):
    change(tree, old, new)
    assert curate(Matterport3DReader(tree), tree.parent / "store").counts == counts


def test_bad_files_are_counted(tree):
    folder = tree / "v1" / "scans" / SCAN / SCAN
    (folder / "undistorted_depth_images" / f"{PANO}_d0_0.png").unlink()
    small = encode_png(np.zeros((512, 640, 3), np.uint8))
    (folder / "undistorted_color_images" / f"{PANO}_i0_1.jpg").write_bytes(small)
    report = curate(Matterport3DReader(tree), tree.parent / "store")
    assert report.counts == {"missing depth": 1, "bad intrinsics": 1}


def test_a_camera_file_without_images_is_one_error(tree):
    conf(tree).write_text("dataset matterport\nn_images 0\n")
    with pytest.raises(DepthLMError, match="has no line 'scan"):
        Matterport3DReader(tree).keys()
