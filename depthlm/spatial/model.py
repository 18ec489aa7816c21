"""Qwen2.5-VL with a spatial encoder: visual tokens read the encoder's 3D tokens before the language model reads them.

The encoder's images are made inside the model from Qwen's own ``pixel_values``, so that processors, TRL and vLLM need
to know nothing of it. Importing this module registers the model with transformers' Auto classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel

from depthlm.spatial.cache import FeatureCache
from depthlm.spatial.config import SpatialQwen2_5_VLConfig
from depthlm.spatial.encoder import SpatialEncoder
from depthlm.spatial.fusion import Gate, SpatialFusion, make_fusion
from depthlm.spatial.pixels import images_of
from depthlm.spatial.settings import SpatialSettings

# How a base's checkpoint names what this model has; a checkpoint of this model has its own names.
BASE_KEYS = {
    r"^visual": "model.visual",
    r"^model(?!\.(language_model|visual|spatial_encoder|fusion))": "model.language_model",
}


def fuse(
    config: SpatialQwen2_5_VLConfig,
    encoder: SpatialEncoder,
    fusion: SpatialFusion,
    visual: Sequence[Tensor],
    pixel_values: Tensor,
    grids: Sequence[Sequence[int]],
    cache: FeatureCache | None = None,
) -> list[Tensor]:
    """Fused tokens of each image (or video), whatever their sizes; no image reads of another.

    Args:
        visual: (tokens, width) of each, row by row, frame by frame.
        pixel_values, grids: as the processor gave them.
        cache: where features that were computed before are found.
    """
    vision = config.vision_config
    merge = vision.spatial_merge_size
    images = images_of(
        pixel_values,
        grids,
        patch=vision.patch_size,
        merge=merge,
        temporal=vision.temporal_patch_size,
        mean=config.pixel_mean,
        std=config.pixel_std,
    )
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        by_size.setdefault((image.shape[2], image.shape[3]), []).append(i)
    out: list[Tensor | None] = [None] * len(images)
    side = vision.patch_size * merge
    for (height, width), members in by_size.items():
        batch = torch.cat([images[i] for i in members])
        with torch.set_grad_enabled(torch.is_grad_enabled() and encoder.trains):
            spatial = encoder(batch) if cache is None else cache(encoder, batch)
        frames = [len(images[i]) for i in members]
        grid = height // side, width // side
        tokens = torch.cat([visual[i].unflatten(0, (n, -1)) for i, n in zip(members, frames, strict=True)])
        fused = fusion(tokens, grid, spatial, encoder.config.grid(height, width))
        for i, part in zip(members, fused.split(frames), strict=True):
            out[i] = part.flatten(0, 1)
    return out  # type: ignore[return-value]  # each image has a size


class _Closed:
    """Mixin before a transformers model: where weights are drawn at random, gates stay closed."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Gate):
            module.reset_parameters()
        else:
            super()._init_weights(module)  # type: ignore[misc]


class SpatialQwen2_5_VLModel(_Closed, Qwen2_5_VLModel):
    """Qwen2.5-VL without its head, with fused visual tokens."""

    config_class = SpatialQwen2_5_VLConfig
    cache: FeatureCache | None = None
    attached: SpatialSettings | None = None

    def __init__(self, config: SpatialQwen2_5_VLConfig) -> None:
        super().__init__(config)
        self.spatial_encoder = SpatialEncoder(config.spatial_config)
        self.fusion = make_fusion(config)
        self.post_init()

    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **kwargs: Any
    ) -> Any:  # signature read by generate()
        out = super().get_image_features(pixel_values, image_grid_thw, **kwargs)
        out.pooler_output = self._fused(out.pooler_output, pixel_values, image_grid_thw)
        return out

    def get_video_features(
        self, pixel_values_videos: Tensor, video_grid_thw: Tensor | None = None, **kwargs: Any
    ) -> Any:
        out = super().get_video_features(pixel_values_videos, video_grid_thw, **kwargs)
        out.pooler_output = self._fused(out.pooler_output, pixel_values_videos, video_grid_thw)
        return out

    def _fused(self, visual: Sequence[Tensor], pixel_values: Tensor, grids: Tensor | None) -> tuple[Tensor, ...]:
        assert grids is not None
        parts = fuse(self.config, self.spatial_encoder, self.fusion, visual, pixel_values, grids.tolist(), self.cache)
        return tuple(parts)


class SpatialQwen2_5_VLForConditionalGeneration(_Closed, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with a spatial encoder."""

    config_class = SpatialQwen2_5_VLConfig

    def __init__(self, config: SpatialQwen2_5_VLConfig) -> None:
        Qwen2_5_VLPreTrainedModel.__init__(self, config)  # not the parent's own, which makes a model without encoder
        self.model = SpatialQwen2_5_VLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def save_pretrained(self, *args: Any, **options: Any) -> Any:
        """As every model's, under this model's own names of weights: vLLM reads them, and knows no renaming."""
        return super().save_pretrained(*args, **{**options, "save_original_format": False})


AutoModel.register(SpatialQwen2_5_VLConfig, SpatialQwen2_5_VLModel, exist_ok=True)
AutoModelForImageTextToText.register(SpatialQwen2_5_VLConfig, SpatialQwen2_5_VLForConditionalGeneration, exist_ok=True)
