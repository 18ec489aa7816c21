"""Hypersim: distance and not z, asset units, y up and z backward, tilted lenses, the split of released images.

Layout, units and axes as in README.md of github.com/apple/ml-hypersim; rays of a scene's own camera as in
contrib/mikeroberts3000/README.md there and its notebook 01; the matrices below are rows of its
metadata_camera_parameters.csv (numbers only).
"""

import io
import json
import pickle
import sys

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.curate import curate
from data_gen.readers import READERS, Reader
from data_gen.readers.hypersim import HypersimReader, lens_of
from depthlm.errors import DepthLMError

h5py = pytest.importorskip("h5py", reason="Hypersim needs the extra mat")

SIZE = WIDTH, HEIGHT = 1024, 768
SCALE = 0.0254  # metres in an asset unit
PLAIN = [[0.5773502886, 0, 0], [0, 0.4330127165, 0], [0, 0, -1]]  # ai_001_001: 60 degrees, no shift
TILTED = [[0.6234, 0, 0], [0, 0.4338, 0], [0, -0.1744, -1.0798]]  # ai_017_009: 22 degrees
SKEWED = [[0.5816, 0, 0], [0, 0.4521, 0], [0.1641, -0.0318, -1.0335]]  # ai_019_007: 16 px
SCENES = {"ai_001_001": PLAIN, "ai_017_009": TILTED, "ai_019_007": SKEWED}
X, Y, DISTANCE = 900, 100, 3.0
POSITION = np.array([100.0, -200.0, 50.0])  # asset units
# The camera looks along the world's y: its backward z is -y, its up y is the world's z. Then it turns by 30 degrees.
TURN = np.array([[np.cos(np.pi / 6), -0.5, 0], [0.5, np.cos(np.pi / 6), 0], [0, 0, 1]])
ROTATION = TURN @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
SPLIT_HEADER = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"


