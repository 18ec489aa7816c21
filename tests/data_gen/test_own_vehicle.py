"""The own vehicle as boxes: points on it, and points it hides from the camera."""

import numpy as np
import pytest

from data_gen.own_vehicle import own_vehicle

BOX = ((-1.0, -1.0, 0.0), (3.0, 1.0, 1.2))
ROOF = (0.0, 0.0, 1.6)


@pytest.mark.parametrize(
    ("point", "hit"),
    [
        ((2.0, 0.5, 1.0), True),  # on the body
        ((-3.0, 0.0, 0.0), True),  # the road right behind: the sight line cuts the rear edge
        ((-6.0, 0.0, 0.0), False),  # at x = -1 the sight line is 1.33 m high
        ((0.0, 3.5, 0.0), True),  # beside: at y = 1 it is 1.14 m high
        ((0.0, 4.5, 0.0), False),  # 1.24 m
        ((10.0, 0.0, 1.6), False),  # level, above the body
        ((0.0, 0.0, -5.0), True),  # straight down: along two pairs of faces
        ((0.0, 0.0, 5.0), False),
        ((30.0, 0.0, 0.2), False),
    ],
)
def test_on_or_behind(point, hit):
    assert own_vehicle([point], ROOF, [BOX]).tolist() == [hit]


def test_the_same_as_walking_along_the_sight_line():
    rng = np.random.default_rng(0)
    points = rng.uniform(-8, 8, (3000, 3))
    steps = np.linspace(0, 1, 2000)[:, None, None]
    walked = np.array(ROOF) + steps * (points - ROOF)
    expected = ((walked >= BOX[0]) & (walked <= BOX[1])).all(axis=2).any(axis=0)
    found = own_vehicle(points, ROOF, [BOX])
    assert (found != expected).mean() < 0.002, "a step may miss a corner"
    assert 0.1 < found.mean() < 0.5


def test_several_boxes_and_no_point():
    assert own_vehicle([(5.0, 0, 0.5)], ROOF, [BOX, ((4.5, -1, 0), (6, 1, 1))]).tolist() == [True]
    assert own_vehicle(np.zeros((0, 3)), ROOF, [BOX]).shape == (0,)
    assert not own_vehicle([(2.0, 0, 1)], ROOF, []).any()
