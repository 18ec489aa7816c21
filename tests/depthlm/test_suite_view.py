"""A frozen question in the form of any profile: the same truth, its own focal length and markers, the frozen frame."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import encode_png, make_frame
from suites import freeze_store, stored_suite

from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.markers import COLOURS
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS, Wording
from depthlm.sample import make_sample, render_frame
from depthlm.store import SCHEMA, FrameStore, write_shard
from depthlm.store_index import INDEX_FILE, index_bytes
from depthlm.suite import Item, Suite, frame_hash, read_suite
from depthlm.suite_view import SuiteView

DISTANCE = {"distance": 1.0}


def frozen(store: Path, out: Path, count: int = 6, mix=DISTANCE, **asking) -> Suite:
    return freeze_store(store, out, count, mix, **asking)[0]


def painted(image: np.ndarray, colour: str) -> set[tuple[int, int]]:
    """Pixels (x, y) of exactly a marker's colour."""
    ys, xs = np.nonzero((image == COLOURS[colour]).all(axis=2))
    return set(zip(xs.tolist(), ys.tolist(), strict=True))


def test_another_profile_asks_the_same_in_its_own_form(store, tmp_path):
    suite = frozen(store, tmp_path / "s", mix={"distance": 1, "two_point": 1}, also=["pixtral"])
    own, other = SuiteView(suite), SuiteView(suite, "pixtral")
    for item in suite.items:
        nano, pixtral = own.show(item), other.show(item)
        assert nano.texts == pixtral.texts == [item.question]
        for (a,), (b,) in zip(zip(*nano.points, strict=True), zip(*pixtral.points, strict=True), strict=True):
            assert (a["distance"], a["xyz"], a["source_xy"]) == (b["distance"], b["xyz"], b["source_xy"])
        for points in (nano.points[0], pixtral.points[0]):
            assert [{name: p[name] for name in ("colour", "source_xy", "z", "distance")} for p in points] == item.points
        # 750 px instead of 128, so about six times the size: each in sides that its processor leaves alone
        height, width = pixtral.images[0].shape[:2]
        assert width > 5 * nano.images[0].shape[1] and width % 16 == height % 16 == 0
        for shown in (nano, pixtral):
            for point in shown.points[0]:
                x, y = (round(v) for v in point["xy"])
                found = painted(shown.images[0], point["colour"])
                assert (x, y) not in found and min(abs(x - u) + abs(y - v) for u, v in found) == 1
        sizes = [len(painted(shown.images[0], "red")) for shown in (nano, pixtral)]
        assert sizes[0] > 2 * sizes[1]  # nano's arrow is thick, Pixtral's the published one


def test_a_truth_is_that_of_the_geometry_under_every_profile(store, tmp_path):
    mix = dict.fromkeys(KINDS.names(), 1.0)
    suite = frozen(store, tmp_path / "s", 18, mix, also=["pixtral", "general"])
    assert {item.kind for item in suite.items} == set(KINDS.names())
    for name in ("nano", "pixtral", "general"):
        view = SuiteView(suite, name)
        for item in suite.items:
            frames = view.frames(item)
            xyz = np.array([p["xyz"] for p in view.show(item).points[0]]).reshape(-1, 3)
            if item.kind in ("distance", "speed", "travel_time"):
                assert np.linalg.norm(xyz[0]) == pytest.approx(item.truth * {"distance": 1}.get(item.kind, item.given))
            elif item.kind == "camera_motion":
                poses = [frame.camera.pose[:3, 3] for frame in frames]
                assert np.linalg.norm(poses[0] - poses[1]) == pytest.approx(item.truth)


@pytest.mark.parametrize("asking", [{}, {"pointing": "coordinates"}, {"intrinsics": "text"}, {"intrinsics": "both"}])
def test_what_is_shown_equals_a_sample_of_the_original_frame(store, tmp_path, asking):
    suite, original = frozen(store, tmp_path / "s", 8, {"distance": 1, "two_point": 1}, **asking), FrameStore(store)
    view = SuiteView(suite)
    for item in suite.items:
        frame = original[original.ids.index(item.frame_ids[0])]
        where = [point["source_xy"] for point in item.points]
        labels = [int(np.flatnonzero((frame.labels[0] == xy).all(1))[0]) for xy in where]
        sample = make_sample(
            [frame],
            [KINDS.get(item.kind)],
            np.random.default_rng(0),
            PROFILES.get("nano"),
            asking.get("intrinsics", "normalize"),
            labels=labels,
            wordings=[Wording(item.phrasing, item.given)],
            pointing=asking.get("pointing", "marker"),
        )
        shown = view.show(item)
        np.testing.assert_array_equal(shown.images[0], sample.images[0])
        assert shown.texts == [item.question] == [sample.turns[0].question]
        assert (item.truth, item.answer) == (sample.turns[0].truth, sample.turns[0].answer)
        assert shown.messages() == sample.messages(upto=0)


