"""What every recipe shares: the dataset in TRL's form, resuming, stopping on NaN, saving."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError

logger = logging.getLogger(__name__)


def samples_needed(args: TrainingArguments, per_epoch: int) -> int:
    """Samples of the whole run: the steps' batches, or whole epochs when no steps are given."""
    if args.max_steps > 0:
        return args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return math.ceil(per_epoch * args.num_train_epochs)


def as_training_data(samples: SampleDataset) -> Dataset:
    """The samples as a `datasets.Dataset` (TRL takes nothing else), still rendered one by one when asked for."""

    def render(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {"sample": [samples[i] for i in rows["index"]]}

    return Dataset.from_dict({"index": list(range(len(samples)))}).with_transform(render)


def configure(args: Any, samples: int) -> None:
    """Settings that the recipe's data needs and no user should have to know."""
    if args.max_steps <= 0:  # one pass over the indices is the whole run: epochs are inside them
        args.num_train_epochs = 1
    args.train_sampling_strategy = "sequential"  # sample i is already a random one; resuming skips by index
    args.remove_unused_columns = False
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.max_length = None  # truncation would cut image tokens
    logger.info("%d samples in this run", samples)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end; half-written ones are passed over with a warning."""
    found = [
        (int(m[1]), path) for path in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        weights = list(path.glob("*model*.safetensors"))
        missing = [n for n in ("trainer_state.json", "optimizer.pt", "scheduler.pt") if not (path / n).is_file()]
        if weights and not missing:
            return str(path)
        logger.warning("%s is half-written (no %s): passed over", path, ", ".join(missing) or "weights")
    return None


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss is no longer a number, with the setting to change."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kw: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise DepthLMError(
                f"step {state.global_step}", f"loss is {loss}", "lower learning_rate or max_grad_norm, or train in bf16"
            )
