"""Released Metric Anything checkpoints -> a folder that `load_encoder` reads: key mapping, no other ViT.

``student_pointmap.pt`` is ``{"model_config": …, "model": weights}`` in the form of MoGe-2, around a DINOv2;
``student_depthmap.pt`` is a plain state dict (or one under "state_dict") around a DINOv3 ViT-H+/16, without settings:
its sizes are those of its weights.
"""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig

from depthlm.errors import DepthLMError
from depthlm.spatial.config import DEPTH_MAP
from depthlm.spatial.encoder import SpatialEncoder, SpatialEncoderConfig
from depthlm.writing import new_folder

logger = logging.getLogger(__name__)

LARGEST_FILE = 16 * 2**30
SHOWN_KEYS = 5
# Sizes of the DINOv2 models that a student may be built on: width, blocks, heads.
DINOV2 = {"vits14": (384, 12, 6), "vitb14": (768, 12, 12), "vitl14": (1024, 24, 16)}
HEADS = ("neck", "points_head", "mask_head", "scale_head")
# Patches of an image as the students' authors cut it: at most so many for a point map, one low crop of a depth map.
POINT_MAP_TOKENS, DEPTH_MAP_TOKENS = 3600, 24 * 24
# A depth map's crops, px, and the hidden states that its decoder reads, of the release's 32 blocks.
CROP_SIDE = 384
HOOKED, HOOKED_OF = (8, 14, 20, 26), 32
# Channels of its decoder: the weight whose first size tells them, and the release's.
DECODER_SIZES = {
    "latent": ("encoder.upsample_latent0.0.weight", 320),
    "high": ("encoder.upsample0.0.weight", 256),
    "middle": ("encoder.upsample1.0.weight", 320),
    "low": ("encoder.upsample2.0.weight", 640),
    "decoder": ("decoder.convs.0.weight", 256),
    "last": ("head.2.weight", 32),
}
LICENCES = {
    "student_pointmap": "Apache-2.0",
    "student_depthmap": "Apache-2.0; its encoder: DINOv3 License",
}

Weights = dict[str, Tensor]


def convert(checkpoint: str | Path, out: str | Path, num_tokens: int | None = None) -> Path:
    """Write a released checkpoint as a folder of config and safetensors.

    Args:
        checkpoint: ``student_pointmap.pt`` or ``student_depthmap.pt``; which of them, its keys tell.
        out: folder to write; it appears whole or not at all.
        num_tokens: patches an image is cut into; default: what the checkpoint was made for.

    Raises:
        DepthLMError: the file is truncated, asks for code, is of another kind, or has missing or unexpected keys; or
            ``out`` is taken or can't be written.
    """
    source = Path(checkpoint)
    if num_tokens is not None and num_tokens < 1:
        raise DepthLMError("--num-tokens", f"is {num_tokens}", "give 1 or more")
    with new_folder(out) as part:
        model = converted(source, num_tokens)
        model.save_pretrained(part)
    logger.info("wrote an encoder of %.1f M parameters to %s", model.num_parameters() / 1e6, out)
    return Path(out).resolve()


