"""Which projected points the camera sees: hidden-point removal by a z-buffer.

A sensor beside the camera sees past edges behind which the camera sees nothing. A point counts as hidden where another
one is nearer, by a share of its own depth, within a footprint in the image: wide enough to close the gaps between the
projected points of the nearer surface, narrow enough to leave slanted surfaces whole.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from depthlm.camera import Camera

NEARER = 0.05


def visible(
    xy: NDArray[np.float32],
    z: NDArray[np.float32],
    camera: Camera,
    footprint: tuple[int, int],
    nearer: float = NEARER,
    scale: float = 1.0,
) -> NDArray[np.bool_]:
    """(N,) True where no point within the footprint is nearer by more than the share ``nearer``.

    Args:
        xy: (N, 2) pixels inside the image.
        z: (N,) metres.
        footprint: width and height in cells of the z-buffer, odd; the point lies in the middle one.
        scale: cells of the z-buffer per image pixel.
    """
    columns, rows = ((xy + 0.5) * scale).astype(int).T
    nearest = np.full((int(camera.height * scale) + 1, int(camera.width * scale) + 1), np.inf, np.float32)
    np.minimum.at(nearest, (rows, columns), z)
    nearest = cv2.erode(nearest, np.ones(footprint[::-1], np.uint8))
    return z <= nearest[rows, columns] * (1 + nearer)
