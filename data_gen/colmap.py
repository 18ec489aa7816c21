"""COLMAP's text models: cameras and poses of images.

COLMAP puts integer coordinates at pixel *corners* (the first pixel's centre is (0.5, 0.5)): cx and cy lose 0.5 here.
Its poses are world-to-camera with the real part of the quaternion first.
"""

from __future__ import annotations

from data_gen.poses import from_quaternion, inverted
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError

# Model -> places of fx, fy, cx, cy, and of OpenCV's distortion coefficients in order (None: zero).
MODELS: dict[str, tuple[tuple[int, ...], tuple[int | None, ...]]] = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3, None, None, None)),
    "RADIAL": ((0, 0, 1, 2), (3, 4, None, None)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
    "FULL_OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11)),
}


def parse_cameras(text: str, where: str) -> dict[int, Camera]:
    """``cameras.txt``: camera's number -> camera without a pose.

    Raises:
        DepthLMError: a line of another form, or a model OpenCV's pinhole can't express, such as a fisheye.
    """
    cameras = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            number, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            values = [float(word) for word in words[4:]]
            intrinsics, distortion = MODELS[model]
            fx, fy, cx, cy = (values[i] for i in intrinsics)
            coefficients = tuple(0.0 if i is None else values[i] for i in distortion)
        except (ValueError, IndexError, KeyError) as error:
            raise DepthLMError(
                where,
                f"camera {line[:60]!r} is not understood: {error}",
                f"known: {', '.join(MODELS)}",
                "bad intrinsics",
            ) from error
        cameras[number] = Camera(width, height, fx, fy, cx - 0.5, cy - 0.5, coefficients)
    return cameras


def parse_images(text: str, where: str) -> dict[str, tuple[int, Floats]]:
    """``images.txt``: image's name without folders -> its camera's number and camera-to-world pose.

    Raises:
        DepthLMError: a line of another form.
    """
    # Every second line lists points and may be empty, so empty lines count.
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    images = {}
    for line in lines[::2]:
        words = line.split(maxsplit=9)
        if not words:
            continue
        try:
            w, x, y, z, *t = (float(word) for word in words[1:8])
            images[words[9].strip().rpartition("/")[2]] = int(words[8]), inverted(from_quaternion(t, (x, y, z, w)))
        except (ValueError, IndexError) as error:
            raise DepthLMError(where, f"image {line[:60]!r} is not understood: {error}", "", "bad pose") from error
    return images
