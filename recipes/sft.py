"""Fine-tune a vision-language model on frame stores.

    accelerate launch recipes/sft.py --config recipes/configs/qwen2_5_vl_3b_lora_24g.yaml --stores my-store

Every setting of the YAML can be overridden on the command line; the arguments are TRL's SFTConfig and ModelConfig and
`depthlm.training.arguments.DataArguments`. Run again after a stop, it goes on from its last whole checkpoint.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from peft import LoraConfig
from transformers import set_seed
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser

from depthlm.dataset import SampleDataset
from depthlm.errors import DepthLMError
from depthlm.models.loading import load_model, load_processor
from depthlm.models.nano import make_nano
from depthlm.training.arguments import LANGUAGE_LAYERS, DataArguments
from depthlm.training.collate import Collator
from depthlm.training.dense_targets import DenseSFTTrainer, add_dense_head, drop_dense_head
from depthlm.training.run import StopOnNaN, as_training_data, configure, last_whole_checkpoint, samples_needed

# A model name that means: the nano architecture with random weights.
FROM_SCRATCH = "nano-random"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    data_args, args, model_args = TrlParser((DataArguments, SFTConfig, ModelConfig)).parse_args_and_config()
    set_seed(args.seed)
    samples = SampleDataset(data_args.data_config(), count=1)
    samples.count = samples_needed(args, samples.epoch_length)
    configure(args, samples.count)

    output = Path(args.output_dir)
    name = model_args.model_name_or_path
    if name == FROM_SCRATCH:
        name = str(make_nano(output / "init", seed=args.seed, dtype="float32", overwrite=True))
    processor = load_processor(name)
    model = load_model(name, dtype=model_args.dtype or "auto", trainable=True)
    if data_args.freeze_vision:
        model.model.visual.requires_grad_(False)
    if data_args.dense_targets:
        add_dense_head(model)

    trainer = (DenseSFTTrainer if data_args.dense_targets else SFTTrainer)(
        model=model,
        args=args,
        train_dataset=as_training_data(samples),
        data_collator=Collator(processor, dense=data_args.dense_targets),
        processing_class=processor,
        peft_config=lora(model_args) if model_args.use_peft else None,
        callbacks=[StopOnNaN()],
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(output))
    if data_args.dense_targets:
        drop_dense_head(trainer.accelerator.unwrap_model(trainer.model))
    if data_args.save_merged and model_args.use_peft:
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model(args.output_dir)
    trainer.save_state()
    if trainer.is_world_process_zero():
        processor.save_pretrained(args.output_dir)


def lora(model_args: ModelConfig) -> LoraConfig:
    """LoRA on the language model's linear layers, or on those the user names."""
    return LoraConfig(
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=model_args.lora_target_modules or LANGUAGE_LAYERS,
        task_type="CAUSAL_LM",
    )


if __name__ == "__main__":
    try:
        main()
    except DepthLMError as error:
        sys.exit(f"sft.py: error: {error}")
