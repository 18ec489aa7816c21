"""The plain folder: known points at known pixels, every form of depth, and what can be wrong with it."""

import io
import json

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

from data_gen.curate import curate
from data_gen.readers import READERS
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

K = {"fx": 50.0, "fy": 60.0, "cx": 31.5, "cy": 23.5}


def counts_png(counts):
    return encode_png(np.asarray(counts, np.uint16))


def tiff(metres):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(metres, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def write(root, name="a", depth=None, suffix=".png", intrinsics=K, pose=None):
    """One 64x48 frame; unless said otherwise a wall 2 m ahead with one pixel at 5 m."""
    if depth is None:
        wall = np.full((48, 64), 2000)
        wall[10, 60] = 5000
        depth = counts_png(wall)
    files = {f"rgb/{name}.png": encode_png(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))}
    files |= {f"depth/{name}{suffix}": depth, "intrinsics.json": json.dumps(intrinsics).encode()}
    if pose is not None:
        files[f"poses/{name}.txt"] = "\n".join(" ".join(map(str, row)) for row in pose).encode()
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def reader(root, **kw):
    return READERS.get("plain-folder")(root, **kw)


def test_a_known_point_ends_at_its_pixel(tmp_path):
    """A point at z = 5 m seen at pixel (60, 10): its distance is longer by the length of the ray."""
    frame = reader(write(tmp_path)).read("a")
    assert frame.depth[10, 60] == 5
    distance = frame.camera.z_to_distance([[60, 10]], [5.0])[0]
    assert distance == pytest.approx(5 * np.sqrt(1 + (28.5 / 50) ** 2 + (13.5 / 60) ** 2))
    assert distance > 5.8


def test_distances_become_z(tmp_path):
    frame = reader(write(tmp_path), depth_is="distance").read("a")
    assert frame.depth[10, 60] == pytest.approx(5 / np.sqrt(1 + (28.5 / 50) ** 2 + (13.5 / 60) ** 2), rel=1e-6)


@pytest.mark.parametrize(
    ("suffix", "encode", "unit", "z"),
    [
        (".png", lambda m: counts_png(m * 1000), None, 2.5),
        (".png", lambda m: counts_png(m * 4000), 1 / 4000, 2.5),
        (".tiff", tiff, None, 2.5),
        (".npy", lambda m: npy(m.astype(np.float64)), None, 2.5),
        (".npy", lambda m: npy((m * 1000).astype(np.uint16)), None, 2.5),
        (".npy", lambda m: npy(m * 100), 0.01, 2.5),
    ],
)
def test_forms_and_units(tmp_path, suffix, encode, unit, z):
    frame = reader(write(tmp_path, depth=encode(np.full((48, 64), 2.5)), suffix=suffix), unit_m=unit).read("a")
    np.testing.assert_allclose(frame.depth, z, rtol=1e-6)


def test_what_is_unknown_stays_unknown(tmp_path):
    metres = np.full((48, 64), 2.0)
    metres[0, :6] = [0, np.nan, np.inf, -1, 0.05, 500]
    frame = reader(write(tmp_path, depth=npy(metres), suffix=".npy")).read("a")
    assert (frame.depth[0, :6] == 0).all()
    assert frame.depth[0, 6] == 2


def test_a_smaller_map_gives_labels_at_exact_places(tmp_path):
    """Half the size: the map's pixel (3, 5) covers the image's 6..7 x 10..11, its centre is at (6.5, 10.5)."""
    counts = np.zeros((24, 32))
    counts[5, 3] = 3000
    frame = reader(write(tmp_path, depth=counts_png(counts))).read("a")
    assert frame.depth is None
    np.testing.assert_allclose(frame.xy, [[6.5, 10.5]], atol=1e-5)
    assert frame.z.tolist() == [3]


