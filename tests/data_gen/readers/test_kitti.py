"""KITTI: calibration chains, both kinds of depth, OXTS poses; on real frames where they are at hand.

Layout and units as in the raw data's development kit (readme.txt, convertOxtsToPose.m) and the depth benchmark's
(readme.txt).
"""

import json
import math
import shutil

import numpy as np
import pytest
from conftest import encode_png
from reprojection import edge_agreement

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.kitti import SELECTION, VAL, KittiReader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

DRIVE, VAL_DRIVE = "2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync"
WIDE, TALL = 620, 188
F, CX, CY = 360.0, 305.0, 87.0
# Velodyne: x ahead, y left, z up. Camera 0: x right, y down, z ahead, 27 cm before and 8 cm below it.
AXES = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
LATITUDE, LONGITUDE = 49.015, 8.434


def text(**rows):
    return "calib_time: 09-Jan-2012 13:57:47\n" + "".join(
        f"{name}: {' '.join(f'{v:.9e}' for v in np.ravel(values))}\n" for name, values in rows.items()
    )


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)


def oxts(north_m=0.0, east_m=0.0, roll=0.0, pitch=0.0, yaw=0.0):
    """A row of 30 numbers, ``north_m`` and ``east_m`` from the start on a sphere of the devkit's radius."""
    scale = 6378137 * math.cos(math.radians(LATITUDE))
    start = math.log(math.tan(math.pi / 4 + math.radians(LATITUDE) / 2))
    latitude = math.degrees(2 * (math.atan(math.exp(start + north_m / scale)) - math.pi / 4))
    longitude = LONGITUDE + math.degrees(east_m / scale)
    return " ".join(map(repr, (latitude, longitude, 112.8, roll, pitch, yaw, *[0.0] * 24)))


@pytest.fixture
def root(tmp_path):
    """Two frames of a drive: 0 and 5, the car 10 m further east; a point 20 m ahead, 3 m to the left, 0.5 m up."""
    kitti = tmp_path / "kitti"
    p = np.array([[F, 0, CX, F * 0.06], [0, F, CY, 0], [0, 0, 1, 0]])
    turn = np.radians(1.0)  # rectification
    rectify = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    p3 = p - [[0, 0, 0, F * 0.53], [0] * 4, [0] * 4]
    files = {
        "2011_09_26/calib_cam_to_cam.txt": text(R_rect_00=rectify, P_rect_02=p, P_rect_03=p3, S_rect_02=[WIDE, TALL]),
        "2011_09_26/calib_velo_to_cam.txt": text(R=AXES, T=(0, -0.08, -0.27), delta_f=[0, 0]),
        "2011_09_26/calib_imu_to_velo.txt": text(R=np.eye(3), T=(-0.81, 0.32, -0.8)),
    }
    image = encode_png(np.zeros((TALL, WIDE, 3), np.uint8))
    stamps = "".join(f"2011-09-26 13:02:{25 + i / 10:012.9f}\n" for i in range(6))
    for drive in (DRIVE, VAL_DRIVE):
        raw = f"2011_09_26/{drive}"
        for number, east in ((0, 0.0), (5, 10.0)):
            files |= {f"{raw}/{camera}/data/{number:010d}.png": image for camera in ("image_02", "image_03")}
            points = np.array([(20, 3, 0.5, 0.3), (-10, 0, 0, 0.1)], np.float32)
            files[f"{raw}/velodyne_points/data/{number:010d}.bin"] = points.tobytes()
            files[f"{raw}/oxts/data/{number:010d}.txt"] = oxts(east_m=east)
        files[f"{raw}/image_02/timestamps.txt"] = stamps
    counts = np.zeros((TALL, WIDE), np.uint16)
    counts[100, 300] = 20 * 256 + 64
    annotated = f"train/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png"
    files[f"data_depth_annotated/{annotated}"] = encode_png(counts)
    write(kitti, files)
    return kitti


