"""Argoverse 2: points of the vehicle's frame through both poses, undistorted images, the sweep nearest in time.

Layout, columns and units as in guide/src/datasets/sensor.md of github.com/argoverse/av2-api; that k1, k2, k3 are not to
be applied as its authors say there and in issues 219 and 226.
"""

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import encode_png
from pyarrow import feather

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.argoverse2 import Argoverse2Reader
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

LOG = "01bb304d-7bd8-35f8-bbef-7086b688e35e"
SWEEP, FRONT, SIDE = 315968867659956000, 315968867649927217, 315968867665000000
# The camera looks ahead from (1.6, 0, 1.4): x right is -y of the vehicle, y down is -z, z ahead is x.
AHEAD = (0.5, -0.5, 0.5, -0.5)
LEFT = (np.sqrt(0.5), -np.sqrt(0.5), 0.0, 0.0)


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(columns), path)


def se3(keys, rows):
    names = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    return {**keys, **{name: [row[i] for row in rows] for i, name in enumerate(names)}}


def write_sweep(folder, points, stamp=SWEEP):
    cloud = np.asarray(points, np.float16)
    extra = {"intensity": np.zeros(len(cloud), np.uint8), "laser_number": np.zeros(len(cloud), np.uint8)}
    columns = {axis: cloud[:, i] for i, axis in enumerate("xyz")} | extra
    write(folder / f"sensors/lidar/{stamp}.feather", {**columns, "offset_ns": np.zeros(len(cloud), np.int32)})


@pytest.fixture
def log(tmp_path):
    """The vehicle drives 15 m/s along the city's x; the front image is taken 10 ms before the sweep."""
    folder = tmp_path / "av2" / "train" / LOG
    images = {"ring_front_center": (FRONT, (2048, 1550)), "ring_side_left": (SIDE, (1550, 2048))}
    for name, (stamp, shape) in images.items():
        (folder / "sensors/cameras" / name).mkdir(parents=True)
        image = encode_png(np.zeros((*shape, 3), np.uint8))
        (folder / f"sensors/cameras/{name}/{stamp}.jpg").write_bytes(image)
    write_sweep(
        folder,
        [
            (31.625, -4.0, 2.0),
            (1.625, 12.0, 1.40625),
            (3.5, 0.5, 0.5),  # on the car's own bonnet
        ],
    )
    write(
        folder / "calibration/intrinsics.feather",
        {
            "sensor_name": list(images),
            **{
                "fx_px": [1700.0, 1690.0],
                "fy_px": [1700.0, 1690.0],
                "cx_px": [775.0, 1024.0],
                "cy_px": [1023.0, 776.0],
            },
            **{"k1": [-0.24, -0.25], "k2": [-0.21, -0.15], "k3": [0.32, 0.23]},
            **{"height_px": pa.array([2048, 1550], pa.uint16()), "width_px": pa.array([1550, 2048], pa.uint16())},
        },
    )
    sensors = {"sensor_name": [*images, "up_lidar"]}
    placed = [(*AHEAD, 1.625, 0, 1.40625), (*LEFT, 1.3, 0.25, 1.40625), (1, 0, 0, 0, 1.35, 0, 1.64)]
    write(folder / "calibration/egovehicle_SE3_sensor.feather", se3(sensors, placed))
    times = [FRONT, SWEEP, SIDE]
    moved = [(1, 0, 0, 0, 1000 + 15 * (time - SWEEP) / 1e9, 500, -24) for time in times]
    write(folder / "city_SE3_egovehicle.feather", se3({"timestamp_ns": times}, moved))
    return folder


def reader_of(log, **options):
    return Argoverse2Reader(log.parents[1], **options)


def test_a_known_point_ends_at_the_known_pixel(log):
    reader = READERS.get("argoverse2")(log.parents[1])
    assert reader.keys() == [f"{LOG}/ring_front_center/{FRONT}", f"{LOG}/ring_side_left/{SIDE}"]
    frame = reader.read(reader.keys()[0])
    behind = 15 * (SWEEP - FRONT) / 1e9  # the vehicle had not come so far yet: 15 cm
    z = 30 + behind
    np.testing.assert_allclose(frame.z, [z], atol=1e-4)
    np.testing.assert_allclose(frame.xy, [(775 + 1700 * 4 / z, 1023 - 1700 * 0.59375 / z)], atol=1e-2)
    camera = frame.camera
    assert camera.z_to_distance(frame.xy, frame.z)[0] == pytest.approx(np.sqrt(z**2 + 16 + 0.59375**2), abs=1e-3)
    world = camera.to_world(camera.back_project(frame.xy, frame.z))
    np.testing.assert_allclose(world, [(1031.625, 496, -22)], atol=1e-3)
    assert (camera.width, camera.height) == (1550, 2048)
    assert frame.timestamp == pytest.approx(FRONT / 1e9)
    assert (frame.scene, frame.split) == (LOG, "train")


