"""DDAD: DGP's files, poses of both times, the own car; on the format's real frames where they are at hand.

Layout and fields as in dgp/proto/{dataset,scene,sample,geometry}.proto and docs of github.com/TRI-ML/dgp, and the
README of github.com/TRI-ML/DDAD.
"""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import encode_png
from reprojection import nearest_z_error

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.ddad import OWN_CAR, DdadReader, outlined
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

WIDE, TALL = 192, 120
AHEAD = {"qw": 0.5, "qx": -0.5, "qy": 0.5, "qz": -0.5}  # the camera's z is the vehicle's x
STRAIGHT = {"qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0}
KEY = "000150/CAMERA_01/15616458249936530"


def pose(rotation, x, y, z):
    return {"rotation": rotation, "translation": {"x": x, "y": y, "z": z}}


def npz(points):
    buffer = io.BytesIO()
    np.savez(buffer, data=np.c_[points, np.zeros(len(points))])
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    """Two cameras; the car drives 12 m/s along the world's x, the LiDAR is read 50 ms after the cameras."""
    root = tmp_path / "ddad_train_val"
    scene = root / "000150"
    cameras = {"CAMERA_01": 1.5, "CAMERA_09": 0.1}
    data = [
        {
            "key": "lidar",
            "id": {"name": "LIDAR", "timestamp": "2019-06-27T14:24:10.0279Z"},
            "datum": {"point_cloud": {"filename": "point_cloud/LIDAR/1.npz", "pose": pose(STRAIGHT, 100.6, 50, 0)}},
        }
    ]
    for name, x in cameras.items():
        shot = {"filename": f"rgb/{name}/15616458249936530.png", "width": WIDE, "height": TALL}
        data.append(
            {
                "key": name,
                "id": {"name": name, "timestamp": "2019-06-27T14:24:09.977900123Z"},
                "datum": {"image": shot | {"channels": 3, "pose": pose(AHEAD, 100 + x, 50, 1.5)}},
            }
        )
    image = encode_png(np.zeros((TALL, WIDE, 3), np.uint8))
    calibration = {
        "names": ["LIDAR", *cameras],
        "intrinsics": [{}, *[{"fx": 150.0, "fy": 150.0, "cx": 95.5, "cy": 59.5, "skew": 0.0}] * 2],
        "extrinsics": [pose(STRAIGHT, 0, 0, 0), *(pose(AHEAD, x, 0, 1.5) for x in cameras.values())],
    }
    samples = [{"calibration_key": "c1", "datum_keys": [datum["key"] for datum in data]}] * 3
    # 20.9 m ahead of the vehicle at the LiDAR's time: 20 m of the front camera; and one on the road right before it
    files = {
        "000150/point_cloud/LIDAR/1.npz": npz([(20.9, -2.0, 2.5), (6.0, 0.2, -0.4)]),
        "000150/calibration/c1.json": json.dumps(calibration).encode(),
        "000150/scene_abc.json": json.dumps({"name": "", "data": data, "samples": samples}).encode(),
        "ddad.json": json.dumps({"scene_splits": {"1": {"filenames": ["000150/scene_abc.json"]}}}).encode(),
        **{f"000150/rgb/{name}/15616458249936530.png": image for name in cameras},
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    assert scene.is_dir()
    return root


def edit(root, change, name="000150/scene_abc.json"):
    table = json.loads((root / name).read_text())
    change(table)
    (root / name).write_text(json.dumps(table))


def test_a_known_point_ends_at_the_known_pixel(root):
    reader = READERS.get("ddad")(root, split="val", cameras="CAMERA_01")
    assert reader.keys() == [KEY]
    frame = reader.read(KEY)
    z = 20.9 + 100.6 - 101.5  # LiDAR and camera each with its own pose in the world
    far = np.argmax(frame.z)
    assert frame.z[far] == pytest.approx(z, abs=1e-4)
    np.testing.assert_allclose(frame.xy[far], (95.5 + 150 * 2 / z, 59.5 - 150 * 1.0 / z), atol=1e-3)
    assert frame.camera.z_to_distance(frame.xy, frame.z)[far] == pytest.approx(np.sqrt(z * z + 5), abs=1e-3)
    np.testing.assert_allclose(
        frame.camera.to_world(frame.camera.back_project(frame.xy, frame.z))[far], (121.5, 48, 2.5), atol=1e-3
    )
    assert frame.timestamp == pytest.approx(1561645449.9779, abs=1e-4)
    assert (frame.scene, frame.split) == ("000150", "val")


def test_where_a_camera_sees_its_own_car_there_is_no_label(root, tmp_path):
    rear = DdadReader(root, split="val", cameras="CAMERA_09").read("000150/CAMERA_09/15616458249936530")
    assert len(rear.z) == 1 and rear.dropped == {"own vehicle": 1}
    (root / "masks").mkdir()
    (root / "masks/CAMERA_09.png").write_bytes(encode_png(np.zeros((TALL, WIDE, 3), np.uint8)))
    mine = DdadReader(root, split="val", cameras="CAMERA_09", masks="masks")
    assert len(mine.read("000150/CAMERA_09/15616458249936530").z) == 2
    (root / "masks/000150").mkdir()
    (root / "masks/000150/CAMERA_09.png").write_bytes(encode_png(np.full((TALL, WIDE, 3), 255, np.uint8)))
    with pytest.raises(DepthLMError, match="has no depth label"):
        mine.read("000150/CAMERA_09/15616458249936530")
    with pytest.raises(DepthLMError) as caught:
        DdadReader(root, split="val", cameras="CAMERA_01", masks="masks").read(KEY)
    assert caught.value.kind == "missing mask"
    with pytest.raises(DepthLMError, match="lies outside"):
        DdadReader(root, masks=str(tmp_path))


def test_splits_and_samples(root):
    assert len(DdadReader(root, split="val").keys()) == 2  # three samples of the same two images
    assert DdadReader(root, split="all", cameras="CAMERA_01", every=2).keys() == [KEY]
    with pytest.raises(DepthLMError, match="lists no scenes of train"):
        DdadReader(root).keys()
    (root / "ddad.json").unlink()
    with pytest.raises(DepthLMError, match=r"ddad\.json"):
        DdadReader(root).keys()
    assert len(DdadReader(root, split="all").keys()) == 2


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("000150/rgb/CAMERA_01/15616458249936530.png", None, "missing image"),
        ("000150/rgb/CAMERA_01/15616458249936530.png", b"x", "unreadable image"),
        ("000150/point_cloud/LIDAR/1.npz", b"PK", "unreadable point cloud"),
        ("000150/point_cloud/LIDAR/1.npz", None, "missing point cloud"),
        ("000150/calibration/c1.json", b"{", "unreadable calibration"),
        ("000150/calibration/c1.json", b'{"names": [], "intrinsics": []}', "bad calibration"),
    ],
)
def test_one_bad_frame_is_counted(root, tmp_path, name, content, kind):
    (root / name).unlink() if content is None else (root / name).write_bytes(content)
    with pytest.raises(DepthLMError, match="no frame was usable"):
        curate(DdadReader(root, split="val", cameras="CAMERA_01"), tmp_path / "store")
    assert list(json.loads((tmp_path / "store/report.json").read_bytes())["skipped"]) == [kind]


