"""Tiny checkpoints in exactly the layout of Metric Anything's releases; weights are a function of their names.

The expected outputs in ``tests/golden/metric_anything.json`` were made by the official modules (metric-anything/
metric-anything, commit 42f6fd7) with the same weights on the same image.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

WIDTH, BLOCKS, PATCHES = 128, 4, 9  # a position embedding of 9 x 9
LAYERS = [1, 3]
DIMS = [32, 16, 16, 8, 8]


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that depend on a weight's name and shape alone; norms and scales near one, the rest small."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randn(shape, generator=generator)
    if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
        return 1 + 0.1 * drawn
    fan = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else 100
    return drawn / fan**0.5


def image(height: int, width: int) -> Tensor:
    """(1, 3, H, W) in [0, 1]: smooth, and different in each channel."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, (0.5 + 0.5 * torch.sin(9 * x + 5 * y))])[None]


def texture(height: int, width: int) -> Tensor:
    """(1, 3, H, W) in [0, 1], with detail down to a few pixels: what is left out or smoothed shows."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(0.9 * x + 0.3 * y), torch.sin(0.05 * x * y**0.5), torch.sin(1.3 * y + 0.01 * x)]
    return 0.3 * image(height, width) + 0.7 * (0.5 + 0.5 * torch.stack(waves)[None])


def model_config() -> dict[str, Any]:
    """MoGe-2's form, as student_pointmap.pt carries it."""
    stack = {
        "dim_res_blocks": DIMS,
        "resamplers": ["conv_transpose", "conv_transpose", "conv_transpose", "bilinear"],
        "res_block_in_norm": "none",
        "res_block_hidden_norm": "none",
    }
    head = {**stack, "dim_in": DIMS, "num_res_blocks": [0, 1, 1, 1, 0]}
    return {
        "encoder": {"backbone": "dinov2_vitl14", "intermediate_layers": LAYERS, "dim_out": DIMS[0]},
        "neck": {**stack, "dim_in": [DIMS[0] + 2, 2, 2, 2, 2], "dim_out": None, "num_res_blocks": [0, 2, 2, 2, 0]},
        "points_head": {**head, "dim_out": [None, None, None, None, 3]},
        "mask_head": {**head, "dim_out": [None, None, None, None, 1]},
        "scale_head": {"dims": [WIDTH, WIDTH, WIDTH, 1]},
        "remap_output": "exp",
        "num_tokens_range": [40, 60],
    }


def _dino_block(prefix: str, i: int, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    block = f"{prefix}blocks.{i}."
    shapes: dict[str, tuple[int, ...]] = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "ls2.gamma": (width,),
    }
    return {block + name: shape for name, shape in shapes.items()}


def _mlp(prefix: str, i: int, sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in sizes.items():
        out[f"{prefix}blocks.{i}.mlp.{name}.weight"] = shape
        out[f"{prefix}blocks.{i}.mlp.{name}.bias"] = shape[:1]
    return out


def _stack(name: str, dim_in: list[int], dim_out: list[int | None], blocks: list[int]) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}

    def conv(key: str, *shape: int) -> None:
        out[f"{name}.{key}.weight"] = shape
        out[f"{name}.{key}.bias"] = (shape[0],)

    for i, dim in enumerate(DIMS):
        conv(f"input_blocks.{i}", dim, dim_in[i], 1, 1)
        for j in range(blocks[i]):
            conv(f"res_blocks.{i}.{j}.layers.2", dim, dim, 3, 3)
            conv(f"res_blocks.{i}.{j}.layers.5", dim, dim, 3, 3)
        if dim_out[i] is not None:
            conv(f"output_blocks.{i}", dim_out[i], dim, 1, 1)
    for i, (a, b) in enumerate(pairwise(DIMS)):
        if i < 3:
            out[f"{name}.resamplers.{i}.0.weight"] = (a, b, 2, 2)
            out[f"{name}.resamplers.{i}.0.bias"] = (b,)
            conv(f"resamplers.{i}.1", b, b, 3, 3)
        else:
            conv(f"resamplers.{i}.1", b, a, 3, 3)
    return out