def test_the_lens_is_not_applied_to_images_without_distortion(log):
    assert reader_of(log).read(f"{LOG}/ring_front_center/{FRONT}").camera.distortion == ()


def test_every_point_is_accounted_for(log, tmp_path):
    reader = reader_of(log)
    front, side = (reader.read(key) for key in reader.keys())
    assert front.dropped == {"own vehicle": 1, "outside the image": 1}
    assert side.z[0] == pytest.approx(11.75, abs=1e-3) and side.dropped == {
        "behind the camera": 1,
        "outside the image": 1,
    }
    curate(reader, tmp_path / "store")
    assert json.loads((tmp_path / "store/report.json").read_bytes())["dropped_labels"]["own vehicle"] == 1
    assert len(FrameStore(tmp_path / "store")) == 2


def test_the_image_nearest_in_time_within_half_a_turn(log):
    folder = log / "sensors/cameras/ring_front_center"
    (folder / f"{FRONT - 40_000_000}.jpg").write_bytes(b"")
    assert reader_of(log, cameras="ring_front_center").keys() == [f"{LOG}/ring_front_center/{FRONT}"]
    (folder / f"{FRONT}.jpg").rename(folder / f"{SWEEP - 60_000_000}.jpg")
    (folder / f"{FRONT - 40_000_000}.jpg").unlink()
    with pytest.raises(DepthLMError, match="no log with images"):
        reader_of(log, cameras="ring_front_center").keys()


def test_one_frame_among_many_is_skipped_and_counted(log, tmp_path):
    (log / f"sensors/cameras/ring_side_left/{SIDE}.jpg").write_bytes(b"no image")
    curate(reader_of(log), tmp_path / "store")
    report = json.loads((tmp_path / "store/report.json").read_bytes())
    assert (report["frames"], list(report["skipped"])) == (1, ["unreadable image"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"sensors/lidar/{SWEEP}.feather", "unreadable point cloud"),
        ("calibration/intrinsics.feather", "unreadable calibration"),
        ("city_SE3_egovehicle.feather", "unreadable pose"),
    ],
)
def test_damaged_tables(log, name, kind):
    reader = reader_of(log)
    key = reader.keys()[0]
    (log / name).write_bytes((log / name).read_bytes()[:40])
    with pytest.raises(DepthLMError) as caught:
        reader.read(key)
    assert caught.value.kind == kind and name in str(caught.value)


def test_no_pose_at_the_time_of_an_image(log):
    moved = [(1, 0, 0, 0, 1000, 500, -24)]
    write(log / "city_SE3_egovehicle.feather", se3({"timestamp_ns": [SWEEP]}, moved))
    with pytest.raises(DepthLMError, match=f"lacks {FRONT}"):
        reader_of(log).read(f"{LOG}/ring_front_center/{FRONT}")


def test_a_camera_without_calibration(log):
    stereo = log / "sensors/cameras/stereo_front_left"
    stereo.mkdir()
    (stereo / f"{FRONT}.jpg").write_bytes(b"")
    with pytest.raises(DepthLMError) as caught:
        reader_of(log, cameras="stereo_front_left").read(f"{LOG}/stereo_front_left/{FRONT}")
    assert caught.value.kind == "missing calibration"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "dev"}, "'dev' is not one of train"),
        ({"cameras": "front"}, "unknown"),
        ({"every": 0}, "at least 1"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
    ],
)
def test_wrong_options(log, options, said):
    with pytest.raises(DepthLMError, match=said):
        reader_of(log, **options)


def test_a_log_that_links_out_of_the_dataset_is_refused(log, tmp_path):
    outside = tmp_path / "elsewhere"
    log.rename(outside)
    log.symlink_to(outside)
    with pytest.raises(DepthLMError, match="lies outside"):
        reader_of(log).keys()


def test_the_official_kit_projects_the_same(log):
    kit = pytest.importorskip("av2.datasets.sensor.av2_sensor_dataloader", reason="the kit av2 is not installed")
    frame = reader_of(log).read(f"{LOG}/ring_front_center/{FRONT}")
    loader = kit.AV2SensorDataLoader(data_dir=log.parent, labels_dir=log.parent)
    points = feather.read_table(log / f"sensors/lidar/{SWEEP}.feather").to_pandas()[["x", "y", "z"]].to_numpy(float)
    xy, in_camera, seen = loader.project_ego_to_img_motion_compensated(points, "ring_front_center", FRONT, SWEEP, LOG)
    np.testing.assert_allclose(xy[seen][:1], frame.xy, atol=1e-2)
    np.testing.assert_allclose(in_camera[seen][:1, 2], frame.z, atol=1e-3)
