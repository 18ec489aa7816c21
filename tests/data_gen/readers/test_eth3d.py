"""ETH3D: depth of the distorted photograph at its place in the undistorted one.

Layout, formats and the lens as on www.eth3d.net/documentation; that maps hold z, at integer pixel centres, and that the
written principal points count from corners, as in github.com/ETH3D/dataset-pipeline (src/exe/ground_truth_creator.cc,
src/io/colmap_model.cc, src/camera/camera_benchmark.h).
"""

import json
import math

import numpy as np
import pytest
from conftest import encode_png

from data_gen.curate import curate
from data_gen.readers import READERS
from data_gen.readers.eth3d import Eth3dReader
from data_gen.thin_prism import ThinPrismFisheye
from depthlm.errors import DepthLMError
from depthlm.store import FrameStore

# As strong as ETH3D's lenses are, for a photograph a thirtieth as large.
FOCAL = (3411.42 / 30, 3410.02 / 30, 3041.29 / 30, 2014.07 / 30)
LENS = (*FOCAL, 0.21047, 0.21102, -5.36e-06, 0.00051541, -0.158023, 0.406856, -8.46e-05, 0.000861)
WIDE, TALL = 202, 134
FLAT = (114.0, 113.9, 103.1, 69.2)
SIZE = 206, 138


