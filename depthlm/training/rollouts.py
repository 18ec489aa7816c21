"""What GRPO's rollouts need for images to arrive in vLLM as the trainer sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from depthlm.errors import DepthLMError
from depthlm.models.architectures import has_unbroken_images


def one_per_image(ids: Sequence[int], image_token: int) -> list[int]:
    """Token ids with each run of image tokens collapsed to its first: the form that vLLM expands itself."""
    return [token for i, token in enumerate(ids) if token != image_token or i == 0 or ids[i - 1] != image_token]


class UnexpandedPrompts:
    """A ``vllm.LLM`` that takes prompts of expanded image tokens.

    TRL's colocate mode hands over ids in which each image already has all its tokens, together with the image; vLLM
    expands them once more and says nothing, so that answers would be given to another prompt than the one that is
    trained on (TRL 1.16, vLLM 0.31; tests/recipes/test_vllm_rollouts.py shows both).
    """

    def __init__(self, llm: Any, image_token: int) -> None:
        self._llm, self._image_token = llm, image_token

    def generate(self, prompts: Sequence[Mapping[str, Any]], *args: Any, **kw: Any) -> Any:
        short = [
            {**prompt, "prompt_token_ids": one_per_image(prompt["prompt_token_ids"], self._image_token)}
            if prompt.get("multi_modal_data")
            else prompt
            for prompt in prompts
        ]
        return self._llm.generate(short, *args, **kw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


def check_colocated(processor: Any) -> None:
    """Refuse a model whose image tokens are not one unbroken run an image.

    Raises:
        DepthLMError: such as Pixtral's, with a token at the end of each row.
    """
    if not has_unbroken_images(processor):
        raise DepthLMError(
            "vllm_mode colocate", f"does not take the images of a {type(processor).__name__}", "use vllm_mode server"
        )
