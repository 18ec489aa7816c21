"""Photos and their cameras: given, from EXIF, estimated, assumed."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from depthlm.errors import DepthLMError
from depthlm.photo import Lens, exif_focal, read_photo

Rational = TiffImagePlugin.IFDRational


def jpeg(width: int = 400, height: int = 300, orientation: int = 1, **tags: object) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    ifd = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in tags.items():
        ifd[ExifTags.Base[name]] = value
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_what_is_given_wins_over_exif():
    data = jpeg(FocalLengthIn35mmFilm=50)
    photo = read_photo(data, Lens((321.0, 322.0, 190.0, 150.0), distortion=(0.1, 0, 0, 0)))
    assert (photo.camera.fx, photo.camera.fy, photo.camera.cx, photo.camera.cy) == (321, 322, 190, 150)
    assert photo.camera.distortion == (0.1, 0, 0, 0)
    assert (photo.camera_from, photo.warning) == ("given", "")
    assert read_photo(data, Lens((500.0,))).camera.K.tolist() == [[500, 0, 199.5], [0, 500, 149.5], [0, 0, 1]]
    assert read_photo(data, Lens((500.0, 400.0))).camera.fy == 400
    assert read_photo(data, Lens(fov_deg=90)).camera.fx == pytest.approx(200)


def test_the_35_mm_equivalent_is_of_the_diagonal():
    """A 3:2 image at 36 mm equivalent sees the film's 36 mm over its width: f is the width."""
    photo = read_photo(jpeg(600, 400, FocalLengthIn35mmFilm=36))
    assert photo.camera.fx == pytest.approx(600)
    assert photo.camera_from == "exif"
    assert photo.warning == ""
    turned = read_photo(jpeg(600, 400, orientation=6, FocalLengthIn35mmFilm=36))
    assert (turned.camera.width, turned.camera.height) == (400, 600)
    assert turned.camera.fx == pytest.approx(600)


def test_the_focal_plane_tells_where_the_equivalent_does_not():
    """A 24 mm lens on a 36 mm wide sensor of 6000 px, resized to 600: f = 24 / 36 * 600."""
    per_inch = Rational(6000 * 254, 360)
    tags = {
        "FocalLength": Rational(24),
        "FocalPlaneXResolution": per_inch,
        "ExifImageWidth": 6000,
        "ExifImageHeight": 4000,
    }
    assert exif_focal(jpeg(600, 400, **tags)) == pytest.approx(400)
    assert exif_focal(jpeg(600, 400, **tags, FocalPlaneResolutionUnit=2)) == pytest.approx(400)
    centimetres = tags | {"FocalPlaneXResolution": Rational(60000, 36), "FocalPlaneResolutionUnit": 3}
    assert exif_focal(jpeg(600, 400, **centimetres)) == pytest.approx(400)
    assert exif_focal(jpeg(600, 400, **tags, FocalLengthIn35mmFilm=1)) == pytest.approx(400), "no lens has that"
    along_y = {"FocalPlaneYResolution": per_inch} | {k: v for k, v in tags.items() if k != "FocalPlaneXResolution"}
    assert exif_focal(jpeg(600, 400, **along_y)) == pytest.approx(400)
    portrait = exif_focal(jpeg(400, 600, **tags))  # turned by a program that left these tags
    assert portrait == pytest.approx(400)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"FocalLengthIn35mmFilm": 0},
        {"FocalLengthIn35mmFilm": 1},  # a tenth of any lens
        {"FocalLength": Rational(24)},
        {"FocalLength": Rational(24), "FocalPlaneXResolution": Rational(0, 1)},
        {"FocalLength": Rational(24), "FocalPlaneXResolution": Rational(100), "FocalPlaneResolutionUnit": 9},
        {"FocalLength": Rational(1, 0), "FocalPlaneXResolution": Rational(100)},
    ],
)
def test_tags_that_tell_nothing_leave_the_camera_assumed(tags):
    photo = read_photo(jpeg(400, 300, **tags))
    assert photo.camera_from == "assumed"
    assert photo.camera.fx == pytest.approx(26 / math.hypot(36, 24) * 500)
    assert "67 degrees was assumed" in photo.warning


@pytest.mark.parametrize(
    ("lens", "told"),
    [
        ({"intrinsics": (1.0, 2.0, 3.0)}, "3 intrinsics"),
        ({"intrinsics": (500.0,), "fov_deg": 70}, "give one of them"),
        ({"distortion": (0.1, 0, 0, 0)}, "without intrinsics"),
        ({"fov_deg": 180.0}, "180"),
        ({"fov_deg": math.nan}, "nan"),
        ({"intrinsics": (math.inf,)}, "not finite"),
        ({"intrinsics": (-5.0,)}, "no lens"),
        ({"intrinsics": (0.026,)}, "is the unit pixels"),
        ({"fov_deg": 0}, "1 to 179"),
        ({"intrinsics": (500.0,), "distortion": (0.1,)}, "1 distortion"),
    ],
)
def test_an_impossible_camera_is_refused(lens, told):
    with pytest.raises(DepthLMError, match=told) as caught:
        read_photo(jpeg(), Lens(**lens))
    assert caught.value.kind == "bad intrinsics"


def test_a_large_image_is_refused_before_it_is_unpacked():
    with pytest.raises(DepthLMError, match=r"400x300 px is over the limit of 0\.1 megapixels") as caught:
        read_photo(jpeg(), max_pixels=100_000)
    assert caught.value.kind == "image too large"


def test_postscript_is_no_image():
    """Pillow would start Ghostscript for it."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60)).save(buffer, "EPS")
    with pytest.raises(DepthLMError, match="can't be decoded") as caught:
        read_photo(buffer.getvalue())
    assert caught.value.kind == "unreadable image"
