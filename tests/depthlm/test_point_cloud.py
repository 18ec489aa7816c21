"""Files of points and depth, read back by other programs' readers."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.point_cloud import linear_rgb, write_depth_npy, write_depth_png, write_glb, write_ply

# one to the right, one below, one ahead of the camera
POINTS = np.array([[1.5, 0.0, 4.0], [0.0, 0.5, 4.0], [0.0, 0.0, 6.25]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)


def read(path: Path) -> trimesh.PointCloud:
    found = trimesh.load(path)
    return next(iter(found.geometry.values())) if isinstance(found, trimesh.Scene) else found


def test_ply_keeps_opencv_axes_and_says_so(tmp_path: Path):
    path = write_ply(tmp_path / "new" / "cloud.ply", POINTS, COLOURS)
    found = read(path)
    np.testing.assert_allclose(found.vertices, POINTS)
    np.testing.assert_array_equal(np.asarray(found.colors)[:, :3], COLOURS)
    head = path.read_bytes().split(b"end_header")[0]
    assert b"binary_little_endian" in head
    assert b"comment OpenCV camera frame: x right, y down, z forward; metres\n" in head


def test_glb_is_turned_into_gltf_axes(tmp_path: Path):
    found = read(write_glb(tmp_path / "cloud.glb", POINTS, COLOURS))
    # right stays right; below is negative y; ahead is negative z
    np.testing.assert_allclose(found.vertices, [[1.5, 0, -4], [0, -0.5, -4], [0, 0, -6.25]])
    np.testing.assert_array_equal(np.asarray(found.colors)[:, :3], linear_rgb(COLOURS))
    assert linear_rgb([[0, 10, 188], [255, 128, 64]]).tolist() == [[0, 1, 128], [255, 55, 13]]


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.array([[0.0, 0.0, np.nan]])])
def test_a_cloud_of_nothing_is_refused(tmp_path: Path, points: np.ndarray):
    with pytest.raises(DepthLMError, match="no points"):
        write_glb(tmp_path / "cloud.glb", points, COLOURS[: len(points)])
    assert not (tmp_path / "cloud.glb").exists()


@pytest.mark.parametrize(("farthest", "unit"), [(65.535, 0.001), (65.6, 0.01), (655.36, 0.1), (7000.0, 1.0)])
def test_a_depth_png_counts_millimetres_or_what_the_farthest_pixel_needs(tmp_path: Path, farthest: float, unit: float):
    z = np.array([[0.0, 1.25], [0.0002, farthest]], np.float32)
    assert write_depth_png(tmp_path / "depth.png", z) == unit
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode == "I;16"
        assert float(image.text["depth_unit_m"]) == unit
        counts = np.array(image)
    assert counts[0, 0] == 0
    assert counts[1, 0] == 1  # known, and not nothing
    np.testing.assert_allclose(counts[:, 1] * unit, z[:, 1], atol=0.51 * unit)


def test_depth_png_is_what_the_evaluation_reads(tmp_path: Path):
    from eval.depth_maps import read_map

    z = np.random.default_rng(0).uniform(0.5, 20, (6, 8)).astype(np.float32)
    z[0, 0] = 0
    write_depth_png(tmp_path / "depth.png", z)
    write_depth_npy(tmp_path / "depth.npy", z)
    np.testing.assert_allclose(read_map(tmp_path / "depth.png"), z, atol=0.00051)
    np.testing.assert_array_equal(read_map(tmp_path / "depth.npy"), z)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthLMError, match="can't be written"):
        write_ply(tmp_path / "file" / "cloud.ply", POINTS, COLOURS)
