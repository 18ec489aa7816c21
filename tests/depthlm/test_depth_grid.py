"""Which points are asked, and what lies between them."""

import numpy as np
import pytest

from depthlm.depth_grid import Grid, at_image_size, filled, unsettled, whole_cells
from depthlm.errors import DepthLMError


def asked_fully(truth: np.ndarray, step: int, threshold: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The grid as an adaptive run knows it in the end, and what it asked."""
    z, tried = np.full(truth.shape, np.nan), np.zeros(truth.shape, bool)
    while True:
        missing, settled = unsettled(z, tried, step, threshold)
        if not missing:
            return filled(z, tried, settled), tried
        assert not any(tried[at] for at in missing)
        for at in missing:
            z[at], tried[at] = truth[at], True


def test_points_are_the_middles_of_equal_parts():
    xy = Grid(4, 3, 80, 60).xy
    assert xy.shape == (3, 4, 2)
    np.testing.assert_allclose(xy[0, :, 0], [9.5, 29.5, 49.5, 69.5])  # pixel centres: the image begins at -0.5
    np.testing.assert_allclose(xy[:, 0, 1], [9.5, 29.5, 49.5])


@pytest.mark.parametrize(("size", "rows"), [((640, 480), 24), ((480, 640), 43), ((640, 32), 2)])
def test_parts_are_about_square(size: tuple[int, int], rows: int):
    assert Grid.with_columns(32, *size).rows == rows


@pytest.mark.parametrize("grid", [(1, 4), (4, 1), (81, 4)])
def test_an_impossible_grid_is_refused(grid: tuple[int, int]):
    with pytest.raises(DepthLMError, match="grid"):
        Grid(*grid, 80, 60)


def test_a_wall_is_asked_coarsely_and_planes_are_filled_in_exactly():
    truth = np.full((10, 14), 4.0)
    z, tried = asked_fully(truth, 4)
    assert tried.sum() == 4 * 5  # every fourth, and the last
    np.testing.assert_allclose(z, truth)
    slanted = 1 / (0.25 + 0.001 * np.arange(14) - 0.0005 * np.arange(10)[:, None])  # 1/z is affine on a plane
    z, tried = asked_fully(slanted, 4)
    assert tried.sum() == 20
    np.testing.assert_allclose(z, slanted, rtol=1e-12)


def test_every_step_1_point_is_asked():
    _, tried = asked_fully(np.full((5, 7), 2.0), 1)
    assert tried.all()


def test_an_edge_is_asked_to_the_last_point():
    truth = np.full((17, 17), 4.0)
    truth[:, 6:] = 2.0
    z, tried = asked_fully(truth, 4)
    np.testing.assert_array_equal(z, truth)
    assert tried[:, 5:7].all()
    assert tried.sum() < 0.5 * tried.size


def test_a_settled_neighbour_is_split_when_an_asked_point_on_its_border_disagrees():
    truth = np.full((5, 9), 4.0)
    truth[2, 4:6] = 1.0  # between the coarse corners, where only the right part's bad corner makes anyone look
    truth[0, 8] = 2.0
    z, tried = asked_fully(truth, 4)
    assert tried[2, 4]
    assert z[2, 4] == 1.0
    assert tried[2, 3]  # the left part agreed at its corners, but not with what was found at its border


def test_unknown_points_are_never_filled_in():
    truth = np.full((9, 9), 3.0)
    truth[4, 4] = np.nan
    z, tried = asked_fully(truth, 4)
    assert np.isnan(z[4, 4])
    assert tried[3:6, 3:6].all()  # a part with an unknown corner is asked finer
    np.testing.assert_array_equal(z[tried & ~np.isnan(z)], 3.0)


def test_no_cell_bridges_an_edge_but_a_receding_floor_is_one_surface():
    z = np.full((6, 8), 4.0)
    z[2:5, 3:6] = 2.0
    cells = whole_cells(z, 0.1)
    assert not cells[1, 2:6].any()  # over the box's upper edge
    assert not cells[1:5, 2].any()
    assert cells[2:4, 3:5].all()  # inside the box
    assert cells[0].all()
    floor = np.repeat(1 / (0.05 * np.arange(1, 9)[:, None]), 5, axis=1)  # 20, 10, 6.7, 5, … m: far over 10%
    assert whole_cells(floor, 0.1).all()


def test_a_plane_is_exact_at_the_images_resolution():
    grid = Grid(8, 6, 72, 54)
    x, y = np.meshgrid(np.arange(72), np.arange(54))
    truth = 1 / (0.2 + 0.001 * x + 0.002 * y)
    xy = grid.xy
    z = 1 / (0.2 + 0.001 * xy[..., 0] + 0.002 * xy[..., 1])
    found = at_image_size(z, grid, 0.1)
    assert found.dtype == np.float32
    inside = np.zeros((54, 72), bool)
    inside[4:50, 4:68] = True  # from the outermost points on
    np.testing.assert_array_equal(found > 0, inside)
    np.testing.assert_allclose(found[inside], truth[inside], rtol=1e-5)


def test_an_unknown_point_leaves_its_cells_unknown():
    grid = Grid(8, 6, 80, 60)
    z = np.full((6, 8), 4.0)
    z[2, 3] = np.nan
    found = at_image_size(z, grid, 0.1)
    assert not found[16:34, 26:44].any()  # the four cells round (34.5, 24.5)
    assert found[14, 34] == 4.0
    lonely = np.full((6, 8), np.nan)
    lonely[2, 3] = 3.0
    found = at_image_size(lonely, grid, 0.1)
    assert np.count_nonzero(found) == 1
    assert found[24, 34] == 3.0