def test_arrays_of_objects_are_not_unpickled(root):
    buffer = io.BytesIO()
    np.savez(buffer, data=np.array([object()]))
    (root / "000150/point_cloud/LIDAR/1.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DepthLMError) as caught:
        DdadReader(root, split="val").read(KEY)
    assert caught.value.kind == "unreadable point cloud"


def test_wrong_scenes(root):
    edit(root, lambda table: table["data"][1]["datum"]["image"]["pose"]["rotation"].update(qw=float("nan")))
    with pytest.raises(DepthLMError) as caught:
        DdadReader(root, split="val").read(KEY)
    assert caught.value.kind == "bad pose"
    edit(root, lambda table: table["data"][1]["datum"]["image"].update(filename="../../outside.png"))
    edit(root, lambda table: table["data"][1]["datum"]["image"]["pose"].update(rotation=AHEAD))
    with pytest.raises(DepthLMError, match="lies outside"):
        reader = DdadReader(root, split="val", cameras="CAMERA_01")
        reader.read(reader.keys()[0])
    edit(root, lambda table: table.pop("samples"))
    with pytest.raises(DepthLMError, match="lacks 'samples'"):
        DdadReader(root, split="val").keys()


def test_a_skewed_lens_is_refused(root):
    edit(root, lambda table: table["intrinsics"][1].update(skew=3.0), "000150/calibration/c1.json")
    with pytest.raises(DepthLMError) as caught:
        DdadReader(root, split="val").read(KEY)
    assert caught.value.kind == "skewed camera"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "'test' is not one of"),
        ({"cameras": "CAMERA_02"}, "unknown"),
        ({"every": 0}, "at least 1"),
        ({"min_m": 3, "max_m": 2}, "min_m"),
        ({"masks": "none"}, "no such folder of masks"),
    ],
)
def test_wrong_options(root, options, said):
    with pytest.raises(DepthLMError, match=said):
        DdadReader(root, **options)


