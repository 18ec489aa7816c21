"""How a model wants to be asked: its focal length, marker and image budget."""

from __future__ import annotations

from dataclasses import dataclass

from depthlm.canonical import CanonicalSpec
from depthlm.markers import MarkerStyle
from depthlm.prompt import Intrinsics
from depthlm.registry import Registry


@dataclass(frozen=True)
class Profile:
    """How a family of models is asked.

    Args:
        name: its key.
        focal: unified focal length of the canonical images, px.
        max_pixels: largest canonical image, px.
        marker: what points at a pixel.
        system: system prompt, empty for the chat template's own.
    """

    name: str
    focal: float
    max_pixels: int
    marker: MarkerStyle
    system: str = ""

    def canonical(self, intrinsics: Intrinsics) -> CanonicalSpec:
        """Focal length and size of the images under a mode; without normalisation they stay at native scale."""
        focal = self.focal if intrinsics in ("normalize", "both") else None
        return CanonicalSpec(focal=focal, max_pixels=self.max_pixels)


# DepthLM: 1000 px for Qwen2.5-VL, 750 px for the Pixtral form; a red arrow with a 5 px shaft.
QWEN2_5_VL = Profile("qwen2.5-vl", focal=1000.0, max_pixels=2048 * 28 * 28, marker=MarkerStyle())
PIXTRAL = Profile("pixtral", focal=750.0, max_pixels=2048 * 28 * 28, marker=MarkerStyle())
# At this size a 1 px arrow is not learnt; a thick one is.
NANO = Profile("nano", focal=128.0, max_pixels=35 * 28 * 28, marker=MarkerStyle("arrow", 12, 3, 6))

PROFILES: Registry[Profile] = Registry(
    "profile",
    {
        "qwen2.5-vl": "depthlm.profiles:QWEN2_5_VL",
        "pixtral": "depthlm.profiles:PIXTRAL",
        "nano": "depthlm.profiles:NANO",
    },
    "depthlm.profiles",
)