def point_map_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a tiny student_pointmap.pt."""
    prefix = "encoder.backbone."
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.image_mean": (1, 3, 1, 1),
        "encoder.image_std": (1, 3, 1, 1),
        prefix + "cls_token": (1, 1, WIDTH),
        prefix + "pos_embed": (1, PATCHES**2 + 1, WIDTH),
        prefix + "mask_token": (1, WIDTH),
        prefix + "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        prefix + "patch_embed.proj.bias": (WIDTH,),
        prefix + "norm.weight": (WIDTH,),
        prefix + "norm.bias": (WIDTH,),
    }
    for i in range(BLOCKS):
        shapes |= _dino_block(prefix, i)
        shapes |= _mlp(prefix, i, {"fc1": (4 * WIDTH, WIDTH), "fc2": (WIDTH, 4 * WIDTH)})
    for i in range(len(LAYERS)):
        shapes[f"encoder.output_projections.{i}.weight"] = (DIMS[0], WIDTH, 1, 1)
        shapes[f"encoder.output_projections.{i}.bias"] = (DIMS[0],)
    none: list[int | None] = [None] * 5
    shapes |= _stack("neck", [DIMS[0] + 2, 2, 2, 2, 2], none, [0, 2, 2, 2, 0])
    shapes |= _stack("points_head", DIMS, [None, None, None, None, 3], [0, 1, 1, 1, 0])
    shapes |= _stack("mask_head", DIMS, [None, None, None, None, 1], [0, 1, 1, 1, 0])
    for i, dim in zip((0, 2, 4), (WIDTH, WIDTH, 1), strict=True):
        shapes[f"scale_head.{i}.weight"] = (dim, WIDTH)
        shapes[f"scale_head.{i}.bias"] = (dim,)
    return shapes


def point_map_checkpoint() -> dict[str, Any]:
    """A tiny student_pointmap.pt."""
    weights = {name: weight(name, shape) for name, shape in point_map_shapes().items()}
    weights["encoder.image_mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    weights["encoder.image_std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return {"model_config": model_config(), "model": weights}


@dataclass(frozen=True)
class DepthMapSizes:
    """Of a student_depthmap.pt: the ViT's, and channels of the decoder's levels."""

    width: int = WIDTH
    blocks: int = BLOCKS
    hidden: int = 4 * WIDTH
    latent: int = 12
    high: int = 8
    middle: int = 12
    low: int = 20
    decoder: int = 16
    last: int = 4


RELEASED_DEPTH_MAP = DepthMapSizes(1280, 32, 5120, 320, 256, 320, 640, 256, 32)


def _enlargements(sizes: DepthMapSizes) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    times = {"latent0": 1, "latent1": 2, "latent2": 2, "latent3": 2, "0": 3, "1": 1, "2": 1}
    dims = [sizes.latent] * 4 + [sizes.high, sizes.middle, sizes.low]
    for (level, count), dim in zip(times.items(), dims, strict=True):
        name = f"encoder.upsample{'_' if level.startswith('latent') else ''}{level}"
        out[f"{name}.0.weight"] = (dim, sizes.width, 1, 1)
        out |= {f"{name}.{i + 1}.weight": (dim, dim, 2, 2) for i in range(count)}
    out["encoder.upsample_lowres.weight"] = (sizes.width, sizes.low, 2, 2)
    out["encoder.fuse_lowres.weight"] = (sizes.low, 2 * sizes.low, 1, 1)
    return out | {f"encoder.{name}.bias": (sizes.low,) for name in ("upsample_lowres", "fuse_lowres")}


def _decoder(sizes: DepthMapSizes) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    width, half, last = sizes.decoder, sizes.decoder // 2, sizes.last
    for i, dim in enumerate([sizes.high, *[sizes.latent] * 4, sizes.middle, sizes.low]):
        out[f"decoder.convs.{i}.weight"] = (width, dim, 3, 3)
        fusion = f"decoder.fusions.{i}"
        for block in ["resnet1", "resnet2"] if i < 6 else ["resnet2"]:
            for step in (1, 3):
                out[f"{fusion}.{block}.residual.{step}.weight"] = (width, width, 3, 3)
                out[f"{fusion}.{block}.residual.{step}.bias"] = (width,)
        if i in (1, 4, 5, 6):
            out[f"{fusion}.deconv.weight"] = (width, width, 2, 2)
        out[f"{fusion}.out_conv.weight"] = (width, width, 1, 1)
        out[f"{fusion}.out_conv.bias"] = (width,)
    head = {0: (half, width, 3, 3), 1: (half, half, 2, 2), 2: (last, half, 3, 3)}
    head |= {step: (last, last, 3, 3) for step in (4, 6, 8, 10)} | {12: (1, last, 1, 1)}
    for step, shape in head.items():
        out[f"head.{step}.weight"] = shape
        out[f"head.{step}.bias"] = shape[:1]
    return out


def depth_map_shapes(sizes: DepthMapSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a student_depthmap.pt, without the two buffers that are no weights."""
    prefix, width, hidden = "encoder.patch_encoder.", sizes.width, sizes.hidden
    shapes: dict[str, tuple[int, ...]] = {
        prefix + "cls_token": (1, 1, width),
        prefix + "storage_tokens": (1, 4, width),
        prefix + "mask_token": (1, width),
        prefix + "patch_embed.proj.weight": (width, 3, 16, 16),
        prefix + "patch_embed.proj.bias": (width,),
        prefix + "norm.weight": (width,),
        prefix + "norm.bias": (width,),
    }
    for i in range(sizes.blocks):
        shapes |= _dino_block(prefix, i, width)
        shapes |= _mlp(prefix, i, {"w1": (hidden, width), "w2": (hidden, width), "w3": (width, hidden)})
    return shapes | _enlargements(sizes) | _decoder(sizes)


def depth_map_buffers(sizes: DepthMapSizes) -> dict[str, Tensor]:
    """What a student_depthmap.pt holds besides weights: which biases are masked, and the position periods."""
    prefix = "encoder.patch_encoder."
    mask = torch.ones(3, sizes.width)
    mask[1] = 0
    masks = {f"{prefix}blocks.{i}.attn.qkv.bias_mask": mask.flatten().clone() for i in range(sizes.blocks)}
    return masks | {prefix + "rope_embed.periods": 100.0 ** (torch.arange(16) / 16)}


def depth_map_checkpoint() -> dict[str, Tensor]:
    """A tiny student_depthmap.pt."""
    sizes = DepthMapSizes()
    weights = {name: weight(name, shape) for name, shape in depth_map_shapes(sizes).items()}
    # else the last activation would leave nothing of half of all pixels
    weights["head.12.weight"] = weights["head.12.weight"].abs()
    weights["head.12.bias"] = torch.tensor([0.05])
    return weights | depth_map_buffers(sizes)
