"""Metric Anything's depth map heads (the form of Depth Pro): crops of an image at three scales -> its inverse depth.

Source: Metric Anything (Ma et al. 2026), sections 3.3 and 5.2, and metric-anything/metric-anything, commit 42f6fd7,
``models/student_depthmap``. The names of all weights are the released checkpoint's own, so that a file's keys can be
compared with the module's.

The network sees a square of four crops' sides, whatever the image's own shape: at full, half and a quarter of that size
it is cut into 5 x 5, 3 x 3 and one crop, which one ViT reads. ``n`` is a crop's side in tokens: 24 in the release, of
crops of 384 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlm.errors import DepthLMError

# The network's square, in crops' sides.
SQUARE = 4
# Of the three scales, fine to coarse: the factor, and the part of its side that a crop shares with the next.
SCALES = ((1.0, 1 / 4), (0.5, 1 / 2), (0.25, 0.0))
CROPS = (25, 9, 1)
# A crop's tokens have to be a multiple of this, for its neighbour's share to be halved in whole tokens.
GRAIN = 8
HOOKS = 4
# Inverse depth, 1/m, is kept within this: 1 mm to 1 km.
LEAST_INVERSE, MOST_INVERSE = 1e-3, 1e3
# Levels of the decoder, fine to coarse, whose fusion doubles the sides.
DOUBLES = (False, True, False, False, True, True, True)
REFINEMENTS = 4
SIZES = ("latent", "high", "middle", "low", "decoder", "last")


@dataclass(frozen=True)
class CropFeatures:
    """What the ViT makes of an image's crops, which come scale by scale, the finest first, each row by row.

    Args:
        final: (35, C, n, n), the last block's tokens after the final norm.
        hooked: of each hooked block, (25, C, n, n) of the finest scale's crops, without norm.
    """

    final: Tensor
    hooked: list[Tensor]


class DepthMapHeads(nn.Module):
    """Features of all crops -> canonical inverse depth of the square.

    Args:
        settings: ``layers`` (four hidden states that are hooked, as numbered in `SpatialEncoderConfig`), and channels:
            ``latent`` (of the hooked levels), ``high``, ``middle``, ``low`` (of the three scales), ``decoder``, and
            ``last`` (at the square's own resolution).
        backbone: the ViT's configuration; its ``image_size`` is a crop's side, px.

    Raises:
        DepthLMError: a setting is lacking, or they do not fit the backbone.
    """

    def __init__(self, settings: dict[str, Any], backbone: Any) -> None:
        super().__init__()
        _check(settings, backbone)
        self.layers = list(settings["layers"])
        self.side = int(backbone.image_size)
        width = int(backbone.hidden_size)
        latent, high, middle, low, decoder, last = (int(settings[name]) for name in SIZES)
        self.upsample_latent0 = _enlarged(width, latent, 1)
        self.upsample_latent1 = _enlarged(width, latent, 2)
        self.upsample_latent2 = _enlarged(width, latent, 2)
        self.upsample_latent3 = _enlarged(width, latent, 2)
        self.upsample0 = _enlarged(width, high, 3)
        self.upsample1 = _enlarged(width, middle, 1)
        self.upsample2 = _enlarged(width, low, 1)
        self.upsample_lowres = nn.ConvTranspose2d(width, low, 2, stride=2)
        self.fuse_lowres = nn.Conv2d(2 * low, low, 1)
        self.decoder = FusionDecoder([high, *[latent] * HOOKS, middle, low], decoder)
        self.head = _head(decoder, last)

    def forward(self, features: CropFeatures) -> Tensor:
        """Canonical inverse depth (1, 1, 64 n, 64 n), float32: 1/m, were the focal length the image's width."""
        return self.head(self.decoder(self._levels(features))).float()

    def _levels(self, features: CropFeatures) -> list[Tensor]:
        """Maps (1, C, side, side), fine to coarse, of sides 32 n, 3 times 16 n, 8 n, 4 n and 2 n.

        The blocks stand in the order of the release, the earlier ones at the coarser levels: the reverse of Depth Pro.
        """
        high, middle, low = features.final.split(CROPS)
        early, *late = (joined(tokens, SCALES[0][1]) for tokens in features.hooked)
        coarse = torch.cat([self.upsample2(low), self.upsample_lowres(low)], dim=1)
        return [
            self.upsample0(joined(high, SCALES[0][1])),
            self.upsample_latent3(late[2]),
            self.upsample_latent2(late[1]),
            self.upsample_latent1(late[0]),
            self.upsample_latent0(early),
            self.upsample1(joined(middle, SCALES[1][1])),
            self.fuse_lowres(coarse),
        ]


def crops(image: Tensor, side: int) -> Tensor:
    """All crops of an image (1, C, H, W): (35, C, side, side), the finest scale's 25 first, each scale row by row.

    The image is stretched to the square, and as in the official inference without smoothing before it shrinks.
    """
    square = F.interpolate(image, (SQUARE * side, SQUARE * side), mode="bilinear", align_corners=False)
    out = []
    for factor, shared in SCALES:
        scaled = square
        if factor < 1:
            scaled = F.interpolate(square, scale_factor=factor, mode="bilinear", align_corners=False)
        stride = round(side * (1 - shared))
        windows = scaled.unfold(2, side, stride).unfold(3, side, stride)
        out.append(windows[0].permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(out)


def joined(tokens: Tensor, shared: float) -> Tensor:
    """One map (1, C, side, side) of the crops of a scale (count * count, C, n, n), row by row.

    Of what two neighbours share, each gives the half on its own side.
    """
    count, side = math.isqrt(len(tokens)), tokens.shape[-1]
    half = round(side * shared / 2)

    def own(i: int) -> slice:
        return slice(half if i else 0, side - half if i < count - 1 else side)

    rows = [
        torch.cat([tokens[row * count + column][..., own(row), own(column)] for column in range(count)], dim=-1)
        for row in range(count)
    ]
    return torch.cat(rows, dim=-2)[None]


def metres(inverse: Tensor, focal: float | Tensor, size: tuple[int, int]) -> Tensor:
    """Depth z of images from their canonical inverse depth, as the official inference computes it.

    Args:
        inverse: (B, 1, side, side), canonical, as `DepthMapHeads` give it.
        focal: focal length along x, px of the images; one for all, or (B,).
        size: (H, W) of the images.

    Returns:
        (B, H, W) metres, 0.001 to 1000.
    """
    focals = torch.as_tensor(focal, dtype=inverse.dtype, device=inverse.device).reshape(-1, 1, 1, 1)
    inverse = F.interpolate(inverse * (size[1] / focals), size, mode="bilinear", align_corners=False)
    return 1 / inverse.clamp(LEAST_INVERSE, MOST_INVERSE).squeeze(1)


def _check(settings: dict[str, Any], backbone: Any) -> None:
    mend = "convert a student_depthmap.pt"
    if lacking := [name for name in ("layers", *SIZES) if not settings.get(name)]:
        raise DepthLMError("depth map heads", f"have no {', '.join(lacking)}", mend)
    layers, blocks = settings["layers"], backbone.num_hidden_layers
    if len(layers) != HOOKS or not all(1 <= layer <= blocks for layer in layers):
        raise DepthLMError("depth map heads", f"read the layers {layers} of {blocks}", mend)
    side, patch = backbone.image_size, backbone.patch_size
    if side % (GRAIN * patch):
        reason = f"can't halve what crops of {side} px share in patches of {patch} px"
        raise DepthLMError("depth map heads", reason, f"a crop's side is a multiple of {GRAIN * patch} px")


class FusionDecoder(nn.Module):
    """Seven levels, from the coarsest to the finest, each added to what the coarser ones gave.

    Args:
        dims: channels of the levels, fine to coarse; width: channels within.
    """

    def __init__(self, dims: Sequence[int], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(dim, width, 3, padding=1, bias=False) for dim in dims)
        coarsest = len(dims) - 1
        self.fusions = nn.ModuleList(
            Fusion(width, adds=level < coarsest, doubles=doubles) for level, doubles in enumerate(DOUBLES)
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, width, side, side), with the side of the finest level."""
        x: Tensor | None = None
        for conv, fusion, level in reversed(list(zip(self.convs, self.fusions, levels, strict=True))):
            given = conv(level)
            x = fusion(given) if x is None else fusion(x, given)
        assert x is not None
        return x


class Fusion(nn.Module):
    """What the coarser levels gave, and a level that is added to it: refined, and doubled in its sides if so asked."""

    def __init__(self, width: int, adds: bool, doubles: bool) -> None:
        super().__init__()
        self.resnet1 = Residual(width) if adds else None
        self.resnet2 = Residual(width)
        self.deconv = nn.ConvTranspose2d(width, width, 2, stride=2, bias=False) if doubles else nn.Identity()
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if self.resnet1 is not None and level is not None:
            x = x + self.resnet1(level)
        return self.out_conv(self.deconv(self.resnet2(x)))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with activations before them, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = [step for _ in range(2) for step in (nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))]
        self.residual = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def _enlarged(given: int, out: int, times: int) -> nn.Sequential:
    """Channels changed, then the sides doubled so many times."""
    doubling = [nn.ConvTranspose2d(out, out, 2, stride=2, bias=False) for _ in range(times)]
    return nn.Sequential(nn.Conv2d(given, out, 1, bias=False), *doubling)


def _head(width: int, last: int) -> nn.Sequential:
    """Twice the sides, and one channel that is never negative."""
    half = width // 2
    refined = [step for _ in range(REFINEMENTS) for step in (nn.Conv2d(last, last, 3, padding=1), _relu())]
    return nn.Sequential(
        nn.Conv2d(width, half, 3, padding=1),
        nn.ConvTranspose2d(half, half, 2, stride=2),
        nn.Conv2d(half, last, 3, padding=1),
        _relu(),
        *refined,
        nn.Conv2d(last, 1, 1),
        _relu(),
    )


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)  # at the square's own resolution a copy of a map is large
