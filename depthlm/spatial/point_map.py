"""Metric Anything's point map heads (the form of MoGe-2): feature maps -> a point map, a mask and a metric scale.

The names of all weights are the released checkpoint's own, so that a file's keys can be compared with the module's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlm.errors import DepthLMError

LEVELS = 5
STACK_SETTINGS = {
    "dim_in",
    "dim_res_blocks",
    "dim_out",
    "resamplers",
    "dim_times_res_block_hidden",
    "num_res_blocks",
    "res_block_in_norm",
    "res_block_hidden_norm",
    "activation",
}
REMAPS = ("linear", "sinh", "exp", "sinh_exp")


@dataclass(frozen=True)
class AffinePoints:
    """What the heads predict: points up to a shift along z and a common scale.

    Args:
        points: (B, H, W, 3) float32, camera frame (x right, y down, z forward), z lacking one number an image.
        mask: (B, H, W), probability that a pixel has a finite depth.
        scale: (B,), metres for one unit of ``points``.
    """

    points: Tensor
    mask: Tensor
    scale: Tensor


class PointMapHeads(nn.Module):
    """Neck, points, mask and scale of Metric Anything's student (its ``model_config``, without the encoder).

    Args:
        settings: ``dim_out`` (of the projections of the encoder's maps), ``neck``, ``points_head``, ``mask_head``
            (settings of `ConvStack`), ``scale_head`` (``dims`` of its layers), ``remap_output``.
        width: channels of the encoder's maps; layers: how many maps there are.

    Raises:
        DepthLMError: a setting that is not known, or a part that is lacking.
    """

    def __init__(self, settings: dict[str, Any], width: int, layers: int) -> None:
        super().__init__()
        for part in ("dim_out", "neck", "points_head", "mask_head", "scale_head"):
            if part not in settings:
                raise DepthLMError("point map heads", f"have no {part!r}", "convert a student_pointmap.pt")
        self.remap = settings.get("remap_output", "linear")
        if self.remap not in REMAPS:
            raise DepthLMError("remap_output", f"{self.remap!r} is not known", "one of " + ", ".join(REMAPS))
        self.output_projections = nn.ModuleList(nn.Conv2d(width, settings["dim_out"], 1) for _ in range(layers))
        self.neck = ConvStack(**_known("neck", settings["neck"]))
        self.points_head = ConvStack(**_known("points_head", settings["points_head"]))
        self.mask_head = ConvStack(**_known("mask_head", settings["mask_head"]))
        dims = settings["scale_head"]["dims"]
        steps = [layer for a, b in pairwise(dims[:-1]) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.scale_head = nn.Sequential(*steps, nn.Linear(dims[-2], dims[-1]))

    def forward(self, maps: Sequence[Tensor], summary: Tensor, size: tuple[int, int]) -> AffinePoints:
        """From the encoder's maps (B, C, rows, columns) and class token (B, C) to maps of ``size`` (H, W)."""
        height, width = size
        merged = torch.stack([project(m) for project, m in zip(self.output_projections, maps, strict=True)]).sum(0)
        batch, _, rows, columns = merged.shape
        features = []
        for level in range(LEVELS):
            uv = view_plane(columns * 2**level, rows * 2**level, width / height).to(merged)
            uv = uv.permute(2, 0, 1).expand(batch, -1, -1, -1)
            features.append(torch.cat([merged, uv], 1) if level == 0 else uv)
        features = self.neck(features)
        points, mask = (
            F.interpolate(head(features)[-1].float(), size, mode="bilinear", align_corners=False)
            for head in (self.points_head, self.mask_head)
        )
        scale = self.scale_head(summary).float().squeeze(1).exp()
        return AffinePoints(self._remapped(points.permute(0, 2, 3, 1)), mask.squeeze(1).sigmoid(), scale)

    def _remapped(self, points: Tensor) -> Tensor:
        if self.remap == "linear":
            return points
        if self.remap == "sinh":
            return torch.sinh(points)
        xy, z = points.split([2, 1], dim=-1)
        z = torch.exp(z)
        return torch.cat([xy * z if self.remap == "exp" else torch.sinh(xy), z], dim=-1)


def view_plane(width: int, height: int, aspect: float) -> Tensor:
    """(height, width, 2): pixel centres as seen on a plane where the image's half diagonal is 1, centre at 0."""
    diagonal = math.sqrt(1 + aspect**2)
    spans = (aspect / diagonal, width), (1 / diagonal, height)
    u, v = (span * (2 * torch.arange(n, dtype=torch.float64) + 1 - n) / n for span, n in spans)
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).float()


