"""Questions about photos: the same images and words as a suite's, for points that have no label."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_frame

from depthlm.asking import Canvas, ask_about
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS, MarkerStyle
from depthlm.photo import Photo
from depthlm.profiles import PROFILES, Profile
from depthlm.questions import KINDS, Wording
from depthlm.sample import make_sample

NANO, GENERAL = PROFILES.get("nano"), PROFILES.get("general")
# Sees less than a third of a wide image at once.
NARROW = Profile("narrow", focal=200.0, max_pixels=20 * 28 * 28, marker=MarkerStyle())


def photo(width: int = 320, height: int = 240, fov: float = 70, **camera: object) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Photo(pixels, Camera.from_fov(width, height, fov, **camera))


@pytest.mark.parametrize("kind", ["distance", "axis_distance", "two_point", "speed", "travel_time"])
@pytest.mark.parametrize("mode", ["normalize", "both", "none"])
@pytest.mark.parametrize("pointing", ["marker", "coordinates"])
@pytest.mark.parametrize("profile", [NANO, GENERAL])
def test_a_point_with_a_label_is_asked_about_as_in_a_suite(kind, mode, pointing, profile):
    frame, question = make_frame(), KINDS.get(kind)
    given = 2.0 if question.given else 1.0
    labels = list(range(question.points))
    wordings = [Wording(question.phrasings[0], given)]
    rng = np.random.default_rng(0)
    sample = make_sample([frame], [question], rng, profile, mode, labels=labels, wordings=wordings, pointing=pointing)
    canvas = Canvas(Photo(frame.pixels(), frame.camera), profile, mode, pointing)
    shown = ask_about([canvas], question, frame.xy[labels], 2.0 if question.given else None)
    assert shown.texts == [sample.turns[0].question]
    np.testing.assert_array_equal(shown.images[0], sample.images[0])
    for mine, theirs in zip(shown.points[0], sample.turns[0].points, strict=True):
        assert mine["colour"] == theirs["colour"]
        assert mine["xy"] == pytest.approx(theirs["xy"])
        assert mine["source_xy"] == pytest.approx(theirs["source_xy"])


def test_camera_motion_shows_two_unmarked_photos():
    frames = [make_frame("0"), make_frame("1", offset_m=1.5)]
    canvases = [Canvas(Photo(frame.pixels(), frame.camera), NANO) for frame in frames]
    shown = ask_about(canvases, KINDS.get("camera_motion"))
    wording = Wording(KINDS.get("camera_motion").phrasings[0])
    motion = KINDS.get("camera_motion")
    sample = make_sample(frames, [motion], np.random.default_rng(0), NANO, wordings=[wording])
    for mine, theirs in zip(shown.images, sample.images, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("distortion", [(), (-0.1, 0.02, 0.001, -0.001)])
def test_the_window_moves_to_points_that_the_central_one_lacks(distortion):
    wide = photo(900, 300, 100, distortion=distortion)
    canvas = Canvas(wide, NARROW)
    central = canvas.mark([(450, 150)])
    assert central.view.camera.cx == pytest.approx(central.view.camera.width / 2 - 0.5, abs=2)
    for x, y in [(60, 150), (840, 150), (100, 60), (800, 240)]:
        marked = canvas.mark([(x, y)])
        (cx, cy), camera = marked.xy[0], marked.view.camera
        assert 0 <= cx < camera.width and 0 <= cy < camera.height
        np.testing.assert_allclose(marked.view.to_source(marked.xy), [(x, y)], atol=1e-3)
        red = np.argwhere((marked.pixels == COLOURS["red"]).all(-1))
        assert len(red) and np.abs(red[:, ::-1] - (cx, cy)).max() < 8
    np.testing.assert_array_equal(canvas.mark([(450, 150)]).pixels, central.pixels)


def test_points_that_no_window_holds_together_are_refused():
    canvas = Canvas(photo(900, 300, 100), NARROW)
    with pytest.raises(DepthLMError, match="no room for these 2 points") as caught:
        canvas.mark([(60, 150), (840, 150)])
    assert caught.value.kind == "bad point"
    with pytest.raises(DepthLMError, match="no room for these 2 points"):
        canvas.mark([(450, 150), (450, 150)])


@pytest.mark.parametrize("point", [(-1, 5), (320, 5), (5, 240), (float("nan"), 5), (float("inf"), 5)])
def test_a_point_outside_is_refused(point):
    with pytest.raises(DepthLMError, match=r"point 1: .* outside the 320x240 image") as caught:
        Canvas(photo(), NANO).mark([point])
    assert caught.value.kind == "bad point"


def test_more_points_than_colours_are_refused():
    with pytest.raises(DepthLMError, match="9 in one image"):
        Canvas(photo(), GENERAL).mark([(20 + 30 * i, 120) for i in range(9)])


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(DepthLMError, match="less than the smallest canonical image") as caught:
        Canvas(photo(100, 100, 5), NANO)
    assert caught.value.kind == "image too small"


@pytest.mark.parametrize(
    ("kind", "photos", "points", "given", "told"),
    [
        ("distance", 1, 2, None, "about 1 point"),
        ("two_point", 1, 1, None, "about 2 point"),
        ("camera_motion", 1, 0, None, "about 2 image"),
        ("distance", 2, 1, None, "about 1 image"),
        ("distance", 1, 1, 2.0, "states no time or speed"),
        ("speed", 1, 1, None, "needs a time in seconds"),
        ("travel_time", 1, 1, None, "needs a speed in m/s"),
        ("speed", 1, 1, 0.25, "one decimal"),
        ("speed", 1, 1, 0.0, "one decimal"),
        ("speed", 1, 1, -2.0, "one decimal"),
        ("speed", 1, 1, float("nan"), "one decimal"),
    ],
)
def test_a_question_that_does_not_go_together_is_refused(kind, photos, points, given, told):
    canvases = [Canvas(photo(), NANO)] * photos
    with pytest.raises(DepthLMError, match=told) as caught:
        ask_about(canvases, KINDS.get(kind), [(100 + 50 * i, 100) for i in range(points)], given)
    assert caught.value.kind == "bad question"
