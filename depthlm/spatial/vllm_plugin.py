"""What vLLM calls in each of its processes (entry point ``vllm.general_plugins``): names, and no model."""

from __future__ import annotations

ARCHITECTURE = "SpatialQwen2_5_VLForConditionalGeneration"


def register() -> None:
    """Make the configuration known to transformers and the architecture to vLLM; as often as it is called."""
    from vllm import ModelRegistry

    import depthlm.spatial.config  # noqa: F401 (registers)

    ModelRegistry.register_model(ARCHITECTURE, f"depthlm.spatial.vllm_model:{ARCHITECTURE}")
