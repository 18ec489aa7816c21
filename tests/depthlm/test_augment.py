"""Augmentations: what they show is what the answers say."""

import numpy as np
import pytest
from conftest import make_frame

from data_gen.curate import curate
from data_gen.readers.procedural import ProceduralReader
from depthlm.augment import Augmentation, mirrored, mirrored_camera
from depthlm.camera import Camera
from depthlm.canonical import plan_view
from depthlm.dataset import DataConfig, SampleDataset
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.pairs import motion, overlap
from depthlm.profiles import PROFILES
from depthlm.sample import render_frame
from depthlm.store import FrameStore

NANO = PROFILES.get("nano")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "store"
    curate(ProceduralReader(5, views=3, width=240, height=180, fov=(70, 80), dense=True, labels=8), folder)
    return folder


def samples(store, augmentation, count=24, **more):
    return SampleDataset(DataConfig([str(store)], profile="nano", seed=5, augmentation=augmentation, **more), count)


@pytest.mark.parametrize("length", [0, 4, 5, 8, 12, 14])
def test_a_mirrored_camera_sees_the_mirrored_point_at_the_mirrored_pixel(length):
    rng = np.random.default_rng(length)
    distortion = tuple(rng.uniform(-0.02, 0.02, length))
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose[:3, :3] *= np.linalg.det(pose[:3, :3])
    pose[:3, 3] = 1, -2, 3
    camera = Camera(320, 240, 200, 210, 150.2, 118.7, distortion, pose)
    twin = mirrored_camera(camera)
    points = rng.uniform((-1, -1, 2), (1, 1, 6), (50, 3))
    flipped = points * (-1, 1, 1)
    xy = camera.project(points)
    np.testing.assert_allclose(twin.project(flipped), np.stack([319 - xy[:, 0], xy[:, 1]], 1), atol=1e-9)
    np.testing.assert_allclose(twin.to_world(flipped), camera.to_world(points) * (-1, 1, 1), atol=1e-12)
    assert np.linalg.det(twin.pose[:3, :3]) == pytest.approx(1)


def test_a_mirrored_frame_keeps_every_distance_and_motion(store):
    frames = FrameStore(store)
    first, second = (f for f in (frames[0], frames[1]))
    a, b = mirrored(first), mirrored(second)
    np.testing.assert_array_equal(a.pixels(), first.pixels()[:, ::-1])
    np.testing.assert_array_equal(a.depth, first.depth[:, ::-1])
    distance = a.camera.z_to_distance(a.xy, a.z)
    np.testing.assert_allclose(distance, first.camera.z_to_distance(first.xy, first.z), rtol=1e-6)
    columns, rows = np.round(a.xy).astype(int).T
    np.testing.assert_allclose(a.depth[rows, columns], a.z, rtol=1e-6)
    assert motion(a, b) == pytest.approx(motion(first, second))
    assert overlap(a, b) == pytest.approx(overlap(first, second), abs=0.02)
    again = mirrored(a)
    np.testing.assert_allclose(again.camera.pose, first.camera.pose)
    np.testing.assert_allclose(again.xy, first.xy)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=1.0),
        Augmentation(crop=(0.6, 0.9)),
        Augmentation(flip=0.5, crop=(0.5, 1), brightness=0.3, contrast=0.3, saturation=0.5, jpeg=(30, 90)),
    ],
)
def test_answers_hold_for_what_is_shown(store, augmentation):
    """The dense map, carried along, says at each marker what the answer says."""
    plain, varied = samples(store, Augmentation(), dense=True), samples(store, augmentation, dense=True)
    changed = 0
    for i in range(24):
        sample = varied[i]
        for turn in sample.turns:
            for point in turn.points:
                x, y = np.round(point["xy"]).astype(int)
                around = sample.depths[0][max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                assert np.abs(around / point["z"] - 1).min() < 0.05
        same = sample.images[0].shape == plain[i].images[0].shape and np.array_equal(
            sample.images[0], plain[i].images[0]
        )
        changed += not same
    assert changed > 12


def test_two_images_are_mirrored_together(store):
    """One alone would make the motion between them another one than what is asked."""
    plain = samples(store, Augmentation(), mix={"camera_motion": 1.0})
    flipped = samples(store, Augmentation(flip=1.0), mix={"camera_motion": 1.0})
    for i in range(6):
        store_frames = {frame.id: frame for frame in FrameStore(store)}
        sample = flipped[i]
        if len(sample.frame_ids) < 2:
            continue
        a, b = (store_frames[name] for name in sample.frame_ids)
        assert sample.turns[0].truth == pytest.approx(motion(a, b))
        for image, name in zip(sample.images, sample.frame_ids, strict=True):
            _, straight = render_frame(mirrored(store_frames[name]), NANO, "normalize")
            assert image.shape == straight.shape
    assert any(not np.array_equal(plain[i].images[0], flipped[i].images[0]) for i in range(6))


def test_off_by_default_and_as_it_was(store):
    assert Augmentation() == DataConfig().augmentation
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    rng = np.random.default_rng(1)
    assert np.array_equal(Augmentation().recolour(pixels, rng), pixels)
    assert not Augmentation().draw_flip(rng) and Augmentation().draw_share(rng) == 1
    assert rng.random() == np.random.default_rng(1).random(), "no number is drawn for what is off"


def test_a_smaller_window_at_the_same_focal_length():
    camera = make_frame().camera
    whole, part = (
        plan_view(camera, NANO.canonical("normalize")),
        plan_view(camera, NANO.canonical("normalize"), share=0.6),
    )
    assert part.camera.fx == whole.camera.fx and part.camera.width < whole.camera.width
    xy = np.array([[150.0, 118.0]])
    np.testing.assert_allclose(part.to_source(part.to_canonical(xy)), xy, atol=1e-9)
    tiny = plan_view(camera, NANO.canonical("normalize"), share=0.01)
    assert tiny.camera.width == whole.camera.width, "less than the smallest image it never becomes"


def test_colours_move_as_asked():
    grey = np.full((8, 8, 3), 100, np.uint8)
    seen = {int(Augmentation(brightness=0.5).recolour(grey, np.random.default_rng(i))[0, 0, 0]) for i in range(50)}
    assert min(seen) >= 50 and max(seen) <= 150 and len(seen) > 20
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    spread = [np.ptp(Augmentation(saturation=1.0).recolour(red, np.random.default_rng(i))[0, 0]) for i in range(30)]
    assert min(spread) < 60 < max(spread)
    noisy = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    coded = Augmentation(jpeg=(20, 20)).recolour(noisy, np.random.default_rng(0))
    assert coded.shape == noisy.shape and not np.array_equal(coded, noisy)
    assert np.abs(coded.astype(int).mean((0, 1)) - noisy.mean((0, 1))).max() < 6, "channels stay in their order"


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"crop": (0.9, 0.5)}, {"crop": (0, 1)}, {"brightness": -1}, {"jpeg": (50,)}, {"jpeg": (0, 50)}],
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(DepthLMError):
        Augmentation(**wrong)


def test_a_frame_without_pose_or_map():
    frame = make_frame(labels=5)
    bare = Frame("a", frame.image, Camera.from_fov(320, 240, 70), frame.xy, frame.z, "s", "d")
    twin = mirrored(bare)
    assert twin.camera.pose is None and twin.depth is None and len(twin.z) == 5
