"""One resampling, exact maps both ways, and a processor that finds nothing left to do."""

import numpy as np
import pytest
from transformers import Qwen2VLImageProcessor

from depthlm.camera import Camera
from depthlm.canonical import CanonicalSpec, plan_view, render_view
from depthlm.errors import DepthLMError

CAMERAS = [
    Camera(640, 480, 559.62, 558.14, 361.87, 241.99),
    Camera(1600, 900, 1266.4, 1266.4, 816.3, 491.5),
    Camera(1920, 1440, 1590.0, 1585.0, 955.0, 722.0, (0.05, -0.1, 0.001, 0.0005)),
    Camera(1242, 375, 721.5, 721.5, 609.6, 172.9),
    Camera(640, 480, 400.0, 405.0, 322.0, 238.0, (-0.28, 0.07, 0.0002, 0.00002)),
]
SPECS = [CanonicalSpec(), CanonicalSpec(focal=750.0), CanonicalSpec(focal=None), CanonicalSpec(128.0, max_pixels=27440)]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("spec", SPECS)
def test_round_trip_and_promises(camera, spec):
    view = plan_view(camera, spec)
    w, h = view.camera.width, view.camera.height
    assert w % 28 == h % 28 == 0 and spec.min_pixels <= w * h <= spec.max_pixels
    assert view.camera.fx == view.camera.fy and not view.camera.distortion
    if spec.focal:
        assert view.camera.fx == spec.focal
    xy = np.random.default_rng(0).uniform((0, 0), (w - 1, h - 1), (1000, 2))
    source = view.to_source(xy)
    assert camera.contains(source).all()
    assert np.abs(view.to_canonical(source) - xy).max() < 1e-3
    z = np.full(1000, 3.0)
    assert camera.z_to_distance(source, z) == pytest.approx(view.camera.z_to_distance(xy, z), rel=1e-5)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("focal", [1000.0, 300.0])
def test_a_blob_lands_where_the_map_says(camera, focal):
    view = plan_view(camera, CanonicalSpec(focal=focal))
    target = np.array([[view.camera.width * 0.3, view.camera.height * 0.7]])
    (x, y), sigma = view.to_source(target)[0], 2.5 * camera.fx / focal
    ys, xs = np.mgrid[0 : camera.height, 0 : camera.width]
    blob = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
    out = render_view(np.repeat(blob.astype(np.uint8)[..., None], 3, 2), view)[..., 0].astype(float)
    ys, xs = np.mgrid[0 : out.shape[0], 0 : out.shape[1]]
    found = np.array([(out * xs).sum(), (out * ys).sum()]) / out.sum()
    assert np.abs(found - target[0]).max() < 0.1


def test_shrinking_is_antialiased():
    stripes = np.zeros((900, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    for distortion in ((), (-0.1, 0.01, 0.0, 0.0)):
        camera = Camera(1600, 900, 1200.0, 1200.0, 800.0, 450.0, distortion)
        out = render_view(stripes, plan_view(camera, CanonicalSpec(focal=200.0)))
        assert abs(out[5:-5, 5:-5].astype(float) - 127.5).max() < 20


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_processor_leaves_it_untouched(camera):
    """The real image processor of Qwen2.5-VL, with its published budget, neither resizes nor changes a pixel."""
    spec = CanonicalSpec()
    view = plan_view(camera, spec)
    pixels = np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
    image = render_view(pixels, view)
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056})
    out = processor(images=[image], return_tensors="pt")
    _, rows, columns = out["image_grid_thw"][0].tolist()
    assert (columns * 14, rows * 14) == (view.camera.width, view.camera.height)
    patches = out["pixel_values"].numpy().reshape(rows // 2, columns // 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
    back = patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * 14, columns * 14, 3)
    back = back * np.array(processor.image_std) + np.array(processor.image_mean)
    assert np.abs(back * 255 - image).max() < 0.01


def test_too_small_is_an_error():
    with pytest.raises(DepthLMError) as error:
        plan_view(Camera(64, 48, 2000.0, 2000.0, 32.0, 24.0), CanonicalSpec(focal=100.0))
    assert error.value.kind == "image too small"


def test_over_the_budget_is_cropped_not_shrunk():
    camera = Camera(1920, 1080, 500.0, 500.0, 960.0, 540.0)
    view = plan_view(camera, CanonicalSpec(max_pixels=1024 * 784))
    assert view.camera.fx == 1000.0
    left, right = plan_view(camera, CanonicalSpec(), (0.0, 0.0)), plan_view(camera, CanonicalSpec(), (1.0, 1.0))
    assert left.to_source([[0, 0]])[0, 0] < 1 and right.to_source([[right.camera.width - 1, 0]])[0, 0] > 1918
