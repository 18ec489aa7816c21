"""Samples -> one batch: the very tokens that generation sees, with labels on the answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from depthlm.errors import DepthLMError
from depthlm.sample import Sample
from depthlm.training.dense_targets import IGNORED, answer_targets, dense_targets

IMAGE_TYPE = 1  # in mm_token_type_ids; without it Qwen2.5-VL falls back to one-dimensional positions, silently


class Collator:
    """Turns samples into what ``Qwen2_5_VLForConditionalGeneration`` takes.

    Every conversation is rendered turn by turn by the model's own chat template, and each prompt and each answer is
    tokenized on its own, as generation does: so the ids before an answer equal a server's for the same messages. Labels
    are the answers' tokens and the token that ends the turn; all else is -100. Nothing is ever truncated.

    Args:
        processor: the model's processor.
        dense: add ``dense_log_z``, ``dense_marks`` and ``dense_answer`` (see `depthlm.training.dense_targets`).
        pad_to_multiple_of: row lengths are rounded up to a multiple of this; padding is on the right.

    Raises:
        DepthLMError: when called, if the processor resized an image, or the chat template is not usable.
    """

    def __init__(self, processor: Any, dense: bool = False, pad_to_multiple_of: int | None = None) -> None:
        self.multiple = pad_to_multiple_of or 1
        self.processor, self.tokenizer, self.dense = processor, processor.tokenizer, dense
        self.image_token: str = processor.image_token
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self.merge: int = processor.image_processor.merge_size
        self.patch: int = processor.image_processor.patch_size

    def __call__(self, samples: Sequence[Sample] | Sequence[dict[str, Sample]]) -> dict[str, torch.Tensor]:
        batch = [s["sample"] if isinstance(s, dict) else s for s in samples]
        images = [image for sample in batch for image in sample.images]
        vision = self.processor.image_processor(images=images, return_tensors="pt")
        counts = self._tokens_per_image(vision["image_grid_thw"], images)
        rows, at = [], 0
        for sample in batch:
            rows.append(self.encode(sample, counts[at : at + len(sample.images)]))
            at += len(sample.images)
        length = -(-max(len(ids) for ids, _ in rows) // self.multiple) * self.multiple
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
        out = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows]),
            "labels": torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows]),
            "mm_token_type_ids": (ids == self.image_id).long() * IMAGE_TYPE,
            "pixel_values": vision["pixel_values"],
            "image_grid_thw": vision["image_grid_thw"],
        }
        if self.dense:
            out["dense_log_z"], out["dense_marks"] = dense_targets(batch, self.patch * self.merge)
            out["dense_answer"] = answer_targets(batch, out["labels"])
        return out

    def encode(self, sample: Sample, image_tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids and labels of one conversation; ``image_tokens`` are the visual tokens of each of its images."""
        ids: list[int] = []
        labels: list[int] = []
        done = ""
        for i, turn in enumerate(sample.turns):
            prompt = self.processor.apply_chat_template(
                sample.messages(upto=i), tokenize=False, add_generation_prompt=True
            )
            if not prompt.startswith(done):
                raise DepthLMError(
                    "chat template", "rewrites earlier turns", "use one question per conversation with this model"
                )
            new = prompt[len(done) :]
            if i == 0:
                new = self._expand(new, image_tokens)
            answer = turn.answer + self.tokenizer.eos_token
            prompt_ids = self.tokenizer(new, add_special_tokens=False)["input_ids"]
            answer_ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
            ids += prompt_ids + answer_ids
            labels += [IGNORED] * len(prompt_ids) + answer_ids
            done = prompt + answer
        return ids, labels

    def _expand(self, text: str, image_tokens: Sequence[int]) -> str:
        """Repeat each image placeholder once per visual token."""
        parts = text.split(self.image_token)
        if len(parts) != len(image_tokens) + 1:
            raise DepthLMError(
                "chat template", f"shows {len(parts) - 1} images of {len(image_tokens)}", "use the model's own template"
            )
        out = parts[0]
        for count, part in zip(image_tokens, parts[1:], strict=True):
            out += self.image_token * count + part
        return out

    def _tokens_per_image(self, grids: torch.Tensor, images: Sequence[Any]) -> list[int]:
        for (_, rows, columns), image in zip(grids.tolist(), images, strict=True):
            h, w = image.shape[:2]
            if (rows * self.patch, columns * self.patch) != (h, w):
                raise DepthLMError(
                    "image processor",
                    f"resized a canonical {w}x{h} image to {columns * self.patch}x{rows * self.patch}: "
                    "the focal length would not be the one promised",
                    "raise the processor's max_pixels to the profile's",
                )
        return [int(grid.prod()) // self.merge**2 for grid in grids]
