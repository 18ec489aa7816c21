"""One image with its camera and its measured depth: what every dataset becomes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from depthlm.camera import Camera
from depthlm.errors import DepthLMError

ORIENTATION = 0x0112  # EXIF tag
# A decoded image larger than this is refused before it is unpacked (a decompression bomb, or not a photograph).
MAX_IMAGE_PIXELS = 100_000_000
# What cameras and datasets write. Of the others some are rare ways into old code, one runs another program.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# A JPEG may repeat a scan as often as it likes, each costs a pass over all its pixels; cameras write up to a dozen.
MAX_SCANS = 100
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


@dataclass(frozen=True, eq=False)
class Frame:
    """An encoded image, its camera, and depth where it was measured.

    Args:
        id: unique within the store; letters, digits and ``._-/``.
        image: the original file's bytes (JPEG, PNG, WebP, …), never re-encoded.
        camera: intrinsics for exactly this image's size, optional pose.
        xy: (N, 2) float32, labelled pixels in the original image; integer coordinates are pixel centres.
        z: (N,) float32, metres along the principal axis, at ``xy``.
        depth: optional dense map, (H, W) float32 z in metres, 0 where unknown; same size as the image.
        scene: frames of one scene share it; pairs are formed within a scene.
        dataset, split, licence: provenance.
        timestamp: seconds, None when unknown.
        dropped: points that were measured but give no label, counted by reason; a store's report sums them up, its
            frames do not keep them.
        noted: what a reader did of its own, a camera that it estimated say, counted likewise.

    Raises:
        DepthLMError: labels of unequal length, outside the image, or not finite and positive; a dense map of another
            size; neither labels nor a dense map.
    """

    id: str
    image: bytes
    camera: Camera
    xy: NDArray[np.float32]
    z: NDArray[np.float32]
    scene: str
    dataset: str
    split: str = "train"
    licence: str = ""
    timestamp: float | None = None
    depth: NDArray[np.float32] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        xy = np.ascontiguousarray(self.xy, np.float32).reshape(-1, 2)
        z = np.ascontiguousarray(self.z, np.float32).reshape(-1)
        object.__setattr__(self, "xy", xy)
        object.__setattr__(self, "z", z)
        if len(xy) != len(z):
            raise self._error(f"{len(xy)} labelled pixels but {len(z)} depths", "bad labels")
        if not (np.isfinite(z).all() and (z > 0).all()):
            raise self._error("labels must be finite, positive metres", "bad labels")
        inside = self.camera.contains(xy)
        if not inside.all():
            x, y = xy[~inside][0]
            raise self._error(
                f"labelled pixel ({x:g}, {y:g}) lies outside the {self.camera.width}x{self.camera.height} image",
                "label outside image",
            )
        if self.depth is not None:
            depth = np.ascontiguousarray(self.depth, np.float32)
            if depth.shape != (self.camera.height, self.camera.width):
                raise self._error(
                    f"depth map is {depth.shape[1]}x{depth.shape[0]}, "
                    f"the image {self.camera.width}x{self.camera.height}",
                    "depth size differs",
                )
            if not np.isfinite(depth).all() or (depth < 0).any():
                raise self._error("dense depth must be finite and not negative (0 = unknown)", "bad labels")
            object.__setattr__(self, "depth", depth)
        if len(z) == 0 and (self.depth is None or not (self.depth > 0).any()):
            raise self._error("has no depth label", "no labels")

    def _error(self, reason: str, kind: str) -> DepthLMError:
        return DepthLMError(f"frame {self.id}", reason, "correct the dataset or leave the frame out", kind)

    def pixels(self, checked: bool = False) -> NDArray[np.uint8]:
        """The decoded image, (H, W, 3) uint8 RGB.

        Args:
            checked: the bytes are known to be whole (a store's are: curation decoded them once): decode them quickly.

        Raises:
            DepthLMError: the bytes can't be decoded, are truncated, too large, or of another size than the camera.
        """
        pixels = (decode_checked if checked else decode_rgb)(self.image, f"frame {self.id}")
        h, w = pixels.shape[:2]
        if (w, h) != (self.camera.width, self.camera.height):
            raise self._error(
                f"image is {w}x{h} but its camera is for {self.camera.width}x{self.camera.height}", "image size differs"
            )
        return pixels

    @cached_property
    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All measured pixels (N, 2) and their z (N,): the sparse list, or every known pixel of the dense map."""
        if len(self.z) or self.depth is None:
            return self.xy, self.z
        ys, xs = np.nonzero(self.depth > 0)
        return np.stack([xs, ys], axis=1).astype(np.float32), self.depth[ys, xs]


def decode_rgb(data: bytes, where: str, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Encoded image bytes -> (H, W, 3) uint8 RGB; 16-bit and palette images are brought to 8-bit RGB.

    An EXIF orientation is applied, as every viewer does; the calibration is understood to be for the upright image.

    Raises:
        DepthLMError: unreadable, truncated, of too many scans (kind "unreadable image"), or over ``max_pixels``
            (default ``MAX_IMAGE_PIXELS``), which is looked at before anything is unpacked (kind "image too large").
    """
    limit = max_pixels or MAX_IMAGE_PIXELS
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > limit:
                reason = f"image of {image.width}x{image.height} px is over the limit of {limit / 1e6:g} megapixels"
                raise DepthLMError(where, reason, "shrink it", "image too large")
            if too_many_scans(data, image.format):
                reason = f"JPEG of more than {MAX_SCANS} scans"
                raise DepthLMError(where, reason, "save it anew", "unreadable image")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit greyscale
                grey = (np.clip(np.asarray(upright, np.int64), 0, 65535) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except DepthLMError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, twice ours
        raise DepthLMError(where, f"image is over the limit: {error}", kind="image too large") from error
    except Exception as error:  # Pillow raises many types for broken files; each means the same to the user
        raise DepthLMError(
            where, f"image can't be decoded: {pillow_says(error)}", "restore the file", "unreadable image"
        ) from error


def too_many_scans(data: bytes, format: str | None) -> bool:
    """Whether decoding would take a time that the size in pixels doesn't bound; ``format`` is Pillow's word for it."""
    return format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS


def pillow_says(error: Exception) -> str:
    """What is wrong with an image, without the address in memory of what it was read from."""
    return re.sub(r" <_io\.BytesIO object at \w+>", "", str(error))


def decode_checked(data: bytes, where: str) -> NDArray[np.uint8]:
    """`decode_rgb` for bytes that were whole when they were stored: the same pixels in half the time.

    OpenCV says nothing of a file that ends early, so only what ends as it should goes its way; the rest, and any format
    that the two libraries understand differently, goes the slow one.

    Raises:
        DepthLMError: as `decode_rgb`.
    """
    if not data.endswith((JPEG_END, PNG_END)) or b"eXIf" in data:  # a PNG may say after its pixels how it is turned
        return decode_rgb(data, where)
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:  # the header alone
            plain = image.mode == "RGB" and image.width * image.height <= MAX_IMAGE_PIXELS
            size = image.height, image.width, 3
            turned = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # decode_rgb says what is wrong
        return decode_rgb(data, where)
    if not plain or turned:
        return decode_rgb(data, where)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return pixels if pixels is not None and pixels.shape == size else decode_rgb(data, where)
