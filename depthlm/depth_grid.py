"""A grid of points over an image: which of them have to be asked, what lies between agreeing ones, a map of it all.

Between points it is 1/z that is interpolated: on a plane it is affine in undistorted pixels, so planes stay planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from depthlm.camera import Floats
from depthlm.errors import DepthLMError

Bools = NDArray[np.bool_]
# A cell of the grid: its first row and column, its last row and column.
Cell = tuple[int, int, int, int]


@dataclass(frozen=True)
class Grid:
    """Points in the middles of ``columns`` x ``rows`` equal parts of an image.

    Args:
        width, height: of the image, px.

    Raises:
        DepthLMError: fewer than two columns or rows, or more than pixels.
    """

    columns: int
    rows: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if not (2 <= self.columns <= self.width and 2 <= self.rows <= self.height):
            reason = f"is {self.columns}x{self.rows} for an image of {self.width}x{self.height} px"
            raise DepthLMError("grid", reason, "give at least 2x2, at most a point for each pixel")

    @classmethod
    def with_columns(cls, columns: int, width: int, height: int) -> Grid:
        """About square parts, as many across as said where the image has the pixels."""
        columns = min(columns, width)
        return cls(columns, min(height, max(2, round(columns * height / width))), width, height)

    @property
    def xy(self) -> Floats:
        """(rows, columns, 2) the points, px of the image."""
        x = (np.arange(self.columns) + 0.5) * (self.width / self.columns) - 0.5
        y = (np.arange(self.rows) + 0.5) * (self.height / self.rows) - 0.5
        return np.stack(np.meshgrid(x, y), axis=2)


def unsettled(z: Floats, tried: Bools, step: int, threshold: float) -> tuple[list[tuple[int, int]], list[Cell]]:
    """Which points have to be asked next, and which cells are settled.

    A cell is settled when its four corners agree: the largest z is at most ``1 + threshold`` times the smallest; and
    when each point inside it that was asked for a neighbour's sake lies as near to what would be filled in there. Other
    cells are split, down to single steps of the grid.

    Args:
        z: (rows, columns) metres, NaN where it is not known.
        tried: (rows, columns) whether a point was asked, with or without success.
        step: of the coarse grid that is asked first; 1: all points.

    Returns:
        Points (row, column) in reading order, and the settled cells that hold points which were not asked.
    """
    todo = [(*up, *left) for up in _parts(z.shape[0], step) for left in _parts(z.shape[1], step)]
    cells = [(top, left, bottom, right) for top, bottom, left, right in todo]
    missing: set[tuple[int, int]] = set()
    settled = []
    while cells:
        cell = cells.pop()
        top, left, bottom, right = cell
        lacking = [(r, c) for r in (top, bottom) for c in (left, right) if not tried[r, c]]
        if lacking:
            missing.update(lacking)
        elif bottom - top > 1 or right - left > 1:
            if _agrees_within(z, tried, cell, threshold):
                settled.append(cell)
            else:
                cells += _split(cell)
    return sorted(missing), sorted(settled)


def _parts(count: int, step: int) -> list[tuple[int, int]]:
    """0, step, 2 step, …, count - 1 as pairs of neighbours."""
    return list(pairwise([*range(0, count - 1, step), count - 1]))


def _split(cell: Cell) -> Iterator[Cell]:
    top, left, bottom, right = cell
    rows = sorted({top, (top + bottom) // 2 if bottom - top > 1 else top, bottom})
    columns = sorted({left, (left + right) // 2 if right - left > 1 else left, right})
    for up, down in pairwise(rows):
        for west, east in pairwise(columns):
            yield up, west, down, east


def _agrees_within(z: Floats, tried: Bools, cell: Cell, threshold: float) -> bool:
    top, left, bottom, right = cell
    corners = z[[top, top, bottom, bottom], [left, right, left, right]]
    if np.isnan(corners).any() or corners.max() > (1 + threshold) * corners.min():
        return False
    part = np.s_[top : bottom + 1, left : right + 1]
    found, forecast = z[part][tried[part]], _between(z, cell)[tried[part]]
    found, forecast = found[~np.isnan(found)], forecast[~np.isnan(found)]
    return bool((np.maximum(found / forecast, forecast / found) <= 1 + threshold).all())


def _between(z: Floats, cell: Cell) -> Floats:
    """z of all points of a cell by its corners'."""
    top, left, bottom, right = cell
    down = np.linspace(0, 1, bottom - top + 1)[:, None]
    across = np.linspace(0, 1, right - left + 1)[None]
    a, b, c, d = 1 / z[[top, top, bottom, bottom], [left, right, left, right]]
    return 1 / ((1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * c + across * d))


