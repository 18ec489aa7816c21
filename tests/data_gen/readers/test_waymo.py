"""Waymo v2: range images to points through a pose a pixel, axes, half a pixel, and columns exposed one by one.

Components, columns and units as in src/waymo_open_dataset/v2/perception/{base,camera_image,context,lidar}.py of
github.com/waymo-research/waymo-open-dataset; range images as its utils/range_image_utils.py describes them.
"""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.waymo import WaymoReader, _to_world
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

SEGMENT = "10017090168044687777_6380_000_6400_000"
TIMES = [1550083467346370, 1550083467446370]
HEIGHT, WIDTH = 4, 360
BEAMS = [-0.30, -0.05, 0.0, 0.05]  # lowest first
WIDE, TALL = 192, 128
SPEED = 10.0
VEHICLE = np.eye(4)
VEHICLE[:3, 3] = 1000, 2000, 30


def matrix(rotation=None, place=(0, 0, 0)):
    out = np.eye(4)
    out[:3, :3] = np.eye(3) if rotation is None else rotation
    out[:3, 3] = place
    return out


def yaw(angle):
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


LIDAR_TO_VEHICLE = matrix(yaw(2.5), (1.4, 0.0, 2.2))  # the LiDAR itself is mounted turned
FRONT_TO_VEHICLE, SIDE_TO_VEHICLE = matrix(None, (1.5, 0, 2.0)), matrix(yaw(math.pi / 2), (1.5, 0.2, 2.0))


def write(root, component, rows, row_group_size=None):
    path = root / "training" / component / f"{SEGMENT}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"key.segment_context_name": SEGMENT, **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)


def range_rows():
    """Row 1 (beam 0.0), straight ahead of the vehicle: 20 m. Row 1, to its left: 8 m. Row 3 (lowest), ahead: 7 m."""
    ranges = np.zeros((HEIGHT, WIDTH, 4), np.float32)
    ranges[1, 179, 0] = 20
    ranges[1, 89, 0] = 8
    ranges[3, 179, 0] = 7
    return ranges


def azimuth(column):
    """Of the vehicle's, not the LiDAR's, axes: column 0 just left of straight behind, then clockwise."""
    return math.pi - 2 * math.pi * (column + 0.5) / WIDTH


@pytest.fixture
def root(tmp_path):
    """The vehicle drives 10 m/s along the world's x; the LiDAR's pixels were taken 20 ms (20 cm) before the frame."""
    names = {1: FRONT_TO_VEHICLE, 4: SIDE_TO_VEHICLE}
    image = encode_png(np.zeros((TALL, WIDE, 3), np.uint8))
    images, sweeps, poses = [], [], []
    for index, time in enumerate(TIMES):
        vehicle = VEHICLE.copy()
        vehicle[0, 3] += SPEED * 0.1 * index
        for number in names:
            images.append(
                {
                    "key.frame_timestamp_micros": time,
                    "key.camera_name": number,
                    "[CameraImageComponent].image": image,
                    "[CameraImageComponent].pose.transform": vehicle.ravel().tolist(),
                    "[CameraImageComponent].pose_timestamp": time / 1e6,
                    **{
                        f"[CameraImageComponent].velocity.{kind}_velocity.{axis}": value
                        for kind, values in {"linear": (SPEED, 0.0, 0.0), "angular": (0.0, 0.0, 0.0)}.items()
                        for axis, value in zip("xyz", values, strict=True)
                    },
                    "[CameraImageComponent].rolling_shutter_params.shutter": 0.004,
                    "[CameraImageComponent].rolling_shutter_params.camera_trigger_time": time / 1e6 - 0.022,
                    "[CameraImageComponent].rolling_shutter_params.camera_readout_done_time": time / 1e6 + 0.022,
                }
            )
        pose = np.zeros((HEIGHT, WIDTH, 6), np.float32)
        pose[..., 3:] = vehicle[:3, 3] - (0.2, 0, 0)
        for laser in (1, 2):
            key = {"key.frame_timestamp_micros": time, "key.laser_name": laser}
            ranges = range_rows() if laser == 1 else np.ones((2, 3, 4), np.float32)
            sweeps.append(
                {
                    **key,
                    "[LiDARComponent].range_image_return1.values": ranges.ravel().tolist(),
                    "[LiDARComponent].range_image_return1.shape": list(ranges.shape),
                }
            )
        poses.append(
            {
                "key.frame_timestamp_micros": time,
                "key.laser_name": 1,
                "[LiDARPoseComponent].range_image_return1.values": pose.ravel().tolist(),
                "[LiDARPoseComponent].range_image_return1.shape": list(pose.shape),
            }
        )
    calibration = [
        {
            "key.camera_name": number,
            **{
                f"[CameraCalibrationComponent].intrinsic.{name}": value
                for name, value in {
                    **{"f_u": 200.0, "f_v": 201.0, "c_u": 96.0, "c_v": 64.0},
                    **dict.fromkeys(("k1", "k2", "p1", "p2", "k3"), 0.0),
                }.items()
            },
            "[CameraCalibrationComponent].extrinsic.transform": extrinsic.ravel().tolist(),
            "[CameraCalibrationComponent].width": WIDE,
            "[CameraCalibrationComponent].height": TALL,
            "[CameraCalibrationComponent].rolling_shutter_direction": 2,
        }
        for number, extrinsic in names.items()
    ]
    lasers = [
        {
            "key.laser_name": laser,
            "[LiDARCalibrationComponent].extrinsic.transform": LIDAR_TO_VEHICLE.ravel().tolist(),
            "[LiDARCalibrationComponent].beam_inclination.min": -0.3,
            "[LiDARCalibrationComponent].beam_inclination.max": 0.05,
            "[LiDARCalibrationComponent].beam_inclination.values": BEAMS if laser == 1 else None,
        }
        for laser in (1, 2)
    ]
    out = tmp_path / "waymo"
    write(out, "camera_image", images, row_group_size=3)
    write(out, "camera_calibration", calibration)
    write(out, "lidar", sweeps, row_group_size=2)
    write(out, "lidar_pose", poses, row_group_size=1)
    write(out, "lidar_calibration", lasers)
    return out


