"""nuScenes: the official tables, both times of the vehicle, the own car; on a real keyframe where it is at hand.

Tables and fields as in docs/schema_nuscenes.md of github.com/nutonomy/nuscenes-devkit, splits as in its
nuscenes/utils/splits.py, the point cloud's five floats as in nuscenes/utils/data_classes.py.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.poses import inverted
from data_gen.readers import READERS
from data_gen.readers.nuscenes import VAL, NuScenesReader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

WIDE, TALL = 320, 180
K = [[150.0, 0, 160.0], [0, 150.0, 98.0], [0, 0, 1]]
AHEAD = (0.5, -0.5, 0.5, -0.5)  # w x y z: the camera's z is the vehicle's x
BEHIND = (0.5, -0.5, -0.5, 0.5)
SPEED, LATE = 10.0, 40_000  # m/s; the LiDAR's time after the cameras', microseconds
TIME = 1532402927647951


def write_tables(root, version, tables):
    (root / version).mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows, indent=0))


def tables_of(scenes, shots):
    """The six tables.

    Args:
        scenes: name -> number of keyframes.
        shots: (channel, file suffix, time after the keyframe's, extrinsics, ego pose(time), intrinsics) of a keyframe.
    """
    channels = sorted({shot[0] for shot in shots})
    out = {
        "sensor": [{"token": f"s-{name}", "channel": name, "modality": ""} for name in channels],
        "calibrated_sensor": [],
        **{name: [] for name in ("scene", "sample", "sample_data", "ego_pose")},
    }
    for channel, _, _, (translation, rotation), _, intrinsic in shots:
        out["calibrated_sensor"].append(
            {
                **{"token": f"c-{channel}", "sensor_token": f"s-{channel}", "translation": list(translation)},
                **{"rotation": list(rotation), "camera_intrinsic": intrinsic},
            }
        )
    for scene, keyframes in scenes.items():
        out["scene"].append({"token": f"t-{scene}", "name": scene, "nbr_samples": keyframes})
        for number in range(keyframes):
            sample, time = f"{scene}-{number}", TIME + 500_000 * number
            out["sample"].append({"token": sample, "timestamp": time, "scene_token": f"t-{scene}"})
            for channel, suffix, after, _, ego, _ in shots:
                token, stamp = f"{sample}-{channel}", time + after
                translation, rotation = ego(stamp)
                out["ego_pose"].append({"token": token, "translation": list(translation), "rotation": list(rotation)})
                row = {"token": token, "sample_token": sample, "ego_pose_token": token, "timestamp": stamp}
                row |= {"calibrated_sensor_token": f"c-{channel}", "filename": f"samples/{channel}/{sample}{suffix}"}
                out["sample_data"] += [
                    row | {"is_key_frame": True},
                    row | {"is_key_frame": False, "filename": f"sweeps/{channel}/{sample}{suffix}"},
                ]
    return out


def drive(stamp):
    return (500 + SPEED * (stamp - TIME) / 1e6, 700, 0), (1, 0, 0, 0)


@pytest.fixture
def root(tmp_path):
    """Two scenes; the vehicle drives along the world's x. Points in the LiDAR's frame, 1.8 m up and 0.9 m ahead."""
    nuscenes = tmp_path / "nuscenes"
    shots = [
        ("CAM_FRONT", ".jpg", -LATE, ((1.7, 0, 1.5), AHEAD), drive, K),
        ("CAM_BACK", ".jpg", 0, ((0.0, 0, 1.6), BEHIND), drive, K),
        ("LIDAR_TOP", ".pcd.bin", 0, ((0.9, 0, 1.8), (1, 0, 0, 0)), drive, []),
    ]
    scenes = {"scene-0061": 2, "scene-0103": 1}
    write_tables(nuscenes, "v1.0-mini", tables_of(scenes, shots))
    points = [
        (24.1, -3.0, -0.3),  # 25 m ahead of the vehicle's origin, 3 m to the right, 1.5 m up
        (-4.0, 0.0, -1.8),  # on the road 3.1 m behind it: the boot hides it from the rear camera
        (-12.9, 2.0, -0.8),
        (0.5, 0.3, -0.1),  # on the roof
    ]
    cloud = np.zeros((len(points), 5), np.float32)
    cloud[:, :3] = points
    image = encode_png(np.zeros((TALL, WIDE, 3), np.uint8))
    for scene, count in scenes.items():
        for number in range(count):
            for channel, suffix, *_ in shots:
                path = nuscenes / f"samples/{channel}/{scene}-{number}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cloud.tobytes() if channel == "LIDAR_TOP" else image)
    return nuscenes


def reader_of(root, **options):
    return NuScenesReader(root, version="v1.0-mini", **options)


def test_a_known_point_ends_at_the_known_pixel(root):
    reader = READERS.get("nuscenes")(root, version="v1.0-mini")
    assert len(reader.keys()) == 4
    assert reader.keys()[0] == f"scene-0061/CAM_FRONT/{TIME - LATE}"
    frame = reader.read(reader.keys()[0])
    z = 25 + SPEED * LATE / 1e6 - 1.7  # the car had 40 cm still to go
    np.testing.assert_allclose(frame.z, [z], atol=1e-4)
    np.testing.assert_allclose(frame.xy, [(160 + 150 * 3 / z, 98)], atol=1e-3)
    assert frame.camera.z_to_distance(frame.xy, frame.z)[0] == pytest.approx(np.hypot(z, 3), abs=1e-3)
    world = frame.camera.to_world(frame.camera.back_project(frame.xy, frame.z))
    np.testing.assert_allclose(world, [(525, 697, 1.5)], atol=1e-3)
    assert frame.timestamp == pytest.approx((TIME - LATE) / 1e6)


def test_the_own_car_is_no_label_and_hides_the_road_behind_it(root):
    reader = reader_of(root)
    back = reader.read(next(key for key in reader.keys() if "CAM_BACK" in key))
    assert back.z.tolist() == pytest.approx([12], abs=1e-4)
    assert back.dropped == {"own vehicle": 1, "behind the camera": 2}


def test_splits_versions_and_keyframes(root):
    assert [key.split("/")[0] for key in reader_of(root, split="val").keys()] == ["scene-0103"] * 2
    assert len(reader_of(root, split="all").keys()) == 6
    assert len(reader_of(root, every=2).keys()) == 2
    assert len(reader_of(root, cameras="CAM_BACK").keys()) == 2
    assert sum(high - low + 1 for low, high in VAL) == 150
    (root / "v1.0-mini").rename(root / "v1.0-trainval")  # there, scene-0103 is for validation and scene-0061 is not
    assert {key.split("/")[0] for key in NuScenesReader(root).keys()} == {"scene-0061"}
    with pytest.raises(DepthLMError, match="no such table file"):
        NuScenesReader(root, version="v1.0-test").keys()


def test_one_bad_frame_is_skipped_and_counted(root, tmp_path):
    (root / "samples/CAM_FRONT/scene-0061-0.jpg").write_bytes(b"x")
    (root / "samples/LIDAR_TOP/scene-0061-1.pcd.bin").write_bytes(b"x" * 30)
    curate(reader_of(root), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert {kind: entry["count"] for kind, entry in report["skipped"].items()} == {
        "unreadable image": 1,
        "unreadable point cloud": 2,
    }
    assert report["dropped_labels"] == {"behind the camera": 2, "own vehicle": 1}
    assert len(FrameStore(tmp_path / "store")) == 1


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("sample_data", lambda text: text[:-30], "is no whole table"),
        ("sample_data", lambda text: text.replace("is_key_frame", "key"), "a row lacks 'is_key_frame'"),
        ("scene", lambda text: "[]", "holds no keyframe"),
        ("sensor", lambda text: "[]", "a row lacks 's-"),
    ],
)
def test_damaged_tables(root, table, change, says):
    path = root / f"v1.0-mini/{table}.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DepthLMError, match=says):
        reader_of(root).keys()


@pytest.mark.parametrize(
    ("table", "row", "kind"),
    [
        ("calibrated_sensor", {"camera_intrinsic": []}, "bad intrinsics"),
        ("calibrated_sensor", {"rotation": [0, 0, 0, 0]}, "bad pose"),
        ("ego_pose", {"token": "other"}, "missing pose"),
        ("ego_pose", {"translation": [float("nan"), 0, 0]}, "bad pose"),
        ("sample_data", {"filename": "../outside.jpg"}, "path outside root"),
    ],
)
def test_wrong_rows(root, table, row, kind):
    path = root / f"v1.0-mini/{table}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([old | row for old in rows]))
    reader = reader_of(root)
    with pytest.raises(DepthLMError) as caught:
        reader.read(reader.keys()[0])
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "'test' is not one of"),
        ({"cameras": "CAM_TOP"}, "unknown"),
        ({"every": 0}, "at least 1"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
    ],
)
def test_wrong_options(root, options, said):
    with pytest.raises(DepthLMError, match=said):
        reader_of(root, **options)


@pytest.fixture
def real(shared_data, tmp_path):
    """The official tables around a real keyframe; the vehicle's poses from its known calibration."""
    source, root = shared_data / "nuscenes", tmp_path / "real"
    calib = json.loads((source / "calib.json").read_text())
    lidar_to_ego, ego = (np.array(m, float) for m in (calib["lidar"]["lidar2ego"], calib["ego2global"]))

    def split_pose(pose):
        u, _, vt = np.linalg.svd(pose[:3, :3])  # the file's float32 rotations are not quite orthogonal
        r = u @ vt
        w = np.sqrt(max(0, 1 + np.trace(r))) / 2
        xyz = np.sqrt(np.maximum(0, 1 + 2 * np.diag(r) - np.trace(r))) / 2
        signs = np.sign([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
        return pose[:3, 3].tolist(), [w, *(xyz * signs)]

    stamp = round(calib["timestamp"] * 1e6)
    shots = [("LIDAR_TOP", ".pcd.bin", 0, split_pose(lidar_to_ego), lambda _: split_pose(ego), [])]
    files = {"LIDAR_TOP": calib["lidar"]["lidar_path"]}
    for channel, known in calib["cameras"].items():
        camera_to_ego, lidar_to_camera = np.array(known["cam2ego"], float), np.array(known["lidar2cam"], float)
        camera_to_world = ego @ lidar_to_ego @ np.linalg.inv(lidar_to_camera)
        there = split_pose(camera_to_world @ inverted(camera_to_ego))
        after = round(known["timestamp"] * 1e6) - stamp
        shots.append((channel, ".jpg", after, split_pose(camera_to_ego), lambda _, pose=there: pose, known["cam2img"]))
        files[channel] = known["img_path"]
    write_tables(root, "v1.0-mini", tables_of({"scene-0061": 1}, shots))
    for channel, name in files.items():
        (root / "samples" / channel).mkdir(parents=True)
        suffix = ".pcd.bin" if channel == "LIDAR_TOP" else ".jpg"
        # calib.json keeps the official names with their folders' separators written out
        path = next(source.glob(f"*{channel}__*")) if not (source / name).is_file() else source / name
        shutil.copy(path, root / f"samples/{channel}/scene-0061-0{suffix}")
    return root, calib


def test_a_real_keyframe(real):
    root, calib = real
    reader = reader_of(root, labels=0)
    assert len(reader.keys()) == 6
    for key in reader.keys():
        frame = reader.read(key)
        known = calib["cameras"][key.split("/")[1]]
        assert 1500 < len(frame.z) < 6000 and 2 < frame.z.min() < 8 and 30 < frame.z.max() < 110
        cloud = reader._sweep[1]
        move = np.array(known["lidar2cam"], float)
        points = cloud @ move[:3, :3].T + move[:3, 3]
        points = points[points[:, 2] > 1]
        xy = points[:, :2] / points[:, 2:] * np.diag(known["cam2img"])[:2] + np.array(known["cam2img"])[:2, 2]
        for i in range(0, len(frame.z), 97):  # each label is one of the points, where the known calibration puts it
            nearest = np.abs(xy - frame.xy[i]).max(axis=1).argmin()
            assert np.abs(xy[nearest] - frame.xy[i]).max() < 0.5
        assert (frame.dropped["own vehicle"] > 0) == ("CAM_BACK/" in key), "only this one sees the car itself"


def test_the_motion_between_the_two_times_matters_on_a_real_keyframe(real):
    """One pose for both times would move half the front camera's labels by over 10 px."""
    root, calib = real
    frame = reader_of(root, labels=0).read(next(key for key in reader_of(root).keys() if "CAM_FRONT/" in key))
    known = calib["cameras"]["CAM_FRONT"]
    still = np.linalg.inv(known["cam2ego"]) @ np.array(calib["lidar"]["lidar2ego"])
    points = frame.camera.back_project(frame.xy, frame.z)
    in_lidar = (points - np.array(known["lidar2cam"])[:3, 3]) @ np.array(known["lidar2cam"])[:3, :3]
    wrong = frame.camera.project(in_lidar @ still[:3, :3].T + still[:3, 3])
    shift = np.linalg.norm(wrong - frame.xy, axis=1)
    assert np.median(shift) > 10 and np.percentile(shift, 95) > 30
