"""Teaching a small encoder depth: a linear layer reads log z from its tokens, and is thrown away afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlm.errors import DepthLMError
from depthlm.sample import Sample
from depthlm.spatial.encoder import SpatialEncoder
from depthlm.training.dense_targets import GRID, dense_targets

# Depths that are read from each patch, along each of its sides.
SQUARES = 2
# δ1: within 25% of the truth.
LOG_DELTA1 = 0.22314355131420976


class DepthReader(nn.Module):
    """An encoder with the layer that reads depth from it.

    Args:
        encoder: to be trained.
    """

    def __init__(self, encoder: SpatialEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.depth = nn.Linear(encoder.config.width, SQUARES * SQUARES)

    def forward(self, images: Sequence[Tensor], log_z: Sequence[Tensor]) -> dict[str, Tensor]:
        """Loss, and share of known squares read within 25%.

        Args:
            images: of each sample (3, H, W), RGB in [0, 1].
            log_z: of each (rows, columns), mean log z of squares of the image; NaN where no depth is known.

        Returns:
            ``loss``: mean absolute error of log z; ``delta1``.

        Raises:
            DepthLMError: nowhere in the batch is any depth known.
        """
        errors = []
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_size.setdefault(tuple(image.shape), []).append(i)
        for members in by_size.values():
            batch = torch.stack([images[i] for i in members])
            truth = torch.stack([log_z[i] for i in members])
            rows, columns = self.encoder.config.grid(*batch.shape[-2:])
            read = self.depth(self.encoder(batch)).transpose(1, 2).unflatten(2, (rows, columns))
            read = F.interpolate(F.pixel_shuffle(read, SQUARES), truth.shape[-2:], mode="bilinear", align_corners=False)
            known = torch.isfinite(truth)
            errors.append((read[:, 0][known] - truth[known]).abs())
        error = torch.cat(errors)
        if len(error) == 0:
            raise DepthLMError(
                "samples", "none of a batch has a dense depth map", "draw or curate the store with --dense"
            )
        return {"loss": error.mean(), "delta1": (error.detach() < LOG_DELTA1).float().mean()}


def depth_batch(samples: Sequence[Sample], cell: int = 28) -> dict[str, list[Tensor]]:
    """What `DepthReader` takes, of samples made with ``dense``.

    Args:
        cell: sides of the canonical images are multiples of it, px.
    """
    targets, _ = dense_targets(samples, cell)
    images, log_z, done = [], [], 0
    for sample in samples:
        for image in sample.images:
            rows, columns = image.shape[0] // cell, image.shape[1] // cell
            part = targets[done : done + rows * columns].view(rows, columns, GRID, GRID)
            done += rows * columns
            log_z.append(part.transpose(1, 2).reshape(rows * GRID, columns * GRID))
            images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    return {"images": images, "log_z": log_z}