def test_scenes_poses_and_cameras_of_their_own(tmp_path):
    pose = np.eye(4)
    pose[0, 3] = 0.5
    table = {"kitchen": K, "hall/b": K | {"fx": 70.0}, "default": K | {"fx": 80.0}}
    for name in ("kitchen/a", "hall/b", "hall/c"):
        write(tmp_path, name, intrinsics=table, pose=pose if name == "hall/b" else None)
    made = reader(tmp_path)
    assert made.keys() == ["hall/b", "hall/c", "kitchen/a"]
    frames = {key: made.read(key) for key in made.keys()}
    assert [frames[k].camera.fx for k in ("kitchen/a", "hall/b", "hall/c")] == [50, 70, 80]
    assert [frames[k].scene for k in ("kitchen/a", "hall/b")] == ["kitchen", "hall"]
    np.testing.assert_array_equal(frames["hall/b"].camera.pose, pose)
    assert frames["hall/c"].camera.pose is None


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"depth": b"x"}, "unreadable depth", r"depth/b\.png: depth can't be decoded"),
        ({"depth": counts_png(np.ones((48, 64)))[:80]}, "unreadable depth", "can't be decoded"),
        (
            {"depth": counts_png(np.full((48, 48), 999))},
            "depth size differs",
            "48x48, the image 64x48: not the same",
        ),
        ({"depth": counts_png(np.zeros((48, 64)))}, "no labels", "has no depth label"),
        ({"depth": pickled(), "suffix": ".npy"}, "unreadable depth", "Object arrays cannot be loaded"),
        ({"depth": npy(np.ones((2, 3, 4))), "suffix": ".npy"}, "unreadable depth", r"shape \(2, 3, 4\)"),
        ({"suffix": ".exr"}, "missing depth", "no such depth map"),
        ({"pose": np.ones((4, 4))}, "bad pose", "pose"),
        ({"pose": np.full((4, 4), np.nan)}, "bad pose", "NaN"),
        ({"pose": [["x"]]}, "bad pose", "is not pose numbers"),
    ],
)
def test_one_bad_frame_is_counted(tmp_path, change, kind, says):
    write(write(tmp_path / "in"), "b", **change)
    with pytest.raises(DepthLMError, match=says):
        reader(tmp_path / "in").read("b")
    report = curate(reader(tmp_path / "in"), tmp_path / "store")
    assert report.counts == {kind: 1}
    assert FrameStore(tmp_path / "store").ids == ["a"]


@pytest.mark.parametrize(
    ("intrinsics", "says"),
    [
        (K | {"fx": 0}, "focal lengths must be positive"),
        (K | {"fx": "wide"}, "holds other than numbers"),
        ({"fx": 1}, "gives no fx, fy, cx, cy"),
        (K | {"width": 640, "height": 480}, "is for 640x480, the image is 64x48"),
        (K | {"cx": 1e6}, "principal point"),
    ],
)
def test_wrong_calibration(tmp_path, intrinsics, says):
    with pytest.raises(DepthLMError, match=says):
        reader(write(tmp_path, intrinsics=intrinsics)).read("a")


@pytest.mark.parametrize(
    ("kw", "says"),
    [({"unit_m": 0}, "unit_m: 0 is no number of metres"), ({"depth_is": "disparity"}, "'disparity' is not one of")],
)
def test_wrong_options(tmp_path, kw, says):
    with pytest.raises(DepthLMError, match=says):
        reader(write(tmp_path), **kw)


def test_wrong_folders(tmp_path):
    with pytest.raises(DepthLMError, match="nowhere: no such folder"):
        reader(tmp_path / "nowhere")
    (tmp_path / "rgb").mkdir()
    with pytest.raises(DepthLMError, match=r"intrinsics\.json: no such intrinsics file .*camera_from=ENCODER"):
        reader(tmp_path)


def test_links_may_not_lead_out(tmp_path, tmp_path_factory):
    other = write(tmp_path_factory.mktemp("other"))
    write(tmp_path)
    (tmp_path / "depth" / "a.png").unlink()
    (tmp_path / "depth" / "a.png").symlink_to(other / "depth" / "a.png")
    with pytest.raises(DepthLMError, match="lies outside"):
        reader(tmp_path).read("a")