def test_coordinates_draw_nothing_and_name_each_profile_s_own_pixel(store, tmp_path):
    suite = frozen(store, tmp_path / "s", pointing="coordinates", also=["pixtral"])
    for name in ("nano", "pixtral"):
        view = SuiteView(suite, name)
        shown, (frame,) = view.show(suite.items[0]), view.frames(suite.items[0])
        np.testing.assert_array_equal(shown.images[0], render_frame(frame, view.profile)[1])
        x, y = shown.points[0][0]["xy"]
        assert f"({round(x)}, {round(y)})" in shown.texts[0]


def test_text_mode_states_the_camera_and_keeps_the_image_s_own_scale(store, tmp_path):
    suite = frozen(store, tmp_path / "s", intrinsics="text", also=["general"])
    shown = SuiteView(suite, "general").show(suite.items[0])
    height, width = shown.images[0].shape[:2]
    assert width <= 320 and height <= 240 and "focal length" in shown.texts[0]
    plain = SuiteView(frozen(store, tmp_path / "n", also=["general"]), "general")
    assert "focal length" not in plain.show(suite.items[0]).texts[0]


def rewrite(suite: Suite, change) -> Suite:
    """The suite with its frames changed, as someone else may hand it on."""
    frames = [change(frame) for frame in FrameStore(suite.path / "frames")]
    write_shard(suite.path / "frames/frames-000000.parquet", [frame for frame in frames if frame is not None])
    (suite.path / "frames" / INDEX_FILE).write_bytes(index_bytes(suite.path / "frames", SCHEMA.names))
    return read_suite(suite.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: replace(frame, z=frame.z + np.float32(0.01)),
        lambda frame: replace(frame, xy=frame.xy + np.float32(1)),
        lambda frame: replace(frame, camera=replace(frame.camera, fx=frame.camera.fx * 1.001)),
        lambda frame: replace(frame, image=encode_png(np.zeros((240, 320, 3), np.uint8))),
        lambda frame: replace(frame, depth=np.full((240, 320), 4.0, np.float32)),
    ],
    ids=["z", "xy", "camera", "image", "depth"],
)
def test_a_changed_frame_is_refused(store, tmp_path, change):
    suite = rewrite(frozen(store, tmp_path / "s"), change)
    with pytest.raises(DepthLMError, match="not the one that was frozen"):
        SuiteView(suite).show(suite.items[0])


def test_a_missing_frame_is_refused_and_an_equal_one_is_not(store, tmp_path):
    suite = frozen(store, tmp_path / "s")
    gone = suite.items[0].frame_ids[0]
    same = rewrite(suite, lambda frame: frame)
    assert SuiteView(same).show(same.items[0]).texts == [same.items[0].question]
    less = rewrite(suite, lambda frame: None if frame.id == gone else frame)
    with pytest.raises(DepthLMError, match=f"has no frame {gone}"):
        SuiteView(less).show(less.items[0])


@pytest.mark.parametrize("labels", [[-1], [99], [], [0, 1]])
def test_labels_that_the_frame_does_not_have_are_refused(store, tmp_path, labels):
    suite = frozen(store, tmp_path / "s")
    with pytest.raises(DepthLMError, match="asks about labels"):
        SuiteView(suite).show(replace(suite.items[0], labels=labels))


def test_several_questions_about_a_frame_decode_it_once(store, tmp_path, monkeypatch):
    suite = frozen(store, tmp_path / "s", 18)
    decoded = []
    pixels = Frame.pixels
    monkeypatch.setattr(Frame, "pixels", lambda self, checked: decoded.append(self.id) or pixels(self, checked))
    view = SuiteView(suite)
    for item in suite.items:
        view.show(item)
    assert len(decoded) == len(set(decoded)) == 6


