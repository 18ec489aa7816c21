"""Questions answered by transformers' own generation: the reference that every faster engine has to agree with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from depthlm.models.architectures import check_sizes, render_prompt

# How many of the likeliest tokens are told with an answer's log-probabilities.
TOP_TOKENS = 20


@dataclass(frozen=True)
class Answer:
    """An answer.

    Args:
        samples: other answers.
        tokens: (text, log-probability, the likeliest others) of each token; the one that ends the answer has no text.
        cut: whether the answer, or one of its samples, has not ended within the tokens that it may have.
    """

    text: str
    samples: tuple[str, ...] = ()
    tokens: tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...] = ()
    cut: bool = False


def left_padded(processor: Any) -> Any:
    """A copy of the processor for generation: answers of a batch begin in one column."""
    out = copy.deepcopy(processor)
    out.tokenizer.padding_side = "left"
    return out


def prompt_inputs(
    processor: Any, chats: Sequence[tuple[list[dict[str, Any]], Sequence[NDArray[np.uint8]]]]
) -> tuple[Any, list[tuple[int, int]]]:
    """A batch of prompts as tensors, and the (height, width) of each image as it was given.

    Args:
        processor: see `left_padded`.
        chats: messages up to where the answer begins, and their images (h, w, 3) uint8 RGB.
    """
    texts = [render_prompt(processor, messages) for messages, _ in chats]
    images = [[Image.fromarray(pixels) for pixels in found] for _, found in chats]
    # the template has written the special tokens that begin a prompt
    inputs = processor(text=texts, images=images or None, add_special_tokens=False, padding=True, return_tensors="pt")
    return inputs, [(image.height, image.width) for row in images for image in row]


@torch.no_grad()
def answer_batch(
    model: Any,
    processor: Any,
    chats: Sequence[tuple[list[dict[str, Any]], Sequence[NDArray[np.uint8]]]],
    max_tokens: int,
    *,
    exact: bool = True,
    samples: int = 1,
    logprobs: bool = False,
    **options: Any,
) -> list[Answer]:
    """Answer a batch of chats, greedily.

    Args:
        chats, processor: see `prompt_inputs`.
        exact: refuse images that the processor resizes: canonical ones.
        samples: draw so many answers of each at temperature 1 instead.
        logprobs: tell the tokens' log-probabilities.
        options: of ``model.generate``.

    Raises:
        DepthLMError: the processor resized an image, or the chat template leaves out a text.
    """
    inputs, sizes = prompt_inputs(processor, chats)
    if exact:
        check_sizes(processor, inputs, sizes)
    drawn = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "num_return_sequences": samples}
    out = model.generate(
        **inputs.to(model.device),
        max_new_tokens=max_tokens,
        repetition_penalty=1.0,  # a model's own settings may punish a digit that was said before
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=logprobs,
        **(drawn if samples > 1 else {"do_sample": False}),
        **options,
    )
    ids = out.sequences[:, inputs["input_ids"].size(1) :]
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    cut = _cut(ids, options.get("eos_token_id", model.generation_config.eos_token_id), max_tokens)
    if samples > 1:
        starts = range(0, len(texts), samples)
        return [Answer(texts[i], tuple(texts[i : i + samples]), cut=any(cut[i : i + samples])) for i in starts]
    tokens = _tokens(processor.tokenizer, ids, out.logits) if logprobs else [()] * len(texts)
    return [Answer(text, (), *more) for text, *more in zip(texts, tokens, cut, strict=True)]


def _cut(ids: torch.Tensor, ends: int | Sequence[int] | None, max_tokens: int) -> list[bool]:
    """Of each row of answer tokens, whether it took all that it may have without one that ends an answer."""
    known = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    return [len(row) >= max_tokens and not known.intersection(row) for row in ids.tolist()]


def _tokens(tokenizer: Any, ids: torch.Tensor, logits: Sequence[torch.Tensor]) -> list[tuple[Any, ...]]:
    special = set(tokenizer.all_special_ids)
    scores = torch.stack([step.float().log_softmax(-1) for step in logits], 1)  # (batch, tokens, vocabulary)
    best, which = scores.topk(min(TOP_TOKENS, scores.size(-1)))
    out = []
    for row, said in enumerate(ids.tolist()):
        told = []
        for i, token in enumerate(said):
            others = tuple(
                (tokenizer.decode([other]), float(p))
                for other, p in zip(which[row, i].tolist(), best[row, i].tolist(), strict=True)
            )
            ended = token in special
            told.append(("" if ended else tokenizer.decode([token]), float(scores[row, i, token]), others))
            if ended:
                break
        out.append(tuple(told))
    return out
