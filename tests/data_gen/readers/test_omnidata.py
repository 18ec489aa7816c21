"""Taskonomy and HM3D of Omnidata's starter dataset: 1/512 m, z and distance, Blender's angles, holes, tables of splits.

Layout, units and angles as in omnidata_tools/dataset/README.md, omnidata_tools/torch/dataloader/omnidata_dataset.py and
omnidata_annotator/scripts (create_depth_*_images.py, create_mask_valid.py) of github.com/EPFL-VILAB/omnidata; HM3D's
pose files are named as those who read them do.
"""

import json
import math

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.omnidata import HM3DReader, TaskonomyReader
from depthlm.errors import DepthLMError

FOV = 1.1805
F = 256 / math.tan(FOV / 2)
EULER = 1.45, 0.02, -0.7  # looks a little down, hardly rolled, turned right of the world's y
PLACE = np.array([1.0, -2.0, 1.5])
X, Y, UNITS = 500, 20, 1536  # 3 m of z, far from the axis


def blender_rotation():
    """Rz·Ry·Rx, written out: camera axes x right, y up, -z ahead, in the world's."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(EULER), np.sin(EULER)
    return np.array(
        [
            [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
            [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
            [-sy, sx * cy, cx * cy],
        ]
    )


def quaternion(r):
    w = math.sqrt(1 + np.trace(r)) / 2
    return [w, (r[2, 1] - r[1, 2]) / 4 / w, (r[0, 2] - r[2, 0]) / 4 / w, (r[1, 0] - r[0, 1]) / 4 / w]


def ray():
    """Of pixel (X, Y), at z = 1, right, up and back: the image's 512 pixels span FOV, their centres are at integers."""
    return np.array([(X - 255.5) / F, -(Y - 255.5) / F, -1])


def info():
    return {
        "camera_location": PLACE.tolist(),
        "camera_rotation_final": list(EULER),
        "camera_rotation_original": [1.57, 0.0, 0.3],
        "field_of_view_rads": FOV,
        "point_location": (PLACE + blender_rotation() @ [0, 0, -4.0]).tolist(),
        "resolution": 512,
        "point_uuid": 0,
        "view_id": 0,
    }


def write_view(root, component, building, stem, pose_file="point_info", pose=None):
    z, distance = np.full((512, 512), 65535, np.uint16), np.full((512, 512), 65535, np.uint16)
    z[Y, X], distance[Y, X] = UNITS, round(UNITS * np.linalg.norm(ray()))
    z[7, 7] = distance[7, 7] = 0
    files = {"rgb": np.zeros((512, 512, 3), np.uint8), "depth_zbuffer": z, "depth_euclidean": distance}
    for domain, pixels in files.items():
        folder = root / domain / component / building
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}_domain_{domain}.png").write_bytes(encode_png(pixels))
    folder = root / "point_info" / component / building
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}_domain_{pose_file}.json").write_text(json.dumps(pose or info()))


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "omnidata"
    for stem in ("point_0_view_0", "point_10_view_0", "point_2_view_11"):
        write_view(root, "taskonomy", "hanson", stem)
    write_view(root, "taskonomy", "ogilvie", "point_0_view_0")
    pose = info() | {"camera_rotation_final_quaternion": quaternion(blender_rotation())}
    write_view(root, "hm3d", "00000-kfPV7w3FaU5", "point_0_view_0", "fixatedpose", pose)
    table = "id,train,val,test\rhanson,1,0,0\rmerom,1,0,0\rogilvie,0,1,0\r"  # Taskonomy's is written so
    (root / "train_val_test_fullplus.csv").write_bytes(table.encode())
    (root / "train_val_test_hm3d.csv").write_text("id,train,val,test\n00000-kfPV7w3FaU5,1,0,0\n")
    return root


@pytest.mark.parametrize("name", ["taskonomy", "hm3d"])
@pytest.mark.parametrize("depth", ["zbuffer", "euclidean"])
def test_a_known_point(tree, name, depth):
    reader = READERS.get(name)(tree, depth=depth)
    frame = reader.read(reader.keys()[0])
    xy, z = frame.labels
    assert xy.tolist() == [[X, Y]]  # neither 65535 nor 0 is a label
    assert z[0] == pytest.approx(3, abs=0 if depth == "zbuffer" else 0.002)
    distance = frame.camera.z_to_distance(xy, z)[0]
    assert distance == pytest.approx(3 * np.linalg.norm(ray()), abs=0.002)
    assert distance > 1.2 * z[0]
    world = frame.camera.to_world(frame.camera.back_project(xy, z))[0]
    np.testing.assert_allclose(world, PLACE + blender_rotation() @ ray() * 3, atol=0.004)
    assert frame.camera.fx == pytest.approx(F)
    assert (frame.camera.cx, frame.camera.cy) == (255.5, 255.5)
    assert frame.camera.pose[2, 2] < 0  # the optical axis points down a little
    assert (frame.dataset, frame.split) == (name, "train")


