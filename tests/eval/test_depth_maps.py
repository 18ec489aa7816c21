"""Predicted maps: which files are read, which pixel is taken, and what a map answers."""

import math
import zipfile

import cv2
import numpy as np
import pytest
from conftest import make_frame
from PIL import Image

from depthlm.camera import Camera
from depthlm.depth_metrics import depth_metrics
from depthlm.errors import DepthLMError
from depthlm.metrics import delta
from depthlm.profiles import PROFILES
from depthlm.questions import KINDS
from depthlm.sample import make_sample
from eval.depth_maps import MapFolder, answer, at_size, cleaned, read_map, values_at


def write_png(path, counts, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(counts, **kw)).save(path)


def test_a_map_lies_at_its_frames_id(tmp_path):
    (tmp_path / "scene.1" / "cam").mkdir(parents=True)
    np.save(tmp_path / "scene.1" / "cam" / "0.5.npy", np.array([[1.5, 2.0]], np.float32))
    write_png(tmp_path / "b.png", [[1500, 0]], dtype=np.uint16)
    folder = MapFolder(tmp_path)
    assert folder.read("scene.1/cam/0.5").tolist() == [[1.5, 2.0]]
    assert folder.read("b").tolist() == [[1.5, 0.0]]
    assert MapFolder(tmp_path, unit=1 / 256).read("b")[0, 0] == np.float32(1500 / 256)
    with pytest.raises(DepthLMError, match="has no map") as error:
        folder.read("scene.1/cam/0")
    assert error.value.kind == "no depth map" and "cam/0.npy" in error.value.mend


def test_two_maps_of_one_frame_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 2)))
    write_png(tmp_path / "a.png", [[1, 2]], dtype=np.uint16)
    with pytest.raises(DepthLMError, match=r"a\.npy and a\.png"):
        MapFolder(tmp_path).read("a")


@pytest.mark.parametrize("name", ["../a", "x/../../a", "/etc/a", "", ".", "a//b", "x/", "..\\a", "a\0"])
def test_no_id_leads_out_of_the_folder(tmp_path, name):
    (tmp_path / "maps" / "x").mkdir(parents=True)
    np.save(tmp_path / "a.npy", np.ones((1, 2)))
    with pytest.raises(DepthLMError) as error:
        MapFolder(tmp_path / "maps").read(name)
    assert error.value.kind == "bad id"


def test_no_link_leads_out_of_the_folder(tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "a.npy", np.ones((1, 2)))
    (tmp_path / "maps" / "a.npy").symlink_to(tmp_path / "a.npy")
    with pytest.raises(DepthLMError, match="leads out"):
        MapFolder(tmp_path / "maps").read("a")


def test_no_folder_and_no_unit(tmp_path):
    with pytest.raises(DepthLMError, match="is not a folder"):
        MapFolder(tmp_path / "none")
    for unit in (0, -0.001, math.nan):
        with pytest.raises(DepthLMError, match="of a count is"):
            MapFolder(tmp_path, unit=unit)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((2, 3), np.int32),
        np.ones((2, 3), np.uint16),
        np.ones((2, 3), bool),
        np.ones((1, 2, 3)),
        np.ones(6),
        np.ones((0, 3)),
        np.ones((2, 3), complex),
        np.array([[None, 1.0]], object),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_npy_of_another_type_or_shape_is_refused(tmp_path, values):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(DepthLMError, match="is no depth map") as error:
        read_map(tmp_path / "a.npy")
    assert error.value.kind == "bad depth map"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
def test_npy_of_any_float_is_read(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.array([[1.5, 2.25]], kind))
    found = read_map(tmp_path / "a.npy")
    assert found.dtype == np.float32 and found.tolist() == [[1.5, 2.25]]


def test_broken_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((50, 50)))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npy").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "archive.npy", "w") as archive:
        archive.writestr("a.npy", whole)
    write_png(tmp_path / "eight.png", [[1, 2]], dtype=np.uint8)
    write_png(tmp_path / "colour.png", np.ones((4, 4, 3)), dtype=np.uint8)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "tiff.png", "TIFF")
    Image.fromarray(np.ones((4, 4), np.uint16)).save(tmp_path / "tiff16.png", "TIFF")
    for name in ("tiff16.png", "short.npy", "empty.npy", "archive.npy", "eight.png", "colour.png", "tiff.png"):
        with pytest.raises(DepthLMError, match="is no depth map"):
            read_map(tmp_path / name)


