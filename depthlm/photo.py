"""An image of which depth is asked, with its camera: given, read from EXIF, estimated, or assumed and said so."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import IMAGE_FORMATS, decode_rgb

CameraSource = Literal["given", "exif", "estimated", "assumed"]
# Names the folder of the spatial encoder that estimates unknown cameras, where none is named otherwise.
ENCODER_VARIABLE = "DEPTHLM_ENCODER"
# The diagonal of a 36 mm x 24 mm film frame, by which 35 mm equivalent focal lengths are defined (CIPA DCG-001).
FILM_DIAGONAL_MM = math.hypot(36, 24)
# Assumed where nothing is known: the main camera of most phones.
ASSUMED_35MM = 26.0
# Of EXIF's FocalPlaneResolutionUnit: inch (also where it is not said), centimetre, millimetre, micrometre.
PLANE_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
# A focal length between these, as shares of the image's diagonal, is one of a lens and not of a broken file.
LEAST_SHARE, MOST_SHARE = 0.1, 60.0


@dataclass(frozen=True)
class Lens:
    """What is known of a photo's camera; nothing, by default.

    Args:
        intrinsics: focal length; or fx, fy; or fx, fy, cx, cy: px of the upright image, integer coordinates at pixel
            centres. The principal point is the image's centre where it is not given.
        fov_deg: horizontal field of view of the upright image, degrees; instead of ``intrinsics``.
        distortion: OpenCV coefficients (4, 5, 8, 12 or 14 of them), with ``intrinsics`` only.

    Raises:
        DepthLMError: kind "bad intrinsics": both or another count of numbers.
    """

    intrinsics: tuple[float, ...] = ()
    fov_deg: float | None = None
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.intrinsics and self.fov_deg is not None:
            raise self._error("has intrinsics and a field of view", "give one of them")
        if len(self.intrinsics) not in (0, 1, 2, 4):
            reason = f"has {len(self.intrinsics)} intrinsics"
            raise self._error(reason, "give f; or fx, fy; or fx, fy, cx, cy")
        if self.distortion and not self.intrinsics:
            raise self._error("has distortion without intrinsics", "give the intrinsics it was calibrated with")

    @staticmethod
    def _error(reason: str, mend: str) -> DepthLMError:
        return DepthLMError("camera", reason, mend, "bad intrinsics")

    def camera(self, width: int, height: int) -> Camera | None:
        """The camera of an image of this size, px; None where nothing is known.

        Raises:
            DepthLMError: numbers that no camera has.
        """
        if self.fov_deg is not None:
            if not 1 <= self.fov_deg <= 179:
                raise self._error(f"a horizontal field of view of {self.fov_deg:g} degrees", "give 1 to 179 degrees")
            return Camera.from_fov(width, height, self.fov_deg)
        if not self.intrinsics:
            return None
        shortest = LEAST_SHARE * math.hypot(width, height)
        if min(self.intrinsics[:2]) < shortest:
            reason = f"a focal length of {min(self.intrinsics[:2]):g} px in a {width}x{height} image"
            raise self._error(reason, f"no lens has less than {shortest:.0f} px there; is the unit pixels?")
        fx, fy, *centre = self.intrinsics if len(self.intrinsics) > 1 else self.intrinsics * 2
        cx, cy = centre or ((width - 1) / 2, (height - 1) / 2)
        return Camera(width, height, fx, fy, cx, cy, self.distortion)


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image and its camera.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright.
        camera: for exactly these pixels.
        camera_from: how the camera is known.
    """

    pixels: NDArray[np.uint8]
    camera: Camera
    camera_from: CameraSource = "given"

    @property
    def warning(self) -> str:
        """What a reader of answers about this photo has to know of its camera; "" for nothing."""
        fov = f"a horizontal field of view of {self.camera.fov_deg[0]:.0f} degrees"
        if self.camera_from == "assumed":
            return f"the camera is not known: {fov} was assumed, and distances are wrong by as much as it is"
        if self.camera_from == "estimated":
            return f"the camera is not known: {fov} was estimated from the image"
        return ""


def read_photo(
    data: bytes,
    lens: Lens | None = None,
    *,
    encoder: str | None = None,
    max_pixels: int | None = None,
    where: str = "image",
) -> Photo:
    """Decode an image file and find its camera: what ``lens`` says, else EXIF, else what the spatial encoder estimates,
    else an assumption that is said with each answer.

    Args:
        data: an image file's bytes.
        encoder: folder of a spatial encoder that tells cameras, see `depthlm.spatial.estimate`; None: that of the
            environment variable ``DEPTHLM_ENCODER``, if it is set.
        max_pixels: larger images are refused before they are unpacked.
        where: what to call the image in errors.

    Raises:
        DepthLMError: kind "unreadable image", "image too large" or "bad intrinsics"; or the encoder fails.
    """
    pixels = decode_rgb(data, where, max_pixels)
    height, width = pixels.shape[:2]
    if (camera := (lens or Lens()).camera(width, height)) is not None:
        return Photo(pixels, camera)
    if (focal := exif_focal(data)) is not None:
        return Photo(pixels, _centred(width, height, focal), "exif")
    if encoder := encoder or os.environ.get(ENCODER_VARIABLE):
        from depthlm.spatial.estimate import camera_encoder, estimate

        return Photo(pixels, estimate(camera_encoder(encoder), pixels).camera, "estimated")
    return Photo(
        pixels, _centred(width, height, ASSUMED_35MM / FILM_DIAGONAL_MM * math.hypot(width, height)), "assumed"
    )


def exif_focal(data: bytes) -> float | None:
    """Focal length in px of the whole image by its EXIF tags, None where they don't tell.

    The 35 mm equivalent comes first: it holds through digital zoom and resizing. Else the focal length in mm with the
    focal plane's resolution, scaled to the size that the file has now. Both are wrong for an image that was cropped.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            size = image.size
            exif = dict(image.getexif().get_ifd(ExifTags.IFD.Exif))
    except Exception:  # Pillow raises many types for broken tags; the image itself may be whole
        return None
    diagonal = math.hypot(*size)
    film = _plausible(_number(exif.get(ExifTags.Base.FocalLengthIn35mmFilm)), diagonal / FILM_DIAGONAL_MM, diagonal)
    if film is not None:
        return film
    focal_mm = _number(exif.get(ExifTags.Base.FocalLength))
    along_x = _number(exif.get(ExifTags.Base.FocalPlaneXResolution))
    per_unit = along_x or _number(exif.get(ExifTags.Base.FocalPlaneYResolution))
    taken = _number(exif.get(ExifTags.Base.ExifImageWidth)), _number(exif.get(ExifTags.Base.ExifImageHeight))
    if focal_mm is None or per_unit is None:
        return None
    unit = PLANE_UNIT_MM.get(exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if unit is None:
        return None
    # the image may have been resized, or turned, since these tags were written: its longer side stays the longer
    longest = max(side for side in taken if side is not None) if any(taken) else max(size)
    return _plausible(focal_mm, per_unit / unit * max(size) / longest, diagonal)


def _number(value: object) -> float | None:
    """A positive finite number that a tag holds; None for anything else, 0 (unknown) too."""
    try:
        number = float(value)  # type: ignore[arg-type]  # rationals and numbers; whatever else a file holds is refused
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None


def _plausible(value: float | None, pixels: float, diagonal: float) -> float | None:
    """A value times the pixels of one, where that is a focal length that a lens may have."""
    if value is None or not LEAST_SHARE * diagonal <= value * pixels <= MOST_SHARE * diagonal:
        return None
    return value * pixels


def _centred(width: int, height: int, focal: float) -> Camera:
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
