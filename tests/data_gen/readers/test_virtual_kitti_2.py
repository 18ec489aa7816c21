"""Virtual KITTI 2: centimetres of z, the sky's 655.35 m, world-to-camera poses, rows of two cameras.

Layout as in the archives of version 2.0.3 (headers and numbers of intrinsic.txt and extrinsic.txt as public loaders of
it show them: github.com/tobiasfshr/map4d, hturki/suds); that depth is z in centimetres with the far plane at 655.35 m
as in the README of version 1.3.1, from which version 2 takes it.
"""

import io
import json
import pickle

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.curate import curate
from data_gen.poses import rigid
from data_gen.readers import READERS, Reader
from data_gen.readers.virtual_kitti_2 import VirtualKitti2Reader
from depthlm.errors import DepthLMError

WIDTH, HEIGHT = 1242, 375
F, CX, CY = 725.0087, 620.5, 187.0
BASELINE = 0.532725
X, Y, CENTIMETRES = 1100, 60, 1234
# The left camera stands at (1, 2, 3) and looks along the world's x: its x is the world's -z.
LEFT = rigid([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [1.0, 2, 3])
HEADER = "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"


@pytest.fixture(scope="module")
def image():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def depth():
    centimetres = np.full((HEIGHT, WIDTH), 65535, np.uint16)  # sky
    centimetres[Y, X] = CENTIMETRES
    centimetres[200, 300] = 20001  # farther than labels go
    return encode_png(centimetres)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def world_to_camera(frame, camera):
    pose = LEFT.copy()
    pose[:3, 3] += (2.0 * frame, 0, 0)
    out = np.linalg.inv(pose)
    out[0, 3] -= camera * BASELINE
    return out


def write_scene(root, place, image, depth, frames=(0, 1, 2), archives=("", "", "")):
    rgb, dense, texts = (root / archive for archive in archives)
    intrinsic, extrinsic = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"], [HEADER]
    for frame in frames:
        for camera in (0, 1):
            write(rgb / place / f"frames/rgb/Camera_{camera}/rgb_{frame:05d}.jpg", image)
            write(dense / place / f"frames/depth/Camera_{camera}/depth_{frame:05d}.png", depth)
            intrinsic.append(f"{frame} {camera} {F} {F} {CX} {CY:g}")
            extrinsic.append(" ".join(map(str, (frame, camera, *world_to_camera(frame, camera).ravel()))))
    write(texts / place / "intrinsic.txt", "\n".join(intrinsic) + "\n")
    write(texts / place / "extrinsic.txt", "\n".join(extrinsic) + "\n")


@pytest.fixture
def tree(tmp_path, image, depth):
    root = tmp_path / "vkitti2"
    write_scene(root, "Scene01/clone", image, depth)
    return root


def test_a_known_point_ends_at_its_pixel_with_its_z(tree):
    reader = READERS.get("virtual-kitti-2")(tree)
    assert reader.keys() == [f"Scene01/clone/Camera_0/{number:05d}" for number in range(3)]
    frame = reader.read("Scene01/clone/Camera_0/00000")
    assert (frame.scene, frame.split, frame.licence) == ("Scene01/clone", "train", "CC BY-NC-SA 3.0")
    camera, (xy, z) = frame.camera, frame.labels
    np.testing.assert_array_equal(xy, [[X, Y]])  # neither the sky nor what is too far
    assert z[0] == np.float32(12.34)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (F, F, CX, CY)
    right, down = (X - CX) / F * 12.34, (Y - CY) / F * 12.34
    world = np.array([[1 + 12.34, 2 + down, 3 - right]])
    np.testing.assert_allclose(camera.to_world(camera.back_project(xy, z)), world, atol=1e-5)
    np.testing.assert_allclose(camera.project(camera.from_world(world)), xy, atol=1e-3)
    distance = camera.z_to_distance(xy, z)[0]
    assert distance == pytest.approx(np.linalg.norm(world[0] - (1, 2, 3)))
    assert distance > 1.2 * z[0]


def test_the_sky_is_no_measurement_even_without_a_limit(tree):
    frame = VirtualKitti2Reader(tree, max_m=1000).read("Scene01/clone/Camera_0/00000")
    assert sorted(frame.labels[1]) == pytest.approx([12.34, 200.01])


def test_each_camera_and_frame_has_its_own_pose(tree):
    reader = VirtualKitti2Reader(tree, cameras="both")
    assert len(reader.keys()) == 6
    left, right = (reader.read(f"Scene01/clone/Camera_{number}/00002").camera for number in (0, 1))
    np.testing.assert_allclose(left.pose[:3, 3], [5, 2, 3])
    np.testing.assert_allclose(right.pose[:3, 3], [5, 2, 3 - BASELINE])  # to the right, which is the world's -z
    np.testing.assert_allclose(right.from_world(left.to_world([[0, 0, 10]]))[0], [-BASELINE, 0, 10], atol=1e-9)
    assert VirtualKitti2Reader(tree, cameras="right", every=2).keys() == [
        "Scene01/clone/Camera_1/00000",
        "Scene01/clone/Camera_1/00002",
    ]


def test_archives_unpacked_apart(tmp_path, tree, image, depth):
    names = ("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth", "vkitti_2.0.3_textgt")
    write_scene(tmp_path / "apart", "Scene01/clone", image, depth, archives=names)
    apart, together = VirtualKitti2Reader(tmp_path / "apart"), VirtualKitti2Reader(tree)
    assert apart.keys() == together.keys()
    frame = apart.read("Scene01/clone/Camera_0/00001")
    np.testing.assert_array_equal(frame.camera.pose, together.read("Scene01/clone/Camera_0/00001").camera.pose)


def test_scenes_and_variations_are_chosen(tree, image, depth):
    for place in ("Scene20/clone", "Scene20/fog", "Scene20/15-deg-left"):
        write_scene(tree, place, image, depth, frames=(0,))
    reader = VirtualKitti2Reader(tree, scenes="Scene20", variations="fog, clone", split="val")
    assert reader.keys() == ["Scene20/clone/Camera_0/00000", "Scene20/fog/Camera_0/00000"]
    assert reader.read(reader.keys()[1]).split == "val"
    assert len(VirtualKitti2Reader(tree).keys()) == 6
    with pytest.raises(DepthLMError, match="of what was asked for"):
        VirtualKitti2Reader(tree, scenes="Scene06").keys()


def test_a_reader_is_what_curation_asks_for(tree):
    reader = VirtualKitti2Reader(tree, scenes="Scene01", cameras="both")
    copy = pickle.loads(pickle.dumps(reader))
    assert isinstance(copy, Reader)
    assert copy.keys() == reader.keys()
    assert str(tree.parent) not in json.dumps(reader.settings())
    assert copy.settings() == reader.settings() != VirtualKitti2Reader(tree).settings()


@pytest.mark.parametrize(
    "options",
    [{"scenes": "Scene03"}, {"variations": "snow"}, {"cameras": "0"}, {"every": 0}, {"min_m": 3, "max_m": 2}],
)
def test_an_unknown_option(tree, options):
    with pytest.raises(DepthLMError):
        VirtualKitti2Reader(tree, **options)


def edited(tree, name, change):
    path = tree / "Scene01" / "clone" / name
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def image_of(tree):
    return tree / "Scene01/clone/frames/rgb/Camera_0/rgb_00001.jpg"


def depth_of(tree):
    return tree / "Scene01/clone/frames/depth/Camera_0/depth_00001.png"


def lose_depth(tree):
    depth_of(tree).unlink()


def cut_depth(tree):
    depth_of(tree).write_bytes(depth_of(tree).read_bytes()[:150])


def eight_bits(tree):
    depth_of(tree).write_bytes(encode_png(np.full((HEIGHT, WIDTH), 200, np.uint8)))


def only_sky(tree):
    depth_of(tree).write_bytes(encode_png(np.full((HEIGHT, WIDTH), 65535, np.uint16)))


def small_image(tree):
    image_of(tree).write_bytes(encode_png(np.zeros((188, 621, 3), np.uint8)))


def cut_image(tree):
    image_of(tree).write_bytes(image_of(tree).read_bytes()[:-500])


def link_outside(tree):
    depth_of(tree).rename(tree.parent / "elsewhere.png")
    depth_of(tree).symlink_to(tree.parent / "elsewhere.png")


def lose_pose(tree):
    edited(tree, "extrinsic.txt", lambda lines: lines.pop(3))


def lose_intrinsics(tree):
    edited(tree, "intrinsic.txt", lambda lines: lines.pop(3))


def nan_pose(tree):
    edited(tree, "extrinsic.txt", lambda lines: lines.__setitem__(3, "1 0 " + "nan " * 12 + "0 0 0 1"))


def no_rotation(tree):
    edited(tree, "extrinsic.txt", lambda lines: lines.__setitem__(3, "1 0 2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1"))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lose_depth, "missing depth"),
        (cut_depth, "unreadable depth"),
        (eight_bits, "bad depth map"),
        (only_sky, "no labels"),
        (small_image, "bad intrinsics"),
        (cut_image, "unreadable image"),
        (link_outside, "path outside root"),
        (lose_pose, "missing pose"),
        (lose_intrinsics, "missing intrinsics"),
        (nan_pose, "bad pose"),
        (no_rotation, "bad pose"),
    ],
)
def test_a_bad_frame_costs_itself_alone(tree, spoil, kind):
    spoil(tree)
    assert curate(VirtualKitti2Reader(tree), tree.parent / "store").counts == {kind: 1}


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (lambda lines: lines.__setitem__(3, "1 0 1 2 3"), "bad pose", "has a row '1 0 1 2 3' that is no pose"),
        (lambda lines: lines.append(lines[3]), "bad pose", "has two rows of"),
    ],
)
def test_a_bad_table_says_why(tree, change, kind, why):
    edited(tree, "extrinsic.txt", change)
    with pytest.raises(DepthLMError, match=why) as caught:
        VirtualKitti2Reader(tree).read("Scene01/clone/Camera_0/00000")
    assert caught.value.kind == kind


def test_without_the_texts(tree):
    (tree / "Scene01/clone/extrinsic.txt").unlink()
    with pytest.raises(DepthLMError, match=r"extrinsic\.txt: no such pose file"):
        VirtualKitti2Reader(tree).read("Scene01/clone/Camera_0/00000")
