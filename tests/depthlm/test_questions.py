"""Exact answers by hand, exact arithmetic in reasoned ones, and the frozen texts."""

import json
from pathlib import Path

import numpy as np
import pytest

from depthlm.answers import parse_answer
from depthlm.errors import DepthLMError
from depthlm.prompt import point_name
from depthlm.questions import KINDS, Geometry

GOLDEN = Path(__file__).parents[1] / "golden" / "questions.json"
POSE = np.eye(4)
POSE[:3, 3] = (3.0, 0.0, -4.0)
GEOMETRY = Geometry(np.array([[1.0, 2.0, 2.0], [1.0, 2.0, 7.0]]), (np.eye(4), POSE))


@pytest.mark.parametrize(
    ("name", "given", "truth", "answer"),
    [
        ("distance", 1.0, 3.0, "3.00"),
        ("axis_distance", 1.0, 2.0, "2.00"),
        ("speed", 4.0, 0.75, "The point is 3.00 m away. 3.00 / 4.0 = 0.75"),
        ("travel_time", 8.0, 0.375, "The point is 3.00 m away. 3.00 / 8.0 = 0.38"),
        ("two_point", 1.0, 5.0, "5.00"),
        ("camera_motion", 1.0, 5.0, "5.00"),
    ],
)
def test_truth_and_answer(name, given, truth, answer):
    kind = KINDS.get(name)
    assert kind.truth(GEOMETRY, given) == pytest.approx(truth, abs=1e-12)
    assert kind.answer(GEOMETRY, given) == answer


@pytest.mark.parametrize("name", KINDS.names())
def test_answers_parse_back_to_the_truth(name):
    kind = KINDS.get(name)
    rng = np.random.default_rng(0)
    for _ in range(200):
        pose = np.eye(4)
        pose[:3, 3] = rng.normal(size=3)
        geometry = Geometry(rng.uniform(0.5, 60, (2, 3)), (np.eye(4), pose))
        given = float(rng.choice(kind.given)) if kind.given else 1.0
        parsed = parse_answer(kind.answer(geometry, given), kind.unit)
        # half a centimetre of rounding in the distance, divided by >= 1, and half a hundredth in the result
        assert parsed.value == pytest.approx(kind.truth(geometry, given), abs=0.0101)


def test_reasoned_arithmetic_is_exact_on_the_stated_numbers():
    geometry = Geometry(np.array([[0.0, 0.0, 7.234]]))
    assert KINDS.get("speed").answer(geometry, 4.0).endswith("7.23 / 4.0 = 1.81")


def test_unknown_kind_names_the_near_match():
    with pytest.raises(DepthLMError, match="distance"):
        KINDS.get("distanse")


def test_texts_are_the_frozen_ones():
    """A changed prompt changes what every trained model was asked: renew tests/golden/questions.json on purpose."""
    now = {}
    for name in KINDS.names():
        kind = KINDS.get(name)
        names = [point_name("arrow", "red"), point_name("arrow", "blue")]
        now[name] = [kind.question(names, 4.0, i) for i in range(len(kind.phrasings))]
    assert now == json.loads(GOLDEN.read_text())
    assert all("{" not in text for texts in now.values() for text in texts)