def _known(part: str, settings: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(settings) - STACK_SETTINGS):
        raise DepthLMError(part, f"has unknown settings {', '.join(unknown)}", "convert a student_pointmap.pt")
    return settings


class ConvStack(nn.Module):
    """Residual blocks at five resolutions, each twice the one before, with an input and an output at each.

    Args:
        dim_in, dim_out: channels of each level's input and output, or one number for all; None: no convolution there.
        dim_res_blocks: channels of each level.
        resamplers: how each level is enlarged to the next: "conv_transpose", "bilinear", "nearest", "pixel_shuffle".
        num_res_blocks: blocks of each level, or one number for all.
    """

    def __init__(
        self,
        dim_in: Any,
        dim_res_blocks: Sequence[int],
        dim_out: Any,
        resamplers: str | Sequence[str],
        dim_times_res_block_hidden: int = 1,
        num_res_blocks: int | Sequence[int] = 1,
        res_block_in_norm: str = "layer_norm",
        res_block_hidden_norm: str = "group_norm",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        levels = len(dim_res_blocks)
        norms = res_block_in_norm, res_block_hidden_norm
        self.input_blocks = nn.ModuleList(
            _pointwise(given, dim) for given, dim in zip(_each(dim_in, levels), dim_res_blocks, strict=True)
        )
        self.resamplers = nn.ModuleList(
            _resampler(kind, a, b)
            for kind, a, b in zip(_each(resamplers, levels - 1), dim_res_blocks[:-1], dim_res_blocks[1:], strict=True)
        )
        self.res_blocks = nn.ModuleList(
            nn.Sequential(
                *(ResidualBlock(dim, dim * dim_times_res_block_hidden, norms, activation) for _ in range(count))
            )
            for dim, count in zip(dim_res_blocks, _each(num_res_blocks, levels), strict=True)
        )
        self.output_blocks = nn.ModuleList(
            nn.Identity() if out is None else nn.Conv2d(dim, out, 1)
            for dim, out in zip(dim_res_blocks, _each(dim_out, levels), strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        x: Tensor | None = None
        for level, feature in enumerate(features):
            given = self.input_blocks[level](feature)
            x = given if x is None else self.resamplers[level - 1](x) + given
            x = self.res_blocks[level](x)
            out.append(self.output_blocks[level](x))
        return out


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with norms and activations before them, added to the input."""

    def __init__(self, dim: int, hidden: int, norms: tuple[str, str], activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(norms[0], dim),
            _activation(activation),
            nn.Conv2d(dim, hidden, 3, padding=1, padding_mode="replicate"),
            _norm(norms[1], hidden),
            _activation(activation),
            nn.Conv2d(hidden, dim, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _pointwise(given: int | None, dim: int) -> nn.Module:
    return nn.Identity() if given is None else nn.Conv2d(given, dim, 1)


def _resampler(kind: str, a: int, b: int) -> nn.Module:
    def smooth(channels: int, out: int) -> nn.Module:
        return nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate")

    if kind == "conv_transpose":
        return nn.Sequential(nn.ConvTranspose2d(a, b, 2, stride=2), smooth(b, b))
    if kind == "bilinear":
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), smooth(a, b))
    if kind == "nearest":
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), smooth(a, b))
    if kind == "pixel_shuffle":
        return nn.Sequential(smooth(a, b * 4), nn.PixelShuffle(2), smooth(b, b))
    raise DepthLMError("resampler", f"{kind!r} is not known", "conv_transpose, bilinear, nearest or pixel_shuffle")


def _norm(kind: str, dim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "layer_norm":
        return nn.GroupNorm(1, dim)
    if kind == "group_norm":
        return nn.GroupNorm(dim // 32, dim)
    if kind == "instance_norm":
        return nn.InstanceNorm2d(dim)
    raise DepthLMError("norm", f"{kind!r} is not known", "none, layer_norm, group_norm or instance_norm")


def _activation(kind: str) -> nn.Module:
    if kind == "leaky_relu":
        return nn.LeakyReLU(0.2)
    known = {"relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}
    if kind not in known:
        raise DepthLMError("activation", f"{kind!r} is not known", "relu, leaky_relu, silu or elu")
    return known[kind]()