def test_outlines_cover_the_car_and_little_else():
    for name, outlines in OWN_CAR.items():
        mask = outlined(outlines, 1936, 1216)
        assert 0.05 < mask.mean() < 0.4, name
        assert mask[-1, 968] and not mask[486, 968], "the bottom, not the middle"


@pytest.fixture(scope="module")
def real():
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip("the real test frames (../shared/data) are not here")
    reader = DdadReader(SHARED / "ddad_dgp", split="all", labels=0)
    keys = [key for key in reader.keys() if key.startswith("scene_02")]
    return SHARED, {tuple(key.split("/")[1:]): reader.read(key) for key in keys}


def test_real_frames_against_their_checked_calibration(real):
    shared, frames = real
    known = json.loads((shared / "ddad_dgp/scene_02_frames.json").read_text())
    assert len(frames) == 18
    for (camera, stem), frame in frames.items():
        assert 4000 < len(frame.z) < 13000 and frame.z.min() > 2 and 40 < frame.z.max() < 200
        row = next(row for row in known if row["image"].endswith(f"{camera}/{stem}.jpg"))
        np.testing.assert_allclose(frame.camera.pose, np.array(row["cam_to_world"]), atol=1e-6)
        np.testing.assert_allclose(frame.camera.K, np.array(row["K"]), atol=1e-9)


def test_real_points_agree_between_times(real):
    """The car creeps: labels of one image fall on the same surfaces in the next, a second later and 1.3 m on."""
    _, frames = real
    stems = sorted({stem for _, stem in frames})
    front = [frames["CAMERA_01", stem] for stem in stems]
    assert 1 < np.linalg.norm(front[1].camera.pose[:3, 3] - front[0].camera.pose[:3, 3]) < 2
    error, count = nearest_z_error(front[0], front[1])
    assert count > 1000 and error < 0.018
    still = replace(front[1], camera=replace(front[1].camera, pose=front[0].camera.pose))
    assert nearest_z_error(front[0], still)[0] > 1.4 * error, "a world that moves with the car fits worse"


def test_a_store_of_real_frames(real, tmp_path):
    shared, _ = real
    curate(DdadReader(shared / "ddad_dgp", split="all", cameras=["CAMERA_01", "CAMERA_05"]), tmp_path / "store")
    assert len(FrameStore(tmp_path / "store")) == 12
    dropped = json.loads((tmp_path / "store/report.json").read_bytes())["dropped_labels"]
    assert dropped["own vehicle"] > 500 and dropped["behind the camera"] > dropped["hidden"] > 500