def test_a_known_point_ends_at_the_known_pixel(root):
    reader = READERS.get("kitti")(root, depth="velodyne")
    assert reader.keys() == [f"{DRIVE}/image_02/{n:010d}" for n in (0, 5)]
    frame = reader.read(reader.keys()[0])
    in_0 = np.array([-3, -0.5 - 0.08, 20 - 0.27])
    turn = np.radians(1.0)
    x, y, z = (
        in_0[0] * np.cos(turn) + in_0[2] * np.sin(turn) + 0.06,
        in_0[1],
        -in_0[0] * np.sin(turn) + in_0[2] * np.cos(turn),
    )
    np.testing.assert_allclose(frame.z, [z], atol=1e-4)
    np.testing.assert_allclose(frame.xy, [(CX + F * x / z, CY + F * y / z)], atol=1e-2)
    assert frame.camera.z_to_distance(frame.xy, frame.z)[0] == pytest.approx(math.hypot(x, y, z), abs=1e-3)
    assert frame.dropped == {"behind the camera": 1}
    right = KittiReader(root, depth="velodyne", cameras="image_03").read(f"{DRIVE}/image_03/0000000000")
    assert frame.xy[0, 0] - right.xy[0, 0] == pytest.approx(F * 0.53 / z, abs=1e-2), "the stereo disparity"


def test_the_benchmarks_maps(root):
    reader = KittiReader(root)
    assert reader.keys() == [f"{DRIVE}/image_02/0000000005"]
    frame = reader.read(reader.keys()[0])
    assert frame.depth[100, 300] == 20.25 and (frame.depth > 0).sum() == 1
    assert frame.camera.K.tolist() == [[F, 0, CX], [0, F, CY], [0, 0, 1]]
    assert frame.timestamp == pytest.approx(1317042145.5)
    (root / "data_depth_annotated/train").rename(root / "train")
    assert KittiReader(root).read(reader.keys()[0]).depth[100, 300] == 20.25


def test_poses_are_metres_about_the_start_and_meet_in_the_world(root):
    """The car faces east and drives 10 m east: the camera moves 10 m along its own axis, but for the rectification."""
    reader = KittiReader(root, depth="velodyne")
    first, second = (reader.read(key) for key in reader.keys())
    np.testing.assert_allclose(second.camera.pose[:3, 3] - first.camera.pose[:3, 3], (10, 0, 0), atol=1e-6)
    ahead = first.camera.pose[:3, 2]
    np.testing.assert_allclose(ahead, (np.cos(np.radians(1)), np.sin(np.radians(1)), 0), atol=1e-6)
    world = first.camera.to_world(first.camera.back_project(*first.labels))
    np.testing.assert_allclose(world, [(20.81, 3 - 0.32, 0.5 + 0.8)], atol=1e-3)  # of the IMU, at the start
    write(root, {f"2011_09_26/{DRIVE}/oxts/data/0000000005.txt": oxts(north_m=10, yaw=math.pi / 2)})
    turned = reader.read(reader.keys()[1])
    np.testing.assert_allclose(turned.camera.pose[:3, 2], (-np.sin(np.radians(1)), np.cos(np.radians(1)), 0), atol=1e-6)
    world = turned.camera.to_world(turned.camera.back_project(*turned.labels))
    np.testing.assert_allclose(world, [(-(3 - 0.32), 10 + 20.81, 1.3)], atol=1e-3)


@pytest.mark.parametrize(
    ("turn", "axes"),
    [
        ({"yaw": 0.2}, [(math.cos(0.2), math.sin(0.2), 0), (-math.sin(0.2), math.cos(0.2), 0)]),  # counter-clockwise
        ({"pitch": 0.2}, [(math.cos(0.2), 0, -math.sin(0.2)), (0, 1, 0)]),  # front down
        ({"roll": 0.2}, [(1, 0, 0), (0, math.cos(0.2), math.sin(0.2))]),  # left side up
    ],
)
def test_the_signs_of_roll_pitch_and_yaw(root, turn, axes):
    """As the readme of the raw data says them, on axes ahead and left: its "y: right, z: down" of the IMU is wrong.

    The calibration from IMU to Velodyne, whose axes are ahead, left, up, is close to no rotation.
    """
    write(root, {f"2011_09_26/{DRIVE}/oxts/data/0000000000.txt": oxts(**turn)})
    pose = KittiReader(root, depth="velodyne").read(f"{DRIVE}/image_02/0000000000").camera.pose
    tilt = np.radians(1.0)  # of the rectification, between the car's axes and the camera's
    ahead = pose[:3, 2] * np.cos(tilt) + pose[:3, 0] * np.sin(tilt)
    left = -pose[:3, 0] * np.cos(tilt) + pose[:3, 2] * np.sin(tilt)
    np.testing.assert_allclose([ahead, left], axes, atol=1e-6)


