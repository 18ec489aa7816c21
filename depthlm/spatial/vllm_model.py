"""Qwen2.5-VL with a spatial encoder inside vLLM, whose own Qwen2.5-VL does all but the fusion."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from depthlm.spatial.encoder import SpatialEncoder
from depthlm.spatial.fusion import make_fusion
from depthlm.spatial.model import fuse


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5_VLMultiModalProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class SpatialQwen2_5_VLForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """What vLLM makes of a folder whose architecture has this name."""

    # before the parent's "model.", which would catch them
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.spatial_encoder.": "spatial_encoder.",
            "model.fusion.": "fusion.",
            **Qwen2_5_VLForConditionalGeneration.hf_to_vllm_mapper.orig_to_new_prefix,
        }
    )
    # images are made of normalised pixels
    supports_mm_device_do_normalize = False

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        with self._mark_tower_model(vllm_config, {"image", "video"}):
            self.spatial_encoder = SpatialEncoder(self.config.spatial_config).requires_grad_(False).eval()
            self.fusion = make_fusion(self.config)

    def _process_image_input(self, image_input: Any) -> tuple[torch.Tensor, ...]:
        visual = super()._process_image_input(image_input)
        if image_input["type"] == "image_embeds":  # already what the language model reads
            return visual
        return self._fused(visual, image_input["pixel_values"], image_input["image_grid_thw"])

    def _process_video_input(self, video_input: Any) -> tuple[torch.Tensor, ...]:
        visual = super()._process_video_input(video_input)
        if video_input["type"] == "video_embeds":
            return visual
        return self._fused(visual, video_input["pixel_values_videos"], video_input["video_grid_thw"])

    def _fused(self, visual: Any, pixels: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        device = self.fusion.adapter.weight.device
        return tuple(fuse(self.config, self.spatial_encoder, self.fusion, visual, pixels.to(device), grids.tolist()))

    def get_encoder_cudagraph_config(self) -> Any:
        config = super().get_encoder_cudagraph_config()
        config.modalities = []  # a captured vision tower would go past the fusion
        return config

    def get_mm_mapping(self) -> MultiModelKeys:
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector=["visual.merger.", "fusion."],
            tower_model=["visual.", "spatial_encoder."],
        )