def edit(root, component, change):
    """Rewrite a component with ``change`` applied to each row; None leaves the row out."""
    path = root / "training" / component / f"{SEGMENT}.parquet"
    rows = [changed for row in pq.read_table(path).to_pylist() if (changed := change(row)) is not None]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_keys_are_time_by_time(root):
    reader = READERS.get("waymo")(root, every=1)
    assert reader.keys() == [f"{SEGMENT}/{name}/{time}" for time in TIMES for name in ("FRONT", "SIDE_LEFT")]
    assert WaymoReader(root).keys() == reader.keys()[:2]
    assert WaymoReader(root, cameras="SIDE_LEFT", every=1).keys() == reader.keys()[1::2]


def test_a_known_point_ends_at_the_known_pixel(root):
    """The point 20 m ahead was measured 20 cm before the frame's pose; its beam points a fraction of a degree left."""
    frame = WaymoReader(root).read(f"{SEGMENT}/FRONT/{TIMES[0]}")
    z = 1.4 - 0.2 + 20 * math.cos(azimuth(179)) - 1.5
    left = 20 * math.sin(azimuth(179))
    u = 95.5 - 200 * left / z
    z -= SPEED * (-0.02 + 0.04 * (u + 0.5) / WIDE)  # what the vehicle drove until that column was exposed
    far = np.argmax(frame.z)
    assert frame.z[far] == pytest.approx(z, abs=1e-3)
    np.testing.assert_allclose(frame.xy[far], (95.5 - 200 * left / z, 63.5 - 201 * 0.2 / z), atol=0.02)
    near = np.argmin(frame.z)  # the lowest beam is the last row
    height = 2.2 + 7 * math.sin(-0.30) - 2.0
    assert frame.xy[near, 1] == pytest.approx(63.5 - 201 * height / frame.z[near], abs=0.02)
    assert frame.camera.z_to_distance(frame.xy, frame.z)[near] == pytest.approx(
        math.hypot(frame.z[near], 7 * math.cos(0.3) * math.sin(azimuth(179)), height), abs=1e-3
    )
    assert frame.dropped == {"behind the camera": 1}


def test_a_point_beside_the_car_was_elsewhere_when_its_column_was_exposed(root):
    frame = WaymoReader(root).read(f"{SEGMENT}/SIDE_LEFT/{TIMES[0]}")
    assert len(frame.z) == 1
    assert frame.z[0] == pytest.approx(8 * math.sin(azimuth(89)) - 0.2, abs=1e-3)
    u, scale = frame.xy[0, 0], 200 / frame.z[0]
    ahead = 1.4 - 0.2 + 8 * math.cos(azimuth(89)) - 1.5
    assert u == pytest.approx(95.5 + scale * (ahead - SPEED * (-0.02 + 0.04 * (u + 0.5) / WIDE)), abs=0.01)
    ahead_at_once = 95.5 + scale * ahead
    edit(root, "camera_calibration", lambda row: row | {CALIBRATION + "rolling_shutter_direction": 5})
    assert WaymoReader(root).read(f"{SEGMENT}/SIDE_LEFT/{TIMES[0]}").xy[0, 0] == pytest.approx(ahead_at_once, abs=0.01)
    edit(root, "camera_calibration", lambda row: row | {CALIBRATION + "rolling_shutter_direction": 4})
    backwards = WaymoReader(root).read(f"{SEGMENT}/SIDE_LEFT/{TIMES[0]}").xy[0, 0]
    assert backwards - ahead_at_once == pytest.approx(ahead_at_once - u, abs=0.2) and abs(ahead_at_once - u) > 0.1


