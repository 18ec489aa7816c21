"""What every recipe shares: the dataset in TRL's form, loading, resuming, stopping on NaN, saving."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import ModelConfig, get_quantization_config

from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError
from depthlm.models.architectures import inner_model
from depthlm.models.loading import load_model
from depthlm.sample import Sample
from depthlm.spatial.attach import is_fused, prepare_spatial
from depthlm.spatial.cache import FeatureCache
from depthlm.suite import Suite
from depthlm.training.arguments import DataArguments, attention, lora, sharding
from depthlm.training.card import ADAPTER, MERGED
from depthlm.writing import is_unwritable

logger = logging.getLogger(__name__)

RUN_FILE = "_run.json"  # names this machine's folders: what begins with _ is not pushed to a hub
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")  # plain, FSDP, its parts, DeepSpeed


# TRL asks for a question once for each of its answers, and again in each step until new ones are generated.
QUESTIONS_KEPT = 64
# Settings that change neither what is learnt nor how.
NO_MATTER = ("save_merged", "spatial_cache")


def samples_needed(args: TrainingArguments, per_epoch: int) -> int:
    """Samples of the whole run: the steps' batches, or whole epochs when no steps are given."""
    if args.max_steps > 0:
        return args.max_steps * samples_per_step(args)
    return math.ceil(per_epoch * args.num_train_epochs)


def samples_per_step(args: TrainingArguments) -> int:
    """Samples behind one optimizer step, over all processes."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def as_training_data(samples: SampleDataset) -> Dataset:
    """The samples as a `datasets.Dataset` (TRL takes nothing else), still rendered one by one when asked for."""

    def render(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {"sample": [samples[i] for i in rows["index"]]}

    return Dataset.from_dict({"index": list(range(len(samples)))}).with_transform(render)


def as_prompts(samples: SampleDataset) -> Dataset:
    """The samples' first questions in the form of TRL's GRPO: messages, images, and for the rewards truth and unit."""

    @lru_cache(QUESTIONS_KEPT)
    def question(index: int) -> Sample:
        return samples[index]

    def render(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        drawn = [question(i) for i in rows["index"]]
        return {
            "prompt": [sample.messages(upto=0) for sample in drawn],
            "images": [[Image.fromarray(image) for image in sample.images] for sample in drawn],
            "truth": [sample.turns[0].truth for sample in drawn],
            "unit": [sample.turns[0].unit for sample in drawn],
        }

    return Dataset.from_dict({"index": list(range(len(samples)))}).with_transform(render)


def load_policy(
    name: str, model_args: ModelConfig, args: TrainingArguments, data: DataArguments, checkpoint: str | None = None
) -> Any:
    """The model (or adapter, which goes on training) with TRL's loading options and its spatial encoder.

    Args:
        checkpoint: of all weights, which takes the place of those under ``name``.
    """
    options: dict[str, Any] = {"revision": model_args.model_revision}
    if model_args.attn_implementation:
        options["attn_implementation"] = attention(model_args.attn_implementation)
    if quantization := get_quantization_config(model_args):
        options |= {"quantization_config": quantization, "device_map": {"": args.device}}
    spatial = None if checkpoint else data.spatial()  # a whole checkpoint has it inside
    model = load_model(checkpoint or name, model_args.dtype or "auto", spatial=spatial, trainable=True, **options)
    prepare_spatial(model, data.spatial_cache, data.spatial_dtype)
    model.name_or_path = name  # what an adapter notes as its base: "nano" is found anywhere, this machine's path is not
    return model


def new_adapter(model: Any, model_args: ModelConfig, data: DataArguments) -> LoraConfig | None:
    """The adapter to be trained on a model, if one is asked for."""
    return lora(model_args, data.lora_vision, data.lora_merger, fused=is_fused(model))


def save_run(trainer: Any, data: DataArguments) -> None:
    """The adapter, or the whole model, with processor, model card and loss curve, in the output folder."""
    if data.save_merged and trainer.card.form == ADAPTER:
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        trainer.card = replace(trainer.card, form=MERGED)
    if trainer.is_world_process_zero():  # an earlier run's other form beside it would be taken for it
        other = "model*.safetensors*" if trainer.card.form == ADAPTER else "adapter_*"
        for path in Path(trainer.args.output_dir).glob(other):
            path.unlink()
    if best := trainer.state.best_model_checkpoint:
        trainer.state.best_model_checkpoint = Path(best).name  # with its folder it would be this machine's
    trainer.save_state()
    trainer.save_model(trainer.args.output_dir)  # last: with push_to_hub it uploads the folder
    tell_cache(trainer)
    logger.info("%s in %s", trainer.card.form, trainer.args.output_dir)


def tell_cache(trainer: Any) -> None:
    """Say, where a spatial encoder's features are kept, how often it had to be asked, over all processes."""
    cache = getattr(inner_model(trainer.accelerator.unwrap_model(trainer.model)), "cache", None)
    if isinstance(cache, FeatureCache):
        counts = torch.tensor([cache.made, cache.found], device=trainer.accelerator.device)
        made, found = trainer.accelerator.reduce(counts).tolist()
        logger.info("features: %d made, %d found in %s", made, found, cache.folder)


