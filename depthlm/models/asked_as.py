"""How a model wants to be asked: what its folder says, else what its architecture and name tell."""

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
    "pixtral": "pixtral",
}
ARCHITECTURES = {
    "qwen2_5_vl": "qwen2.5-vl-base",
    "depthlm_qwen2_5_vl": "qwen2.5-vl-base",
    "qwen3_vl": "qwen3-vl-base",
    "llava": "pixtral",
}


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
    for model in models:
        folder = Path(model).expanduser()
        name = "".join(c for c in folder.name.lower() if c.isalnum())
        for part, profile in NAMES.items():
            if part in name:
                return profile, f"by the name {folder.name}"
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if kind in ARCHITECTURES:
            return ARCHITECTURES[kind], f"by its architecture, {kind}"
    return GENERAL, "unknown model: the general profile"
