"""Pairs of frames: what they share, how far the camera moved, and which the store offers."""

import json

import numpy as np
import pytest
from conftest import encode_png, make_frame
from suites import freeze_store

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.pairs import PairRule, find_partner, motion, overlap
from depthlm.store import FrameStore, write_shard

WIDTH_M = 2 * 4 * np.tan(np.radians(35))  # of the wall 4 m ahead, as far as one view shows it


def test_overlap_is_the_share_of_points_that_both_images_show():
    first, second = make_frame("a", dense=True, labels=0), make_frame("b", offset_m=WIDTH_M / 4, dense=True, labels=0)
    assert motion(first, second) == pytest.approx(WIDTH_M / 4)
    assert overlap(first, second) == pytest.approx(0.75, abs=0.06)
    assert overlap(first, first) == 1
    assert overlap(first, make_frame("c", offset_m=30)) == 0


def test_overlap_forwards_is_smaller_one_way_than_the_other():
    """Two metres nearer to the wall one sees half its width and height: a quarter of the points."""
    pose = np.eye(4)
    pose[2, 3] = 2
    camera = Camera.from_fov(320, 240, 70, pose=pose)
    far = make_frame("a", dense=True, labels=0)
    near = Frame("b", far.image, camera, [], [], "s", "wall", depth=np.full((240, 320), 2.0, np.float32))
    assert overlap(far, near) == pytest.approx(0.25, abs=0.06)
    assert overlap(near, far) == 1
    assert not PairRule().allows(far, near)
    assert PairRule(min_overlap=0.15).allows(far, near)


@pytest.mark.parametrize(
    ("offset", "rule", "allowed"),
    [
        (0.25, {}, True),
        (0.1, {}, False),  # 90 % in common
        (0.1, {"max_overlap": 1.0}, True),
        (0.01, {"max_overlap": 1.0}, False),  # 6 cm
        (0.01, {"max_overlap": 1.0, "min_motion_m": 0.05}, True),
        (0.8, {}, False),
        (0.8, {"min_overlap": 0.1}, True),
    ],
)
def test_bounds_of_a_pair(offset, rule, allowed):
    first = make_frame("a", dense=True, labels=0)
    second = make_frame("b", offset_m=offset * WIDTH_M, dense=True, labels=0)
    assert PairRule(**rule).allows(first, second) is allowed
    assert PairRule(**rule).allows(second, first) is allowed


def test_a_point_folded_into_the_image_by_its_distortion_is_not_shared():
    distorted = Camera(320, 240, 150, 150, 159.5, 119.5, (-0.35, 0.0, 0.0, 0.0), pose=np.eye(4))
    folded = np.array([[16.0, 0, 10]])
    assert distorted.contains(distorted.project(folded)).all(), "the test needs a point that folds"
    assert not distorted.sees(folded).any()
    assert distorted.sees([(3.0, 1.0, 10), (0, 0, -1)]).tolist() == [True, False]


@pytest.fixture
def video(tmp_path):
    """400 frames of a walk along a wall, 30 cm a frame: pairs are 4 to 13 frames apart."""
    image = encode_png(np.zeros((240, 320, 3), np.uint8))
    frames = []
    for number in range(400):
        pose = np.eye(4)
        pose[0, 3] = 0.3 * number
        base = make_frame()
        camera = Camera.from_fov(320, 240, 70, pose=pose)
        frames.append(Frame(f"{number:04d}", image, camera, base.xy, base.z, "walk", "wall"))
    write_shard(tmp_path / "frames-000000.parquet", frames)
    return FrameStore(tmp_path)


def test_pairs_are_found_in_a_long_video(video):
    found = []
    for index in range(0, 400, 10):
        frame = video[index]
        partner = find_partner(video, index, frame, np.random.default_rng(index))
        if partner is not None:
            assert partner.id != frame.id and PairRule().allows(frame, partner)
            found.append(motion(frame, partner))
    assert len(found) >= 28, "of 40; drawn evenly over the video it would be half of it"
    assert max(found) > 1.9 * min(found)


def test_a_frame_alone_or_without_a_pose_has_no_partner(tmp_path):
    frame = make_frame("a")
    nowhere = Frame("b", frame.image, Camera.from_fov(320, 240, 70), frame.xy, frame.z, "s", "wall")
    write_shard(tmp_path / "frames-000000.parquet", [make_frame("a", "alone"), frame, nowhere])
    store = FrameStore(tmp_path)
    for index in range(3):
        assert find_partner(store, index, store[index], np.random.default_rng(0)) is None


def test_a_suite_is_frozen_with_the_bounds_asked_for(store, tmp_path):
    mix = {"camera_motion": 1.0}
    suite, _ = freeze_store(store, tmp_path / "usual", 3, mix=mix)
    assert json.loads((tmp_path / "usual/suite.json").read_bytes())["settings"]["pair_overlap"] == [0.3, 0.8]
    assert [item.truth for item in suite.items] == pytest.approx([1.5] * 3)
    with pytest.raises(DepthLMError, match="no question"):
        freeze_store(store, tmp_path / "none", 3, mix=mix, pair_motion_m=2.0)


@pytest.mark.parametrize("bounds", [(0.8, 0.3, 0.1), (0.3, 1.2, 0.1), (0.3, 0.8, 0.0), (float("nan"), 0.8, 0.1)])
def test_bounds_that_leave_nothing_are_refused(bounds):
    with pytest.raises(DepthLMError, match="leaves no pair"):
        PairRule(*bounds)
