"""How a model wants to be asked: its focal length, marker and image budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        min_pixels: smallest canonical image, px; the processor enlarges a smaller one.
        multiple: of the images' sides, px: patch times merge.
        max_side: longest side, px, above which the processor shrinks an image; None: none.
        instruction: said after each question, ``{unit}`` in words; empty for models that were trained on the questions.
        text_first: the question comes before the images.
        max_tokens: longest answer.
        note: what a reader of its scores has to know, where images may be resized on their way to the model.
    """

    name: str
    focal: float
    max_pixels: int
    marker: MarkerStyle
    system: str = ""
    min_pixels: int = CanonicalSpec.min_pixels
    multiple: int = CanonicalSpec.multiple
    max_side: int | None = None
    instruction: str = ""
    text_first: bool = False
    max_tokens: int = 256
    note: str = ""

    def canonical(self, intrinsics: Intrinsics) -> CanonicalSpec:
        """Focal length and size of the images under a mode; without normalisation they stay at native scale."""
        focal = self.focal if intrinsics in ("normalize", "both") else None
        return CanonicalSpec(focal, self.min_pixels, self.max_pixels, self.multiple, self.max_side)


# DepthLM: 1000 px for Qwen2.5-VL, 750 px for the Pixtral form; a red arrow with a 5 px shaft.
QWEN2_5_VL = Profile("qwen2.5-vl", focal=1000.0, max_pixels=2048 * 28 * 28, marker=MarkerStyle())
# Pixtral's processor shrinks an image with a side of more than 1024 px: 64 patches of 16 px, which are not merged.
PIXTRAL = Profile("pixtral", focal=750.0, max_pixels=1024 * 1024, marker=MarkerStyle(), multiple=16, max_side=1024)
# DepthLM did not train Qwen3-VL: as many visual tokens as Qwen2.5-VL's, at its focal length. Patches of 16 px are
# merged in squares of two, and the processor enlarges an image of less than 256 x 256 px.
QWEN3_VL = Profile(
    "qwen3-vl", focal=1000.0, max_pixels=2048 * 32 * 32, marker=MarkerStyle(), min_pixels=256 * 256, multiple=32
)
# At this size a 1 px arrow is not learnt; a thick one is.
NANO = Profile("nano", focal=128.0, max_pixels=35 * 28 * 28, marker=MarkerStyle("arrow", 12, 3, 6))

# A model that was not trained on the questions has to be told what an answer looks like.
NUMBER_ALONE = "Answer with one number, in {unit}, and nothing else."
QWEN2_5_VL_BASE = replace(QWEN2_5_VL, name="qwen2.5-vl-base", instruction=NUMBER_ALONE)
QWEN3_VL_BASE = replace(QWEN3_VL, name="qwen3-vl-base", instruction=NUMBER_ALONE)
PIXTRAL_BASE = replace(PIXTRAL, name="pixtral-base", instruction=NUMBER_ALONE)
# The released DepthLM: Pixtral's form, trained to think and answer between tags.
DEPTHLM = replace(
    PIXTRAL,
    name="depthlm",
    instruction="Think between <think> and </think>, then give the number alone, in {unit}, between <answer> and "
    "</answer>.",
)
# Hosted models shrink what is over 1.5 to 2 thousand px on a side: this stays below, at the commonest focal length.
GENERAL = Profile(
    "general",
    focal=1000.0,
    max_pixels=1344 * 1344,
    marker=MarkerStyle(),
    max_side=1512,
    instruction=NUMBER_ALONE,
    max_tokens=1024,
    note="the provider may resize images: the focal length that the model sees is not known",
)

PROFILES: Registry[Profile] = Registry(
    "profile",
    {
        "qwen2.5-vl": "depthlm.profiles:QWEN2_5_VL",
        "qwen2.5-vl-base": "depthlm.profiles:QWEN2_5_VL_BASE",
        "qwen3-vl": "depthlm.profiles:QWEN3_VL",
        "qwen3-vl-base": "depthlm.profiles:QWEN3_VL_BASE",
        "pixtral": "depthlm.profiles:PIXTRAL",
        "pixtral-base": "depthlm.profiles:PIXTRAL_BASE",
        "depthlm": "depthlm.profiles:DEPTHLM",
        "nano": "depthlm.profiles:NANO",
        "general": "depthlm.profiles:GENERAL",
    },
    "depthlm.profiles",
)