def test_what_is_no_depth_becomes_zero():
    found = cleaned(np.array([[math.nan, math.inf, -math.inf], [-1.0, 0.0, 1e300], [2.0, 1e-3, 3.0]]), "map")
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [2.0, np.float32(1e-3), 3.0]]
    for nothing in (math.nan, 0.0, -3.0, math.inf):
        with pytest.raises(DepthLMError, match="no finite, positive value"):
            cleaned(np.full((2, 2), nothing), "map")


def test_the_nearest_pixel_centre_is_taken():
    """Pixel x of a 4 px wide image lies at (x + 0.5) / 2 - 0.5 in a 2 px wide map, at 2x + 0.5 in an 8 px wide one."""
    camera = Camera.from_fov(4, 2, 60)
    xy = [[0, 0], [1, 0], [2, 1], [3, 1]]
    assert values_at(np.array([[1, 2]], np.float32), xy, camera).tolist() == [1, 1, 2, 2]
    large = np.arange(1, 33, dtype=np.float32).reshape(4, 8)
    # (0.5, 0.5), (2.5, 0.5), (4.5, 2.5), (6.5, 2.5): between four, the right and lower one
    assert values_at(large, xy, camera).tolist() == [10, 12, 30, 32]
    same = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    corners = [[-0.5, -0.5], [3.499, 1.499], [0.49, 0], [0.51, 0], [2.6, 0.4]]
    assert values_at(same, corners, camera).tolist() == [1, 8, 1, 2, 4]


def test_the_nearest_pixel_by_looking_at_all():
    rng = np.random.default_rng(0)
    for columns, rows in ((64, 48), (32, 24), (97, 73), (320, 240)):
        z = rng.permutation(columns * rows).reshape(rows, columns).astype(np.float32) + 1
        camera = Camera.from_fov(64, 48, 70)
        xy = rng.uniform((-0.5, -0.5), (63.5, 47.5), (60, 2))
        for (x, y), found in zip(xy, values_at(z, xy, camera), strict=True):
            column = min(range(columns), key=lambda c: abs(c - ((x + 0.5) * columns / 64 - 0.5)))
            row = min(range(rows), key=lambda r: abs(r - ((y + 0.5) * rows / 48 - 0.5)))
            assert found == z[row, column]


def test_values_are_never_mixed():
    """Between a surface at 1 m and one at 9 m every pixel is at one of the two."""
    z = np.where(np.arange(40) < 20, 1, 9).astype(np.float32)[None].repeat(30, 0)
    camera = Camera.from_fov(56, 42, 60)
    xy = np.random.default_rng(1).uniform(0, 41, (500, 2))
    assert set(values_at(z, xy, camera)) == {1.0, 9.0}
    assert set(np.unique(at_size(z, 56, 42))) == {1.0, 9.0}
    assert not set(np.unique(cv2.resize(z, (56, 42)))) <= {1.0, 9.0}


@pytest.mark.parametrize("size", [(320, 240), (160, 120), (518, 392), (641, 480)])
def test_a_map_on_the_images_pixels_is_what_is_sampled_there(size):
    columns, rows = size
    z = np.random.default_rng(2).uniform(1, 9, (rows, columns)).astype(np.float32)
    camera = Camera.from_fov(320, 240, 70)
    resized = at_size(z, 320, 240)
    assert resized.shape == (240, 320)
    ys, xs = np.mgrid[:240, :320]
    found = values_at(z, np.stack([xs.ravel(), ys.ravel()], 1), camera)
    assert np.array_equal(found.reshape(240, 320), resized.astype(np.float64))


def test_no_depth_and_no_pixel():
    camera = Camera.from_fov(2, 1, 60)
    assert np.isnan(values_at(np.array([[0, 3]], np.float32), [[0, 0], [1, 0]], camera)).tolist() == [True, False]
    assert values_at(np.ones((1, 2), np.float32), np.zeros((0, 2)), camera).shape == (0,)
    for outside in ([-0.6, 0], [1.5, 0], [0, 0.5], [math.nan, 0]):
        with pytest.raises(DepthLMError, match="outside the 2x1 image"):
            values_at(np.ones((1, 2), np.float32), [outside], camera)


