"""Features of a frozen encoder kept on disk, by the content of image and encoder: an image is encoded once, ever."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthlm.errors import DepthLMError
from depthlm.spatial.config import settings_alone

if TYPE_CHECKING:
    from depthlm.spatial.encoder import SpatialEncoder

NAME = "features"


class FeatureCache:
    """Called with an encoder and images, it gives what the encoder would, from disk where it was computed before.

    Images are known by their 8-bit pixels, encoders by weights, settings and dtype: two encoders, or one that was
    changed, share nothing. Several processes may use one folder. Equal images of one call are encoded once.

    Args:
        folder: made if absent; a subfolder for each encoder.
        encoder: frozen.

    Raises:
        DepthLMError: the encoder is not frozen, or the folder can't be made.
    """

    def __init__(self, folder: str | Path, encoder: SpatialEncoder) -> None:
        if encoder.trains:
            raise DepthLMError("spatial_cache", "the encoder is trained: its features change", "freeze it")
        self.folder = Path(folder).expanduser() / fingerprint(encoder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DepthLMError(self.folder, f"can't be made: {error.strerror}", "give another spatial_cache") from error
        self.found = self.made = 0

    def __call__(self, encoder: SpatialEncoder, images: Tensor) -> Tensor:
        """Feature tokens (B, n, width) of images (B, 3, H, W), RGB in [0, 1]."""
        keys = [_digest(image) for image in (images * 255).round().to(torch.uint8).cpu()]
        known = {key: self._load(key) for key in dict.fromkeys(keys)}
        new = [key for key, tokens in known.items() if tokens is None]
        self.found, self.made = self.found + len(keys) - len(new), self.made + len(new)
        if new:
            made = encoder(images[[keys.index(key) for key in new]])
            for key, tokens in zip(new, made, strict=True):
                known[key] = tokens
                self._save(key, tokens)
        return torch.stack([known[key].to(images.device) for key in keys])  # type: ignore[union-attr]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _load(self, key: str) -> Tensor | None:
        path = self._path(key)
        try:
            return load_file(path)[NAME]
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError):  # another kind of file, or a disk that lost it: made again
            path.unlink(missing_ok=True)
            return None

    def _save(self, key: str, tokens: Tensor) -> None:
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{key}.{os.getpid()}.part")
        save_file({NAME: tokens.detach().cpu().contiguous()}, part)
        part.replace(path)


def fingerprint(encoder: SpatialEncoder) -> str:
    """Of an encoder's weights, settings and dtype."""
    config = {name: value for name, value in settings_alone(encoder.config).items() if name != "source"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


def _digest(image: Tensor) -> str:
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=20)
    digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()