def configure(args: Any) -> None:
    """Settings that the data needs and no user should have to know."""
    if args.max_steps <= 0:  # one pass over the indices is the whole run: epochs are inside them
        args.num_train_epochs = 1
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False  # else Trainer logs an average in place of NaN, and StopOnNaN never sees one


def settings(
    data: DataArguments, model: ModelConfig, args: TrainingArguments, suite: Suite | None, **more: Any
) -> dict[str, Any]:
    """What makes two runs different ones; more steps of the same run are not among it.

    Args:
        more: what else the recipe has.
    """
    names = ["model_name_or_path", "use_peft", "load_in_4bit", "load_in_8bit"]
    if model.use_peft:
        names += ["lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"]
    return {
        **{name: getattr(model, name) for name in names},
        **{name: value for name, value in asdict(data).items() if name not in NO_MATTER},
        "eval_suite": suite.hash if suite else None,
        "seed": args.seed,
        "learning_rate": args.learning_rate,
        "samples_per_step": samples_per_step(args),
        "sharding": sharding(),  # one way's checkpoints are not another's
        **more,
    }


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end; half-written ones are passed over with a warning."""
    found = [
        (int(m[1]), path) for path in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        missing = [] if any(any(path.glob(name)) for name in OPTIMIZER) else ["optimizer"]
        missing += [] if (path / "scheduler.pt").is_file() else ["scheduler.pt"]
        missing += [file.name for file in path.glob("*.pt") if not is_zipfile(file)]  # cut off: its end is not there
        weights = list(path.glob("*model*.safetensors"))
        missing += [file.name for file in weights if not _is_safetensors(file)] if weights else ["weights"]
        if not _is_json(path / "trainer_state.json"):  # written last
            missing.append("trainer_state.json")
        if not missing:
            logger.info("the last whole checkpoint is %s", path)
            return str(path)
        logger.warning("%s is half-written (no whole %s): passed over", path, ", ".join(missing))
    return None


def _is_safetensors(path: Path) -> bool:
    """Whether its header can be read and its length is the one that the header tells."""
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def same_run(folder: Path, settings: dict[str, Any]) -> None:
    """Note what a run was started with, and refuse to go on with another one's checkpoints.

    Args:
        folder: the run's output folder; made if absent.
        settings: JSON-ready; whatever makes two runs different ones.

    Raises:
        DepthLMError: the folder holds a run with other settings; names them.
    """
    path, now = folder / RUN_FILE, json.loads(json.dumps(settings))
    if path.is_file() and any(folder.glob("checkpoint-*")):
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{k}: {before.get(k)!r}, now {v!r}" for k, v in now.items() if before.get(k) != v]
        if changed:
            mend = "give another --output_dir, or remove this one to start anew"
            raise DepthLMError(folder, f"holds a run with other settings ({'; '.join(changed)})", mend)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


@contextmanager
def causes_told(output: Path) -> Iterator[None]:
    """Around loading, training and saving: what the machine lacks, or the data, ends the run in one line.

    Args:
        output: the run's output folder.

    Raises:
        DepthLMError: out of memory, ``output`` can't be written, or a loader process found a sample at fault.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        mend = (
            "halve per_device_train_batch_size and double gradient_accumulation_steps, or set gradient_checkpointing, "
            "use_peft or load_in_4bit"
        )
        raise DepthLMError("memory", _first_line(error), mend) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if told := re.search(rf"{DepthLMError.__name__}: (.+)", str(error)):  # as a loader process' traceback ends
            raise DepthLMError("a sample", told[1]) from error
        if not is_unwritable(error):
            raise
        mend = "free space, or lower save_total_limit; then the same command goes on from its last whole checkpoint"
        raise DepthLMError(output, f"can't be written: {_first_line(error)}", mend) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]


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
            mend = "lower learning_rate or max_grad_norm; with fp16 use bf16 instead; then remove its checkpoints"
            raise DepthLMError(f"step {state.global_step}", f"loss is {loss}", mend)
