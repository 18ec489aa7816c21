"""Dense targets for pretraining a tiny model: what its tokens should know, said to them directly.

From random weights, answers alone teach a small model nothing for very long. Two linear layers, thrown away afterwards,
read from every merged visual token the mean log z in each square of a small grid under it and whose tip lies there, and
from the last token before an answer the logarithm of the number to be answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from depthlm.markers import COLOURS
from depthlm.models.architectures import language_model, vision_modules, visual_tokens, visual_width
from depthlm.sample import Sample
from depthlm.training.suite_evaluation import SuiteSFTTrainer

MARK_COLOURS = list(COLOURS)[:4]
# A marker's tip lies in one token of dozens.
MARK_WEIGHT = 5.0
# Squares along each side of a token, each with a depth of its own: on a floor it changes by tens of percent under one.
GRID = 4
HEAD = "dense_head"
IGNORED = -100  # the label of tokens that are not supervised


def dense_targets(samples: Sequence[Sample], cell: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets per merged visual token, row by row over each image, images in batch order.

    Args:
        cell: side of the square of pixels under one token; a multiple of ``GRID``.

    Returns:
        (tokens, GRID * GRID) mean log z of each square, row by row, NaN where no depth is known; (tokens, 4) 1 where a
        marker of that colour points.
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


def answer_targets(samples: Sequence[Sample], labels: torch.Tensor) -> torch.Tensor:
    """Targets per text token: the log of a turn's true answer at the token before the answer begins, else NaN.

    Args:
        labels: (rows, length) of the same samples, ``IGNORED`` outside the answers.

    Returns:
        (rows, length) float32.
    """
    target = torch.full(labels.shape, torch.nan)
    supervised = labels != IGNORED
    before = supervised[:, 1:] & ~supervised[:, :-1]
    for row, sample in enumerate(samples):
        places = before[row].nonzero()[:, 0]
        target[row, places] = torch.tensor([turn.truth for turn in sample.turns]).clamp(min=1e-3).log()
    return target


def _mean_log(depth: np.ndarray | None, rows: int, columns: int, cell: int) -> np.ndarray:
    if depth is None:
        return np.full((rows * columns, GRID * GRID), np.nan, np.float32)
    side = cell // GRID
    squares = depth.reshape(rows, GRID, side, columns, GRID, side).transpose(0, 3, 1, 4, 2, 5)
    squares = squares.reshape(rows * columns, GRID * GRID, side * side)
    known = squares > 0
    total = np.where(known, np.log(np.where(known, squares, 1)), 0).sum(2)
    count = known.sum(2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


class DenseHead(nn.Module):
    """The layers that read the targets: from visual tokens and from the text tokens before answers."""

    def __init__(self, visual: int, text: int) -> None:
        super().__init__()
        self.visual = nn.Linear(visual, GRID * GRID + len(MARK_COLOURS))
        self.answer = nn.Linear(text, 1)


def add_dense_head(model: nn.Module) -> None:
    """Give the model the layers that read the targets, so that the optimizer and the checkpoints have them."""
    setattr(model, HEAD, DenseHead(visual_width(model.config), model.config.text_config.hidden_size))


def drop_dense_head(model: nn.Module) -> None:
    """Take the layers away: the saved model is an ordinary one."""
    delattr(model, HEAD)


def strip_dense_head(folder: Path) -> None:
    """Take the layers out of a copied checkpoint: vLLM refuses weights that the model does not have."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        weights = load_file(path)
        kept = {name: value for name, value in weights.items() if HEAD not in name.split(".")}
        if len(kept) < len(weights):
            save_file(kept, path, metadata)


class DenseSFTTrainer(SuiteSFTTrainer):
    """SFT with the dense targets added to the language loss, each with weight 1; one forward pass serves all."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._visual: torch.Tensor | None = None
        self._text: torch.Tensor | None = None
        model = self.accelerator.unwrap_model(self.model)
        vision_modules(model)[-1].register_forward_hook(self._keep_visual)
        language_model(model).register_forward_hook(self._keep_text)
        self._dense_log: dict[str, list[float]] = {"dense_log_z": [], "dense_marks": [], "dense_answer": []}

    def _keep_visual(self, module: nn.Module, args: Any, output: Any) -> None:
        self._visual = visual_tokens(output)

    def _keep_text(self, module: nn.Module, args: Any, output: Any) -> None:
        self._text = output.last_hidden_state

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        log_z, marks, answers = (inputs.pop(name) for name in ("dense_log_z", "dense_marks", "dense_answer"))
        # without outputs: TRL's fused head never builds the logits, and asking for them costs a second forward
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        head = getattr(self.accelerator.unwrap_model(model), HEAD)
        assert self._visual is not None and self._text is not None
        read = head.visual(self._visual.float())
        weight = torch.full((marks.shape[1],), MARK_WEIGHT, device=read.device)
        parts = {
            "dense_log_z": _mean_error(read[:, : GRID * GRID], log_z),
            "dense_marks": functional.binary_cross_entropy_with_logits(
                read[:, GRID * GRID :], marks, pos_weight=weight
            ),
            "dense_answer": _mean_error(head.answer(self._text.float())[..., 0], answers),
        }
        for name, part in parts.items():
            self._dense_log[name].append(float(part.detach()))
        # TRL's loss is already a share of the whole step's; these are means of one micro-batch
        share = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        return loss + sum(parts.values()) / share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._dense_log.items():
            if values:
                logs[name] = round(float(np.mean(values)), 4)
                values.clear()
        super().log(logs, start_time)


def _mean_error(read: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error where the target is known; 0 where it is nowhere: the mean of nothing would be NaN."""
    known = ~target.isnan()
    return functional.l1_loss(read[known], target[known], reduction="sum") / known.sum().clamp(min=1)