def test_photographs_lose_the_strip_beside_a_jump(tree):
    step = np.full((512, 512), 2000, np.uint16)
    step[:, 300:] = 1000
    for component, building in (("taskonomy", "hanson"), ("hm3d", "00000-kfPV7w3FaU5")):
        name = f"depth_zbuffer/{component}/{building}/point_0_view_0_domain_depth_zbuffer.png"
        (tree / name).write_bytes(encode_png(step))
    photo = TaskonomyReader(tree).read("hanson/point_0_view_0").depth
    assert np.flatnonzero(photo[100] == 0).tolist() == list(range(296, 304))
    assert (TaskonomyReader(tree, edge_radius=0).read("hanson/point_0_view_0").depth > 0).all()
    assert (HM3DReader(tree).read("00000-kfPV7w3FaU5/point_0_view_0").depth > 0).all()


def test_views_in_the_order_of_their_numbers(tree):
    assert TaskonomyReader(tree).keys() == [
        "hanson/point_0_view_0",
        "hanson/point_2_view_11",
        "hanson/point_10_view_0",
    ]
    assert TaskonomyReader(tree, every=2).keys() == ["hanson/point_0_view_0", "hanson/point_10_view_0"]


def test_splits(tree):
    assert TaskonomyReader(tree, split="val").keys() == ["ogilvie/point_0_view_0"]
    assert len(TaskonomyReader(tree, split="all").keys()) == 4
    with pytest.raises(DepthLMError, match="no view of split test"):
        TaskonomyReader(tree, split="test").keys()
    with pytest.raises(DepthLMError, match=r"train_val_test_tiny\.csv: no such table"):
        TaskonomyReader(tree, table="train_val_test_tiny.csv").keys()
    (tree / "train_val_test_hm3d.csv").write_text("scene,split\n00000-kfPV7w3FaU5,train\n")
    with pytest.raises(DepthLMError, match="no columns id and train"):
        HM3DReader(tree).keys()
    for options in ({"split": "dev"}, {"depth": "z"}, {"every": 0}, {"min_m": 3, "max_m": 2}):
        with pytest.raises(DepthLMError):
            HM3DReader(tree, **options)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"camera_rotation_final": [1.45, 0.02, -0.65]}, "bad pose"),  # 3 degrees off its point
        ({"camera_rotation_final": [1.45 + math.pi, 0.02, -0.7]}, "bad pose"),  # looks away from it
        ({"camera_rotation_final_quaternion": [1, 0, 0, 0]}, "bad pose"),
        ({"camera_rotation_final_quaternion": [0, 0, 0, 0]}, "bad pose"),
        ({"camera_rotation_final": None}, "bad pose"),
        ({"camera_location": [0, 0, math.nan]}, "bad pose"),
        ({"field_of_view_rads": 60}, "bad intrinsics"),  # degrees
        ({"field_of_view_rads": None}, "bad pose"),
    ],
)
def test_a_bad_pose_is_counted(tree, change, kind):
    write_view(tree, "taskonomy", "hanson", "point_0_view_0", pose=info() | change)
    assert curate(TaskonomyReader(tree), tree.parent / "store").counts == {kind: 1}


def test_bad_frames_are_counted(tree):
    """A depth that is missing, truncated, small, or a link that leads out; a building with wrong viewpoints."""
    for number in range(4):
        write_view(tree, "taskonomy", "merom", f"point_{number}_view_0")
    folder = tree / "depth_zbuffer" / "taskonomy" / "merom"
    (folder / "point_0_view_0_domain_depth_zbuffer.png").unlink()
    whole = (folder / "point_1_view_0_domain_depth_zbuffer.png").read_bytes()
    (folder / "point_1_view_0_domain_depth_zbuffer.png").write_bytes(whole[: len(whole) // 2])
    small = encode_png(np.full((256, 256), 900, np.uint16))
    (folder / "point_2_view_0_domain_depth_zbuffer.png").write_bytes(small)
    outside = tree.parent / "outside.png"
    outside.write_bytes(whole)
    (folder / "point_3_view_0_domain_depth_zbuffer.png").unlink()
    (folder / "point_3_view_0_domain_depth_zbuffer.png").symlink_to(outside)
    write_view(tree, "taskonomy", "rough", "point_0_view_0")
    assert curate(TaskonomyReader(tree, split="all"), tree.parent / "store").counts == {
        "missing depth": 1,
        "unreadable depth": 1,
        "depth size differs": 1,
        "path outside root": 1,
        "withdrawn building": 1,
    }
