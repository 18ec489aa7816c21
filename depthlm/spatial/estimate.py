"""Camera and metric depth of an image of which nothing is known, by a spatial encoder with point map heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.spatial.encoder import SpatialEncoder
from depthlm.spatial.focal import focal_and_shift

# A pixel belongs to the scene, and not to the sky, where the mask says so with more than this.
MASKED = 0.5


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was estimated.

    Args:
        camera: square pixels, the principal point in the image's centre, no distortion.
        z: (H, W) float32, metres along the principal axis; 0 where there is no depth.
    """

    camera: Camera
    z: NDArray[np.float32]


def estimate(encoder: SpatialEncoder, pixels: NDArray[np.uint8]) -> Estimate:
    """Camera and depth of an image (H, W, 3) uint8 RGB.

    The focal length and the shift of z are those under which the predicted points fall on their pixels (Metric
    Anything, equation 6); metres come from the checkpoint's scale head.

    Raises:
        DepthLMError: the encoder has no heads, or its points tell no camera.
    """
    height, width = pixels.shape[:2]
    image = torch.tensor(pixels).permute(2, 0, 1)[None].to(encoder.device) / 255
    with torch.no_grad():
        found = encoder.points(image)
    points = found.points[0].double().cpu().numpy()
    mask = found.mask[0].cpu().numpy() > MASKED
    if not mask.any():
        raise DepthLMError("image", "no pixel has a depth that the encoder believes", "", "no camera")
    focal, shift = focal_and_shift(points, mask)
    z = np.where(mask, (points[..., 2] + shift) * float(found.scale[0]), 0)
    z = np.where(np.isfinite(z) & (z > 0), z, 0).astype(np.float32)
    return Estimate(Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2), z)