@pytest.fixture(scope="module")
def image():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_hdf5(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", data=array, compression="gzip")


def write_frame(root, scene, number, image):
    images = root / scene / "images"
    (images / "scene_cam_00_final_preview").mkdir(parents=True, exist_ok=True)
    (images / "scene_cam_00_final_preview" / f"frame.{number:04d}.tonemap.jpg").write_bytes(image)
    distance = np.full((HEIGHT, WIDTH), np.nan, np.float16)
    distance[Y, X] = DISTANCE
    write_hdf5(images / "scene_cam_00_geometry_hdf5" / f"frame.{number:04d}.depth_meters.hdf5", distance)


@pytest.fixture
def tree(tmp_path, image):
    root = tmp_path / "hypersim"
    for scene in SCENES:
        write_frame(root, scene, 0, image)
        detail = root / scene / "_detail"
        write_hdf5(detail / "cam_00" / "camera_keyframe_orientations.hdf5", np.stack([ROTATION, np.eye(3)]))
        write_hdf5(detail / "cam_00" / "camera_keyframe_positions.hdf5", np.stack([POSITION, POSITION + 100]))
        (detail / "metadata_scene.csv").write_text(f"parameter_name,parameter_value\nmeters_per_asset_unit,{SCALE}\n")
    write_frame(root, "ai_001_001", 1, image)
    columns = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    lines = [["scene_name", "settings_output_img_width", *columns]]
    lines += [[scene, "1024.0", *map(str, np.ravel(matrix))] for scene, matrix in SCENES.items()]
    (root / "metadata_camera_parameters.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    (root / "metadata_images_split_scene_v1.csv").write_text(
        SPLIT_HEADER + "ai_001_001,cam_00,0,True,,train\n"
        "ai_001_001,cam_00,1,True,,train\n"
        "ai_001_001,cam_00,2,False,CONTENT FLAGGED FOR REMOVAL,\n"
        "ai_001_001,cam_00,3,False,CONTENT FLAGGED FOR REMOVAL,train\n"
        "ai_017_009,cam_00,0,True,,val\n"
        "ai_019_007,cam_00,0,True,,test\n"
        "ai_055_001,cam_00,0,True,,train\n"  # not downloaded
    )
    return root


def ray_of(matrix):
    """The dataset's ray of pixel (X, Y), x right, y up, z backward, of any length."""
    return np.array(matrix) @ ((X + 0.5) / 512 - 1, 1 - (Y + 0.5) / 384, 1)


def world_point(matrix):
    """Where that pixel's surface lies, metres, by the dataset's own rule: along the ray by the stored distance."""
    ray = ray_of(matrix)
    return POSITION * SCALE + ROTATION @ ray / np.linalg.norm(ray) * DISTANCE


def test_a_known_point_ends_at_its_pixel_with_its_z(tree):
    reader = READERS.get("hypersim")(tree)
    frame = reader.read("ai_001_001/cam_00/frame.0000")
    assert (frame.id, frame.scene, frame.split) == ("ai_001_001/cam_00/frame.0000", "ai_001_001", "train")
    xy, z = frame.labels
    np.testing.assert_array_equal(xy, [[X, Y]])
    camera = frame.camera
    assert camera.fx == pytest.approx(886.81, abs=0.005)
    assert (camera.fy, camera.cx, camera.cy) == pytest.approx((camera.fx, 511.5, 383.5), abs=1e-3)
    off_axis = np.hypot((X - 511.5) / 886.81, (Y - 383.5) / 886.81)
    assert z[0] == pytest.approx(DISTANCE / np.sqrt(1 + off_axis**2), rel=1e-5)
    assert z[0] < 0.9 * DISTANCE  # the file's name says depth
    assert camera.z_to_distance(xy, z)[0] == pytest.approx(DISTANCE, rel=1e-6)
    np.testing.assert_allclose(camera.to_world(camera.back_project(xy, z))[0], world_point(PLAIN), atol=1e-5)
    np.testing.assert_allclose(camera.project(camera.from_world(world_point(PLAIN)[None])), xy, atol=1e-3)


def test_the_axes_are_turned_and_the_unit_is_the_metre(tree):
    reader = HypersimReader(tree)
    first, second = (reader.read(key).camera for key in reader.keys())
    np.testing.assert_allclose(first.to_world([[0, 0, 0]])[0], POSITION * SCALE)
    ahead, down = first.pose[:3, 2], first.pose[:3, 1]
    np.testing.assert_allclose(ahead, TURN @ [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-6)
    motion = np.linalg.norm(second.pose[:3, 3] - first.pose[:3, 3])
    assert motion == pytest.approx(100 * SCALE * np.sqrt(3))  # and not 173 "metres"


def test_a_tilted_lens_is_a_turned_pinhole(tree):
    """The nominal camera would put the point almost 50 px from where it was rendered, and its z would be another."""
    frame = HypersimReader(tree, split="val").read("ai_017_009/cam_00/frame.0000")
    camera, (xy, z) = frame.camera, frame.labels
    np.testing.assert_allclose(camera.to_world(camera.back_project(xy, z))[0], world_point(TILTED), atol=1e-5)
    np.testing.assert_allclose(camera.pose[:3, 3], POSITION * SCALE)
    turn = np.degrees(np.arccos(camera.pose[:3, 2] @ -ROTATION[:, 2]))
    assert turn == pytest.approx(21.9, abs=0.1)
    nominal = HypersimReader(tree, split="val", cameras="nominal").read("ai_017_009/cam_00/frame.0000")
    wrong = nominal.camera.project(nominal.camera.from_world(world_point(TILTED)[None]))[0]
    assert np.abs(wrong - xy[0]).max() > 40
    assert abs(nominal.labels[1][0] / z[0] - 1) > 0.05


@pytest.mark.parametrize("matrix", [PLAIN, TILTED])
def test_every_pixel_looks_along_its_ray(matrix):
    lens = lens_of(np.array(matrix), *SIZE, "scene")
    for x, y in [(0, 0), (1023, 0), (0, 767), (1023, 767), (300, 500)]:
        ray = np.array(matrix) @ ((x + 0.5) / 512 - 1, 1 - (y + 0.5) / 384, 1) * (1, -1, -1)
        turned = lens.turned @ ray
        pixel = turned[:2] / turned[2] * (lens.fx, lens.fy) + (lens.cx, lens.cy)
        np.testing.assert_allclose(pixel, (x, y), atol=1e-6)
        assert lens.ray_length[y, x] == pytest.approx(np.linalg.norm(ray) / turned[2], rel=1e-6)


def test_a_skewed_lens_is_skipped_and_counted(tree):
    with pytest.raises(DepthLMError, match=r"ai_019_007: has a lens with a skew of -16\.0. px") as caught:
        HypersimReader(tree, split="test").read("ai_019_007/cam_00/frame.0000")
    assert caught.value.kind == "skewed camera"
    report = curate(HypersimReader(tree, split="all"), tree.parent / "store")
    assert report.counts == {"skewed camera": 1}


def test_splits(tree):
    train = ["ai_001_001/cam_00/frame.0000", "ai_001_001/cam_00/frame.0001"]
    assert HypersimReader(tree).keys() == train  # neither the excluded images nor the scene that is not there
    assert HypersimReader(tree, every=2).keys() == train[:1]
    assert HypersimReader(tree, split="val").keys() == ["ai_017_009/cam_00/frame.0000"]
    assert len(HypersimReader(tree, split="all").keys()) == 4
    (tree / "metadata_images_split_scene_v1.csv").unlink()
    assert len(HypersimReader(tree, split="all").keys()) == 4
    with pytest.raises(DepthLMError, match="copy it from evermotion_dataset/analysis"):
        HypersimReader(tree).keys()


def test_a_list_that_names_no_image(tree):
    path = tree / "metadata_images_split_scene_v1.csv"
    path.write_text(SPLIT_HEADER + "../../etc,cam_00,0,True,,train\n")
    with pytest.raises(DepthLMError, match="which is no image"):
        HypersimReader(tree).keys()
    path.write_text("scene,frame\nai_001_001,0\n")
    with pytest.raises(DepthLMError, match="is no table of scene_name"):
        HypersimReader(tree).keys()


def test_the_cameras_must_be_known(tree):
    path = tree / "metadata_camera_parameters.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(DepthLMError) as caught:
        HypersimReader(tree).read("ai_001_001/cam_00/frame.0000")
    assert caught.value.kind == "missing intrinsics"
    path.write_text(lines[0] + "\nai_001_001,1024.0" + ",0" * 9)
    with pytest.raises(DepthLMError) as caught:
        HypersimReader(tree).read("ai_001_001/cam_00/frame.0000")
    assert caught.value.kind == "bad intrinsics"
    path.write_text(lines[0] + "\nai_001_001,1024.0" + "," * 9)
    with pytest.raises(DepthLMError, match="ai_001_001: could not convert"):
        HypersimReader(tree)
    path.unlink()
    with pytest.raises(DepthLMError, match="copy it from contrib/mikeroberts3000"):
        HypersimReader(tree)
    assert len(HypersimReader(tree, cameras="nominal").keys()) == 2


def depth_path(tree, number=0):
    return tree / f"ai_001_001/images/scene_cam_00_geometry_hdf5/frame.{number:04d}.depth_meters.hdf5"


def break_depth(tree):
    path = depth_path(tree)
    path.write_bytes(path.read_bytes()[:2000])


def lose_depth(tree):
    depth_path(tree).unlink()


def other_size(tree):
    write_hdf5(depth_path(tree), np.ones((HEIGHT // 2, WIDTH // 2), np.float16))


def enormous(tree):
    with h5py.File(depth_path(tree), "w") as file:  # a few bytes that would unpack to 200 GB
        file.create_dataset("dataset", (10**11,), np.float16, chunks=(10**6,), compression="gzip")


def no_surface(tree):
    write_hdf5(depth_path(tree), np.full((HEIGHT, WIDTH), np.nan, np.float16))


def link_outside(tree):
    lose_depth(tree)
    (tree.parent / "elsewhere.hdf5").write_bytes(depth_path(tree, 1).read_bytes())
    depth_path(tree).symlink_to(tree.parent / "elsewhere.hdf5")


def nan_pose(tree):
    rotations = np.stack([np.full((3, 3), np.nan), np.eye(3)])
    write_hdf5(tree / "ai_001_001/_detail/cam_00/camera_keyframe_orientations.hdf5", rotations)


def no_rotation(tree):
    rotations = np.stack([np.eye(3) * 1.1, np.eye(3)])
    write_hdf5(tree / "ai_001_001/_detail/cam_00/camera_keyframe_orientations.hdf5", rotations)


def broken_image(tree):
    path = tree / "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (break_depth, "unreadable depth"),
        (lose_depth, "missing depth"),
        (other_size, "depth size differs"),
        (enormous, "bad depth"),
        (no_surface, "no labels"),
        (link_outside, "path outside root"),
        (nan_pose, "bad pose"),
        (no_rotation, "bad pose"),
        (broken_image, "unreadable image"),
    ],
)
def test_a_bad_frame_costs_itself_alone(tree, spoil, kind):
    spoil(tree)
    assert curate(HypersimReader(tree), tree.parent / "store").counts == {kind: 1}


def test_what_a_whole_trajectory_lacks(tree):
    detail = tree / "ai_001_001" / "_detail"
    write_hdf5(detail / "cam_00" / "camera_keyframe_orientations.hdf5", ROTATION[None])
    write_hdf5(detail / "cam_00" / "camera_keyframe_positions.hdf5", POSITION[None])
    assert curate(HypersimReader(tree), tree.parent / "store").counts == {"missing pose": 1}
    (detail / "metadata_scene.csv").write_text("parameter_name,parameter_value\nmeters_per_asset_unit,0\n")
    with pytest.raises(DepthLMError, match="no usable meters_per_asset_unit"):
        HypersimReader(tree).read("ai_001_001/cam_00/frame.0000")


def test_a_reader_is_what_curation_asks_for(tree):
    reader = HypersimReader(tree, every=2)
    copy = pickle.loads(pickle.dumps(reader))
    assert isinstance(copy, Reader)
    assert copy.read(reader.keys()[0]).labels[1] == reader.read(reader.keys()[0]).labels[1]
    assert str(tree.parent) not in json.dumps(reader.settings())
    assert copy.settings() == reader.settings() != HypersimReader(tree).settings()


def test_an_unknown_option(tree):
    for options in ({"split": "both"}, {"cameras": "mine"}, {"every": 0}, {"min_m": 2, "max_m": 1}):
        with pytest.raises(DepthLMError):
            HypersimReader(tree, **options)


def test_without_h5py_the_extra_is_named(tree, monkeypatch):
    reader = HypersimReader(tree)
    monkeypatch.setitem(sys.modules, "h5py", None)  # as if it were not installed
    with pytest.raises(DepthLMError, match=r"is needed to read HDF5 files \(pip install 'depthlm\[mat\]'\)"):
        reader.read("ai_001_001/cam_00/frame.0000")


def test_a_small_image_takes_the_same_field_of_view(tree):
    """The matrix is of the field of view and not of 1024x768."""
    path = tree / "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"
    path.write_bytes(encode_png(np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8)))
    other_size(tree)
    camera = HypersimReader(tree).read("ai_001_001/cam_00/frame.0000").camera
    assert (camera.fx, camera.cx, camera.cy) == pytest.approx((886.81 / 2, 255.5, 191.5), abs=0.005)
