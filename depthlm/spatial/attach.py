"""A base Qwen2.5-VL and an encoder made into one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from depthlm.errors import DepthLMError
from depthlm.spatial.cache import FeatureCache
from depthlm.spatial.config import SpatialQwen2_5_VLConfig
from depthlm.spatial.encoder import load_encoder
from depthlm.spatial.fusion import make_fusion
from depthlm.spatial.model import BASE_KEYS, SpatialQwen2_5_VLForConditionalGeneration
from depthlm.spatial.settings import SpatialSettings


def attach(
    base: str, config: PreTrainedConfig, settings: SpatialSettings, dtype: str | torch.dtype, **options: Any
) -> SpatialQwen2_5_VLForConditionalGeneration:
    """A base's weights with an encoder's and a new fusion.

    Args:
        base: a Qwen2.5-VL's folder or hub name; config: its configuration.
        dtype: of the base's and the fusion's weights.
        options: further arguments of ``from_pretrained``.

    Raises:
        DepthLMError: the base is no Qwen2.5-VL, the encoder can't be read, or the base lacks weights.
    """
    from depthlm.models.loading import load_processor

    if config.model_type != "qwen2_5_vl":
        reason = f"is a {config.model_type!r}"
        raise DepthLMError(base, reason, "a spatial encoder goes with a Qwen2.5-VL alone", "unknown architecture")
    encoder = load_encoder(settings.encoder)
    images = load_processor(base, options.get("revision", "main")).image_processor
    fused = SpatialQwen2_5_VLConfig(
        **{k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")},
        spatial_config=encoder.config.to_dict(),
        fusion_width=settings.width,
        fusion_heads=settings.heads,
        fusion_gate=settings.gate,
        pixel_mean=list(images.image_mean),
        pixel_std=list(images.image_std),
    )
    fusion = make_fusion(fused)  # before the base, so that settings which do not fit are told at once
    with _silent():  # it would list all weights that are put in below
        model, told = SpatialQwen2_5_VLForConditionalGeneration.from_pretrained(
            base,
            config=fused,
            dtype=dtype,
            use_safetensors=True,
            key_mapping=BASE_KEYS,
            output_loading_info=True,
            **options,
        )
    lacking = [key for key in told["missing_keys"] if not key.startswith(("model.spatial_encoder.", "model.fusion."))]
    if lacking:
        raise DepthLMError(base, f"lacks {len(lacking)} weights, the first: {lacking[0]}", "check the folder's files")
    model.model.fusion = fusion.to(model.device, model.dtype)
    encoder_dtype = model.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model.model.spatial_encoder = encoder.to(model.device, encoder_dtype)
    model.model.attached = settings
    return model


@contextmanager
def _silent() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def prepare_spatial(model: Any, cache: str | Path | None) -> None:
    """Before training: freeze the encoder of a model that has one, and let it find features that it made before.

    Args:
        model: as loaded, with or without an adapter.
        cache: folder of a `FeatureCache`.

    Raises:
        DepthLMError: a cache for a model without an encoder.
    """
    encoder = getattr(_inner(model), "spatial_encoder", None)
    if encoder is None:
        if cache is not None:
            raise DepthLMError("spatial_cache", "is for a spatial encoder", "add --spatial_encoder FOLDER")
        return
    encoder.requires_grad_(False).eval()
    if cache is not None:
        _inner(model).cache = FeatureCache(cache, encoder)


def is_fused(model: Any) -> bool:
    """Whether a model has a spatial encoder."""
    return hasattr(_inner(model), "spatial_encoder")


def attached(model: Any) -> SpatialSettings | None:
    """What was put into a base model, with or without an adapter on it."""
    return getattr(_inner(model), "attached", None)


def _inner(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model
