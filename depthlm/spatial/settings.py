"""What a base model gets beside itself, and the note of it in an adapter's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from depthlm.errors import DepthLMError
from depthlm.models.loading import DTYPES

SPATIAL_FILE = "spatial.json"
# What PEFT trains whole and saves beside LoRA.
FUSION = "fusion"


@dataclass(frozen=True)
class SpatialSettings:
    """What a base model gets beside itself.

    Args:
        encoder: folder or hub name, as `load_encoder` takes it.
        width, heads: of the fusion; None: those of the base's vision tower.
        gate: whether the fused model begins as exactly its base, see `SpatialFusion`.
        dtype: of the frozen encoder's weights; "auto": the base's.
        fingerprint: of the encoder that an adapter was trained with; "" before it is known.

    Raises:
        DepthLMError: one of them is none.
    """

    encoder: str
    width: int | None = None
    heads: int | None = None
    gate: bool = True
    dtype: str = "auto"
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name in ("width", "heads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise DepthLMError(f"spatial_{name}", f"{value!r} is no number from 1 on", "leave it out")
        if self.dtype not in DTYPES:
            raise DepthLMError("spatial_dtype", f"{self.dtype!r} is not known", "one of " + ", ".join(DTYPES))
        if not isinstance(self.encoder, str) or not isinstance(self.gate, bool):
            raise DepthLMError("spatial_encoder", "is no name, or its gate neither true nor false", "correct it")

    def save(self, folder: Path) -> None:
        """Note them in an adapter's folder."""
        (folder / SPATIAL_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def of_adapter(cls, folder: Path) -> SpatialSettings | None:
        """Those noted in an adapter's folder, if there are any.

        Raises:
            DepthLMError: the note can't be read.
        """
        path = folder / SPATIAL_FILE
        if not path.is_file():
            return None
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: noted[field.name] for field in fields(cls) if field.name in noted})
        except (ValueError, TypeError, AttributeError) as error:
            raise DepthLMError(path, f"can't be read: {error}", "train the adapter again") from error
