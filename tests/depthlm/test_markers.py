"""Markers point, never cover what they point at, and turn before they give up."""

from itertools import combinations, product

import numpy as np
import pytest

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS, MarkerStyle, draw_markers, place_markers, stamps

STYLES = [MarkerStyle(), MarkerStyle("arrow", 12, 3, 6), MarkerStyle("dot", 5, 1), MarkerStyle("cross", 4, 1)]


def test_published_arrow():
    """Shaft of five pixels, one thick, its tip on the pixel left of the labelled one."""
    xy = stamps(MarkerStyle())[0].xy
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


@pytest.mark.parametrize("style", STYLES)
def test_the_first_choice_of_sides_that_fits_is_taken(style):
    """All choices of sides, tried in their order on a grid of pixels, know no better."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        width, height, n = *rng.integers(30, 110, 2).tolist(), int(rng.integers(1, 5))
        points = rng.integers(0, (width, height), (n, 2)) // rng.integers(1, 4)  # some lie close together
        placements = place_markers(style, points, width, height)
        expected = _first_that_fits(style, points, width, height)
        assert (placements is None) == (expected is None)
        if placements is not None and expected is not None:
            found += 1
            assert all(np.array_equal(p.xy, xy) for p, xy in zip(placements, expected, strict=True))
    assert 30 < found < 200  # both happen


def _first_that_fits(style, points, width, height):
    if len(np.unique(points, axis=0)) < len(points):
        return None
    for chosen in product(stamps(style), repeat=len(points)):
        painted = [stamp.xy + point for stamp, point in zip(chosen, points, strict=True)]
        pixels = np.concatenate([*painted, points])
        inside = (pixels >= 0).all() and (pixels < (width, height)).all()
        if inside and len(np.unique(pixels, axis=0)) == len(pixels):
            return painted
    return None


def test_overlapping_is_sharing_a_pixel():
    style = MarkerStyle("arrow", 12, 3, 6)
    near = place_markers(style, [[50, 40], [60, 45], [63, 38], [70, 60]], 112, 84)
    turned = [place_markers(style, [xy], 112, 84)[0] for xy in ([50, 40], [45, 41], [52, 44], [62, 40])]
    assert not any(one.overlaps(other) for one, other in combinations(near, 2))
    for one, other in product(turned, repeat=2):
        shared = {*map(tuple, one.xy.tolist())} & {*map(tuple, other.xy.tolist())}
        assert one.overlaps(other) == bool(shared)
        assert all(one.covers(x, y) and other.covers(x, y) for x, y in shared)


def test_a_point_without_room_is_seen_before_the_others_are_turned():
    """Eight points in a wide image, of which one is in a corner that no side fits into."""
    style = MarkerStyle("arrow", 12, 3, 6)
    points = [[40 + 40 * i, 40] for i in range(7)] + [[3, 3]]
    assert place_markers(style, points, 400, 84) is None
    points[-1] = [20, 20]
    assert place_markers(style, points, 400, 84) is not None


def test_impossible_styles():
    for wrong in ({"kind": "star"}, {"thickness": 2}, {"length": 0}):
        with pytest.raises(DepthLMError):
            MarkerStyle(**wrong)
