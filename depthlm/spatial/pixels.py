"""Qwen's ``pixel_values`` back to images: the encoder sees what the VLM sees, and no other tensor has to travel.

Patches come as (frames, rows / merge, columns / merge, merge, merge) times (channels, 2 frames, patch, patch); an image
is two equal frames. Undoing this and the normalisation is exact to the rounding of float32 (1.5e-5 of 255 levels).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depthlm.errors import DepthLMError

CHANNELS = 3


def images_of(
    pixel_values: Tensor,
    grids: Sequence[Sequence[int]],
    *,
    patch: int,
    merge: int,
    temporal: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> list[Tensor]:
    """The images that a Qwen image processor cut into patches.

    Args:
        pixel_values: (patches, channels * temporal * patch * patch), normalised.
        grids: (frames, rows, columns) of patches of each image or video.
        patch, merge, temporal: sizes of the vision tower's patches.
        mean, std: by which the processor normalised RGB in [0, 1].

    Returns:
        Of each image (frames, 3, H, W) float32 in [0, 1]; of a video the first of each two frames.

    Raises:
        DepthLMError: the patches are not as many, or not of the size, that the grids tell.
    """
    counts = [int(t * h * w) for t, h, w in grids]
    size = CHANNELS * temporal * patch * patch
    if sum(counts) != pixel_values.shape[0] or pixel_values.shape[1] != size:
        raise DepthLMError(
            "pixel_values",
            f"are {tuple(pixel_values.shape)} where the grids tell ({sum(counts)}, {size})",
            "hand over the processor's pixel_values and image_grid_thw as they are",
        )
    if any(h % merge or w % merge for _, h, w in grids):
        raise DepthLMError("image_grid_thw", f"has sides that are no multiples of {merge}", "use the model's processor")
    out = []
    for (frames, rows, columns), patches in zip(grids, pixel_values.split(counts), strict=True):
        shape = (frames, rows // merge, columns // merge, merge, merge, CHANNELS, temporal, patch, patch)
        first = patches.view(shape)[:, :, :, :, :, :, 0]
        pixels = first.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(frames, CHANNELS, rows * patch, columns * patch).float()
        scale, offset = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (std, mean))
        out.append((pixels * scale + offset).clamp_(0, 1))
    return out
