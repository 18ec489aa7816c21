"""A depth ViT as an encoder of images: transformers' own DINOv2 or DINOv3, with what Metric Anything adds to it.

Source: Metric Anything (Ma et al. 2026), section 4.2.6: the pretrained ViT's tokens are the "3D features".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from depthlm.errors import DepthLMError
from depthlm.spatial.config import BACKBONES, DEPTH_MAP, POINT_MAP, SpatialEncoderConfig, settings_alone
from depthlm.spatial.depth_map import CROPS, CropFeatures, DepthMapHeads, crops, metres
from depthlm.spatial.point_map import AffinePoints, PointMapHeads


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of images of one size.

    Args:
        maps: of each of the config's layers, (B, C, rows, columns), after the backbone's final norm.
        summary: (B, C), the last layer's class token.
    """

    maps: list[Tensor]
    summary: Tensor


NANO_ENCODER = Path(__file__).parents[1] / "assets" / "nano_encoder"
# A name that means: the nano encoder with random weights.
FROM_SCRATCH = "nano-random"
# So many crops of a depth map go through the backbone at a time: all its states of them are in memory.
CROPS_AT_ONCE = 5


class SpatialEncoder(PreTrainedModel):
    """Images -> feature tokens, and point maps or depth where the checkpoint has the heads.

    It stays in evaluation mode while all its weights are frozen, whatever mode the model around it is in: some
    backbones move their position codes about at random in training.
    """

    config_class = SpatialEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "images"
    _no_split_modules = ["Dinov2Layer", "Dinov2WithRegistersLayer", "DINOv3ViTLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: SpatialEncoderConfig) -> None:
        super().__init__(config)
        # in the dtype that is loaded, not the one in which the backbone was once stored
        self.backbone = AutoModel.from_config(config.backbone_config, dtype=torch.get_default_dtype())
        if config.position_offset is not None:
            embeddings = self.backbone.embeddings
            embeddings.interpolate_pos_encoding = MethodType(_positions_by_scale(config.position_offset), embeddings)
        if config.heads_kind == POINT_MAP:
            self.heads = PointMapHeads(config.heads, config.backbone_config.hidden_size, len(config.layers))
        elif config.heads_kind == DEPTH_MAP:
            self.heads = DepthMapHeads(config.heads, config.backbone_config)
        self.post_init()

    @property
    def title(self) -> str:
        """What it is called where something is wrong with it."""
        return f"spatial encoder {(self.config.source or {}).get('name', '')}".rstrip()

    @property
    def trains(self) -> bool:
        """Whether any of its weights is not frozen."""
        return any(weight.requires_grad for weight in self.parameters())

    def train(self, mode: bool = True) -> SpatialEncoder:
        return super().train(mode and self.trains)

    def forward(self, images: Tensor) -> Tensor:
        """Feature tokens of images of one size.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].

        Returns:
            (B, rows * columns, width), row by row over the image; `SpatialEncoderConfig.grid` tells the sides.
        """
        maps = self.encode(images).maps
        chosen = maps if self.config.features == "concat" else maps[-1:]
        return torch.cat([feature.flatten(2).transpose(1, 2) for feature in chosen], dim=-1)

    def encode(self, images: Tensor) -> Encoded:
        """All layers' maps and the class token of images (B, 3, H, W), RGB in [0, 1], resized to the patch grid.

        Computed in the weights' own dtype, whatever autocast is on: features that are kept have to be the same for all.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._encode(images)

    def _encode(self, images: Tensor) -> Encoded:
        grid = self.config.grid(*images.shape[-2:])
        size = (grid[0] * self.config.patch, grid[1] * self.config.patch)
        pixels = images.float()
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        states = self._states(pixels)
        normed = [self._norm(states[layer]) for layer in self.config.layers]
        return Encoded([_map(state, grid) for state in normed], normed[-1][:, 0])

    def _states(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The backbone's hidden states of pixels (B, 3, H, W) that fill its patches: RGB in [0, 1], float32."""
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.config.image_mean, self.config.image_std))
        return self.backbone(((pixels - mean) / std).to(self.dtype), output_hidden_states=True).hidden_states

    @property
    def _norm(self) -> nn.Module:
        return self.backbone.layernorm if hasattr(self.backbone, "layernorm") else self.backbone.norm

    def points(self, images: Tensor) -> AffinePoints:
        """The heads' point map of images (B, 3, H, W), RGB in [0, 1], at the images' own size.

        Raises:
            DepthLMError: this encoder has no heads.
        """
        if self.config.heads_kind != POINT_MAP:
            mend = "convert a Metric Anything student_pointmap.pt with its heads"
            raise DepthLMError(self.title, "has no point map heads", mend, "no heads")
        encoded = self.encode(images)
        return self.heads(encoded.maps, encoded.summary, tuple(images.shape[-2:]))

    @torch.no_grad()
    def depth(self, images: Tensor, focal: float | Tensor) -> Tensor:
        """The heads' metric depth of images whose focal length is known.

        Whatever the images' size, 35 crops of each go through the backbone, a few at a time; nothing of it is trained.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].
            focal: focal length along x, px of these images; one for all, or (B,).

        Returns:
            (B, H, W) float32, metres along the principal axis, 0.001 to 1000; the last means: or farther.

        Raises:
            DepthLMError: this encoder has no depth map heads.
        """
        if self.config.heads_kind != DEPTH_MAP:
            mend = "convert a Metric Anything student_depthmap.pt with its decoder"
            raise DepthLMError(self.title, "has no depth map heads", mend, "no heads")
        with torch.autocast(images.device.type, enabled=False):
            inverse = torch.cat([self.heads(self._crop_features(image)) for image in images.float().split(1)])
        return metres(inverse, focal, (images.shape[2], images.shape[3]))

    def _crop_features(self, image: Tensor) -> CropFeatures:
        """Of the crops of an image (1, 3, H, W), as depth map heads read them."""
        side = self.heads.side // self.config.patch
        grid, done = (side, side), 0
        final: list[Tensor] = []
        hooked: list[list[Tensor]] = [[] for _ in self.heads.layers]
        for batch in crops(image, self.heads.side).split(CROPS_AT_ONCE):
            states = self._states(batch)
            final.append(_map(self._norm(states[-1]), grid))
            fine = max(0, CROPS[0] - done)  # the finest scale comes first, and is hooked alone
            for kept, layer in zip(hooked, self.heads.layers, strict=True):
                kept.append(_map(states[layer][:fine], grid))
            done += len(batch)
        return CropFeatures(torch.cat(final), [torch.cat(kept) for kept in hooked])

    def drop_heads(self) -> None:
        """Leave the features alone: the heads take memory, and fit no encoder that is trained further."""
        if self.config.heads is not None:
            self.config.heads = None
            del self.heads


