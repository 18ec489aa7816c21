"""Configurations of the spatial encoder and of Qwen2.5-VL with one; importing this registers them with transformers.

It imports no model: vLLM reads it in each of its processes, whatever it serves.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from depthlm.errors import DepthLMError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FUSED = "depthlm_qwen2_5_vl"
BACKBONES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
FEATURES = ("last", "concat")
POINT_MAP, DEPTH_MAP = "point_map", "depth_map"
HEADS = (POINT_MAP, DEPTH_MAP)
# As many patches as DINOv2's own grid of 518 x 518 pixels has.
USUAL_TOKENS = 37 * 37


class SpatialEncoderConfig(PreTrainedConfig):
    """What a spatial encoder is made of.

    Args:
        backbone_config: of a DINOv2 or DINOv3 model of transformers.
        layers: hidden states that are read, 1 (after the first block) to the number of blocks, rising; each goes
            through the backbone's final norm.
        features: "last" of the layers, or all of them side by side ("concat").
        num_tokens: about so many patches an image is cut into, whatever its size; its aspect ratio is kept.
        image_mean, image_std: by which RGB in [0, 1] is normalised.
        position_offset: added to a grid's sides before the position embedding's scale is taken, as Metric Anything's
            DINOv2 does; None: transformers' own way. The two differ on all but the embedding's own grid.
        heads: settings of `DepthMapHeads` where their ``kind`` is "depth_map", else of `PointMapHeads`; None where the
            checkpoint has none.
        source: where the weights came from: file, sha256, licence.
    """

    model_type = "depthlm_spatial_encoder"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 (transformers' own form)

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    layers: list[int] | None = None
    features: str = "last"
    num_tokens: int = USUAL_TOKENS
    image_mean: tuple[float, ...] | list[float] = IMAGENET_MEAN
    image_std: tuple[float, ...] | list[float] = IMAGENET_STD
    position_offset: float | None = None
    heads: dict[str, Any] | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        backbone = self.backbone_config or {"model_type": "dinov2"}
        if isinstance(backbone, dict):
            backbone = AutoConfig.for_model(**backbone)
        self.backbone_config = backbone
        depth = backbone.num_hidden_layers
        self.layers = [depth] if self.layers is None else list(self.layers)
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuse settings that can't be.

        Raises:
            DepthLMError: naming the setting.
        """
        backbone, depth = self.backbone_config, self.backbone_config.num_hidden_layers
        if backbone.model_type not in BACKBONES:
            raise DepthLMError("backbone", f"is a {backbone.model_type!r}", "one of " + ", ".join(BACKBONES))
        if self.features not in FEATURES:
            raise DepthLMError("features", f"{self.features!r} is not known", "one of " + ", ".join(FEATURES))
        if (
            self.layers != sorted(set(self.layers))
            or not self.layers
            or not 1 <= self.layers[0] <= self.layers[-1] <= depth
        ):
            raise DepthLMError("layers", f"{self.layers} of {depth} blocks", f"rising numbers from 1 to {depth}")
        if self.num_tokens < 1:
            raise DepthLMError("num_tokens", f"is {self.num_tokens}", "give 1 or more")
        if self.heads is not None and self.heads_kind not in HEADS:
            raise DepthLMError("heads", f"are of the kind {self.heads_kind!r}", "one of " + ", ".join(HEADS))

    @property
    def heads_kind(self) -> str | None:
        """Of the heads, where there are any; point map heads need not name theirs."""
        return None if self.heads is None else str(self.heads.get("kind", POINT_MAP))

    @property
    def width(self) -> int:
        """Of the feature tokens."""
        return int(self.backbone_config.hidden_size) * (len(self.layers) if self.features == "concat" else 1)

    @property
    def patch(self) -> int:
        """Side of a patch, px."""
        return int(self.backbone_config.patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches into which an image of this size is cut: about ``num_tokens``, its aspect kept."""
        aspect = width / height
        return (
            max(1, round(math.sqrt(self.num_tokens / aspect))),
            max(1, round(math.sqrt(self.num_tokens * aspect))),
        )


# What transformers notes in a configuration beside the settings: where and by which release it was read.
NOTES = ("_name_or_path", "architectures", "dtype", "transformers_version")


def settings_alone(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration's settings, the same on every machine and under every release of transformers."""

    def alone(value: Any) -> Any:
        return {k: alone(v) for k, v in value.items() if k not in NOTES} if isinstance(value, dict) else value

    return alone(config.to_dict())


class SpatialQwen2_5_VLConfig(Qwen2_5_VLConfig):
    """Qwen2.5-VL's configuration, the encoder's, and the fusion's.

    Args:
        spatial_config: of the encoder.
        fusion_width, fusion_heads: of the cross-attention; None: those of the base's vision tower.
        fusion_gate: see `SpatialFusion`.
        pixel_mean, pixel_std: by which the base's processor normalises RGB in [0, 1].
    """

    model_type = FUSED
    sub_configs = {**Qwen2_5_VLConfig.sub_configs, "spatial_config": SpatialEncoderConfig}  # noqa: RUF012

    spatial_config: dict[str, Any] | PreTrainedConfig | None = None
    fusion_width: int | None = None
    fusion_heads: int | None = None
    fusion_gate: bool = True
    pixel_mean: tuple[float, ...] | list[float] = tuple(OPENAI_CLIP_MEAN)
    pixel_std: tuple[float, ...] | list[float] = tuple(OPENAI_CLIP_STD)

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.spatial_config, SpatialEncoderConfig):
            self.spatial_config = SpatialEncoderConfig(**(self.spatial_config or {}))
        self.pixel_mean, self.pixel_std = list(self.pixel_mean), list(self.pixel_std)
        super().__post_init__(**kwargs)
        self.fusion_width = self.fusion_width or int(self.vision_config.hidden_size)
        self.fusion_heads = self.fusion_heads or int(self.vision_config.num_heads)


AutoConfig.register(SpatialEncoderConfig.model_type, SpatialEncoderConfig, exist_ok=True)
AutoConfig.register(SpatialQwen2_5_VLConfig.model_type, SpatialQwen2_5_VLConfig, exist_ok=True)
AutoProcessor.register(SpatialQwen2_5_VLConfig, Qwen2_5_VLProcessor, exist_ok=True)