def test_without_oxts_there_is_no_pose(root):
    shutil.rmtree(root / "2011_09_26" / DRIVE / "oxts")
    assert KittiReader(root).read(f"{DRIVE}/image_02/0000000005").camera.pose is None


def test_splits(root):
    assert KittiReader(root, depth="velodyne", split="val").keys()[0].startswith(VAL_DRIVE)
    assert len(VAL) == len(set(VAL)) == 13
    both = KittiReader(root, depth="velodyne", cameras=["image_02", "image_03"], every=1)
    assert len(both.keys()) == 4
    with pytest.raises(DepthLMError, match="unzip data_depth_annotated"):
        KittiReader(root, split="val").keys()


def test_the_selected_frames(root, tmp_path):
    """Of both cameras: the benchmark's 1,000 are."""
    depth = np.zeros((TALL, WIDE), np.uint16)
    depth[50, 60] = 7 * 256
    for camera in ("image_02", "image_03"):
        name = f"{VAL_DRIVE}_image_0000000005_{camera}"
        write(
            root / SELECTION,
            {
                f"image/{name}.png": encode_png(np.zeros((TALL, WIDE, 3), np.uint8)),
                f"intrinsics/{name}.txt": f"{F} 0.0 {CX} 0.0 {F} {CY} 0.0 0.0 1.0 ",
                f"groundtruth_depth/{VAL_DRIVE}_groundtruth_depth_0000000005_{camera}.png": encode_png(depth),
            },
        )
    reader = KittiReader(root, depth="selection")
    assert reader.settings()["split"] == "val"
    curate(reader, tmp_path / "store")
    frames = list(FrameStore(tmp_path / "store"))
    assert len(frames) == 2
    for frame in frames:
        assert (frame.depth[50, 60], frame.camera.cx, frame.split, frame.scene) == (7, CX, "val", VAL_DRIVE)
    assert KittiReader(root, depth="selection", cameras="image_03").keys() == [name]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("{raw}/image_02/data/0000000005.png", None, "missing image"),
        ("{raw}/image_02/data/0000000005.png", b"\x89PNG", "unreadable image"),
        ("{raw}/velodyne_points/data/0000000005.bin", b"\0" * 30, "unreadable point cloud"),
        ("{raw}/velodyne_points/data/0000000005.bin", b"", "no labels"),
        ("{raw}/oxts/data/0000000005.txt", b"49 8", "bad pose"),
        ("{raw}/oxts/data/0000000005.txt", b"nan " * 30, "bad pose"),
    ],
)
def test_one_bad_frame_is_skipped_and_counted(root, tmp_path, name, content, kind):
    path = root / name.format(raw=f"2011_09_26/{DRIVE}")
    path.unlink() if content is None else path.write_bytes(content)
    curate(KittiReader(root, depth="velodyne"), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert (report["frames"], list(report["skipped"])) == (1, [kind])


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("2011_09_26/calib_cam_to_cam.txt", None, "missing calibration"),
        ("2011_09_26/calib_cam_to_cam.txt", text(P_rect_02=np.eye(3)), "bad calibration"),
        ("2011_09_26/calib_velo_to_cam.txt", text(R=np.eye(3)), "bad calibration"),
        # Another day's, whose images are smaller: labels would be tens of pixels off.
        (
            "2011_09_26/calib_cam_to_cam.txt",
            text(R_rect_00=np.eye(3), P_rect_02=np.eye(3, 4), S_rect_02=[612, 185]),
            "bad intrinsics",
        ),
        (
            "data_depth_annotated/train/{drive}/proj_depth/groundtruth/image_02/0000000005.png",
            "small",
            "depth size differs",
        ),
    ],
)
def test_wrong_files(root, name, content, kind):
    path = root / name.format(drive=DRIVE)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(encode_png(np.ones((4, 4), np.uint16)) if content == "small" else content.encode())
    with pytest.raises(DepthLMError) as caught:
        KittiReader(root).read(f"{DRIVE}/image_02/0000000005")
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": "stereo"}, "'stereo' is not one of"),
        ({"split": "test"}, "'test' is not one of"),
        ({"depth": "object", "split": "val"}, "are for training"),
        ({"cameras": "image_00"}, "known are image_02, image_03"),
        ({"every": 0}, "at least 1"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
    ],
)
def test_wrong_options(root, options, said):
    with pytest.raises(DepthLMError, match=said):
        KittiReader(root, **options)


