"""A frozen suite asked in the middle of training: δ1 per kind by generation, since the loss says little of it.

The Trainer's own evaluation is replaced, so that its steps, logs and its keeping of the best checkpoint do the rest.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainingArguments
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from depthlm.answers import parse_answer
from depthlm.errors import DepthLMError
from depthlm.metrics import delta
from depthlm.models.answering import answer_batch, left_padded
from depthlm.shown import Shown
from depthlm.suite import ANSWERS, Item, Suite, read_suite
from depthlm.suite_view import SuiteView
from depthlm.training.arguments import DataArguments
from depthlm.training.card import CardTrainer

logger = logging.getLogger(__name__)

BEST = "best"
# A checkpoint without what only resuming needs is a model, or an adapter, that every loader takes.
RESUMING_ONLY = ("optimizer*", "scheduler*", "rng_state*", "training_args.bin", "global_step*", "pytorch_model_fsdp*")


def evaluate_on(args: TrainingArguments, data: DataArguments) -> Suite | None:
    """Read the run's suite and set the Trainer to ask it, every ``save_steps`` where ``eval_steps`` is not given.

    Raises:
        DepthLMError: the suite can't be read, or is asked where nothing is saved that could be kept as the best.
    """
    if data.eval_suite is None:
        return None
    found = read_suite(data.eval_suite)
    for name in ("intrinsics", "pointing"):
        asked, trained = found.settings.get(name), getattr(data, name)
        if asked is not None and asked.replace("_", "-") != trained.replace("_", "-"):
            logger.warning("%s asks with %s %s, the training with %s", data.eval_suite, name, asked, trained)
    args.do_eval = True
    args.eval_strategy = type(args.eval_strategy)("steps")
    args.eval_steps = args.eval_steps or args.save_steps
    if args.save_strategy == "steps" and args.eval_steps % args.save_steps:
        mend = "make it a multiple: what is best has to be saved"
        raise DepthLMError("eval_steps", f"is {args.eval_steps:g}, with save_steps {args.save_steps:g}", mend)
    args.metric_for_best_model, args.greater_is_better = "delta1", True
    return found


class SuiteEvaluation:
    """Mixin before a Trainer: ``evaluate`` asks ``suite`` greedily and logs ``eval_delta1``, and of each kind.

    What was answered is in ``OUTPUT/_answers/step-N.jsonl``: id, kind, text, value (null: none was read), truth, right.

    Args:
        suite: None: no evaluation is asked for.
        profile: how it is asked; by default as it was frozen.
        max_answer_tokens: length of an answer.
    """

    def __init__(
        self,
        *args: Any,
        suite: Suite | None = None,
        profile: str | None = None,
        max_answer_tokens: int = 64,
        **kw: Any,
    ) -> None:
        self.suite, self.max_answer_tokens = suite, max_answer_tokens
        self.view = None if suite is None else SuiteView(suite, profile)
        if suite is not None:  # the Trainer asks for one before it evaluates
            kw["eval_dataset"] = Dataset.from_dict({"index": list(range(len(suite.items)))})
        super().__init__(*args, **kw)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kw: Any) -> dict[str, float]:
        """δ1 of all answers and per kind, the share without a readable number, and seconds; logged and returned."""
        assert self.suite is not None
        start = time.perf_counter()
        trainer: Any = self
        accelerator = trainer.accelerator
        items = self.suite.items
        # All processes ask equally many, some the first again: the parts of a sharded model generate together.
        share = math.ceil(len(items) / accelerator.num_processes)
        mine = items[accelerator.process_index :: accelerator.num_processes]
        found = gather_object(list(self._answers(mine + items[: share - len(mine)])))
        said = dict(found)
        values = [parse_answer(said[item.id], item.unit).value for item in items]
        right = delta(np.array(values, np.float64), np.array([item.truth for item in items]))
        if trainer.is_world_process_zero():
            self._write_answers(said, values, right)
        kinds = np.array([item.kind for item in items])
        metrics = {f"{metric_key_prefix}_delta1": float(right.mean())}
        for kind in dict.fromkeys(kinds):
            metrics[f"{metric_key_prefix}_delta1_{kind}"] = float(right[kinds == kind].mean())
        metrics[f"{metric_key_prefix}_unparsable"] = float(np.mean([value is None for value in values]))
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - start, 4)
        was_training = trainer.model.training
        trainer.model.eval()  # else TRL adds the averages that belong to the next training row, and forgets them
        trainer.log(metrics)
        trainer.model.train(was_training)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    def _write_answers(self, said: dict[str, str], values: Sequence[float | None], right: Sequence[bool]) -> None:
        trainer: Any = self
        assert self.suite is not None
        folder = Path(trainer.args.output_dir) / ANSWERS
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"id": i.id, "kind": i.kind, "text": said[i.id], "value": value, "truth": i.truth, "right": bool(r)}
            for i, value, r in zip(self.suite.items, values, right, strict=True)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"step-{trainer.state.global_step}.jsonl").write_text(text, encoding="utf-8")

    def _answers(self, items: Sequence[Item]) -> Iterator[tuple[str, str]]:
        """Id and text of each answer."""
        trainer: Any = self
        processor = left_padded(trainer.processing_class)
        size = trainer.args.per_device_eval_batch_size
        was_training = trainer.model.training
        # accelerate brings autocast into `forward` alone, and an adapter's `generate` goes past that one
        with (
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
            trainer.accelerator.autocast(),
        ):
            model.eval()
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                shown = [self._shown(item) for item in batch]
                said = answer_batch(
                    model,
                    processor,
                    [(question.messages(), question.images) for question in shown],
                    self.max_answer_tokens,
                    exact=all(question.canonical for question in shown),
                    synced_gpus=bool(trainer.is_fsdp_enabled),
                )
                yield from ((item.id, answer.text) for item, answer in zip(batch, said, strict=True))
        trainer.model.train(was_training)

    def _shown(self, item: Item) -> Shown:
        assert self.view is not None
        return self.view.show(item)


class SuiteSFTTrainer(CardTrainer, SuiteEvaluation, SFTTrainer):
    """SFT with a suite asked in the middle, and this package's model card."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        # Qwen2.5-VL's class says that it can't, but TRL's loss does count the answers' tokens of the whole step: so a
        # token weighs the same however the step is divided into micro-batches and over processes.
        self.model_accepts_loss_kwargs = True


def keep_best(trainer: Any) -> Path | None:
    """Copy the best checkpoint's model into ``OUTPUT/best``; None where nothing was evaluated or saved."""
    step = trainer.state.best_global_step
    source = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if trainer.state.best_metric is None or not trainer.is_world_process_zero() or not source.is_dir():
        return None
    best = Path(trainer.args.output_dir) / BEST
    shutil.rmtree(best, ignore_errors=True)
    shutil.copytree(source, best, ignore=shutil.ignore_patterns(*RESUMING_ONLY))
    logger.info("best: step %d, delta1 %.3f, in %s", step, trainer.state.best_metric, best)
    return best