def _map(state: Tensor, grid: tuple[int, int]) -> Tensor:
    """A hidden state's patch tokens, its last ones, as a map (B, C, rows, columns)."""
    return state[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


def nano_encoder(num_tokens: int = 192) -> SpatialEncoder:
    """A DINOv2 of two million parameters with random weights; about 192 patches are a 4:3 image of 12 x 16."""
    backbone = {
        "model_type": "dinov2",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "mlp_ratio": 4,
        "patch_size": 14,
        "image_size": 14 * 14,
        "layerscale_value": 1.0,
        "use_mask_token": False,
    }
    return SpatialEncoder(SpatialEncoderConfig(backbone_config=backbone, num_tokens=num_tokens))


def _positions_by_scale(offset: float) -> Any:
    """DINOv2's position embedding on any grid, by scale factors of (side + offset) / own side, bicubic."""

    def interpolate_pos_encoding(self: nn.Module, embeddings: Tensor, height: int, width: int) -> Tensor:
        stored = self.position_embeddings
        side = math.isqrt(stored.shape[1] - 1)
        rows, columns = height // self.patch_size, width // self.patch_size
        if (rows, columns) == (side, side):
            return stored
        grid = stored[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        scale = ((rows + offset) / side, (columns + offset) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([stored[:, :1], grid.flatten(2).transpose(1, 2).to(stored.dtype)], dim=1)

    return interpolate_pos_encoding


def resolve_encoder(name_or_path: str | Path) -> str:
    """The folder, or the hub name, that a user's word means; "nano" is the trained nano encoder of the package.

    Raises:
        DepthLMError: it is a released checkpoint, or written like a path where there is no such folder.
    """
    from depthlm.models.loading import resolve

    if str(name_or_path) == "nano":
        return str(NANO_ENCODER)
    if Path(name_or_path).is_file():
        mend = "depthlm convert metric-anything FILE --out DIR"
        raise DepthLMError(name_or_path, "is a checkpoint as it was released", mend, "not an encoder")
    return resolve(name_or_path)


def load_encoder(name_or_path: str | Path, dtype: str | torch.dtype = "auto") -> SpatialEncoder:
    """A spatial encoder in evaluation mode, all its weights frozen.

    Args:
        name_or_path: a folder made by ``depthlm convert``, or a DINOv2 or DINOv3 model of transformers (a folder or a
            hub name), of which the last layer is read; "nano": the package's own; "nano-random": its untrained twin,
            always the same, to compare with.
        dtype: of the weights; "auto" keeps the stored one.

    Raises:
        DepthLMError: no such model, one of another kind, or weights that do not fit.
    """
    if str(name_or_path) == FROM_SCRATCH:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nano_encoder()
    else:
        model = _from_folder(resolve_encoder(name_or_path), dtype)
    path = Path(name_or_path).expanduser()
    named = {"name": path.resolve().name if path.is_dir() else str(name_or_path)}
    model.config.source = (model.config.source or {}) | named
    return model.requires_grad_(False).eval()


def _from_folder(name: str, dtype: str | torch.dtype) -> SpatialEncoder:
    from safetensors import SafetensorError

    from depthlm.models.loading import not_read

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise not_read(name, error, str(error).splitlines()[0], "give an encoder's folder") from error
    own = config.model_type == SpatialEncoderConfig.model_type
    if not own and config.model_type not in BACKBONES:
        reason = f"is a {config.model_type!r}, no spatial encoder"
        raise DepthLMError(name, reason, "convert one, or give a " + ", ".join(BACKBONES), "not an encoder")
    try:
        if own:
            model, told = SpatialEncoder.from_pretrained(
                name, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
        else:
            backbone, told = AutoModel.from_pretrained(
                name, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
            model = SpatialEncoder(SpatialEncoderConfig(backbone_config=settings_alone(config)))
            model.backbone = backbone
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DepthLMError(name, f"cannot be loaded: {str(error).splitlines()[0]}", "convert it again") from error
    if lacking := sorted(told["missing_keys"]):
        reason = f"{len(lacking)} weights are missing, the first: {', '.join(lacking[:3])}"
        raise DepthLMError(name, reason, "convert it again", "not an encoder")
    return model


AutoModel.register(SpatialEncoderConfig, SpatialEncoder, exist_ok=True)
