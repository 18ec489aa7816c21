"""Markers point, never cover what they point at, and turn before they give up."""

import numpy as np
import pytest

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS, MarkerStyle, draw_markers, place_markers, stamp

STYLES = [MarkerStyle(), MarkerStyle("arrow", 12, 3, 6), MarkerStyle("dot", 5, 1), MarkerStyle("cross", 4, 1)]


def test_published_arrow():
    """Shaft of five pixels, one thick, its tip on the pixel left of the labelled one."""
    xy = stamp(MarkerStyle())
    row = sorted(x for x, y in xy.tolist() if y == 0)
    assert row == [-5, -4, -3, -2, -1]
    assert sorted(y for x, y in xy.tolist() if x == -3) == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize("style", STYLES)
def test_never_outside_never_on_a_label(style):
    rng = np.random.default_rng(0)
    placed = 0
    for _ in range(300):
        n = int(rng.integers(1, 5))
        xy = rng.uniform(0, (111, 83), (n, 2))
        placements = place_markers(style, xy, 112, 84)
        if placements is None:
            continue
        placed += 1
        image = np.full((84, 112, 3), 7, np.uint8)
        out = draw_markers(image, placements, list(COLOURS)[:n])
        assert (image == 7).all()
        for p, (x, y) in zip(placements, np.rint(xy).astype(int), strict=True):
            assert (out[y, x] == 7).all()
            if style.kind == "arrow":
                assert np.abs(p.xy - (x, y)).max(axis=1).min() == 1
        for p, colour in zip(placements, COLOURS, strict=False):
            assert (out[p.xy[:, 1], p.xy[:, 0]] == COLOURS[colour]).all()  # no other marker on it
    assert placed > 150


def test_arrow_turns_at_the_border_and_gives_up_only_when_no_side_fits():
    style = MarkerStyle("arrow", 12, 3, 6)
    for xy in ([3, 40], [110, 40], [50, 2], [50, 82]):
        assert place_markers(style, [xy], 112, 84) is not None
    assert place_markers(style, [[5, 5]], 10, 10) is None
    assert place_markers(style, [[50, 40], [50, 40]], 112, 84) is None


def test_two_points_side_by_side():
    placements = place_markers(MarkerStyle("arrow", 12, 3, 6), [[50, 40], [52, 40]], 112, 84)
    assert placements is not None


def test_impossible_styles():
    for wrong in ({"kind": "star"}, {"thickness": 2}, {"length": 0}):
        with pytest.raises(DepthLMError):
            MarkerStyle(**wrong)
