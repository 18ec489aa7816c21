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


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a marker goes: ``xy`` (n, 2) int64 canonical pixels it paints."""

    xy: NDArray[np.int64]


@lru_cache(maxsize=64)
def stamp(style: MarkerStyle, side: int = 0) -> NDArray[np.int64]:
    """Pixels of the marker relative to the labelled pixel, (n, 2) int64, turned by ``side`` quarter turns; not to be
    written to."""
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
    for _ in range(side):
        xy = np.stack([-xy[:, 1], xy[:, 0]], axis=1)
    xy.setflags(write=False)
    return xy


def place_markers(style: MarkerStyle, xy: ArrayLike, width: int, height: int) -> list[Placement] | None:
    """Sides for the markers of the points (n, 2), canonical px, in an image of ``width`` x ``height``.

    No marker leaves the image, covers a labelled pixel, or covers another marker. None when that is impossible.
    """
    pixels = np.rint(np.asarray(xy, np.float64).reshape(-1, 2)).astype(np.int64)
    blocked = np.zeros((height, width), bool)
    if not _inside(pixels, width, height) or len({tuple(p) for p in pixels.tolist()}) < len(pixels):
        return None
    blocked[pixels[:, 1], pixels[:, 0]] = True
    stamps = [stamp(style, side) for side in range(SIDES if style.kind == "arrow" else 1)]
    chosen: list[Placement] = []
    return chosen if _place(pixels, stamps, blocked, chosen) else None


def _place(
    pixels: NDArray[np.int64], stamps: list[NDArray[np.int64]], blocked: NDArray[np.bool_], chosen: list[Placement]
) -> bool:
    """Depth-first over the sides of each marker in turn."""
    if len(chosen) == len(pixels):
        return True
    height, width = blocked.shape
    for offsets in stamps:
        at = pixels[len(chosen)] + offsets
        if not _inside(at, width, height) or blocked[at[:, 1], at[:, 0]].any():
            continue
        blocked[at[:, 1], at[:, 0]] = True
        chosen.append(Placement(at))
        if _place(pixels, stamps, blocked, chosen):
            return True
        chosen.pop()
        blocked[at[:, 1], at[:, 0]] = False
    return False


def _inside(xy: NDArray[np.int64], width: int, height: int) -> bool:
    return bool((xy >= 0).all() and (xy[:, 0] < width).all() and (xy[:, 1] < height).all())


def draw_markers(
    pixels: NDArray[np.uint8], placements: Sequence[Placement], colours: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of the image (h, w, 3) with each marker painted in its named colour."""
    out = pixels.copy()
    for placement, colour in zip(placements, colours, strict=True):
        out[placement.xy[:, 1], placement.xy[:, 0]] = COLOURS[colour]
    return out
