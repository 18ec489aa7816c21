"""Metric depth of an image, and the camera of one of which nothing is known, by a spatial encoder with heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.spatial.config import DEPTH_MAP
from depthlm.spatial.depth_map import LEAST_INVERSE
from depthlm.spatial.encoder import SpatialEncoder, load_encoder
from depthlm.spatial.focal import focal_and_shift

# A pixel belongs to the scene, and not to the sky, where the mask says so with more than this.
MASKED = 0.5
# Depth maps end here, metres: what lies there is as far as they can say. (The margin is float32's rounding.)
END = (1 - 1e-6) / LEAST_INVERSE


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was estimated.

    Args:
        camera: square pixels, the principal point in the image's centre, no distortion.
        z: (H, W) float32, metres along the principal axis; 0 where there is no depth.
    """

    camera: Camera
    z: NDArray[np.float32]


def estimate(encoder: SpatialEncoder, pixels: NDArray[np.uint8], focal: float | None = None) -> Estimate:
    """Camera and depth of an image (H, W, 3) uint8 RGB.

    With point map heads, the focal length and the shift of z are those under which the predicted points fall on their
    pixels (Metric Anything, equation 6), and metres come from the checkpoint's scale head. Depth map heads predict the
    depth that a camera with a focal length of the image's width would have: metres need the true one.

    Args:
        focal: the focal length where it is known, px of this image; None: estimated, which depth map heads can't.

    Raises:
        DepthLMError: the encoder has no heads, or can't tell the camera; or ``focal`` is no length.
    """
    check_heads(encoder, focal)
    image = torch.tensor(pixels).permute(2, 0, 1)[None].to(encoder.device) / 255
    if encoder.config.heads_kind == DEPTH_MAP:
        assert focal is not None  # checked
        found, z = _by_depth_map(encoder, image, focal)
    else:
        found, z = _by_point_map(encoder, image, focal)
    height, width = pixels.shape[:2]
    z = np.where(np.isfinite(z) & (z > 0), z, 0).astype(np.float32)
    return Estimate(Camera(width, height, found, found, (width - 1) / 2, (height - 1) / 2), z)


@lru_cache(maxsize=1)
def camera_encoder(name: str) -> SpatialEncoder:
    """An encoder that tells cameras; it stays loaded, for all that ask for it in this process.

    Raises:
        DepthLMError: there is none of this name, or it tells no camera.
    """
    encoder = load_encoder(name)
    check_heads(encoder)
    return encoder


def check_heads(encoder: SpatialEncoder, focal: float | None = None) -> None:
    """Refuse, before any image is read, an encoder that can't do what is asked.

    Args:
        focal: the focal length where it is known, px; None: the encoder has to tell it.

    Raises:
        DepthLMError: the encoder has no heads, or can't tell the camera; or ``focal`` is no length.
    """
    if focal is not None and not 0 < focal < math.inf:
        raise DepthLMError("focal length", f"is {focal}", "give a positive number of pixels")
    kind = encoder.config.heads_kind
    if kind is None:
        mend = "convert a student_pointmap.pt, which tells camera and depth: depthlm convert metric-anything"
        raise DepthLMError(encoder.title, "has no heads: it tells features alone", mend, "no heads")
    if kind == DEPTH_MAP and focal is None:
        reason = "tells depth for a focal length that is known, and no camera"
        mend = "give the focal length, or an encoder converted from a student_pointmap.pt"
        raise DepthLMError(encoder.title, reason, mend, "no camera")


def _by_depth_map(encoder: SpatialEncoder, image: Tensor, focal: float) -> tuple[float, NDArray[np.float64]]:
    z = encoder.depth(image, focal)[0].double().cpu().numpy()
    return focal, np.where(z < END, z, 0)


def _by_point_map(encoder: SpatialEncoder, image: Tensor, focal: float | None) -> tuple[float, NDArray[np.float64]]:
    with torch.no_grad():
        found = encoder.points(image)
    points = found.points[0].cpu().numpy()
    mask = found.mask[0].cpu().numpy() > MASKED
    if not mask.any():
        raise DepthLMError("image", "no pixel has a depth that the encoder believes", "", "no camera")
    focal, shift = focal_and_shift(points, mask, focal)
    if not 0 < focal < math.inf:
        raise DepthLMError("image", "the encoder's points tell no camera", "give its focal length", "no camera")
    return focal, np.where(mask, (points[..., 2] + shift) * float(found.scale[0]), 0)
