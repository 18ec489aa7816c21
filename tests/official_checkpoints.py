"""Tiny checkpoints in exactly the layout of Metric Anything's releases; weights are a function of their names.

The expected outputs in ``tests/golden/metric_anything.json`` were made by the official modules (metric-anything/
metric-anything, commit 42f6fd7) with the same weights on the same image.
"""

from __future__ import annotations

import zlib
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


def _dino_block(prefix: str, i: int) -> dict[str, tuple[int, ...]]:
    block = f"{prefix}blocks.{i}."
    shapes: dict[str, tuple[int, ...]] = {
        "norm1.weight": (WIDTH,),
        "norm1.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH),
        "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH),
        "attn.proj.bias": (WIDTH,),
        "ls1.gamma": (WIDTH,),
        "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,),
        "ls2.gamma": (WIDTH,),
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


def depth_map_checkpoint() -> dict[str, Tensor]:
    """A tiny student_depthmap.pt: the DINOv3 encoder, and some of the decoder that is left out."""
    prefix = "encoder.patch_encoder."
    hidden = 4 * WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        prefix + "cls_token": (1, 1, WIDTH),
        prefix + "storage_tokens": (1, 4, WIDTH),
        prefix + "mask_token": (1, WIDTH),
        prefix + "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        prefix + "patch_embed.proj.bias": (WIDTH,),
        prefix + "norm.weight": (WIDTH,),
        prefix + "norm.bias": (WIDTH,),
        "encoder.upsample_lowres.weight": (WIDTH, 8, 2, 2),
        "decoder.convs.0.weight": (8, 8, 3, 3),
        "head.0.weight": (4, 8, 3, 3),
    }
    for i in range(BLOCKS):
        shapes |= _dino_block(prefix, i)
        shapes |= _mlp(prefix, i, {"w1": (hidden, WIDTH), "w2": (hidden, WIDTH), "w3": (WIDTH, hidden)})
    weights = {name: weight(name, shape) for name, shape in shapes.items()}
    mask = torch.ones(3, WIDTH)
    mask[1] = 0
    for i in range(BLOCKS):
        weights[f"{prefix}blocks.{i}.attn.qkv.bias_mask"] = mask.flatten().clone()
    weights[prefix + "rope_embed.periods"] = 100.0 ** (torch.arange(16) / 16)
    return weights