def filled(z: Floats, tried: Bools, cells: list[Cell]) -> Floats:
    """The grid with the points of settled cells that were not asked filled in, see `unsettled`."""
    out = z.copy()
    for cell in cells:
        part = np.s_[cell[0] : cell[2] + 1, cell[1] : cell[3] + 1]
        out[part] = np.where(tried[part], z[part], _between(z, cell))
    return out


def agreeing(z: Floats, edge: float) -> Bools:
    """Whether neighbours along the last axis lie on one surface: (…, n - 1).

    They do when their z differ by no more than ``edge``, or when the neighbours before or behind go on so: a floor
    that recedes faster than that from point to point is one surface still, for its 1/z changes evenly.
    """
    with np.errstate(invalid="ignore"):
        inverse = 1 / z
        one, other = inverse[..., :-1], inverse[..., 1:]
        same = np.maximum(one / other, other / one) <= 1 + edge
        from_left = _near(2 * one[..., 1:] - one[..., :-1], other[..., 1:], edge)
        from_right = _near(2 * other[..., :-1] - other[..., 1:], one[..., :-1], edge)
    same[..., 1:] |= from_left
    same[..., :-1] |= from_right
    return same


def _near(forecast: Floats, found: Floats, edge: float) -> Bools:
    return (forecast > 0) & (forecast <= (1 + edge) * found) & (found <= (1 + edge) * forecast)


def whole_cells(z: Floats, edge: float) -> Bools:
    """(rows - 1, columns - 1) whether each cell's four points lie on one surface: no depth edge runs through it."""
    across, down = agreeing(z, edge), agreeing(z.T, edge).T
    return across[:-1] & across[1:] & down[:, :-1] & down[:, 1:]


def at_image_size(z: Floats, grid: Grid, edge: float) -> NDArray[np.float32]:
    """The map at the image's own resolution, (height, width) float32 z in metres, 0 unknown.

    Pixels between four points of one surface are interpolated; those of cells with a depth edge or an unknown point are
    unknown, as are those outside the outermost points. The known points' own pixels are known in any case.
    """
    inverse = np.nan_to_num(1 / z, nan=0.0)
    # keeps the pixel centres' convention: pixel x lies at (x + 0.5) * columns / width - 0.5 of the grid
    spread = cv2.resize(inverse, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR)
    (row, inside_y), (column, inside_x) = _cell_of(grid.rows, grid.height), _cell_of(grid.columns, grid.width)
    known = whole_cells(z, edge)[np.ix_(row, column)] & inside_y[:, None] & inside_x
    out = np.zeros(spread.shape, np.float32)
    np.divide(1, spread, out=out, where=known, casting="same_kind")
    points = ~np.isnan(z)
    x, y = np.rint(grid.xy[points]).astype(int).T
    out[y, x] = z[points]
    return out


def _cell_of(points: int, pixels: int) -> tuple[NDArray[np.intp], Bools]:
    """The cell along one axis that each pixel lies in, and whether it lies in one."""
    at = (np.arange(pixels) + 0.5) * points / pixels - 0.5  # in this order: exact at the points
    return np.clip(np.floor(at).astype(np.intp), 0, points - 2), (at >= 0) & (at <= points - 1)
