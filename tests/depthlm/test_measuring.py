"""Answers read as measurements: value, unit, 90% interval, warnings."""

from __future__ import annotations

import math

import numpy as np

from depthlm.asking import Canvas, ask_about
from depthlm.camera import Camera
from depthlm.measuring import Measurement, read_measurement
from depthlm.photo import Photo
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.spread import Token

PHOTO = Photo(np.zeros((240, 320, 3), np.uint8), Camera.from_fov(320, 240, 70))


def read(kind, texts, tokens=(), given=None, photo=PHOTO, **more):
    points = [(100 + 50 * i, 100) for i in range(KINDS.get(kind).points)]
    shown = ask_about([Canvas(photo, PROFILES.get("nano"))], KINDS.get(kind), points, given)
    return read_measurement(KINDS.get(kind), given, shown, [photo], texts, tokens, model="m", **more)


def token(text: str, p: float, **others: float) -> Token:
    told = {text: p, **{name.lstrip("_"): share for name, share in others.items()}}
    return Token(text, math.log(p), tuple((name, math.log(share)) for name, share in told.items()))


def test_one_answer_with_log_probabilities():
    tokens = [token("3", 0.7, _2=0.2, _4=0.1), token(".", 1), token("5", 1), token("0", 1), token("", 1)]
    found = read("distance", ["3.50"], tokens, names=["door"])
    assert (found.value, found.unit, found.interval) == (3.5, "m", (2.5, 4.5))
    assert str(found) == "3.50 m (90%: 2.50 to 4.50)"
    assert found.points == [{"name": "door", "colour": "red", "x": 100.0, "y": 100.0}]
    assert found.cameras[0]["known_from"] == "given"
    assert found.question == "How many metres is the point at the red arrow from the camera?"
    assert found.warnings == []
    assert Measurement.from_dict(found.to_dict() | {"more": 1}) == found


def test_a_reasoned_answer_is_as_unsure_as_the_distance_that_it_states():
    text = "The point is 3.00 m away. 3.00 / 2.0 = 1.50"
    tokens = [token("The point is ", 1), token("3", 0.7, _2=0.2, _4=0.1), token(".00", 1), token(" m away. ", 1)]
    tokens += [token("3.00 / 2.0 = ", 1), token("1", 1), token(".50", 1), token("", 1)]
    found = read("speed", [text], tokens, 2.0)
    assert (found.value, found.interval) == (1.5, (1.0, 2.0))


def test_a_reasoned_answer_whose_distance_is_not_the_median_of_its_alternatives():
    """The likeliest first digit, and most of the weight above it."""
    text = "The point is 3.00 m away. 3.00 / 2.0 = 1.50"
    tokens = [token("The point is ", 1), token("3", 0.4, _5=0.3, _6=0.3), token(".00", 1), token(" m away. ", 1)]
    tokens += [token("3.00 / 2.0 = ", 1), token("1", 1), token(".50", 1), token("", 1)]
    found = read("speed", [text], tokens, 2.0)
    assert (found.value, found.interval) == (1.5, (1.5, 3.0))


def test_an_answer_that_gives_the_number_alone_is_not_divided_again():
    tokens = [token("1", 0.7, _2=0.2, _3=0.1), token(".50", 1), token("", 1)]
    found = read("speed", ["1.50"], tokens, 2.0)
    assert (found.value, found.interval) == (1.5, (1.5, 3.5))


def test_an_interval_holds_its_value():
    """Digit by digit the greedy answer may be the rarest of all: 1 (4%) goes on to 19.50, or ends as 1.50."""
    tokens = [token("1", 0.04, _3=0.48, _4=0.48), token(".50", 1), token("", 1)]
    found = read("distance", ["1.50"], tokens)
    assert found.interval == (1.5, 4.5)


def test_samples_give_their_median():
    found = read("distance", ["1", "2", "3", "I can't", "40"])
    assert (found.value, found.text, found.interval) == (2.5, "1", (1, 40))
    found = read("distance", ["1", "no", "never", "nothing"])
    assert (found.value, found.reason) == (None, "fewer than half of the samples hold a number")


def test_what_is_not_known_is_said():
    found = read("distance", ["3.50"])
    assert found.interval is None
    assert any("log-probabilities" in warning for warning in found.warnings)
    found = read("distance", ["I cannot tell"])
    assert (found.value, found.interval, found.reason) == (None, None, "refusal")
    assert str(found) == "no distance: refusal"
    assumed = Photo(PHOTO.pixels, PHOTO.camera, "assumed")
    found = read("distance", ["3"], cut=True, photo=assumed, notes=["general profile"])
    assert [warning.split()[0] for warning in found.warnings] == ["the", "general", "the", "the"]
    assert "70 degrees was assumed" in found.warnings[0]
    assert "cut off" in found.warnings[-1]
