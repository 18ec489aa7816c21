"""NYU Depth v2: the labelled .mat file, frames exported by scene, and the traps: filled depth, border, MATLAB's axes.

Variables, axes and units of the .mat file as on cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html; camera and mask as in
its toolbox (camera_params.m, get_projection_mask.m: rows 45 to 471, columns 41 to 601 counted from 1).
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import encode_png
from reprojection import edge_agreement, reprojected_z_error

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.nyuv2 import NyuV2Reader
from depthlm.errors import DepthLMError

K = np.array([[518.8579, 0, 325.58245], [0, 519.46961, 253.73617], [0, 0, 1]])


@pytest.fixture
def mat(tmp_path):
    """Three frames as MATLAB 7.3 writes them: axes in reverse, strings as references to 16-bit characters."""
    h5py = pytest.importorskip("h5py")
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 480, 640, 3), np.uint8)
    raw = np.zeros((3, 480, 640), np.float32)
    raw[:, 300, 500] = 2.0, 3.0, 4.0
    raw[:, 10, 10] = 1.0  # on the white border
    raw[:, 301, 501] = 9.99547, 10.0, np.nan  # cut at the sensor's end
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["rawDepths"] = raw.transpose(0, 2, 1)
        file["depths"] = np.where(raw == 0, 2.5, raw).transpose(0, 2, 1)
        scenes = file.create_dataset("scenes", (1, 3), h5py.ref_dtype)
        for i, name in enumerate(("kitchen_0004", "office_0002", "office_0002")):
            file[f"#refs#/{i}"] = np.array([[ord(c)] for c in name], np.uint16)
            scenes[0, i] = file[f"#refs#/{i}"].ref
    scipy_io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3], [1]]), "testNdxs": np.array([[2]])})
    return tmp_path, images


def test_a_labelled_frame(mat):
    folder, images = mat
    reader = READERS.get("nyuv2")(folder / "nyu_depth_v2_labeled.mat")
    assert reader.keys() == ["labelled/0002"]
    frame = reader.read("labelled/0002")
    np.testing.assert_array_equal(frame.pixels(), images[1])
    assert (frame.scene, frame.split) == ("office_0002", "test")
    np.testing.assert_array_equal(np.argwhere(frame.depth), [[300, 500]])  # row, column
    assert frame.depth[300, 500] == 3
    point = 3 * np.linalg.inv(K) @ (500, 300, 1)
    np.testing.assert_allclose(frame.camera.project([point]), [[500, 300]], atol=1e-4)
    assert frame.camera.z_to_distance([[500, 300]], [3]) == pytest.approx(np.linalg.norm(point), rel=1e-6)
    assert np.linalg.norm(point) > 3.15


def test_labels_come_from_raw_depth_and_not_from_filled(mat):
    folder, _ = mat
    frame = NyuV2Reader(folder, split="all").read("labelled/0001")
    assert (frame.depth > 0).sum() == 1  # neither border, nor holes, nor what was cut off
    filled = NyuV2Reader(folder, split="all", depth="filled").read("labelled/0001")
    assert (filled.depth > 0).sum() == 427 * 561 - 1


def test_official_splits_count_from_1(mat):
    folder, _ = mat
    assert NyuV2Reader(folder, split="train").keys() == ["labelled/0001", "labelled/0003"]
    assert len(NyuV2Reader(folder, split="all").keys()) == 3
    (folder / "splits.mat").unlink()
    with pytest.raises(DepthLMError, match=r"splits\.mat: no such split file"):
        NyuV2Reader(folder).keys()


def test_a_cut_off_mat_file_is_one_clear_error(mat):
    folder, _ = mat
    path = folder / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DepthLMError, match=r"can't be read as a \.mat file of version 7"):
        NyuV2Reader(path).keys()


@pytest.fixture
def exported(tmp_path):
    for scene in ("bedroom_0001", "kitchen_0028b"):
        (tmp_path / scene).mkdir()
        for number in (0, 45):
            depth = np.zeros((480, 640), np.uint16)
            depth[300, 500] = 2000 + number
            (tmp_path / scene / f"rgb_{number:05d}.jpg").write_bytes(encode_png(np.zeros((480, 640, 3), np.uint8)))
            (tmp_path / scene / f"sync_depth_{number:05d}.png").write_bytes(encode_png(depth))
    return tmp_path


def test_exported_scenes(exported):
    reader = NyuV2Reader(exported)
    assert list(reader.keys()) == [f"{s}/{n}" for s in ("bedroom_0001", "kitchen_0028b") for n in ("00000", "00045")]
    frame = reader.read("kitchen_0028b/00045")
    assert (frame.scene, frame.split) == ("kitchen_0028b", "train")
    assert frame.depth[300, 500] == pytest.approx(2.045)
    assert list(NyuV2Reader(exported / "bedroom_0001").keys()) == ["bedroom_0001/00000", "bedroom_0001/00045"]


def test_a_frame_without_its_depth_is_counted(exported):
    (exported / "bedroom_0001" / "sync_depth_00000.png").unlink()
    assert curate(NyuV2Reader(exported), exported.with_name("store")).counts == {"missing depth": 1}


def test_an_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(DepthLMError, match="holds neither nyu_depth_v2_labeled"):
        NyuV2Reader(tmp_path).keys()
    with pytest.raises(DepthLMError, match="no such file or folder"):
        NyuV2Reader(tmp_path / "none")


def test_real_exported_frames(shared_data):
    reader = NyuV2Reader(shared_data / "metric3d_nyu_demo")
    keys = list(reader.keys())
    assert keys == [f"metric3d_nyu_demo/{n:05d}" for n in (0, 50, 100)]
    frames = list(map(reader.read, keys))
    for frame in frames:
        known = frame.depth > 0
        assert 0.5 < known.mean() < 0.79
        assert frame.depth[known].min() > 0.4 and frame.depth.max() < 9
    at, beside = (np.mean([edge_agreement(f, dx) for f in frames]) for dx in (0, 12))
    assert at > 1.5 * beside


def test_real_kinect_views_agree_through_their_poses(tmp_path, shared_data):
    shutil.copytree(shared_data / "nyu_joinmap_slambook2", tmp_path / "scene")
    reader = NyuV2Reader(tmp_path / "scene")
    frames = [reader.read(key) for key in list(reader.keys())]
    assert len(frames) == 5
    error, count = reprojected_z_error(frames[0], frames[1])
    assert error < 0.03 and count > 50_000
    turned = replace(frames[1], camera=replace(frames[1].camera, pose=frames[2].camera.pose))
    assert reprojected_z_error(frames[0], turned)[0] > 2 * error
