"""Visual tokens of a VLM read the 3D tokens of a spatial encoder by cross-attention.

Source: Metric Anything (Ma et al. 2026), sections 4.2.6 and 7.4: an adapter brings the 3D tokens to the fusion's
width, 2D tokens are queries, 3D tokens keys and values, and two linear layers lead to the language model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlm.errors import DepthLMError
from depthlm.spatial.config import SpatialQwen2_5_VLConfig

# Sines and cosines of so many octaves of each coordinate: the finest has a period of two 64ths of the image.
OCTAVES = 6

Grid = tuple[int, int]


class Gate(nn.Linear):
    """A linear layer that starts at zero, and so lets nothing through before it is trained."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class SpatialFusion(nn.Module):
    """Cross-attention from one image's visual tokens to its 3D tokens.

    Both kinds of token carry a code of their place in the image, projected by one layer for queries and keys alike: a
    visual token so looks first at the 3D tokens at its own place, before anything is learnt. (The paper says nothing
    of places; without them the two grids could only be brought together by content.)

    Args:
        visual: width of the visual tokens, and of what replaces them.
        spatial: width of the 3D tokens.
        width: of the fusion; heads: of its attention.
        gate: add what is read to the visual tokens through a last layer that starts at zero: untrained, the model is
            exactly its base. (One number as a gate learns next to nothing: it is of use only once what it lets through
            is, and that only once it is open.) False: the paper's form, in which the fused tokens replace the visual
            ones.

    Raises:
        DepthLMError: the width is no multiple of the heads.
    """

    def __init__(self, visual: int, spatial: int, width: int, heads: int, gate: bool = True) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            mend = "change spatial_width or spatial_heads"
            raise DepthLMError("spatial_width", f"{width} is no multiple of {heads} heads", mend)
        self.heads = heads
        self.visual_norm, self.spatial_norm = nn.LayerNorm(visual), nn.LayerNorm(spatial)
        self.adapter = nn.Linear(spatial, width)
        self.place = nn.Linear(4 * OCTAVES, width, bias=False)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, width) for dim in (visual, width, width, width))
        self.first, self.second = nn.Linear(width, 2 * width), (Gate if gate else nn.Linear)(2 * width, visual)
        self.gate = gate

    def forward(self, visual: Tensor, grid: Grid, spatial: Tensor, spatial_grid: Grid) -> Tensor:
        """Fused tokens of a batch of images of one size.

        Args:
            visual: (B, rows * columns, visual), row by row over the image; grid: its (rows, columns).
            spatial: (B, rows * columns, spatial); spatial_grid: its (rows, columns).

        Returns:
            (B, n, visual) in the dtype of ``visual``.
        """
        dtype = self.adapter.weight.dtype
        tokens = self.adapter(self.spatial_norm(spatial.to(dtype)))
        content = self.query(self.visual_norm(visual.to(dtype)))
        q = self._split(content + self._places(grid, tokens))
        k = self._split(self.key(tokens) + self._places(spatial_grid, tokens))
        read = F.scaled_dot_product_attention(q, k, self._split(self.value(tokens)))
        fused = content + self.out(read.transpose(1, 2).flatten(2))
        new = self.second(F.gelu(self.first(fused))).to(visual.dtype)
        return visual + new if self.gate else new

    def _split(self, x: Tensor) -> Tensor:
        """(B, n, width) -> (B, heads, n, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _places(self, grid: Grid, like: Tensor) -> Tensor:
        return self.place(place_codes(*grid).to(like))


def make_fusion(config: SpatialQwen2_5_VLConfig) -> SpatialFusion:
    """The fusion that a model's configuration tells."""
    visual, spatial = config.vision_config.out_hidden_size, config.spatial_config.width
    return SpatialFusion(visual, spatial, config.fusion_width, config.fusion_heads, config.fusion_gate)


def place_codes(rows: int, columns: int) -> Tensor:
    """(rows * columns, 4 * OCTAVES) float32: sines and cosines of cell centres, in shares of the image's sides."""
    octaves = math.pi * 2.0 ** torch.arange(OCTAVES)
    y, x = ((torch.arange(n) + 0.5) / n for n in (rows, columns))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2, 1) * octaves
    return torch.cat([grid.sin(), grid.cos()], dim=-1).flatten(1)
