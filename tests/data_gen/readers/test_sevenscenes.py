"""7-Scenes: depth registered to colour, the colour camera's pose, the split files.

Layout, units and the depth camera as on microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes and in each
scene's zip file; 65535 is unknown.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import encode_png
from reprojection import edge_agreement, reprojected_z_error

from data_gen.curate import curate
from data_gen.depth_map import decode_depth
from data_gen.readers import READERS
from data_gen.readers.sevenscenes import CALIBRATIONS, DEPTH_CAMERA, SevenScenesReader
from data_gen.registration import register
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, decode_rgb

KEY = "chess/seq-03/frame-000007"


def write_frame(root, key, image, depth, pose):
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.color.png").write_bytes(image)
    path.with_name(f"{path.name}.depth.png").write_bytes(depth)
    rows = "\n".join("\t ".join(f"{v:.7e}" for v in row) + "\t " for row in pose)
    path.with_name(f"{path.name}.pose.txt").write_text(rows + "\n")


@pytest.fixture
def tree(tmp_path):
    depth = np.zeros((480, 640), np.uint16)
    depth[100:140, 500:540] = 2500  # a plate
    depth[0] = 65535
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    write_frame(tmp_path, KEY, encode_png(np.zeros((480, 640, 3), np.uint8)), encode_png(depth), pose)
    (tmp_path / "chess" / "TrainSplit.txt").write_text("sequence3\n")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence5\r\n")
    return tmp_path


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_known_point_ends_where_the_colour_camera_sees_it(tree, calibration):
    frame = READERS.get("sevenscenes")(tree, calibration=calibration, labels=0).read(KEY)
    (f, cx, cy), move = CALIBRATIONS[calibration]
    point = np.array([(520 - 320) / 585 * 2.5, (120 - 240) / 585 * 2.5, 2.5])
    seen = move[:3, :3] @ point + move[:3, 3]
    pixel = seen[:2] / seen[2] * f + (cx, cy)
    nearest = np.linalg.norm(frame.xy - pixel, axis=1).argmin()
    np.testing.assert_allclose(frame.xy[nearest], pixel, atol=1e-3)
    assert frame.z[nearest] == pytest.approx(seen[2], rel=1e-6)
    assert np.linalg.norm(pixel - (520, 120)) > 15  # unregistered, the label would be this far off
    distance = frame.camera.z_to_distance([pixel], [seen[2]])
    assert distance == pytest.approx(np.linalg.norm(seen))
    np.testing.assert_allclose(frame.camera.to_world([seen])[0], np.add(point, (1, 2, 3)), atol=1e-9)


def test_unknown_values_give_no_label(tree):
    frame = SevenScenesReader(tree, labels=0, max_m=100).read(KEY)
    assert len(frame.z) == 1600
    assert frame.z.max() < 2.51
    assert frame.depth is None  # the measured pixels are not the image's


def test_labels_are_thinned_alike_every_time(tree):
    first, second = (SevenScenesReader(tree, labels=100).read(KEY) for _ in range(2))
    assert len(first.z) == 100
    np.testing.assert_array_equal(first.xy, second.xy)


def test_splits(tree):
    assert SevenScenesReader(tree).keys() == [KEY]
    assert SevenScenesReader(tree / "chess", split="all").keys() == [KEY.partition("/")[2]]
    with pytest.raises(DepthLMError, match="holds no SCENE"):
        SevenScenesReader(tree, split="test").keys()
    (tree / "chess" / "TrainSplit.txt").unlink()
    with pytest.raises(DepthLMError, match=r"TrainSplit\.txt: no such split file"):
        SevenScenesReader(tree).keys()


def test_every_takes_each_nth(tree):
    for i in range(8, 14):
        for kind in ("color.png", "depth.png", "pose.txt"):
            shutil.copy(tree / f"{KEY}.{kind}", tree / f"chess/seq-03/frame-{i:06d}.{kind}")
    assert [key[-2:] for key in list(SevenScenesReader(tree, every=3).keys())] == ["07", "10", "13"]


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [
        ("pose.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n", "bad pose"),
        ("pose.txt", b"nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "bad pose"),
        ("pose.txt", b"2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "bad pose"),
        ("depth.png", None, "missing depth"),
        ("depth.png", b"\x89PNG\r\n\x1a\n", "unreadable depth"),
        ("color.png", encode_png(np.zeros((48, 64, 3), np.uint8)), "bad intrinsics"),
    ],
)
def test_a_bad_frame_is_counted(tree, file, data, kind):
    for good in ("color.png", "depth.png", "pose.txt"):
        shutil.copy(tree / f"{KEY}.{good}", tree / f"chess/seq-03/frame-000001.{good}")
    path = tree / f"{KEY}.{file}"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert curate(SevenScenesReader(tree), tree / "store").counts == {kind: 1}


@pytest.fixture
def kitchen(tmp_path, shared_data):
    """Three real frames in the official layout: the shared ones, their JPEGs as PNGs."""
    source = shared_data / "sevenscenes"
    for name in ("frame-000000", "frame-000050", "frame-000500"):
        image = encode_png(decode_rgb((source / f"{name}.color.jpg").read_bytes(), name))
        depth, pose = (source / f"{name}.depth.png").read_bytes(), np.loadtxt(source / f"{name}.pose.txt")
        write_frame(tmp_path, f"redkitchen/seq-01/{name}", image, depth, pose)
    return tmp_path


def test_real_frames_see_the_same_surfaces(kitchen):
    reader = SevenScenesReader(kitchen, split="all", labels=0)
    frames = [reader.read(key) for key in list(reader.keys())]
    for frame in frames:
        assert len(frame.z) > 150_000
        assert frame.z.min() > 0.4 and frame.z.max() < 10
    error, count = reprojected_z_error(frames[0], frames[1])
    assert error < 0.01 and count > 50_000
    moved = replace(frames[1], camera=replace(frames[1].camera, pose=frames[0].camera.pose))
    assert reprojected_z_error(frames[0], moved)[0] > 3 * error


def test_registration_brings_depth_edges_onto_image_edges(kitchen):
    """The trap: the raw map, and the map by another Kinect's calibration, are edges on nothing."""
    frames = {name: [] for name in ("none", *CALIBRATIONS)}
    for path in sorted(kitchen.rglob("*.color.png")):
        image = path.read_bytes()
        data = path.with_name(path.name.replace("color", "depth")).read_bytes()
        depth = decode_depth(data, path, 0.001, invalid=(0, 65535))
        empty = {"xy": np.zeros((0, 2)), "z": np.zeros(0), "scene": "s", "dataset": "d"}
        frames["none"].append(Frame("f", image, DEPTH_CAMERA, **empty, depth=depth))
        for name, ((f, cx, cy), move) in CALIBRATIONS.items():
            camera = Camera(640, 480, f, f, cx, cy)
            xy, z = register(depth, DEPTH_CAMERA, camera, move)
            frames[name].append(Frame("f", image, camera, xy, z, "s", "d"))

    def agreement(name, dx=0, dy=0):
        return np.mean([edge_agreement(frame, dx, dy) for frame in frames[name]])

    assert agreement("measured") > 1.8
    assert agreement("measured") > 1.3 * max(agreement("none"), agreement("liris"))
    for shift in ((5, 0), (-5, 0), (0, 5), (0, -5)):
        assert agreement("measured") > 1.15 * agreement("measured", *shift)