CALIBRATION = "[CameraCalibrationComponent]."


def test_a_pixels_pose_turns_by_roll_then_pitch_then_yaw(root):
    """The vehicle is turned by so much that any other order or sign would move a point 7 m away by decimetres."""
    roll, pitch, angle = 0.2, -0.3, 0.4
    x = np.array([[1, 0, 0], [0, math.cos(roll), -math.sin(roll)], [0, math.sin(roll), math.cos(roll)]])
    y = np.array([[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]])
    pose = np.zeros((HEIGHT, WIDTH, 6))
    pose[:] = (roll, pitch, angle, 5, 6, 7)
    known = {
        "[LiDARCalibrationComponent].extrinsic.transform": LIDAR_TO_VEHICLE.ravel(),
        "[LiDARCalibrationComponent].beam_inclination.values": BEAMS,
    }
    points = _to_world(range_rows()[..., 0], pose, known, "here")
    ahead, flat, high = azimuth(179), math.cos(-0.3), math.sin(-0.3)
    in_vehicle = np.array([1.4 + 7 * math.cos(ahead) * flat, 7 * math.sin(ahead) * flat, 2.2 + 7 * high])
    np.testing.assert_allclose(points[-1], yaw(angle) @ y @ x @ in_vehicle + (5, 6, 7), atol=1e-5)


def test_poses_are_of_the_cameras_axes_and_meet_in_the_world(root):
    front, side = (WaymoReader(root).read(f"{SEGMENT}/{name}/{TIMES[0]}") for name in ("FRONT", "SIDE_LEFT"))
    np.testing.assert_allclose(front.camera.to_world([[0, 0, 5]]), [(1006.5, 2000, 32)], atol=1e-6)
    np.testing.assert_allclose(side.camera.to_world([[0, 0, 5]]), [(1001.5, 2005.2, 32)], atol=1e-6)
    np.testing.assert_allclose(side.camera.to_world([[1, 0, 5]]), [(1002.5, 2005.2, 32)], atol=1e-6)
    later = WaymoReader(root, every=1).read(f"{SEGMENT}/FRONT/{TIMES[1]}")
    np.testing.assert_allclose(later.camera.pose[:3, 3] - front.camera.pose[:3, 3], (1, 0, 0), atol=1e-6)


def test_uniform_beams_where_none_are_listed(root):
    def even(row):
        values = "[LiDARCalibrationComponent].beam_inclination."
        return row | {values + "values": None, values + "min": -0.4, values + "max": 0.4}

    edit(root, "lidar_calibration", even)
    frame = WaymoReader(root).read(f"{SEGMENT}/FRONT/{TIMES[0]}")
    far = np.argmax(frame.z)  # row 1 of 4 from above: 0.1
    height = 2.2 + 20 * math.sin(0.1) - 2.0
    assert frame.xy[far, 1] == pytest.approx(63.5 - 201 * height / frame.z[far], abs=0.02)


def test_a_store_of_both_cameras(root, tmp_path):
    curate(WaymoReader(root, every=1), tmp_path / "store")
    assert len(FrameStore(tmp_path / "store")) == 4
    assert FrameStore(tmp_path / "store")[0].scene == SEGMENT


def test_a_missing_row_costs_one_time(root, tmp_path):
    edit(root, "lidar", lambda row: None if row["key.frame_timestamp_micros"] == TIMES[0] else row)
    curate(WaymoReader(root, every=1), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert (report["frames"], report["skipped"]["missing lidar"]["count"]) == (2, 2)


@pytest.mark.parametrize("component", ["camera_calibration", "lidar", "lidar_calibration", "lidar_pose"])
def test_a_missing_or_damaged_component(root, component):
    path = root / "training" / component / f"{SEGMENT}.parquet"
    data = path.read_bytes()
    for content, kind in ((None, f"missing {component}"), (data[: len(data) // 2], f"unreadable {component}")):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DepthLMError) as caught:
            WaymoReader(root).read(f"{SEGMENT}/FRONT/{TIMES[0]}")
        assert caught.value.kind == kind and component in str(caught.value)


def test_a_pose_that_is_none(root):
    name = "[CameraImageComponent].pose.transform"
    edit(root, "camera_image", lambda row: row | {name: [float("nan")] * 16})
    with pytest.raises(DepthLMError) as caught:
        WaymoReader(root).read(f"{SEGMENT}/FRONT/{TIMES[0]}")
    assert caught.value.kind == "bad pose"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "train"}, "'train' is not one of training"),
        ({"cameras": "front"}, "unknown"),
        ({"every": 0}, "at least 1"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
    ],
)
def test_wrong_options(root, options, said):
    with pytest.raises(DepthLMError, match=said):
        WaymoReader(root, **options)