def test_another_aspect_is_refused():
    camera = Camera.from_fov(640, 480, 70)
    with pytest.raises(DepthLMError, match="is 518x518, the image 640x480") as error:
        values_at(np.ones((518, 518), np.float32), [[0, 0]], camera)
    assert error.value.kind == "depth size differs"
    with pytest.raises(DepthLMError, match="aspects differ"):
        at_size(np.ones((480, 650), np.float32), 640, 480)


def test_delta_at_labels_is_the_one_of_answers():
    rng = np.random.default_rng(4)
    camera = Camera.from_fov(80, 60, 70)
    z = (3 * np.exp(rng.normal(0, 0.3, (60, 80)))).astype(np.float32)
    z[rng.random(z.shape) < 0.1] = 0
    flat = rng.choice(4800, 400, replace=False)
    xy, truth = np.stack([flat % 80, flat // 80], 1), rng.uniform(2, 4, 400)
    sparse = np.zeros((60, 80))
    sparse[xy[:, 1], xy[:, 0]] = truth
    right = delta(values_at(z, xy, camera), truth)
    assert 0.2 < right.mean() < 0.8
    assert depth_metrics(z, sparse)["delta1"] == right.mean()


CAMERAS = {
    "pinhole": Camera(320, 240, 210.0, 205.0, 150.0, 130.0),
    "distorted": Camera(320, 240, 210.0, 205.0, 155.0, 122.0, distortion=(-0.2, 0.05, 0.001, -0.002, 0.0)),
}


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize("name", ["distance", "axis_distance", "speed", "travel_time", "two_point"])
def test_the_true_map_answers_the_truth(name, camera):
    """To the last bit: a map answers by the very function that the question's truth comes from."""
    kind = KINDS.get(name)
    base = make_frame(dense=True)
    rng = np.random.default_rng(5)
    depth = rng.uniform(1, 9, (240, 320)).astype(np.float32)
    xy = base.xy.astype(int)
    frame = type(base)(
        **{**base.__dict__, "camera": camera, "z": depth[xy[:, 1], xy[:, 0]], "depth": depth},
    )
    for seed in range(5):
        sample = make_sample([frame], [kind], np.random.default_rng(seed), PROFILES.get("qwen2.5-vl"), "none")
        turn = sample.turns[0]
        pixels = [point["source_xy"] for point in turn.points]
        given = next((g for g in kind.given if f"{g:.1f}" in turn.question), 1.0)
        found = answer(kind, depth, pixels, camera, given)
        assert (found.value, found.reason) == (turn.truth, None)
        assert answer(kind, 2 * depth, pixels, camera, given).value == pytest.approx(2 * turn.truth)


def test_answers_by_hand():
    """Pixels 100 px right of and 100 px below the principal point, f = 100 px, at z = 2 m and 3 m."""
    camera = Camera(301, 301, 100.0, 100.0, 150.0, 150.0)
    z = np.full((301, 301), 2.0, np.float32)
    z[250, 150] = 3.0
    side, below = [250, 150], [150, 250]
    found = {
        name: answer(KINDS.get(name), z, [side], camera, 4.0).value
        for name in ("distance", "axis_distance", "speed", "travel_time")
    }
    root = math.sqrt(8)
    assert found == pytest.approx({"distance": root, "axis_distance": 2, "speed": root / 4, "travel_time": root / 4})
    apart = answer(KINDS.get("two_point"), z, [side, below], camera).value
    assert apart == pytest.approx(math.sqrt(2**2 + 3**2 + 1**2))


def test_what_a_map_can_not_answer():
    camera = Camera.from_fov(4, 2, 60)
    z = np.array([[1, 1, 0, 1]] * 2, np.float32)
    motion = answer(KINDS.get("camera_motion"), z, [], camera)
    assert motion.value is None and "camera_motion" in motion.reason
    hole = answer(KINDS.get("two_point"), z, [[0, 0], [2, 1]], camera)
    assert hole.value is None and hole.reason == "the map has no depth at (2, 1)"
    with pytest.raises(DepthLMError, match="speaks of 2 points, got 1"):
        answer(KINDS.get("two_point"), z, [[0, 0]], camera)
