"""One sample end to end: what is marked is what is asked, in the pixel it was measured at."""

import numpy as np
import pytest
from conftest import make_frame

from depthlm.errors import DepthLMError
from depthlm.markers import COLOURS
from depthlm.pairs import motion
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.sample import canonical_depth, make_sample, render_frame

NANO = PROFILES.get("nano")


def test_single_point_sample(frame):
    sample = make_sample([frame], [KINDS.get("distance")], np.random.default_rng(0), NANO)
    (turn,) = sample.turns
    point = turn.points[0]
    h, w = sample.images[0].shape[:2]
    assert h % 28 == w % 28 == 0
    label = np.flatnonzero((frame.xy == np.float32(point["source_xy"])).all(1))
    assert len(label) == 1 and frame.z[label[0]] == np.float32(point["z"])
    x, y = point["source_xy"]
    cam = frame.camera
    by_hand = point["z"] * np.sqrt(((x - cam.cx) / cam.fx) ** 2 + ((y - cam.cy) / cam.fy) ** 2 + 1)
    assert turn.truth == pytest.approx(by_hand, rel=1e-9)
    assert "red arrow" in turn.question
    assert (sample.images[0] == COLOURS["red"]).all(-1).sum() > 20


def test_conversation_has_a_colour_for_each_point(frame):
    kinds = [KINDS.get(k) for k in ("distance", "two_point", "speed")]
    sample = make_sample([frame], kinds, np.random.default_rng(1), NANO, shuffle_colours=True)
    colours = [p["colour"] for turn in sample.turns for p in turn.points]
    assert len(set(colours)) == 4
    for turn in sample.turns:
        assert all(p["colour"] in turn.question for p in turn.points)
    messages = sample.messages()
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3
    assert [p["type"] for p in messages[0]["content"]] == ["image", "text"]
    assert [p["type"] for p in messages[2]["content"]] == ["text"]
    assert sample.messages(upto=1)[-1]["role"] == "user"


@pytest.mark.parametrize("mode", ["normalize", "text", "both", "none"])
def test_intrinsics_modes(frame, mode):
    sample = make_sample([frame], [KINDS.get("distance")], np.random.default_rng(0), NANO, mode)
    assert ("focal length" in sample.turns[0].question) == (mode in ("text", "both"))
    if mode == "both":
        assert f"{NANO.focal:.1f} pixels" in sample.turns[0].question


def test_camera_motion_uses_both_poses():
    first, second = make_frame("a"), make_frame("b", offset_m=0.75)
    assert motion(first, second) == pytest.approx(0.75)
    sample = make_sample([first, second], [KINDS.get("camera_motion")], np.random.default_rng(0), NANO)
    assert len(sample.images) == 2 and sample.turns[0].truth == pytest.approx(0.75)


def test_dense_depth_is_the_nearest_measured_pixel():
    frame = make_frame(dense=True)
    depth = frame.depth.copy()
    depth[:, 160:] = 8.0
    object.__setattr__(frame, "depth", depth)
    sample = make_sample([frame], [KINDS.get("distance")], np.random.default_rng(0), NANO, dense=True)
    assert set(np.unique(sample.depths[0])) == {4.0, 8.0}
    assert sample.depths[0].shape == sample.images[0].shape[:2]
    assert canonical_depth is not None


def test_a_frame_without_room_is_an_error():
    frame = make_frame(labels=1)
    with pytest.raises(DepthLMError, match="no room for 2"):
        make_sample([frame], [KINDS.get("two_point")], np.random.default_rng(0), NANO)


@pytest.mark.parametrize("kind", ["distance", "two_point", "speed"])
def test_coordinates_ask_about_the_same_pixels_and_draw_nothing(frame, kind):
    marked, told = (
        make_sample([frame], [KINDS.get(kind)], np.random.default_rng(2), NANO, pointing=pointing)
        for pointing in ("marker", "coordinates")
    )
    assert told.turns[0].truth == marked.turns[0].truth and told.turns[0].points == marked.turns[0].points
    assert (told.images[0] == render_frame(frame, NANO)[1]).all() and (marked.images[0] != told.images[0]).any()
    for point in told.turns[0].points:
        x, y = np.rint(point["xy"]).astype(int)
        assert f"the point at pixel ({x}, {y})" in told.turns[0].question
    assert "arrow" not in told.turns[0].question and told.marks == [[]]


def test_answers_without_reasoning_are_the_number_alone(frame):
    kinds = [KINDS.get(k) for k in ("distance", "speed", "travel_time")]
    long, short = (
        make_sample([frame], kinds, np.random.default_rng(3), NANO, reasoned=reasoned) for reasoned in (True, False)
    )
    assert [t.truth for t in long.turns] == [t.truth for t in short.turns]
    assert long.turns[0].answer == short.turns[0].answer
    for turn, reasoned in zip(short.turns, long.turns, strict=True):
        assert turn.answer == f"{turn.truth:.2f}"
        assert float(reasoned.answer.split()[-1]) == pytest.approx(turn.truth, abs=0.02)