def test_a_real_sweep_on_its_photograph(shared_data, tmp_path):
    """Frame 000001 of the object benchmark, its calibration in the raw data's form; compared with the known projection.

    The whole turn of the LiDAR: 85 % of it lies behind or beside the camera.
    """
    source = shared_data / "kitti_full"
    rows = (line.partition(":") for line in (source / "calib/000001.txt").read_text().splitlines() if line)
    given = {name: np.array(values.split(), float) for name, _, values in rows}
    velo = given["Tr_velo_to_cam"].reshape(3, 4)
    raw = f"2011_09_26/{DRIVE}"
    write(
        tmp_path,
        {
            "2011_09_26/calib_cam_to_cam.txt": text(R_rect_00=given["R0_rect"], P_rect_02=given["P2"]),
            "2011_09_26/calib_velo_to_cam.txt": text(R=velo[:, :3], T=velo[:, 3]),
            f"{raw}/image_02/data/0000000000.png": (source / "image_2/000001.png").read_bytes(),
            f"{raw}/velodyne_points/data/0000000000.bin": (source / "velodyne/000001.bin").read_bytes(),
        },
    )
    frame = KittiReader(tmp_path, depth="velodyne", labels=0).read(f"{DRIVE}/image_02/0000000000")
    known = json.loads((source / "000001_calib.json").read_text())
    cloud = np.fromfile(source / "velodyne/000001.bin", np.float32).reshape(-1, 4)[:, :3].astype(float)
    move = np.array(known["lidar_to_cam2"])
    points = cloud @ move[:3, :3].T + move[:3, 3]
    points = points[points[:, 2] > 0]
    xy = points[:, :2] / points[:, 2:] * 721.5377 + (609.5593, 172.854)
    inside = (np.abs(xy - (620.5, 187)) < (621, 187.5)).all(axis=1)
    there = {
        (round(float(x), 1), round(float(y), 1)): z for (x, y), z in zip(xy[inside], points[inside, 2], strict=True)
    }
    matched = [there.get((round(float(x), 1), round(float(y), 1))) for x, y in frame.xy]
    found = [(a, b) for a, b in zip(matched, frame.z, strict=True) if a is not None]
    assert len(found) > 0.95 * len(frame.z)
    assert np.median([abs(a - b) for a, b in found]) < 1e-3
    assert len(frame.z) + frame.dropped["hidden"] == pytest.approx(inside.sum(), abs=3)
    assert 0.03 < frame.dropped["hidden"] / inside.sum() < 0.12
    low = frame.xy[:, 1] > 300  # the road right before the car: z = f * height / (y - cy)
    height = np.median(frame.z[low] * (frame.xy[low, 1] - 172.854) / 721.5377)
    assert height == pytest.approx(1.65, abs=0.08), "metres: the cameras' height over the road"