def about_one_frame(suite: Suite, *kinds: str) -> list[Item]:
    """One question of each kind about the same frame, all about other labels."""
    for first in suite.items:
        found = [first] if first.kind == kinds[0] else []
        for kind in kinds[1:] if found else ():
            used = {label for item in found for label in item.labels}
            fits = [
                item
                for item in suite.items
                if item.kind == kind and item.frame_ids == first.frame_ids and not used & set(item.labels)
            ]
            found += fits[:1]
        if len(found) == len(kinds):
            return found
    raise AssertionError("no frame has them all")


def test_a_conversation_has_a_colour_for_each_point_and_every_question_names_its_own(store, tmp_path):
    suite = frozen(store, tmp_path / "s", 36, {"distance": 1, "two_point": 1, "axis_distance": 1})
    items, view = about_one_frame(suite, "distance", "two_point", "axis_distance"), SuiteView(suite)
    together = view.show(*items)
    assert len(together.images) == 1 and len(together.texts) == 3
    colours = [[point["colour"] for point in points] for points in together.points]
    assert colours == [["red"], ["blue", "green"], ["yellow"]]
    for item, text, points, own in zip(items, together.texts, together.points, colours, strict=True):
        assert [c for c in COLOURS if f"{c} arrow" in text] == sorted(own, key=list(COLOURS).index)
        assert [p["source_xy"] for p in points] == [p["source_xy"] for p in item.points]
        assert all(painted(together.images[0], colour) for colour in own)
    messages = together.messages(["1.00", "2.00"])
    assert [m["role"] for m in messages if m["role"] != "system"] == ["user", "assistant"] * 2 + ["user"]
    assert view.show(items[0]).texts == [items[0].question]  # what is remembered of the frame is unmarked
    assert not painted(view.show(items[0]).images[0], "blue")


def test_only_questions_about_the_same_frame_share_a_conversation(store, tmp_path):
    suite = frozen(store, tmp_path / "s")
    a, b = (next(i for i in suite.items if i.frame_ids == [f"s{s}/0"]) for s in (0, 1))
    with pytest.raises(DepthLMError, match="about something else"):
        SuiteView(suite).show(a, b)
    stored = stored_suite(tmp_path / "stored")
    with pytest.raises(DepthLMError, match="about something else"):
        SuiteView(stored).show(*stored.items)


def test_a_view_goes_to_another_process(store, tmp_path):
    suite = frozen(store, tmp_path / "s")
    view = SuiteView(suite, "nano")
    here = view.show(suite.items[0])  # the store is open by now, and an image in memory
    sent = pickle.dumps(view)
    assert len(sent) < 5000
    there = pickle.loads(sent).show(suite.items[0])
    assert there.texts == here.texts and (there.images[0] == here.images[0]).all()


def test_stored_images_are_shown_as_they_are_and_no_others(tmp_path):
    suite = stored_suite(tmp_path / "s")
    shown = SuiteView(suite).show(suite.items[1])
    assert [int(image[0, 0, 0]) for image in shown.images] == [90, 200] and not shown.canonical
    assert shown.system == "Be brief." and shown.stored[0] == suite.items[1].image_paths[0].read_bytes()
    suite.items[0].image_paths[0].write_bytes(suite.items[1].image_paths[1].read_bytes())
    with pytest.raises(DepthLMError, match="not the one that was frozen"):
        SuiteView(suite).show(suite.items[0])


def test_a_frame_keeps_what_it_was_frozen_with(tmp_path):
    frame = replace(make_frame(dense=True), licence="CC BY 4.0", timestamp=12.5, split="val")
    (tmp_path / "store").mkdir()
    write_shard(tmp_path / "store/frames-000000.parquet", [frame])
    suite = frozen(tmp_path / "store", tmp_path / "s", 3)
    (kept,) = SuiteView(suite).frames(suite.items[0])
    assert (kept.licence, kept.timestamp, kept.split, kept.scene) == ("CC BY 4.0", 12.5, "val", "s")
    assert len(kept.z) == 3 and kept.depth is None and kept.image == frame.image
    assert suite.items[0].frame_hashes == [frame_hash(kept)]
