"""Focal lengths of point maps: exact ones, noisy ones, with outliers, and with an unknown shift along z."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from point_maps import HEIGHT, WIDTH, room

from depthlm.errors import DepthLMError
from depthlm.spatial.focal import _pixels_and_points, field_of_view, focal_and_shift, focal_from_points


@pytest.mark.parametrize("focal", [60.0, 130.0, 400.0])
def test_exact_point_maps_give_the_field_of_view(focal: float) -> None:
    found = focal_from_points(room(focal))
    assert abs(field_of_view(found, WIDTH) - field_of_view(focal, WIDTH)) < 0.1
    assert found == pytest.approx(focal, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("focal", [80.0, 130.0, 260.0])
def test_a_fifth_of_wrong_points_moves_it_by_less_than_a_degree(focal: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = room(focal, seed) * (1 + 0.01 * rng.standard_normal((HEIGHT, WIDTH, 1)))
    points[..., :2] *= 1 + 0.01 * rng.standard_normal((HEIGHT, WIDTH, 2))
    wrong = rng.random((HEIGHT, WIDTH)) < 0.2
    points[wrong, 2] *= rng.uniform(0.3, 3, wrong.sum())
    found = focal_from_points(points)
    assert abs(field_of_view(found, WIDTH) - field_of_view(focal, WIDTH)) < 1
    squares = _least_squares(points)
    assert abs(found - focal) < abs(squares - focal)  # what the plain sum of distances is for


def _least_squares(points: NDArray[np.float64]) -> float:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2], -1)
    directions = points[..., :2] / points[..., 2:]
    return float((pixels * directions).sum() / (directions**2).sum())


def test_what_is_masked_or_not_finite_does_not_count() -> None:
    points = room(130)
    points[:20] *= [1, 1, 7]
    points[20:30] = np.inf
    points[30:35] = np.nan
    points[35:40, :, 2] = -1
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:20] = False
    assert focal_from_points(points, mask) == pytest.approx(130, rel=1e-6)


@pytest.mark.parametrize("shift", [-0.6, 0.0, 0.8, 3.0])
@pytest.mark.parametrize("focal", [80.0, 200.0])
def test_focal_length_and_shift_are_found_together(focal: float, shift: float) -> None:
    points = room(focal, 3)
    points[..., 2] -= shift
    found, back = focal_and_shift(points)
    assert found == pytest.approx(focal, rel=5e-3)
    assert back == pytest.approx(shift, abs=0.02)
    found, back = focal_and_shift(points, known=focal)
    assert found == focal
    assert back == pytest.approx(shift, abs=1e-3)


def test_an_image_whose_size_and_width_share_a_divisor() -> None:
    """Every n-th pixel of it would be one column."""
    height, width, focal = 1024, 1024, 800.0
    y, x = np.mgrid[:height, :width].astype(float)
    rays = np.stack([(x - 511.5) / focal, (y - 511.5) / focal, np.ones_like(x)], -1)
    z = 3 + 0.8 * np.sin(x / 90) * np.cos(y / 70)
    points = rays * z[..., None] * (1 + 0.01 * np.random.default_rng(1).standard_normal((height, width, 1)))
    points[..., 2] -= 0.5
    found, back = focal_and_shift(points)
    assert abs(field_of_view(found, width) - field_of_view(focal, width)) < 0.5
    assert back == pytest.approx(0.5, abs=0.05)


def test_of_a_large_image_a_grid_of_pixels_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthlm.spatial.focal.PIXELS", 2000)
    pixels, xyz = _pixels_and_points(room(130), None)
    assert 2000 <= len(pixels) <= 4000
    np.testing.assert_allclose(pixels, 130 * xyz[:, :2] / xyz[:, 2:], atol=1e-6)  # each point at its own pixel
    rng = np.random.default_rng(0)
    points = room(130) * (1 + 0.01 * rng.standard_normal((HEIGHT, WIDTH, 1)))
    wrong = rng.random((HEIGHT, WIDTH)) < 0.2
    points[wrong, 2] *= rng.uniform(0.3, 3, wrong.sum())
    assert abs(field_of_view(focal_from_points(points), WIDTH) - field_of_view(130, WIDTH)) < 1


@pytest.mark.parametrize("shift", [-0.6, 0.5])
def test_flying_pixels_do_not_bound_the_shift(shift: float) -> None:
    points = room(130, 3)
    points[..., 2] -= shift
    rng = np.random.default_rng(0)
    wrong = rng.random((HEIGHT, WIDTH)) < 0.01
    points[wrong] *= rng.uniform(0.005, 0.05, (wrong.sum(), 1))
    found, back = focal_and_shift(points)
    assert abs(field_of_view(found, WIDTH) - field_of_view(130, WIDTH)) < 1
    assert back == pytest.approx(shift, abs=0.05)


def test_no_camera_in_no_points() -> None:
    with pytest.raises(DepthLMError, match="fewer than two"):
        focal_from_points(np.full((4, 4, 3), np.inf))
    axis = np.zeros((4, 4, 3))
    axis[..., 2] = 1
    with pytest.raises(DepthLMError, match="fewer than two"):
        focal_and_shift(axis)
    with pytest.raises(DepthLMError, match="shape"):
        focal_from_points(np.zeros((4, 4)))
