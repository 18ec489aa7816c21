"""Dense targets for pretraining a tiny model: what each visual token should know, said to it directly.

From random weights, answers alone teach a small vision tower nothing for very long. One linear layer, thrown away
afterwards, reads from every merged visual token the mean log z of the pixels under it and whose tip lies there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from trl import SFTTrainer

from depthlm.markers import COLOURS
from depthlm.sample import Sample

MARK_COLOURS = list(COLOURS)[:4]
# A marker's tip lies in one token of dozens.
MARK_WEIGHT = 5.0
HEAD = "dense_head"


def dense_targets(samples: Sequence[Sample], cell: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets per merged visual token, row by row over each image, images in batch order.

    Args:
        cell: side of the square of pixels under one token.

    Returns:
        (tokens,) mean log z, NaN where no depth is known; (tokens, 4) 1 where a marker of that colour points.
    """
    logs, marks = [], []
    for sample in samples:
        depths = sample.depths or [None] * len(sample.images)
        for image, depth, points in zip(sample.images, depths, sample.marks, strict=True):
            rows, columns = image.shape[0] // cell, image.shape[1] // cell
            logs.append(_mean_log(depth, rows, columns, cell))
            mark = np.zeros((rows, columns, len(MARK_COLOURS)), np.float32)
            for colour, x, y in points:
                if colour in MARK_COLOURS:
                    row, column = min(round(y) // cell, rows - 1), min(round(x) // cell, columns - 1)
                    mark[row, column, MARK_COLOURS.index(colour)] = 1
            marks.append(mark.reshape(-1, len(MARK_COLOURS)))
    return torch.from_numpy(np.concatenate(logs)), torch.from_numpy(np.concatenate(marks))


def _mean_log(depth: np.ndarray | None, rows: int, columns: int, cell: int) -> np.ndarray:
    if depth is None:
        return np.full(rows * columns, np.nan, np.float32)
    cells = depth.reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    known = cells > 0
    total = np.where(known, np.log(np.where(known, cells, 1)), 0).sum(1)
    count = known.sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def add_dense_head(model: nn.Module) -> None:
    """Give the model the layer that reads the targets, so that the optimizer and the checkpoints have it."""
    size = model.config.vision_config.out_hidden_size
    setattr(model, HEAD, nn.Linear(size, 1 + len(MARK_COLOURS)))


def drop_dense_head(model: nn.Module) -> None:
    """Take the layer away: the saved model is an ordinary one."""
    delattr(model, HEAD)


class DenseSFTTrainer(SFTTrainer):
    """SFT with the dense targets added to the language loss, both with weight 1; one vision pass serves both."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._tokens: torch.Tensor | None = None
        model = self.accelerator.unwrap_model(self.model)
        model.model.visual.register_forward_hook(self._keep)
        self._dense_log: dict[str, list[float]] = {"dense_log_z": [], "dense_marks": []}

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._tokens = output.pooler_output

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        log_z, marks = inputs.pop("dense_log_z"), inputs.pop("dense_marks")
        # without outputs: TRL's fused head never builds the logits, and asking for them costs a second forward
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        head = getattr(self.accelerator.unwrap_model(model), HEAD)
        assert self._tokens is not None
        read = head(self._tokens.float())
        known = ~log_z.isnan()
        # a batch without any depth adds nothing: the mean of no tokens would be NaN
        depth_loss = functional.l1_loss(read[known, 0], log_z[known], reduction="sum") / known.sum().clamp(min=1)
        weight = torch.full((marks.shape[1],), MARK_WEIGHT, device=read.device)
        mark_loss = functional.binary_cross_entropy_with_logits(read[:, 1:], marks, pos_weight=weight)
        self._dense_log["dense_log_z"].append(float(depth_loss.detach()))
        self._dense_log["dense_marks"].append(float(mark_loss.detach()))
        # TRL's loss is already a share of the whole step's; these are means of one micro-batch
        share = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        return loss + (depth_loss + mark_loss) / share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._dense_log.items():
            if values:
                logs[name] = round(float(np.mean(values)), 4)
                values.clear()
        super().log(logs, start_time)
