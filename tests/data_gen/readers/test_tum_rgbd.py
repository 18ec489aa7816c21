"""TUM RGB-D. Layout and factors as of the benchmark's "File Formats" and "Intrinsic Camera Calibration" pages."""

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.tum_rgbd import pose_matrix
from depthlm.errors import DepthLMError
from depthlm.pairs import is_pair
from depthlm.store import FrameStore

SEQUENCE = "rgbd_dataset_freiburg3_desk"
TURN = f"0 0 0 {np.sin(np.pi / 4)} 0 0 {np.cos(np.pi / 4)}"  # 90 degrees about x


def write(root, sequence=SEQUENCE, depth_late=0.005, pose="0 0 0 0 0 0 1", step=0.3):
    """Two images 0.1 s and ``step`` metres apart, of a wall 2 m ahead with one pixel at 5 m."""
    base = root / sequence
    counts = np.full((480, 640), 10000, np.uint16)
    counts[100, 600], counts[0, 0] = 25000, 0
    image = encode_png(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
    lists = {name: ["# a comment"] for name in ("rgb", "depth", "groundtruth")}
    for i, time in enumerate((1305031102.175304, 1305031102.275304)):
        for kind, late, data in (("rgb", 0.0, image), ("depth", depth_late, encode_png(counts))):
            name = f"{kind}/{time + late:.6f}.png"
            (base / kind).mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
            lists[kind].append(f"{time + late:.6f} {name}")
        numbers = pose.split()
        numbers[0] = str(float(numbers[0]) + i * step)
        lists["groundtruth"].append(f"{time + 0.001:.4f} {' '.join(numbers)}")
    for kind, lines in lists.items():
        (base / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_a_known_point_ends_at_its_pixel(tmp_path):
    """25000 counts are 5 m of z; the distance is longer by the length of the ray."""
    reader = READERS.get("tum-rgbd")(write(tmp_path))
    frame = reader.read(reader.keys()[0])
    assert frame.depth[100, 600] == 5.0
    assert frame.depth[0, 0] == 0
    distance = frame.camera.z_to_distance([[600, 100]], [5.0])[0]
    assert distance == pytest.approx(5 * np.sqrt(1 + ((600 - 320.1) / 535.4) ** 2 + ((100 - 247.6) / 539.2) ** 2))
    assert frame.timestamp == pytest.approx(1305031102.175304)


def test_labels_lie_in_the_distorted_image(tmp_path):
    sequence = "rgbd_dataset_freiburg1_xyz"
    reader = READERS.get("tum-rgbd")(write(tmp_path, sequence))
    camera = reader.read(reader.keys()[0]).camera
    assert camera.distortion == (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    np.testing.assert_allclose(camera.project(camera.back_project([[600, 100]], [5.0])), [[600, 100]], atol=1e-3)


def test_images_without_depth_near_in_time_are_left_out(tmp_path):
    assert len(READERS.get("tum-rgbd")(write(tmp_path / "near", depth_late=0.019)).keys()) == 2
    assert READERS.get("tum-rgbd")(write(tmp_path / "far", depth_late=0.031)).keys() == []


def test_poses_and_pairs(tmp_path):
    reader = READERS.get("tum-rgbd")(write(tmp_path))
    curate(reader, tmp_path / "store")
    first, second = FrameStore(tmp_path / "store")
    np.testing.assert_allclose(second.camera.pose[:3, 3] - first.camera.pose[:3, 3], [0.3, 0, 0], atol=1e-9)
    assert first.scene == second.scene == SEQUENCE
    assert is_pair(first, second)


def test_quaternions():
    turned = pose_matrix([float(v) for v in TURN.split()])
    np.testing.assert_allclose(turned[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(pose_matrix([1, 2, 3, 0, 0, 0, 5])[:3], np.c_[np.eye(3), [1, 2, 3]])
    for bad in ([0, 0, 0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0, 0, 1]):
        with pytest.raises(DepthLMError, match="is no translation and quaternion"):
            pose_matrix(bad)


def test_one_sequence_or_many(tmp_path):
    write(tmp_path)
    write(tmp_path, "rgbd_dataset_freiburg2_xyz")
    many, one = READERS.get("tum-rgbd")(tmp_path), READERS.get("tum-rgbd")(tmp_path / SEQUENCE)
    assert [key.partition("/")[0] for key in many.keys()] == ["rgbd_dataset_freiburg2_xyz"] * 2 + [SEQUENCE] * 2
    assert one.keys() == many.keys()[2:]
    assert one.read(one.keys()[0]).image == many.read(many.keys()[2]).image


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda base: base.rename(base.parent / "desk"), "desk: is no sequence of freiburg1, freiburg2 or freiburg3"),
        (lambda base: (base / "rgb.txt").unlink(), "holds no rgb.txt"),
        (lambda base: (base / "depth.txt").unlink(), r"depth\.txt: no such file"),
        (lambda base: (base / "depth.txt").write_text("now depth/a.png"), r"depth\.txt: is no list of times"),
        (lambda base: (base / "groundtruth.txt").write_text("1 2 3"), r"groundtruth\.txt: is no list of times"),
    ],
)
def test_spoilt_sequences_are_named(tmp_path, spoil, says):
    write(tmp_path)
    spoil(tmp_path / SEQUENCE)
    with pytest.raises(DepthLMError, match=says):
        READERS.get("tum-rgbd")(tmp_path).keys()


def test_a_list_cannot_lead_out(tmp_path):
    write(tmp_path)
    (tmp_path / SEQUENCE / "rgb.txt").write_text("1305031102.175304 ../../../etc/passwd\n")
    report_keys = READERS.get("tum-rgbd")(tmp_path)
    with pytest.raises(DepthLMError, match="lies outside the dataset"):
        report_keys.read(report_keys.keys()[0])