@pytest.fixture
def root(tmp_path):
    """A point at (0.9, -0.55, 2) m of a camera that stands unturned at (1, 2, 3), and one in the middle."""
    scene = tmp_path / "eth3d" / "office"
    lens = ThinPrismFisheye(WIDE, TALL, LENS)
    depth = np.full((TALL, WIDE), np.inf, np.float32)
    for point in ((0.9, -0.55, 2.0), (0.0, 0.0, 5.0)):
        x, y = np.round(lens.project([point])[0]).astype(int)
        depth[y, x] = point[2]
    flat = " ".join(map(str, (*SIZE, *FLAT)))
    pose = "1 1 0 0 0 -1 -2 -3 0 {folder}/DSC_0219.JPG\n\n"
    files = {
        "images/dslr_images_undistorted/DSC_0219.JPG": encode_png(np.zeros((*SIZE[::-1], 3), np.uint8)),
        "ground_truth_depth/dslr_images/DSC_0219.JPG": depth.astype("<f4").tobytes(),
        "dslr_calibration_undistorted/cameras.txt": f"# Camera list\n0 PINHOLE {flat}\n",
        "dslr_calibration_undistorted/images.txt": pose.format(folder="dslr_images_undistorted"),
        "dslr_calibration_jpg/cameras.txt": f"0 THIN_PRISM_FISHEYE {WIDE} {TALL} {' '.join(map(str, LENS))}\n",
        "dslr_calibration_jpg/images.txt": pose.format(folder="dslr_images"),
    }
    for name, content in files.items():
        (scene / name).parent.mkdir(parents=True, exist_ok=True)
        (scene / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "eth3d"


def test_a_known_point_ends_at_its_place_in_the_undistorted_photograph(root):
    reader = READERS.get("eth3d")(root)
    assert reader.keys() == ["office/DSC_0219"]
    frame = reader.read("office/DSC_0219")
    far, near = np.argmax(frame.z), np.argmin(frame.z)
    assert frame.z.tolist() == [2, 5] or frame.z.tolist() == [5, 2]
    fx, fy, cx, cy = FLAT
    # Half a pixel, since the depth stands at whole pixels; half a pixel more is COLMAP's corner.
    np.testing.assert_allclose(frame.xy[near], (cx - 0.5 + fx * 0.45, cy - 0.5 - fy * 0.275), atol=0.55)
    np.testing.assert_allclose(frame.xy[far], (cx - 0.5, cy - 0.5), atol=0.55)
    # Taken as the undistorted photograph's own, the depth pixel would be off by more than that.
    (raw,) = np.argwhere(
        np.frombuffer((root / "office/ground_truth_depth/dslr_images/DSC_0219.JPG").read_bytes(), "<f4").reshape(
            TALL, WIDE
        )
        == 2
    )
    assert np.linalg.norm(raw[::-1] - frame.xy[near]) > 2
    camera = frame.camera
    assert camera.z_to_distance(frame.xy, frame.z)[near] == pytest.approx(math.sqrt(0.81 + 0.3025 + 4), rel=0.01)
    np.testing.assert_allclose(camera.to_world(camera.back_project(frame.xy, frame.z))[near], (1.9, 1.45, 5), atol=0.02)
    assert frame.split == "val"


def test_the_lens_and_its_inverse_agree_to_a_thousandth_of_a_pixel():
    lens = ThinPrismFisheye(6048, 4032, (*(30 * f for f in FOCAL), *LENS[4:]))
    ys, xs = np.mgrid[0:4032:251, 0:6048:251]
    xy = np.stack([xs.ravel(), ys.ravel()], axis=1).astype(float)
    rays = lens.normalized(xy)
    assert np.isfinite(rays).all()
    back = lens.project(np.concatenate([rays, np.ones((len(rays), 1))], axis=1))
    np.testing.assert_allclose(back, xy, atol=1e-3)


def test_the_lens_by_hand():
    """One point, each term of the model written out."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx, sy = LENS
    u0, v0 = 0.3, -0.2
    r = math.hypot(u0, v0)
    u, v = u0 * math.atan(r) / r, v0 * math.atan(r) / r
    q = u * u + v * v
    radial = k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4
    du = u * radial + 2 * p1 * u * v + p2 * (q + 2 * u * u) + sx * q
    dv = v * radial + 2 * p2 * u * v + p1 * (q + 2 * v * v) + sy * q
    found = ThinPrismFisheye(WIDE, TALL, LENS).project([(0.6, -0.4, 2.0)])
    np.testing.assert_allclose(found, [(fx * (u + du) + cx - 0.5, fy * (v + dv) + cy - 0.5)], atol=1e-9)
    lost = ThinPrismFisheye(WIDE, TALL, LENS).normalized([(1e6, 0), (10, 20)])
    assert np.isnan(lost[0]).all() and np.isfinite(lost[1]).all()


def test_labels_are_drawn_and_the_rest_is_counted(root, tmp_path):
    depth = np.full((TALL, WIDE), 3.0, "<f4")
    (root / "office/ground_truth_depth/dslr_images/DSC_0219.JPG").write_bytes(depth.tobytes())
    assert len(Eth3dReader(root, labels=50).read("office/DSC_0219").z) <= 50
    whole = Eth3dReader(root, labels=0).read("office/DSC_0219")
    assert len(whole.z) + whole.dropped.get("outside the image", 0) == TALL * WIDE
    assert len(whole.z) > 0.9 * TALL * WIDE
    curate(Eth3dReader(root), tmp_path / "store")
    assert len(FrameStore(tmp_path / "store")) == 1


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("images/dslr_images_undistorted/DSC_0219.JPG", None, "missing image"),
        ("images/dslr_images_undistorted/DSC_0219.JPG", b"\xff\xd8", "unreadable image"),
        ("ground_truth_depth/dslr_images/DSC_0219.JPG", b"\0" * 99, "unreadable depth"),
        ("ground_truth_depth/dslr_images/DSC_0219.JPG", b"\0" * (4 * TALL * WIDE), "no labels"),
        ("dslr_calibration_jpg/cameras.txt", None, "missing calibration"),
        ("dslr_calibration_jpg/cameras.txt", b"0 PINHOLE 4 4 1 1 1 1", "bad intrinsics"),
        ("dslr_calibration_jpg/cameras.txt", b"0 THIN_PRISM_FISHEYE 4 4 1 1 1 1", "bad intrinsics"),
        ("dslr_calibration_jpg/images.txt", b"# none", "missing calibration"),
        ("dslr_calibration_undistorted/images.txt", b"1 nan 0 0 0 0 0 0 0 DSC_0219.JPG\n", "bad pose"),
    ],
)
def test_bad_files_are_counted(root, tmp_path, name, content, kind):
    path = root / "office" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DepthLMError, match="no frame was usable"):
        curate(Eth3dReader(root), tmp_path / "store")
    assert list(json.loads((tmp_path / "store/report.json").read_bytes())["skipped"]) == [kind]


def test_wrong_scenes(root, tmp_path):
    with pytest.raises(DepthLMError, match="terrace: has no ground_truth_depth"):
        Eth3dReader(root, scenes=["office", "terrace"]).keys()
    with pytest.raises(DepthLMError, match="holds no SCENE"):
        Eth3dReader(tmp_path).keys()
    for scenes in ("office", ["office", "office"]):
        assert Eth3dReader(root, scenes=scenes).keys() == ["office/DSC_0219"]
