"""What makes a frame impossible, and how encoded images become pixels."""

import io

import numpy as np
import pytest
from conftest import encode_png, make_frame
from PIL import Image

from depthlm import frame as frame_module
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, decode_checked, decode_rgb


def frame_of(**change) -> Frame:
    plain = make_frame()
    fields = {name: getattr(plain, name) for name in ("id", "image", "camera", "xy", "z", "scene", "dataset", "depth")}
    return Frame(**fields | change)


def one(value: float) -> np.ndarray:
    return np.full(40, value, np.float32)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"z": one(4)[:3]}, "bad labels", "40 labelled pixels but 3 depths"),
        ({"z": one(0)}, "bad labels", "finite, positive metres"),
        ({"z": one(-1)}, "bad labels", "finite, positive metres"),
        ({"z": one(np.nan)}, "bad labels", "finite, positive metres"),
        ({"xy": np.tile([319.6, 5], (40, 1))}, "label outside image", r"\(319.6, 5\) lies outside the 320x240 image"),
        ({"xy": np.tile([5, -0.6], (40, 1))}, "label outside image", r"\(5, -0.6\)"),
        ({"xy": np.tile([5, np.nan], (40, 1))}, "label outside image", r"\(5, nan\)"),
        ({"depth": np.ones((240, 321), np.float32)}, "depth size differs", "depth map is 321x240, the image 320x240"),
        ({"depth": np.full((240, 320), -1.0)}, "bad labels", "dense depth must be finite and not negative"),
        ({"depth": np.full((240, 320), np.inf)}, "bad labels", "dense depth must be finite"),
        ({"xy": [], "z": []}, "no labels", "has no depth label"),
        ({"xy": [], "z": [], "depth": np.zeros((240, 320))}, "no labels", "has no depth label"),
    ],
)
def test_impossible_frames(change, kind, says):
    with pytest.raises(DepthLMError, match=f"frame s/a: .*{says}") as caught:
        frame_of(**change)
    assert caught.value.kind == kind


def test_pixels_at_the_very_border_are_inside():
    border = np.array([[-0.5, -0.5], [319.49, 239.49], [0, 0], [319, 239]], np.float32)
    assert len(frame_of(xy=border, z=np.ones(4)).xy) == 4


def test_labels_of_a_dense_map_are_its_known_pixels():
    depth = np.zeros((240, 320), np.float32)
    depth[7, 300], depth[100, 5] = 2, 3
    xy, z = frame_of(xy=[], z=[], depth=depth).labels
    assert xy.tolist() == [[300, 7], [5, 100]]
    assert z.tolist() == [2, 3]


def test_an_image_of_another_size_than_its_camera():
    with pytest.raises(DepthLMError, match="image is 320x240 but its camera is for 300x240"):
        frame_of(camera=Camera.from_fov(300, 240, 70), xy=[[1, 1]], z=[1]).pixels()


def encoded(image: Image.Image, form: str = "PNG", **kw) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **kw)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    image = Image.fromarray(rgb)
    np.testing.assert_array_equal(decode_rgb(encoded(image), ""), rgb)
    assert decode_rgb(encoded(image.convert("P")), "").shape == (4, 6, 3)
    assert decode_rgb(encoded(image.convert("L")), "").shape == (4, 6, 3)
    np.testing.assert_array_equal(decode_rgb(encoded(image.convert("RGBA")), ""), rgb)
    deep = decode_rgb(encoded(Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))), "")
    assert deep[0, :, 0].tolist() == [0, 0, 1, 255]


def test_an_image_is_turned_upright():
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the stored image
    upright = decode_rgb(encoded(Image.fromarray(rgb), exif=exif), "")
    assert upright.shape == (3, 2, 3)
    assert upright[0, 1, 0] == 255


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_an_error(form):
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), form)
    with pytest.raises(DepthLMError, match="photo: image can't be decoded"):
        decode_rgb(data[: len(data) // 2], "photo")


def test_what_is_no_image():
    with pytest.raises(DepthLMError, match="can't be decoded"):
        decode_rgb(b"<html>", "photo")


def test_an_image_over_the_limit_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(frame_module, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DepthLMError, match="image of 11x10 px is over the limit"):
        decode_rgb(encode_png(np.zeros((10, 11, 3), np.uint8)), "photo")


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", mode) for mode in ("RGB", "L", "P", "RGBA")]
    + [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [("WEBP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK")],
)
def test_quick_decoding_gives_the_same_pixels(form, mode):
    smooth = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    data = encoded(Image.fromarray(smooth).convert(mode), form)
    np.testing.assert_array_equal(decode_checked(data, ""), decode_rgb(data, ""))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("cut", [50, 1000])
def test_quick_decoding_notices_an_early_end(form, cut):
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), form)
    with pytest.raises(DepthLMError, match="can't be decoded"):
        decode_checked(data[:-cut], "")


def test_quick_decoding_turns_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)), exif=exif)
    np.testing.assert_array_equal(decode_checked(data, ""), decode_rgb(data, ""))