def test_a_real_map_has_the_right_unit(shared_data, tmp_path):
    source = shared_data / "metric3d_kitti_demo"
    p = np.array([[721.5377, 0, 609.5593, 0], [0, 721.5377, 172.854, 0], [0, 0, 1, 0]])
    files = {
        "2011_09_26/calib_cam_to_cam.txt": text(R_rect_00=np.eye(3), P_rect_02=p),
        "2011_09_26/calib_velo_to_cam.txt": text(R=AXES, T=(0, 0, 0)),
    }
    for name in ("0000000005", "0000000050"):
        files[f"2011_09_26/{DRIVE}/image_02/data/{name}.png"] = (source / f"rgb/{name}.png").read_bytes()
        depth = f"train/{DRIVE}/proj_depth/groundtruth/image_02/{name}.png"
        files[depth] = (source / f"depth/{name}.png").read_bytes()
    write(tmp_path, files)
    reader = KittiReader(tmp_path)
    assert len(reader.keys()) == 2
    for key in reader.keys():
        frame = reader.read(key)
        assert 0.1 < (frame.depth > 0).mean() < 0.3
        ys, xs = np.nonzero(frame.depth > 0)
        road = (ys > 300) & (np.abs(xs - 620) < 150)
        height = np.median(frame.depth[ys[road], xs[road]] * (ys[road] - 172.854) / 721.5377)
        assert height == pytest.approx(1.65, abs=0.1)


@pytest.fixture
def objects(shared_data, tmp_path):
    """Two real frames in the object benchmark's layout; both are of one day, so of one calibration."""
    calibration = (shared_data / "kitti_full/calib/000001.txt").read_bytes()
    for folder, number in (("kitti_full", "000001"), ("kitti", "000008")):
        names = (f"image_2/{number}.png", f"velodyne/{number}.bin")
        files = {name: (shared_data / folder / name).read_bytes() for name in names}
        write(tmp_path / "training", files | {f"calib/{number}.txt": calibration})
    return tmp_path


def test_the_object_benchmark(objects, shared_data):
    """Every label is one of the sweep's points under the calibration that comes with the frame as JSON."""
    reader = KittiReader(objects, depth="object", labels=0)
    assert reader.keys() == ["image_02/000001", "image_02/000008"]
    for key, folder in zip(reader.keys(), ("kitti_full", "kitti"), strict=True):
        frame = reader.read(key)
        number = key[-6:]
        known = json.loads((shared_data / folder / f"{number}_calib.json").read_text())
        move = np.array(known["lidar_to_cam2"])
        cloud = np.fromfile(shared_data / folder / f"velodyne/{number}.bin", np.float32).reshape(-1, 4)[:, :3]
        points = {tuple(np.round(p, 3)) for p in cloud @ move[:3, :3].T + move[:3, 3]}
        back = frame.camera.back_project(frame.xy, frame.z)
        steps = [np.array((x, y, z)) / 1000 for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
        found = [any(tuple(np.round(point + step, 3)) in points for step in steps) for point in back[::100]]
        assert np.mean(found) > 0.98
        assert (frame.camera.width, frame.camera.height, frame.camera.pose) == (1242, 375, None)
        assert frame.z.min() > 2 and 60 < frame.z.max() < 80
        low = frame.xy[:, 1] > 320
        height = np.median(frame.z[low] * (frame.xy[low, 1] - 172.854) / 721.5377)
        assert height == pytest.approx(1.65, abs=0.1)


def test_real_labels_meet_the_edges_of_parked_cars(objects):
    """Jumps of depth lie on edges of the photograph, and less so when they are moved to either side.

    Not asked of 000001, whose jumps follow level guard rails, nor of up and down: rings lie several pixels apart.
    """
    frame = KittiReader(objects, depth="object", labels=0).read("image_02/000008")
    moved = {dx: edge_agreement(frame, dx) for dx in (-6, -3, 0, 3, 6)}
    assert max(moved, key=moved.get) == 0 and moved[0] > 1.5


def test_an_object_frame_without_calibration_is_skipped(objects):
    (objects / "training/calib/000008.txt").write_text("P2: 1 2 3\n")
    assert curate(KittiReader(objects, depth="object"), objects / "store").counts == {"bad calibration": 1}
