"""Where the supported vision-language models differ: their layers' names, their images' sizes, their chat format.

Two forms are known by what they have, not by a list of names: Qwen's (Qwen2.5-VL, Qwen3-VL), whose vision tower merges
squares of patches and ends in the language model's width, and Pixtral's in LLaVA, with a projector of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from depthlm.errors import DepthLMError

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

# The linear layers that LoRA adapts, by regular expressions that match whole names; plain names of the language model's
# would also hit the vision tower's.
LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION_LAYERS = (
    r".*(visual\.blocks|vision_tower\.transformer\.layers)\.\d+\..*"
    r"\.(qkv|proj|q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|linear_fc1|linear_fc2)"
)
MERGER_LAYERS = (
    r".*(visual\.merger|visual\.deepstack_merger_list\.\d+|multi_modal_projector)"
    r"\.(mlp\.0|mlp\.2|linear_fc1|linear_fc2|linear_1|linear_2)"
)

SUPPORTED = "use a Qwen2.5-VL, a Qwen3-VL, or a Pixtral in its LLaVA form"


def vision_modules(model: Any) -> list[nn.Module]:
    """All that comes before the language model: the vision tower, and the projector where it is not a part of it.

    Args:
        model: as loaded, with or without an adapter.

    Raises:
        DepthLMError: an architecture of another form.
    """
    base = inner_model(model)
    if hasattr(base, "visual"):
        return [base.visual]
    if hasattr(base, "vision_tower") and hasattr(base, "multi_modal_projector"):
        return [base.vision_tower, base.multi_modal_projector]
    raise DepthLMError(type(base).__name__, "has no vision tower of a known form", SUPPORTED, "unknown architecture")


def freeze_vision(model: Any) -> None:
    """Keep all that comes before the language model as it is.

    Raises:
        DepthLMError: an architecture of another form.
    """
    for module in vision_modules(model):
        module.requires_grad_(False)


def visual_tokens(output: Any) -> torch.Tensor:
    """(tokens, width) row by row over each image, from what the last of `vision_modules` gives."""
    tokens = getattr(output, "pooler_output", output)
    return tokens.reshape(-1, tokens.shape[-1])


def visual_width(config: Any) -> int:
    """Width of `visual_tokens`: Qwen's towers name theirs, a projector ends in the language model's."""
    return int(getattr(config.vision_config, "out_hidden_size", config.text_config.hidden_size))


def language_model(model: Any) -> nn.Module:
    """The language model without its head."""
    return inner_model(model).language_model


def inner_model(model: Any) -> Any:
    """The model under the language model's head, and under an adapter."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model


def has_unbroken_images(processor: Any) -> bool:
    """Whether an image's tokens are one unbroken run, as Qwen's are; Pixtral's rows end in a token of their own."""
    return "image_grid_thw" in processor.image_processor.model_input_names


def token_side(processor: Any) -> int:
    """Side of the square of pixels under one visual token, px; canonical images' sides are multiples of it.

    Raises:
        DepthLMError: a processor of another form.
    """
    images = processor.image_processor
    if has_unbroken_images(processor):
        return int(images.patch_size * images.merge_size)
    if "image_sizes" in images.model_input_names and hasattr(processor, "spatial_merge_size"):
        return int(processor.patch_size * processor.spatial_merge_size)
    raise DepthLMError(type(processor).__name__, "is of no known form", SUPPORTED, "unknown architecture")


def processed_sizes(processor: Any, inputs: Any) -> list[tuple[int, int]]:
    """(height, width) in px of each image as the model gets it.

    Args:
        inputs: what the processor gave.
    """
    if "image_grid_thw" in inputs:
        patch = processor.image_processor.patch_size
        return [(rows * patch, columns * patch) for _, rows, columns in inputs["image_grid_thw"].tolist()]
    return [(h, w) for h, w in inputs["image_sizes"].tolist()]


def check_sizes(processor: Any, inputs: Any, sizes: Sequence[tuple[int, ...]]) -> None:
    """Refuse images that the processor resized.

    Args:
        inputs: what the processor made of them.
        sizes: (height, width) of each as it was given, px.

    Raises:
        DepthLMError: naming the first one's two sizes.
    """
    for (h, w), given in zip(processed_sizes(processor, inputs), sizes, strict=True):
        if given != (h, w):
            raise DepthLMError(
                "image processor",
                f"resized a canonical {given[1]}x{given[0]} image to {w}x{h}: "
                "the focal length would not be the one promised",
                "use this model's profile, or raise the processor's max_pixels to the profile's",
            )


def render_prompt(processor: Any, messages: Sequence[dict[str, Any]]) -> str:
    """A chat as the model's own template writes it, up to where the answer begins.

    The template of the first Pixtral releases reads a text from the key ``content`` of its part, and takes answers and
    system prompts as bare strings; what it does not find it leaves out in silence. Where the usual form does not come
    through whole, that form is tried.

    Raises:
        DepthLMError: the template fails, or leaves out a text, in both forms.
    """
    texts = [part["text"].strip() for message in messages for part in message["content"] if part["type"] == "text"]
    reason = ""
    for form in (list(messages), [_as_first_pixtral(message) for message in messages]):
        try:
            prompt = processor.apply_chat_template(form, tokenize=False, add_generation_prompt=True)
        except (TypeError, ValueError, TemplateError) as error:
            reason = reason or f"fails: {error}"
            continue
        missing = [text for text in texts if text not in prompt]
        if not missing:
            if form[0] is not messages[0]:
                _warn_of_template()
            return prompt
        reason = reason or f"leaves out {missing[0]!r}"
    raise DepthLMError("chat template", reason, "use the model's own template")


def _as_first_pixtral(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] != "user":
        return {**message, "content": "".join(part["text"] for part in message["content"])}
    return {
        **message,
        "content": [
            part | ({"content": part["text"]} if part["type"] == "text" else {}) for part in message["content"]
        ],
    }


@cache
def _warn_of_template() -> None:
    logger.warning(
        "the model's chat template does not read texts in the OpenAI form: a server would leave out the questions "
        "unless it is given another template (vLLM: --chat-template)"
    )
