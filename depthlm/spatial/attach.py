"""A base Qwen2.5-VL and an encoder made into one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.utils import logging

from depthlm.errors import DepthLMError
from depthlm.models.architectures import inner_model
from depthlm.spatial.cache import FeatureCache, fingerprint
from depthlm.spatial.config import DEPTH_MAP, SpatialQwen2_5_VLConfig, settings_alone
from depthlm.spatial.encoder import SpatialEncoder, load_encoder
from depthlm.spatial.fusion import make_fusion
from depthlm.spatial.model import BASE_KEYS, SpatialQwen2_5_VLForConditionalGeneration
from depthlm.spatial.settings import SpatialSettings

GIVE_IT = "give the one that the adapter was trained with: depthlm merge ADAPTER --encoder ENCODER --out DIR"


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
    encoder = _load(settings)
    if encoder.config.heads_kind == DEPTH_MAP:
        # a VLM reads features alone; point map heads stay, for the fingerprints of adapters that were trained with them
        encoder.drop_heads()
    # where FSDP loads on one process alone, the others have nothing to compare
    known = settings.fingerprint if is_fsdp_enabled() else fingerprint(encoder)
    if settings.fingerprint and settings.fingerprint != known:
        raise DepthLMError(settings.encoder, "is another encoder than the adapter was trained with", GIVE_IT)
    images = load_processor(base, options.get("revision", "main")).image_processor
    fused = SpatialQwen2_5_VLConfig(
        **{k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")},
        spatial_config=settings_alone(encoder.config),
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
    model.model.spatial_encoder = encoder.to(model.device, _encoder_dtype(model, settings.dtype))
    model.model.attached = replace(settings, fingerprint=known)
    return model


def _load(settings: SpatialSettings) -> SpatialEncoder:
    try:
        return load_encoder(settings.encoder)
    except DepthLMError as error:
        if not settings.fingerprint:
            raise
        raise DepthLMError(error.where, error.reason, GIVE_IT, error.kind) from error  # noted where it was trained


def _encoder_dtype(model: Any, name: str) -> torch.dtype:
    return model.dtype if name == "auto" else getattr(torch, name)


@contextmanager
def _silent() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def prepare_spatial(model: Any, cache: str | Path | None, dtype: str = "auto") -> None:
    """Before training: freeze the encoder of a model that has one, and let it find features that it made before.

    Args:
        model: as loaded, with or without an adapter.
        cache: folder of a `FeatureCache`.
        dtype: of the encoder's weights, also where a checkpoint was loaded in another; "auto": the model's.

    Raises:
        DepthLMError: a cache, or a dtype, for a model without an encoder.
    """
    encoder = getattr(inner_model(model), "spatial_encoder", None)
    if encoder is None:
        for name, idle in (("spatial_cache", cache is None), ("spatial_dtype", dtype == "auto")):
            if not idle:
                raise DepthLMError(name, "is for a spatial encoder", "add --spatial_encoder FOLDER, or leave it out")
        return
    noted = attached(model)
    if dtype == "auto" and noted is not None:
        dtype = noted.dtype
    encoder.to(_encoder_dtype(model, dtype)).requires_grad_(False).eval()
    if cache is not None:
        inner_model(model).cache = FeatureCache(cache, encoder)


def settle_spatial(model: Any) -> None:
    """After a trainer has put its adapter on a model: see that the encoder is frozen, and train the fusion in float32.

    PEFT keeps its own weights in float32 over a bfloat16 base, but not those of modules that are trained whole: at a
    fine-tuning's rate most of them would be rounded back to where they were.

    Raises:
        DepthLMError: the adapter reaches into the encoder.
    """
    if not is_fused(model) or not hasattr(model, "get_base_model"):
        return
    if inner_model(model).spatial_encoder.trains:
        raise DepthLMError("lora_target_modules", "reach into the frozen spatial encoder", "name other layers")
    for weight in inner_model(model).fusion.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def is_fused(model: Any) -> bool:
    """Whether a model has a spatial encoder."""
    return hasattr(inner_model(model), "spatial_encoder")


def encoder_name(model: Any) -> str | None:
    """What a model's spatial encoder is called, if it has one."""
    if not is_fused(model):
        return None
    source = inner_model(model).spatial_encoder.config.source or {}
    return str(source.get("name", "of an unknown name"))


def attached(model: Any) -> SpatialSettings | None:
    """What was put into a base model, with or without an adapter on it."""
    return getattr(inner_model(model), "attached", None)
