"""Pretrain a small spatial encoder on the depth of frame stores: for trying the fusion without a released checkpoint.

    accelerate launch recipes/encoder.py --config recipes/configs/nano_encoder.yaml --stores my-store

The arguments are transformers' TrainingArguments, `EncoderArguments` below, and the data's. Run again after a stop, it
goes on from its last whole checkpoint.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from depthlm.dataset import SampleDataset
from depthlm.sample import Sample
from depthlm.spatial.encoder import FROM_SCRATCH, SpatialEncoder, load_encoder, nano_encoder
from depthlm.spatial.pretraining import DepthReader, depth_batch
from depthlm.training.arguments import SampleArguments, check_machine
from depthlm.training.command import parse, run_command
from depthlm.training.run import (
    StopOnNaN,
    causes_told,
    configure,
    last_whole_checkpoint,
    same_run,
    samples_needed,
    samples_per_step,
)

logger = logging.getLogger(__name__)

# Samples of the stores in --test_stores that the encoder is tried on at the end.
TEST_SAMPLES = 1000


@dataclass
class EncoderArguments:
    """What is trained, and what it is tried on."""

    encoder: str = field(
        default=FROM_SCRATCH, metadata={"help": f"an encoder's folder to go on from, or {FROM_SCRATCH}"}
    )
    num_tokens: int | None = field(
        default=None, metadata={"help": "patches an image is cut into; default: as the encoder says"}
    )
    test_stores: list[str] = field(default_factory=list, metadata={"help": "frame stores it is tried on at the end"})


def main() -> None:
    encoder_args, data_args, args = parse(EncoderArguments, SampleArguments, TrainingArguments)
    check_machine(args)
    data_args.dense_targets = True
    set_seed(args.seed)
    samples = SampleDataset(data_args.data_config(), count=1)
    samples.count = samples_needed(args, samples.epoch_length)
    configure(args)
    args.train_sampling_strategy = "sequential"  # sample i is already a random one; resuming skips by index
    args.label_names = ["log_z"]
    output = Path(args.output_dir)
    held_out = test_samples(encoder_args, data_args)  # before an hour of training
    settings = {
        "encoder": encoder_args.encoder,
        "num_tokens": encoder_args.num_tokens,
        **asdict(data_args),
        "seed": args.seed,
        "learning_rate": args.learning_rate,
        "samples_per_step": samples_per_step(args),
    }
    with args.main_process_first(desc="output folder"):
        if args.should_save:
            same_run(output, settings)
    with causes_told(output):
        pretrain(samples, held_out, encoder_args, args)


def test_samples(encoder_args: EncoderArguments, data_args: SampleArguments) -> SampleDataset | None:
    """What the encoder is tried on at the end, if anything."""
    if not encoder_args.test_stores:
        return None
    config = replace(data_args.data_config(), stores=encoder_args.test_stores, weights=None)
    return SampleDataset(config, TEST_SAMPLES)


def start(encoder_args: EncoderArguments) -> SpatialEncoder:
    """The encoder that is trained.

    Raises:
        DepthLMError: there is none, or its number of tokens can't be.
    """
    scratch = encoder_args.encoder == FROM_SCRATCH
    encoder = nano_encoder() if scratch else load_encoder(encoder_args.encoder, "float32")
    encoder.drop_heads()  # they were made for the features as they are
    if encoder_args.num_tokens is not None:
        encoder.config.num_tokens = encoder_args.num_tokens
        encoder.config.check()
    return encoder


def pretrain(
    samples: SampleDataset, held_out: SampleDataset | None, encoder_args: EncoderArguments, args: TrainingArguments
) -> None:
    """Train, try and save."""
    encoder = start(encoder_args)
    model = DepthReader(encoder.requires_grad_(True))
    trainer = DepthTrainer(
        model=model, args=args, train_dataset=samples, data_collator=depth_batch, callbacks=[StopOnNaN()]
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(args.output_dir)))
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    encoder = trainer.accelerator.unwrap_model(trainer.model).encoder
    made = {"recipe": "recipes/encoder.py", "steps": trainer.state.global_step, "seed": args.seed}
    encoder.config.source = (encoder.config.source or {}) | made
    if held_out is not None:
        found = tried(model, held_out, args)
        logger.info("on %s: %s", ", ".join(encoder_args.test_stores), json.dumps(found))
        encoder.config.source |= {"test": found}
    encoder.save_pretrained(args.output_dir)


class DepthTrainer(Trainer):
    """Logs δ1 of the squares beside the loss."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.delta1: list[float] = []

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        out = model(**inputs)
        self.delta1.append(float(out["delta1"]))
        return (out["loss"], out) if return_outputs else out["loss"]

    def log(self, logs: dict[str, float], *words: Any, **settings: Any) -> None:
        if "loss" in logs and self.delta1:
            logs["delta1"] = round(sum(self.delta1) / len(self.delta1), 4)
            self.delta1.clear()
        super().log(logs, *words, **settings)


@torch.no_grad()
def tried(model: DepthReader, samples: SampleDataset, args: TrainingArguments) -> dict[str, float]:
    """Mean absolute error of log z, and δ1, over the squares of held-out samples."""
    model.eval()
    device = next(model.parameters()).device
    loader: DataLoader[Sample] = DataLoader(
        samples, args.per_device_eval_batch_size, collate_fn=depth_batch, num_workers=args.dataloader_num_workers
    )
    rows = []
    for batch in loader:
        out = model(**{name: [part.to(device) for part in parts] for name, parts in batch.items()})
        rows.append((float(out["loss"]), float(out["delta1"])))
    loss, delta1 = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return {"log_error": round(loss, 4), "delta1": round(delta1, 4)}


if __name__ == "__main__":
    run_command(main)
