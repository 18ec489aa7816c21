"""How a model wants to be asked: what its folder says, else what its architecture tells, else its name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from depthlm.errors import DepthLMError
from depthlm.profiles import PROFILES

# Written beside a trained model; transformers, PEFT and vLLM leave it alone.
ASKED_AS_FILE = "depthlm.json"
GENERAL = "general"
# Part of a model's name, in lower case without punctuation -> its profile; the first that fits.
NAMES = {
    "depthlm": "depthlm",
    "qwen25vl": "qwen2.5-vl-base",
    "qwen3vl": "qwen3-vl-base",
    "pixtral": "pixtral-base",
}
# Of config.json; a llava whose images Pixtral sees is told by LLAVA_PIXTRAL.
ARCHITECTURES = {
    "qwen2_5_vl": "qwen2.5-vl-base",
    "depthlm_qwen2_5_vl": "qwen2.5-vl-base",
    "qwen3_vl": "qwen3-vl-base",
}
LLAVA_PIXTRAL = "llava with Pixtral's vision"


@dataclass(frozen=True)
class AskedAs:
    """How a model was asked while it was trained; see `depthlm.dataset.DataConfig`."""

    profile: str
    intrinsics: str = "normalize"
    pointing: str = "marker"

    def save(self, folder: Path) -> None:
        """Write it beside the model."""
        (folder / ASKED_AS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_asked_as(folder: str | Path) -> AskedAs | None:
    """What a model's or an adapter's folder says; None where it says nothing.

    Raises:
        DepthLMError: the file is no such note, or names an unknown profile.
    """
    path = Path(folder).expanduser() / ASKED_AS_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = AskedAs(**{key: str(value) for key, value in content.items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DepthLMError(path, f"can't be read: {error}", "restore it, or take it away and name --profile") from error
    PROFILES.get(found.profile)
    return found


def profile_of(*models: str | Path) -> tuple[str, str]:
    """Name of the profile by which a model is to be asked, and how that is known, in words.

    Args:
        models: folders or names, the adapter's before its base's.
    """
    for model in models:
        if (found := read_asked_as(model)) is not None:
            return found.profile, f"as {Path(model).name}/{ASKED_AS_FILE} says"
    folders = [Path(model).expanduser() for model in models]
    for folder in folders:
        if (kind := _architecture(folder)) is not None:
            return _by_architecture(kind, folder.name)
    for folder in reversed(folders):  # the base's name tells more than the adapter's
        if (profile := _by_name(folder.name)) is not None:
            return profile, f"by the name {folder.name}"
    return GENERAL, "unknown model"


def _architecture(folder: Path) -> str | None:
    """What config.json says; None where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, vision = config.get("model_type"), config.get("vision_config")
    except (OSError, ValueError, AttributeError):
        return None
    if kind == "llava" and isinstance(vision, dict) and vision.get("model_type") == "pixtral":
        return LLAVA_PIXTRAL
    return str(kind)


def _by_architecture(kind: str, name: str) -> tuple[str, str]:
    """What is asked of an architecture; the released DepthLM differs from an untuned Pixtral by its name alone."""
    if kind == LLAVA_PIXTRAL and _by_name(name) == "depthlm":
        return "depthlm", f"by the name {name} and its architecture, {kind}"
    if kind == LLAVA_PIXTRAL:
        return "pixtral-base", f"by its architecture, {kind}"
    if kind in ARCHITECTURES:
        return ARCHITECTURES[kind], f"by its architecture, {kind}"
    return GENERAL, f"unknown architecture {kind}"


def _by_name(name: str) -> str | None:
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next((profile for part, profile in NAMES.items() if part in plain), None)
