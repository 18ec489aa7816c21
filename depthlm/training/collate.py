"""Samples -> one batch: the very tokens that generation sees, with labels on the answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from depthlm.errors import DepthLMError
from depthlm.models.architectures import check_sizes, render_prompt, token_side
from depthlm.sample import Sample
from depthlm.training.dense_targets import IGNORED, answer_targets, dense_targets

IMAGE_TYPE = 1  # in mm_token_type_ids; without it Qwen's models fall back to one-dimensional positions, silently


class Collator:
    """Turns samples into what the processor's model takes: Qwen2.5-VL, Qwen3-VL, or Pixtral in its LLaVA form.

    Every conversation is rendered turn by turn by the model's own chat template, its images and first prompt go through
    the model's own processor, and each later prompt and each answer is tokenized on its own, as generation does: so the
    ids before an answer equal a server's for the same messages. Labels are the answers' tokens and the token that ends
    the turn; all else is -100. Nothing is ever truncated.

    Args:
        processor: the model's processor.
        dense: add ``dense_log_z``, ``dense_marks`` and ``dense_answer`` (see `depthlm.training.dense_targets`).
        pad_to_multiple_of: row lengths are rounded up to a multiple of this; padding is on the right.

    Raises:
        DepthLMError: the processor is of no known form; when called, if it resized an image, or the chat template is
            not usable.
    """

    def __init__(self, processor: Any, dense: bool = False, pad_to_multiple_of: int | None = None) -> None:
        self.multiple = pad_to_multiple_of or 1
        self.processor, self.tokenizer, self.dense = processor, processor.tokenizer, dense
        self.image_token: str = processor.image_token
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self.cell = token_side(processor)

    def __call__(self, samples: Sequence[Sample] | Sequence[dict[str, Sample]]) -> dict[str, torch.Tensor]:
        batch = [s["sample"] if isinstance(s, dict) else s for s in samples]
        prompts = [self._first_prompt(sample) for sample in batch]
        # the template writes all special tokens: with the tokenizer's own some models would begin twice
        inputs = self.processor(
            text=list(prompts),
            images=[sample.images for sample in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            truncation=False,
            return_tensors="pt",
        )
        check_sizes(self.processor, inputs, [image.shape[:2] for sample in batch for image in sample.images])
        firsts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True)]
        rows = [self._encode(*given) for given in zip(batch, prompts, firsts, strict=True)]
        length = -(-max(len(ids) for ids, _ in rows) // self.multiple) * self.multiple
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
        out = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows]),
            "labels": torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows]),
        }
        if "mm_token_type_ids" in inputs:
            out["mm_token_type_ids"] = (ids == self.image_id).long() * IMAGE_TYPE
        out |= {name: inputs[name] for name in self.processor.image_processor.model_input_names if name in inputs}
        if self.dense:
            out["dense_log_z"], out["dense_marks"] = dense_targets(batch, self.cell)
            out["dense_answer"] = answer_targets(batch, out["labels"])
        return out

    def _first_prompt(self, sample: Sample) -> str:
        prompt = render_prompt(self.processor, sample.messages(upto=0))
        shown = prompt.count(self.image_token)
        if shown != len(sample.images):
            raise DepthLMError(
                "chat template", f"shows {shown} images of {len(sample.images)}", "use the model's own template"
            )
        return prompt

    def _encode(self, sample: Sample, first: str, first_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids and labels of one conversation, whose first prompt is encoded already."""
        ids: list[int] = []
        labels: list[int] = []
        done = ""
        for i, turn in enumerate(sample.turns):
            prompt = render_prompt(self.processor, sample.messages(upto=i)) if i else first
            if not prompt.startswith(done):
                raise DepthLMError(
                    "chat template", "rewrites earlier turns", "use one question per conversation with this model"
                )
            prompt_ids = self._ids(prompt[len(done) :]) if i else first_ids
            answer = turn.answer + self.tokenizer.eos_token
            answer_ids = self._ids(answer)
            ids += [*prompt_ids, *answer_ids]
            labels += [IGNORED] * len(prompt_ids) + answer_ids
            done = prompt + answer
        return ids, labels

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
