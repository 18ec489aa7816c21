"""How a grid of points is asked about, and what came of it: depth maps and coloured points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.camera import Floats
from depthlm.depth_grid import Bools, Cell, Grid, at_image_size, filled
from depthlm.errors import DepthLMError, SkipReport
from depthlm.markers import COLOURS
from depthlm.photo import Photo
from depthlm.serving.cloud.log import Index, PointAnswer
from depthlm.serving.cloud.questions import Together

DEFAULT_COLUMNS = 32
Points = tuple[Floats, NDArray[np.uint8]]


@dataclass(frozen=True)
class CloudSettings:
    """Which points are asked about, and how.

    Args:
        grid: columns and rows; None: 32 columns, and rows for about square parts.
        adaptive: ask every ``step``-th point first, then finer where neighbours disagree, down to the grid; what lies
            between agreeing points is filled in. False: ask all points.
        threshold: neighbours whose z differs by no more than this share agree.
        edge: between neighbours of the full grid whose z differs by more than this share runs a depth edge, which
            nothing bridges, unless 1/z goes on evenly there.
        markers: points marked on one image, each in its own colour.
        together: with several markers, ask about each alone ("image"; a server encodes the image once for all of them
            and remembers it), or about one after the other in one "conversation".
        concurrency: questions under way at once.

    Raises:
        DepthLMError: numbers that make no sense.
    """

    grid: tuple[int, int] | None = None
    adaptive: bool = True
    step: int = 4
    threshold: float = 0.1
    edge: float = 0.15
    markers: int = 1
    together: Together = "image"
    concurrency: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.markers <= len(COLOURS):
            raise DepthLMError("markers", f"{self.markers} on one image", f"give 1 to {len(COLOURS)}: one a colour")
        if self.together not in ("image", "conversation"):
            raise DepthLMError("together", f"is {self.together!r}", "image or conversation")
        for name in ("step", "concurrency"):
            if getattr(self, name) < 1:
                raise DepthLMError(name, f"is {getattr(self, name)}", "give 1 or more")
        for name in ("threshold", "edge"):
            if not 0 < getattr(self, name) < 1:
                raise DepthLMError(name, f"is {getattr(self, name)}", "give a share, e.g. 0.1")

    def grid_of(self, photo: Photo) -> Grid:
        """The grid over a photo.

        Raises:
            DepthLMError: it is less than 2x2, or has more points than the photo pixels.
        """
        camera = photo.camera
        if self.grid is None:
            return Grid.with_columns(DEFAULT_COLUMNS, camera.width, camera.height)
        return Grid(*self.grid, camera.width, camera.height)

    @property
    def first_step(self) -> int:
        """Of the points that are asked first."""
        return self.step if self.adaptive else 1


@dataclass(frozen=True, eq=False)
class Cloud:
    """Distances of points all over a photo.

    Args:
        answers: by row and column of the grid, of all points that were answered.
        settled: cells of the grid whose other points are filled in.
        failed: points by row and column that have no answer, and why.
        model: whose answers these are.
        asked: points that were answered in this session; the others were known from the log.
        seconds: that took.
        warnings: what a reader of the numbers has to know.
    """

    photo: Photo
    settings: CloudSettings
    grid: Grid
    answers: Mapping[Index, PointAnswer]
    settled: Sequence[Cell] = ()
    failed: Mapping[Index, DepthLMError] = field(default_factory=dict)
    model: str = ""
    asked: int = 0
    seconds: float = 0.0
    warnings: Sequence[str] = ()

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """(n, 2) row and column of each answered point, in reading order."""
        return np.array(sorted(self.answers), np.intp).reshape(-1, 2)

    @property
    def xy(self) -> Floats:
        """(n, 2) the answered points, px of the photo."""
        return self.grid.xy[self.index[:, 0], self.index[:, 1]]

    @property
    def distance(self) -> Floats:
        """(n,) Euclidean from the camera centre, metres; NaN where an answer tells none."""
        return np.array([np.nan if (d := each.distance) is None else d for each in self._in_order], np.float64)

    @property
    def z(self) -> Floats:
        """(n,) along the principal axis, metres; NaN where an answer tells none."""
        return self.photo.camera.distance_to_z(self.xy, self.distance)

    @property
    def interval(self) -> Floats:
        """(n, 2) the central 90% of the model's answers, metres of distance; NaN where it is not known."""
        found = [each.interval or (np.nan, np.nan) for each in self._in_order]
        return np.array(found, np.float64).reshape(-1, 2)

    @property
    def text(self) -> list[str]:
        """The answers as they came."""
        return [each.text for each in self._in_order]

    @property
    def unknown(self) -> list[dict[str, Any]]:
        """Of each point that was tried and has no distance its ``x``, ``y``, and why: ``kind`` and ``reason``."""
        found = {at: (error.kind, error.reason) for at, error in self.failed.items()}
        for at, answer in self.answers.items():
            if answer.distance is None:
                found[at] = "no distance in the answer", f"{answer.text[:80]!r}: {answer.reason}"
        xy = self.grid.xy
        return [
            {"x": float(xy[at][0]), "y": float(xy[at][1]), "kind": kind, "reason": reason}
            for at, (kind, reason) in sorted(found.items())
        ]

    @property
    def skipped(self) -> SkipReport:
        """The unknown points counted by kind, with a few examples."""
        out = SkipReport()
        for each in self.unknown:
            out.count(each["kind"], f"({each['x']:.0f}, {each['y']:.0f}): {each['reason']}")
        return out

    @property
    def _in_order(self) -> list[PointAnswer]:
        return [self.answers[row, column] for row, column in self.index.tolist()]

    def grid_z(self) -> tuple[NDArray[np.float32], Bools]:
        """(rows, columns) z in metres, 0 unknown; and whether each was asked and answered, and not filled in."""
        z = self._filled()
        return np.nan_to_num(z, nan=0.0).astype(np.float32), ~np.isnan(self._found()[0])

    def depth_map(self) -> NDArray[np.float32]:
        """(H, W) z in metres at the photo's resolution, 0 unknown: see `depthlm.depth_grid.at_image_size`."""
        return at_image_size(self._filled(), self.grid, self.settings.edge)

    def points(self) -> Points:
        """The grid's known points: (n, 3) metres in the camera's frame (OpenCV), and their (n, 3) uint8 RGB."""
        z = self._filled()
        known = ~np.isnan(z)
        return self._placed(self.grid.xy[known], z[known])

    def dense_points(self) -> Points:
        """A point for each known pixel of `depth_map`, as `points`."""
        z = self.depth_map()
        y, x = np.nonzero(z)
        return self._placed(np.stack([x, y], 1), z[y, x])

    def _placed(self, xy: NDArray[np.float64] | NDArray[np.intp], z: NDArray[np.floating]) -> Points:
        x, y = np.rint(xy).astype(int).reshape(-1, 2).T
        return self.photo.camera.back_project(xy, z), self.photo.pixels[y, x]

    def _found(self) -> tuple[Floats, Bools]:
        return answered_z(self.photo, self.grid, self.answers)

    def _filled(self) -> Floats:
        z, answered = self._found()
        return filled(z, answered, list(self.settled))


def answered_z(photo: Photo, grid: Grid, answers: Mapping[Index, PointAnswer]) -> tuple[Floats, Bools]:
    """(rows, columns) z of the answers, metres, NaN where there is none; and where there is an answer at all."""
    distance = np.full((grid.rows, grid.columns), np.nan)
    answered = np.zeros(distance.shape, bool)
    for at, answer in answers.items():
        answered[at] = True
        if answer.distance is not None:
            distance[at] = answer.distance
    z = photo.camera.distance_to_z(grid.xy.reshape(-1, 2), distance.ravel()).reshape(distance.shape)
    return z, answered
