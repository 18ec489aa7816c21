"""Markers drawn on the canonical image: which pixel the question is about.

The labelled pixel itself always stays uncovered; a marker that would leave the image turns to another side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depthlm.errors import DepthLMError

# Named, far apart in hue, in the order in which points get them.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 200, 0),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "orange": (255, 128, 0),
    "white": (255, 255, 255),
}
# Quarter turns tried for a marker, the published side first: the shaft left of the point, its tip pointing right.
SIDES = 4


@dataclass(frozen=True)
class MarkerStyle:
    """A marker's form, in canonical pixels; the default is the published one for 1000 px focal length.

    Args:
        kind: arrow (tip next to the point), dot (ring round it) or cross (four strokes round it).
        length: of the arrow's shaft or a cross's stroke; radius of a dot.
        thickness: of its strokes, odd.
        head: half height of the arrow's head.
    """

    kind: Literal["arrow", "dot", "cross"] = "arrow"
    length: int = 5
    thickness: int = 1
    head: int = 2

    def __post_init__(self) -> None:
        if self.kind not in ("arrow", "dot", "cross"):
            raise DepthLMError("marker", f"unknown kind {self.kind!r}", "arrow, dot or cross")
        if self.length < 1 or self.thickness < 1 or self.thickness % 2 == 0 or self.head < 0:
            raise DepthLMError("marker", f"impossible size {self}", "length >= 1, odd thickness, head >= 0")


class Stamp:
    """A marker's pixels relative to the labelled one, (n, 2) int64 ``xy``."""

    def __init__(self, xy: NDArray[np.int64]) -> None:
        self.xy = xy
        self.pixels = {(x, y) for x, y in xy.tolist()}
        self.left, self.top = xy.min(axis=0).tolist()
        self.right, self.bottom = xy.max(axis=0).tolist()


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a marker goes: its stamp at a labelled pixel (x, y) of the canonical image."""

    stamp: Stamp
    x: int
    y: int

    @property
    def xy(self) -> NDArray[np.int64]:
        """Pixels that it paints, (n, 2) int64."""
        return self.stamp.xy + np.array([self.x, self.y])

    def within(self, width: int, height: int) -> bool:
        """Whether all of it lies inside an image."""
        stamp = self.stamp
        wide = -stamp.left <= self.x < width - stamp.right
        return wide and -stamp.top <= self.y < height - stamp.bottom

    def covers(self, x: int, y: int) -> bool:
        """Whether it paints a pixel."""
        return (x - self.x, y - self.y) in self.stamp.pixels

    def overlaps(self, other: Placement) -> bool:
        """Whether both paint a pixel."""
        one, two, dx, dy = self.stamp, other.stamp, other.x - self.x, other.y - self.y
        near = one.left - two.right <= dx <= one.right - two.left and one.top - two.bottom <= dy <= one.bottom - two.top
        return near and any((x + dx, y + dy) in one.pixels for x, y in two.pixels)


@lru_cache(maxsize=64)
def stamps(style: MarkerStyle) -> tuple[Stamp, ...]:
    """A marker on each side of its labelled pixel, in the order in which they are tried."""
    half = style.thickness // 2
    reach = style.length + half + style.head + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    if style.kind == "arrow":  # the tip is the pixel left of the labelled one
        back = -1 - x
        head = (back >= 0) & (back <= style.head) & (abs(y) <= back)
        painted = head | ((back >= 0) & (back < style.length) & (abs(y) <= np.minimum(half, back)))
    elif style.kind == "dot":
        painted = abs(np.hypot(x, y) - style.length) <= style.thickness / 2
    else:
        gap = half + 1
        stroke = (abs(x) >= gap) & (abs(x) < gap + style.length) & (abs(y) <= half)
        painted = stroke | stroke.T
    xy = np.stack([x[painted], y[painted]], axis=1)
    out = []
    for _ in range(SIDES if style.kind == "arrow" else 1):
        out.append(Stamp(xy))
        xy = np.stack([-xy[:, 1], xy[:, 0]], axis=1)  # a quarter turn
    return tuple(out)


def place_markers(style: MarkerStyle, xy: ArrayLike, width: int, height: int) -> list[Placement] | None:
    """Sides for the markers of the points (n, 2), canonical px, in an image of ``width`` x ``height``.

    No marker leaves the image, covers a labelled pixel, or covers another marker. None when that is impossible.
    """
    points = [(x, y) for x, y in np.rint(np.asarray(xy, np.float64).reshape(-1, 2)).astype(np.int64).tolist()]
    if len(set(points)) < len(points) or not all(0 <= x < width and 0 <= y < height for x, y in points):
        return None
    possible = []
    for point in points:
        turns = [Placement(stamp, *point) for stamp in stamps(style)]
        turns = [turn for turn in turns if turn.within(width, height)]
        possible.append([turn for turn in turns if not any(turn.covers(*other) for other in points)])
    return _apart(possible)


def _apart(possible: Sequence[Sequence[Placement]]) -> list[Placement] | None:
    """The first choice of one placement for each marker, in their order, in which no two overlap."""
    if not possible:
        return []
    first, *others = possible
    for one in first:
        left = [[other for other in turns if not other.overlaps(one)] for turns in others]
        if all(left) and (rest := _apart(left)) is not None:  # a marker without a side left ends the search here
            return [one, *rest]
    return None


def draw_markers(
    pixels: NDArray[np.uint8], placements: Sequence[Placement], colours: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of the image (h, w, 3) with each marker painted in its named colour."""
    out = pixels.copy()
    for placement, colour in zip(placements, colours, strict=True):
        out[placement.xy[:, 1], placement.xy[:, 0]] = COLOURS[colour]
    return out