def converted(source: Path, num_tokens: int | None = None) -> SpatialEncoder:
    """A released checkpoint's encoder; see `convert`.

    Raises:
        DepthLMError: the file is none, or not as released.
    """
    content = read_checkpoint(source)
    try:
        read = from_point_map if "model_config" in content else from_depth_map
        config, weights = read(source, content)
        if num_tokens is not None:
            _warn_of_tokens(num_tokens, config.source)
            config.num_tokens = num_tokens
        model = SpatialEncoder(config)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError) as error:
        reason = (
            f"is not laid out as released: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        raise DepthLMError(source, reason, "download it again", "wrong kind") from error
    model.config.source = {**(config.source or {}), "file": source.name, "sha256": _sha256(source)}
    expected = model.state_dict()
    model.load_state_dict(_exactly(source, _as_installed(weights, expected), expected), strict=True, assign=True)
    return model


def _warn_of_tokens(num_tokens: int, source: dict[str, Any] | None) -> None:
    low, high = (source or {}).get("num_tokens_range", (1, math.inf))
    if not low <= num_tokens <= high:
        logger.warning("--num-tokens %d: the checkpoint was made for %d to %d", num_tokens, low, high)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a released file holds: tensors, and plain settings; never code.

    Raises:
        DepthLMError: there is none, it is cut off, too large, asks for code, or holds no state dict.
    """
    if not path.is_file():
        raise DepthLMError(path, "is not a file", "give the checkpoint as it was released", "not a checkpoint")
    if path.stat().st_size > LARGEST_FILE:
        raise DepthLMError(path, f"is larger than {LARGEST_FILE >> 30} GiB", "give a student's checkpoint")
    _check_zip(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = f"asks for more than weights: {_asked_for(error)}"
            raise DepthLMError(path, reason, "use a checkpoint from its authors", "not a checkpoint") from None
        raise DepthLMError(path, "is damaged", "download it again", "not a checkpoint") from error
    except Exception as error:  # a damaged file can end in anything
        reason = f"is damaged, or no checkpoint: {(str(error) or repr(error)).splitlines()[0]}"
        raise DepthLMError(path, reason, "download it again", "not a checkpoint") from error
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise DepthLMError(path, f"holds a {type(content).__name__}", "give a student's checkpoint", "not a checkpoint")
    return content


# How files begin that are no whole checkpoint: what they are, and what to do. What torch.save writes is a zip.
IMPOSTORS = (
    (b"PK", "is cut off: its end is missing", "download it again"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b"<", "is a web page, not the file itself", "download it again, by the link to the file"),
    (b"\x80", "is a plain or legacy pickle, which may hold code: it was not opened", "give the file as released"),
    (b"", "is no checkpoint of torch", "download it again"),
)


def _check_zip(path: Path) -> None:
    """Refuse what torch would read in another way than as a zip of weights.

    Raises:
        DepthLMError: saying what the file is.
    """
    if path.stat().st_size == 0:
        raise DepthLMError(path, "is empty", "download it again", "not a checkpoint")
    with path.open("rb") as file:
        begin = file.read(64).lstrip()
    if begin.startswith(b"PK") and zipfile.is_zipfile(path):
        return
    reason, mend = next((what, how) for start, what, how in IMPOSTORS if begin.startswith(start))
    raise DepthLMError(path, reason, mend, "not a checkpoint")


def _asked_for(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else "a pickled object"


def from_point_map(source: Path, content: Mapping[str, Any]) -> tuple[SpatialEncoderConfig, Weights]:
    """Config and weights of a ``student_pointmap.pt``.

    Raises:
        DepthLMError: its ``model_config`` is not MoGe-2's, or a key can't be mapped.
    """
    settings, weights = content["model_config"], content.get("model")
    if not isinstance(settings, dict) or not isinstance(settings.get("encoder"), dict) or not isinstance(weights, dict):
        raise DepthLMError(
            source, "has no MoGe-2 model_config with weights", "give a student_pointmap.pt", "wrong kind"
        )
    weights = _tensors(source, weights)
    encoder = settings["encoder"]
    size = re.fullmatch(r"dinov2_(vit[sbl]14)(_reg)?", str(encoder.get("backbone")))
    if size is None:
        raise DepthLMError(
            source, f"has the backbone {encoder.get('backbone')!r}", "give a DINOv2 student", "wrong kind"
        )
    prefix = "encoder.backbone."
    backbone = _dinov2_config(source, size[1], bool(size[2]), _under(weights, prefix))
    tokens = [int(count) for count in settings.get("num_tokens_range", (1, POINT_MAP_TOKENS))]
    layers = encoder.get("intermediate_layers")
    depth = backbone.num_hidden_layers
    layers = list(range(depth - layers, depth)) if isinstance(layers, int) else list(layers or [])
    config = SpatialEncoderConfig(
        backbone_config=backbone,
        layers=[layer + 1 for layer in layers],
        num_tokens=max(tokens),
        image_mean=_normalisation(weights, "encoder.image_mean"),
        image_std=_normalisation(weights, "encoder.image_std"),
        position_offset=None if size[2] else 0.1,
        heads={"dim_out": encoder.get("dim_out"), "remap_output": settings.get("remap_output", "linear")}
        | {name: _settings_of(settings.get(name), name) for name in HEADS if settings.get(name) is not None},
        source={
            "kind": "student_pointmap",
            "licence": LICENCES["student_pointmap"],
            "num_tokens_range": [min(tokens), max(tokens)],
        },
    )
    mapped = {f"backbone.{k}": v for k, v in dinov2_keys(source, _under(weights, prefix)).items()}
    for key, value in weights.items():
        if key.startswith("encoder.output_projections."):
            mapped["heads." + key.removeprefix("encoder.")] = value
        elif key.split(".")[0] == "normal_head":  # of MoGe-2's own release; nothing here asks for normals
            continue
        elif not key.startswith("encoder."):
            mapped["heads." + key] = value
        elif not key.startswith(prefix):
            mapped[key] = value  # refused as unexpected
    return config, mapped


def _settings_of(settings: Any, name: str) -> dict[str, Any]:
    return dict(settings) if isinstance(settings, dict) else {"dims": settings} if name == "scale_head" else {}


def _normalisation(weights: Weights, key: str) -> list[float]:
    value = weights.pop(key, None)
    usual = {"encoder.image_mean": [0.485, 0.456, 0.406], "encoder.image_std": [0.229, 0.224, 0.225]}[key]
    return usual if value is None else [round(float(v), 6) for v in value.flatten()]


def _dinov2_config(source: Path, size: str, registers: bool, weights: Weights) -> Any:
    """Config by the name of the model, its sizes by the weights: so a tiny twin is read like the real one."""
    width, depth, heads = DINOV2[size]
    position, patch = weights.get("pos_embed"), weights.get("patch_embed.proj.weight")
    if position is None or patch is None:
        raise DepthLMError(source, "has no DINOv2 under encoder.backbone", "give a student_pointmap.pt", "wrong kind")
    if position.shape[-1] != width:  # a twin for tests keeps the released width of a head
        width, depth = (
            int(position.shape[-1]),
            1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks.")),
        )
        heads = max(1, width // 64)
    side = math.isqrt(position.shape[1] - 1)
    if side**2 + 1 != position.shape[1] or patch.shape[-1] != patch.shape[-2]:
        reason = (
            f"has {position.shape[1] - 1} places for patches of {patch.shape[-2]}x{patch.shape[-1]} px: no square grid"
        )
        raise DepthLMError(source, reason, "give a DINOv2 student", "wrong kind")
    kind = Dinov2WithRegistersConfig if registers else Dinov2Config
    return kind(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=4,
        patch_size=int(patch.shape[-1]),
        image_size=side * int(patch.shape[-1]),
        layer_norm_eps=1e-6,
        layerscale_value=1.0,
    )


# Names of an official DINO block -> transformers'; what is not here keeps its name.
COMMON_KEYS: tuple[tuple[str, str], ...] = (
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"LAYER.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"LAYER.\1.attention.o_proj."),
    (r"blocks\.(\d+)\.", r"LAYER.\1."),
)


def dinov2_keys(source: Path, weights: Weights) -> Weights:
    """Weights of an official DINOv2 under the names of transformers' ``Dinov2Model``.

    Raises:
        DepthLMError: an attention layer's shape is not what it has to be.
    """
    names = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    return _mapped(source, weights, names, "encoder.layer", lambda key: key)


def dinov3_keys(source: Path, weights: Weights) -> Weights:
    """Weights of an official DINOv3 under the names of transformers' ``DINOv3ViTModel``.

    Raises:
        DepthLMError: its keys have a bias that is not masked, or its position periods are not those of base 100.
    """
    weights = dict(weights)
    periods = weights.pop("rope_embed.periods", None)
    if periods is not None:
        count = len(periods)
        usual = 100.0 ** (torch.arange(count, dtype=torch.float64) / count)
        if not torch.allclose(periods.double(), usual, rtol=1e-2):  # stored in bfloat16 in some releases
            raise DepthLMError(source, "has position periods of another base than 100", "give a student_depthmap.pt")
    for key in [key for key in weights if key.endswith("attn.qkv.bias_mask")]:
        mask = weights.pop(key).reshape(3, -1)
        if mask[1].any() or not (mask[0] == 1).all() or not (mask[2] == 1).all():
            raise DepthLMError(source, f"{key} is not 1 for q and v, 0 for k", "download it again", "wrong kind")
    if "mask_token" in weights:
        weights["mask_token"] = weights["mask_token"].reshape(1, 1, -1)
    names = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "storage_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    }
    gates = {"mlp.w1.": "mlp.gate_proj.", "mlp.w2.": "mlp.up_proj.", "mlp.w3.": "mlp.down_proj."}

    def gated(key: str) -> str:
        for old, new in gates.items():
            key = key.replace(old, new)
        return key

    mapped = _mapped(source, weights, names, "model.layer", gated)
    return {key: value for key, value in mapped.items() if not key.endswith("k_proj.bias")}  # masked: all zero


def _mapped(source: Path, weights: Weights, names: dict[str, str], layer: str, rename: Callable[[str], str]) -> Weights:
    out: Weights = {}
    for key, value in weights.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key):
            if value.shape[0] % 3:
                raise DepthLMError(source, f"{key} has {value.shape[0]} rows, no multiple of 3", "download it again")
            for name, third in zip("qkv", value.chunk(3), strict=True):
                out[f"{layer}.{found[1]}.attention.{name}_proj.{found[2]}"] = third
            continue
        new = names.get(key, key)
        for pattern, replacement in COMMON_KEYS:
            new = re.sub("^" + pattern, replacement.replace("LAYER", layer), new)
        out[rename(new)] = value
    return out


# What some releases of transformers call the attention of a DINOv2.
OLDER_NAMES = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}


def _as_installed(weights: Weights, expected: Mapping[str, Tensor]) -> Weights:
    """The weights under the names of the transformers that is installed."""
    if not any(".attention.attention.query." in key for key in expected):
        return weights
    out: Weights = {}
    for key, value in weights.items():
        new = key
        for name, older in OLDER_NAMES.items():
            new = new.replace(name, older)
        out[new] = value
    return out


def from_depth_map(source: Path, content: Mapping[str, Any]) -> tuple[SpatialEncoderConfig, Weights]:
    """Config and weights of a ``student_depthmap.pt``.

    Raises:
        DepthLMError: there is no DINOv3 under ``encoder.patch_encoder``.
    """
    prefix = "encoder.patch_encoder."
    weights = _tensors(source, content)
    backbone = _dinov3_config(source, _under(weights, prefix))
    config = SpatialEncoderConfig(
        backbone_config=backbone,
        num_tokens=DEPTH_MAP_TOKENS,
        heads={"kind": DEPTH_MAP, "layers": _hooked(backbone.num_hidden_layers)} | _decoder_sizes(weights),
        source={"kind": "student_depthmap", "licence": LICENCES["student_depthmap"]},
    )
    mapped = {f"backbone.{k}": v for k, v in dinov3_keys(source, _under(weights, prefix)).items()}
    for key, value in weights.items():
        if not key.startswith(prefix):
            mapped["heads." + re.sub(r"^encoder\.(?=upsample|fuse)", "", key)] = value
    return config, mapped


def _dinov3_config(source: Path, weights: Weights) -> DINOv3ViTConfig:
    """Config by the sizes of the weights."""
    patch, gate = weights.get("patch_embed.proj.weight"), weights.get("blocks.0.mlp.w1.weight")
    if patch is None or gate is None:
        mend = "give a student_pointmap.pt or a student_depthmap.pt"
        raise DepthLMError(source, "is of neither released kind", mend, "wrong kind")
    width, registers = int(patch.shape[0]), weights.get("storage_tokens")
    return DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=int(gate.shape[0]),
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        num_attention_heads=max(1, width // 64),
        patch_size=int(patch.shape[-1]),
        image_size=CROP_SIDE,
        hidden_act="silu",
        use_gated_mlp=True,
        layer_norm_eps=1e-5,
        rope_theta=100.0,
        num_register_tokens=0 if registers is None else int(registers.shape[1]),
    )


def _hooked(blocks: int) -> list[int]:
    """Hidden states that a depth map's decoder reads; of a tiny twin, those at the same heights, or the next above."""
    return [math.ceil(blocks * layer / HOOKED_OF) for layer in HOOKED]


def _decoder_sizes(weights: Weights) -> dict[str, int]:
    """Channels of the decoder, by its weights; where one is missing, the release's: `_exactly` tells all that is."""
    return {
        name: int(weights[key].shape[0]) if key in weights else usual for name, (key, usual) in DECODER_SIZES.items()
    }


def _under(weights: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _tensors(source: Path, content: Mapping[str, Any]) -> Weights:
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DepthLMError(source, f"{key!r} is a {type(value).__name__}, no weight", "give a student's checkpoint")
    return dict(content)


def _exactly(source: Path, weights: Weights, expected: Mapping[str, Tensor]) -> Weights:
    """The weights, contiguous, once they are exactly those expected.

    Raises:
        DepthLMError: with the first missing, unexpected and misshapen keys.
    """
    wrong = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": sorted(
            k for k in weights.keys() & expected.keys() if weights[k].shape != expected[k].shape
        ),
    }
    told = [
        f"{len(keys)} {what} ({', '.join(keys[:SHOWN_KEYS])}{', …' if len(keys) > SHOWN_KEYS else ''})"
        for what, keys in wrong.items()
        if keys
    ]
    if told:
        raise DepthLMError(source, f"its weights are not those of its kind: {'; '.join(told)}", "download it again")
    return {key: value.clone().contiguous() for key, value in weights.items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
