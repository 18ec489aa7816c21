"""Fine-tune a vision-language model on frame stores.

    accelerate launch recipes/sft.py --config recipes/configs/qwen2_5_vl_3b_lora_24g.yaml --stores my-store

Every setting of the YAML can be overridden on the command line; the arguments are TRL's SFTConfig and ModelConfig and
`depthlm.training.arguments.DataArguments`. Run again after a stop, it goes on from its last whole checkpoint.
"""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import set_seed
from trl import ModelConfig, SFTConfig

from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError
from depthlm.models.architectures import freeze_vision
from depthlm.models.loading import is_adapter, load_processor
from depthlm.models.nano import make_nano
from depthlm.spatial.attach import settle_spatial
from depthlm.suite import Suite
from depthlm.training.arguments import DataArguments, check, check_machine
from depthlm.training.card import ADAPTER, FULL, Card
from depthlm.training.collate import Collator
from depthlm.training.command import parse, run_command
from depthlm.training.dense_targets import DenseSFTTrainer, add_dense_head, drop_dense_head, strip_dense_head
from depthlm.training.run import (
    StopOnNaN,
    as_training_data,
    causes_told,
    configure,
    last_whole_checkpoint,
    load_policy,
    new_adapter,
    same_run,
    samples_needed,
    save_run,
    settings,
)
from depthlm.training.suite_evaluation import SuiteSFTTrainer, evaluate_on, keep_best

logger = logging.getLogger(__name__)

# A model name that means: the nano architecture with random weights.
FROM_SCRATCH = "nano-random"


def main() -> None:
    data_args, args, model_args = parse(DataArguments, SFTConfig, ModelConfig)
    check(data_args, model_args)
    check_machine(args)
    if args.packing:
        raise DepthLMError("packing", "is not possible with images: TRL packs text alone", "leave it out")
    set_seed(args.seed)
    samples = SampleDataset(data_args.data_config(), count=1)
    samples.count = samples_needed(args, samples.epoch_length)
    configure(args)
    args.train_sampling_strategy = "sequential"  # sample i is already a random one; resuming skips by index
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.max_length = None  # truncation would cut image tokens
    if args.ddp_find_unused_parameters is None:  # every batch has images and answers: all weights take part
        args.ddp_find_unused_parameters = False
    logger.info("%d samples in this run", samples.count)
    suite = evaluate_on(args, data_args)
    output, base = Path(args.output_dir), str(model_args.model_name_or_path)
    with args.main_process_first(desc="output folder"):
        if args.should_save:
            same_run(output, settings(data_args, model_args, args, suite))
            if base == FROM_SCRATCH:
                make_nano(output / "init", seed=args.seed, dtype="float32", overwrite=True)
    with causes_told(output):
        fine_tune(samples, suite, data_args, args, model_args)


def fine_tune(
    samples: SampleDataset, suite: Suite | None, data_args: DataArguments, args: SFTConfig, model_args: ModelConfig
) -> None:
    """Load, train and save."""
    output, base = Path(args.output_dir), str(model_args.model_name_or_path)
    name = str(output / "init") if base == FROM_SCRATCH else base
    adapts = model_args.use_peft or is_adapter(name)
    processor = load_processor(name, model_args.model_revision)
    checkpoint = last_whole_checkpoint(output)
    # transformers stores Qwen2.5-VL under the hub's key names, which the Trainer's resuming does not translate: of a
    # full model it would load nothing and go on from the base. from_pretrained translates: the model starts from there.
    model = load_policy(name, model_args, args, data_args, checkpoint=None if adapts else checkpoint)
    if data_args.freeze_vision:
        freeze_vision(model)
    if data_args.dense_targets:
        add_dense_head(model)
    trainer = (DenseSFTTrainer if data_args.dense_targets else SuiteSFTTrainer)(
        model=model,
        args=args,
        train_dataset=as_training_data(samples),
        data_collator=Collator(processor, data_args.dense_targets, args.pad_to_multiple_of),
        processing_class=processor,
        peft_config=None if is_adapter(name) else new_adapter(model, model_args, data_args),
        callbacks=[StopOnNaN()],
        suite=suite,
        profile=data_args.profile,
        card=Card("" if base == FROM_SCRATCH else base, ADAPTER if adapts else FULL, "sft", data_args),
    )
    settle_spatial(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    best = keep_best(trainer)
    if data_args.dense_targets:
        if best is not None:
            strip_dense_head(best)
        drop_dense_head(trainer.accelerator.unwrap_model(trainer.model))
    save_run(trainer, data_args)


if __name__ == "__main__":
    run_command(main)
