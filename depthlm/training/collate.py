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
        conversations = [self._pieces(sample) for sample in batch]
        # the template writes all special tokens: with the tokenizer's own some models would begin twice
        inputs = self.processor(
            text=[pieces[0] for pieces in conversations],
            images=[sample.images for sample in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            truncation=False,
            return_tensors="pt",
        )
        check_sizes(self.processor, inputs, [image.shape[:2] for sample in batch for image in sample.images])
        # one call for all that follows a first prompt: a call costs as much as tokenizing dozens of short texts
        later = iter(self.tokenizer([p for c in conversations for p in c[1:]], add_special_tokens=False)["input_ids"])
        rows = []
        for pieces, ids, mask in zip(conversations, inputs.input_ids, inputs.attention_mask, strict=True):
            rows.append([ids[mask.bool()].tolist(), *(next(later) for _ in pieces[1:])])
        lengths = [sum(map(len, row)) for row in rows]
        length = -(-max(lengths) // self.multiple) * self.multiple
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORED)
        for row, parts in enumerate(rows):
            end = 0
            for i, part in enumerate(parts):
                start, end = end, end + len(part)
                ids[row, start:end] = torch.tensor(part)
                if i % 2:  # prompt, answer, prompt, answer …
                    labels[row, start:end] = ids[row, start:end]
        mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
        out = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if "mm_token_type_ids" in inputs:
            out["mm_token_type_ids"] = (ids == self.image_id).long() * IMAGE_TYPE
        out |= {name: inputs[name] for name in self.processor.image_processor.model_input_names if name in inputs}
        if self.dense:
            out["dense_log_z"], out["dense_marks"] = dense_targets(batch, self.cell)
            out["dense_answer"] = answer_targets(batch, out["labels"])
        return out

    def _pieces(self, sample: Sample) -> list[str]:
        """What is tokenized on its own: the first prompt, its answer, what leads on to the next, its answer …"""
        pieces: list[str] = []
        done = ""
        for i, turn in enumerate(sample.turns):
            prompt = render_prompt(self.processor, sample.messages(upto=i))
            if not prompt.startswith(done):
                raise DepthLMError(
                    "chat template", "rewrites earlier turns", "use one question per conversation with this model"
                )
            answer = turn.answer + self.tokenizer.eos_token
            pieces += [prompt[len(done) :], answer]
            done = prompt + answer
        shown = pieces[0].count(self.image_token)
        if shown != len(sample.images):
            raise DepthLMError(
                "chat template", f"shows {shown} images of {len(sample.images)}", "use the model's own template"
            )
        return pieces
